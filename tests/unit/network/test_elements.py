from __future__ import annotations

import pytest

from gureum.errors import NetworkError
from gureum.network import elements
from gureum.network.elements import PORTION_BYTES, portions, supported, transaction
from gureum.network.ruleset import Change, Set

THREE = Set("ipv4_addr . inet_proto . inet_service", flags="interval")


def change(found: Set, come: dict[str, str], gone: tuple[str, ...] = ()) -> Change:
    return Change("inet t", "s", found, dict.fromkeys(gone, ""), come)


def test_a_network_and_ports_are_a_first_and_a_last_key() -> None:
    [message] = transaction([change(THREE, {"10.1.0.0/16 . 6 . 80-443": ""})]).messages
    first = bytes([10, 1, 0, 0, 6, 0, 0, 0, 0, 80, 0, 0])
    last = bytes([10, 1, 255, 255, 6, 0, 0, 0, 0x01, 0xBB, 0, 0])
    assert message.index(first) < message.index(last)
    assert b"t\0" in message
    assert b"s\0" in message
    assert len(message) % 4 == 0


def test_what_goes_is_said_before_what_comes() -> None:
    [gone, come] = transaction([change(Set("ipv4_addr"), {"10.0.0.2": ""}, ("10.0.0.1",))]).messages
    assert bytes([10, 0, 0, 1]) in gone
    assert bytes([10, 0, 0, 2]) in come


def test_many_elements_are_many_messages_and_portions() -> None:
    many = {f"10.{n >> 8}.{n & 255}.0/24 . 6 . {n}": "" for n in range(10_000)}
    batch = transaction([change(THREE, many)])
    assert all(len(message) < 65_536 for message in batch.messages)
    apart = list(portions([change(THREE, many)]))
    assert [message for each in apart for message in each.messages] == batch.messages
    assert all(each.size <= PORTION_BYTES for each in apart)


def test_a_transaction_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "BATCH_BYTES_MAX", 1000)
    with pytest.raises(NetworkError, match="too many"):
        transaction([change(THREE, {f"10.0.0.0/8 . 6 . {n}": "" for n in range(100)})])


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (THREE, True),
        (Set("ipv4_addr"), True),
        (Set("ifname : verdict"), True),
        (Set("ipv4_addr : ipv4_addr"), True),
        (Set("ifname . ether_addr . ipv6_addr"), True),
        (Set("ipv4_addr", flags="interval"), False),
        (Set("ifname", flags="dynamic,timeout", timeout="60s", size=8), False),
        (Set("iifname . @th,64,128", of="typeof"), False),
        (Set("ipv4_addr . ct_state"), False),
    ],
)
def test_which_sets_need_nft(found: Set, wanted: bool) -> None:
    assert supported(found) is wanted


@pytest.mark.parametrize(
    ("found", "element", "value"),
    [
        (THREE, "10.0.0.0/8 . 6", ""),
        (THREE, "10.0.0.0/8 . 6 . 65536", ""),
        (THREE, "10.0.0/8 . 6 . 1", ""),
        (THREE, "10.0.0.0/33 . 6 . 1", ""),
        (Set("ipv4_addr"), "all", ""),
        (Set("ether_addr . ipv4_addr"), "06:00:00:00:00 . 10.0.0.1", ""),
        (Set("ifname : mark"), '"a-name-that-is-too-long"', "1"),
        (Set("ifname : verdict"), '"a"', "reject"),
    ],
)
def test_nonsense_is_refused(found: Set, element: str, value: str) -> None:
    with pytest.raises(NetworkError):
        transaction([change(found, {element: value})])
