from __future__ import annotations

import pytest
from msgspec.structs import replace

from gureum.errors import StoreError
from gureum.resources import KINDS, NetworkInterface, Vpc
from gureum.store import codec

INTERFACE = NetworkInterface(
    id="eni-1", account="a", vpc="v", subnet="s", zone="z", mac="m", private_ip="", groups=("x", "y", "x")
)


def test_entries() -> None:
    assert codec.entries(INTERFACE) == {
        ("account", "a"),
        ("vpc", "v"),
        ("subnet", "s"),
        ("groups", "x"),
        ("groups", "y"),
        ("addresses", ""),
        ("attachment", ""),
    }


def test_a_settled_record_has_its_version_in_the_body() -> None:
    settled, body = codec.settle(INTERFACE, 3)
    assert settled == replace(INTERFACE, version=3)
    assert codec.decode("network-interface", body) == settled


def test_fields_of_a_later_version_are_skipped() -> None:
    body = '{"id":"vpc-1","cidr":"c","network_id":1,"invented_later":[1]}'
    assert codec.decode("vpc", body) == Vpc(id="vpc-1", cidr="c", network_id=1)


def test_a_damaged_body_is_named() -> None:
    with pytest.raises(StoreError, match="a stored vpc cannot be read"):
        codec.decode("vpc", '{"id":"vpc-1"')


@pytest.mark.parametrize(("text", "storable"), [("", True), ("☃", True), ("a\0", False), ("\udfff", False)])
def test_storable(text: str, storable: bool) -> None:
    assert codec.storable(text) is storable


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_indexes_are_fields_that_can_be_searched(kind: str) -> None:
    """``find`` takes its own arguments by name, so no index may have these names."""
    record = KINDS[kind]
    assert not {"kind", "after", "limit", "self"} & set(record.indexes)
    for field in record.indexes:
        assert field in record.__struct_fields__ or isinstance(getattr(record, field), property)
