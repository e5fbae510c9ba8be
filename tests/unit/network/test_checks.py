from __future__ import annotations

from collections.abc import Callable

import pytest

from gureum.errors import NetworkError
from gureum.hostspec import AclEntrySpec, AclSpec
from gureum.network import checks

EVIL = "fd00::%x; flush ruleset"
"""Python's addresses take any text for a scope."""


@pytest.mark.parametrize("check", [checks.any_network, checks.network6, checks.loose_network])
def test_the_scope_of_a_network_is_no_way_for_other_text(check: Callable[[str], object]) -> None:
    with pytest.raises(NetworkError):
        check(f"{EVIL}/64")


@pytest.mark.parametrize("check", [checks.address6, checks.any_address])
def test_nor_is_that_of_an_address(check: Callable[[str], object]) -> None:
    with pytest.raises(NetworkError):
        check(EVIL)


def test_nor_is_that_of_an_acl_entry() -> None:
    with pytest.raises(NetworkError):
        checks.acl(AclSpec(id="acl-1", entries=(AclEntrySpec(number=1, cidr=f"{EVIL}/64"),)))


@pytest.mark.parametrize(
    ("given", "kept"),
    [("10.1.2.3/8", "10.0.0.0/8"), ("10.0.0.0/8", "10.0.0.0/8"), ("fd00::1/64", "fd00::/64"), ("", "")],
)
def test_networks_of_rules_lose_what_follows_the_prefix(given: str, kept: str) -> None:
    assert checks.loose_network(given) == kept


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0/8", "x", "fd00::/129", "10.0.0.0/-1", "10.0.0.0/8 "])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(NetworkError):
        checks.loose_network(text)
