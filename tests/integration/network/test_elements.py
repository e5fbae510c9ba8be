"""Elements of sets by netlink: what the kernel has then is what ``nft`` would have made."""

from __future__ import annotations

import pytest

from gureum.errors import NetworkError
from gureum.network import elements
from gureum.network.namespaces import command, nft, visit
from gureum.network.ruleset import (
    Chain,
    Set,
    Table,
    change_table,
    changed_elements,
    contents,
    emptied,
    replace_table,
)

from .conftest import HOST

pytestmark = pytest.mark.root

SETS = {
    "three": Set(
        "ipv4_addr . inet_proto . inet_service",
        {"10.0.0.0/8 . 6 . 80": "", "10.0.0.0/8 . 6 . 81-90": "", "0.0.0.0/0 . 17 . 0-65535": ""},
        flags="interval",
    ),
    "six": Set("ipv6_addr . inet_proto", {"2001:db8::/32 . 58": "", "::1 . 1-5": ""}, flags="interval"),
    "hosts": Set("ipv4_addr . inet_proto . inet_service", {"10.0.0.1 . 6 . 22": ""}),
    "members": Set("ipv4_addr", {"10.0.0.1": "", "10.0.0.2": ""}),
    "members6": Set("ipv6_addr", {"2001:db8::1": ""}),
    "sources": Set("ifname . ether_addr . ipv4_addr", {'"tap1" . 06:00:00:00:00:01 . 10.0.0.1': ""}),
    "marks": Set("ifname : mark", {'"tap1"': "7", '"tap2"': "65535"}),
    "public": Set("ipv4_addr : ipv4_addr", {"198.18.0.1": "10.0.0.1"}),
    "verdicts": Set("ifname : verdict", {'"tap1"': "goto x", '"tap2"': "accept", '"tap3"': "jump x"}),
    "later": Set("ipv4_addr", {}),
}
TABLE = Table(name="inet t", sets=SETS, chains={"x": Chain(("drop",))})
CHANGED = Table(
    name="inet t",
    sets={
        **SETS,
        # What comes overlaps what goes.
        "three": Set(
            SETS["three"].type,
            {"10.0.0.0/8 . 6 . 80-85": "", "10.0.0.0/8 . 6 . 86-90": "", "10.0.0.0/8 . 17 . 53": ""},
            flags="interval",
        ),
        "members": Set("ipv4_addr", {"10.0.0.2": "", "10.0.0.3": ""}),
        "marks": Set("ifname : mark", {'"tap1"': "8"}),
        "public": Set("ipv4_addr : ipv4_addr", {"198.18.0.1": "10.0.0.9"}),
        "verdicts": Set("ifname : verdict", {'"tap1"': "accept", '"tap3"': "jump x"}),
        "later": Set("ipv4_addr", {"10.9.9.9": ""}),
    },
    chains=TABLE.chains,
)


def listed() -> list[str]:
    """The elements of a set have no order."""
    text = command(["nft", "-nn", "list", "ruleset"]).replace("\n\t\t\t     ", " ")
    return [" ".join(sorted(line.replace(",", " ").split())) for line in text.splitlines()]


def test_elements_are_those_that_nft_makes(host: None) -> None:
    def work() -> None:
        nft(replace_table(TABLE))
        wanted = listed()
        nft(replace_table(emptied(TABLE)))
        assert listed() != wanted
        elements.commit(elements.portions(contents(TABLE)))
        assert listed() == wanted

    visit(HOST, work)


def test_a_change_is_the_one_that_nft_makes(host: None) -> None:
    def work() -> None:
        nft(replace_table(TABLE))
        before = listed()
        nft(change_table(TABLE, CHANGED))
        wanted = listed()
        nft(replace_table(TABLE))
        assert listed() == before != wanted
        for old, new, after in ((TABLE, CHANGED, wanted), (CHANGED, TABLE, before)):
            changes = changed_elements(old, new)
            assert changes
            elements.commit([elements.transaction(changes)])
            assert listed() == after

    visit(HOST, work)


def test_all_or_none(host: None) -> None:
    lost = Table(name="inet t", sets={"nowhere": Set("ipv4_addr", {"10.0.0.1": ""})})

    def work() -> None:
        nft(replace_table(TABLE))
        before = listed()
        changes = changed_elements(TABLE, CHANGED)
        assert changes
        for all_of_them in ([*changes, *contents(lost)], [*contents(lost), *changes]):
            with pytest.raises(NetworkError, match="No such file"):
                elements.commit([elements.transaction(all_of_them)])
            assert listed() == before
        elements.commit([elements.transaction([])])
        assert listed() == before

    visit(HOST, work)
