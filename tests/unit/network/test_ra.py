from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gureum.network.ra import advertisement, is_solicitation

SOLICITATION = struct.pack("!BBHI", 133, 0, 0, 0)
SOURCE = b"\x01\x01\x06\0\0\0\0\5"


def test_advertisement() -> None:
    data = advertisement(1450)
    kind, code, _, hops, flags, lifetime, reachable, retransmit = struct.unpack_from("!BBHBBHII", data)
    assert (kind, code, hops) == (134, 0, 64)
    # Addresses and the rest by DHCPv6.
    assert flags == 0xC0
    assert (lifetime, reachable, retransmit) == (9000, 0, 0)
    assert data[16:] == bytes.fromhex("010102677572756d") + b"\x05\x01\0\0" + struct.pack("!I", 1450)


@pytest.mark.parametrize("data", [SOLICITATION, SOLICITATION + SOURCE, SOLICITATION + SOURCE * 2])
def test_solicitation(data: bytes) -> None:
    assert is_solicitation(data, 255)


@pytest.mark.parametrize(
    ("data", "hops"),
    [
        (SOLICITATION, 254),
        (SOLICITATION, -1),
        (SOLICITATION[:7], 255),
        (b"\x86" + SOLICITATION[1:], 255),
        (b"\x85\1" + SOLICITATION[2:], 255),
        (SOLICITATION + SOURCE[:1], 255),
        (SOLICITATION + SOURCE[:7], 255),
        (SOLICITATION + b"\1\0" + bytes(6), 255),
        (b"", 255),
    ],
)
def test_no_solicitation(data: bytes, hops: int) -> None:
    assert not is_solicitation(data, hops)


@given(st.binary(max_size=100), st.integers(-1, 255))
def test_any_bytes(data: bytes, hops: int) -> None:
    is_solicitation(data, hops)
    is_solicitation(SOLICITATION + data, 255)
