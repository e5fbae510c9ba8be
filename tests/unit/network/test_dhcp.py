from __future__ import annotations

import struct
from ipaddress import IPv4Address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gureum.network.dhcp import (
    MESSAGE_BYTES_MAX,
    REPLY_BYTES_MIN,
    Lease,
    Message,
    Option,
    Reply,
    Type,
    _options,
    answer,
    parse,
)

LEASE = Lease(
    mac="06:00:00:00:00:05",
    address="172.31.16.5",
    prefix=20,
    router="172.31.16.1",
    servers=("172.31.0.2",),
    domain="ec2.internal",
    hostname="ip-172-31-16-5",
    mtu=1450,
)
COOKIE = b"\x63\x82\x53\x63"


def packet(
    kind: int,
    *options: tuple[int, bytes],
    client: str = "0.0.0.0",
    mac: str = LEASE.mac,
    op: int = 1,
    relay: str = "0.0.0.0",
    end: bytes = b"\xff",
) -> bytes:
    head = struct.pack(
        "!BBBBIHH4s4s4s4s16s192s",
        op,
        1,
        6,
        0,
        0x1234,
        0,
        0,
        IPv4Address(client).packed,
        bytes(4),
        bytes(4),
        IPv4Address(relay).packed,
        bytes.fromhex(mac.replace(":", "")),
        b"",
    )
    body = b"".join(
        bytes([key, len(value)]) + value for key, value in ((Option.type, bytes([kind])), *options)
    )
    return head + COOKIE + body + end


def ask(data: bytes, lease: Lease = LEASE) -> tuple[Reply, dict[int, bytes]] | None:
    message = parse(data)
    reply = answer(message, lease) if message else None
    if reply is None:
        return None
    options = _options(reply.data[240:])
    assert options is not None
    return reply, options


def test_discover_is_offered_the_lease() -> None:
    found = ask(packet(Type.discover))
    assert found
    reply, options = found
    assert reply.to == "255.255.255.255"
    assert len(reply.data) >= REPLY_BYTES_MIN
    assert reply.data[4:8] == struct.pack("!I", 0x1234)
    assert reply.data[16:20] == IPv4Address(LEASE.address).packed
    assert options == {
        Option.type: bytes([Type.offer]),
        Option.server: bytes([172, 31, 16, 1]),
        Option.mask: bytes([255, 255, 240, 0]),
        Option.router: bytes([172, 31, 16, 1]),
        Option.hostname: b"ip-172-31-16-5",
        Option.domain: b"ec2.internal",
        Option.mtu: (1450).to_bytes(2, "big"),
        Option.broadcast: bytes([172, 31, 31, 255]),
        Option.dns: bytes([172, 31, 0, 2]),
        Option.lease_seconds: (3600).to_bytes(4, "big"),
        Option.renewal_seconds: (1800).to_bytes(4, "big"),
        Option.rebinding_seconds: (3150).to_bytes(4, "big"),
    }


def test_request_is_acknowledged() -> None:
    for data in (
        packet(Type.request, (Option.requested, IPv4Address(LEASE.address).packed)),
        packet(Type.request, (Option.server, IPv4Address(LEASE.router).packed), client=LEASE.address),
    ):
        found = ask(data)
        assert found
        assert found[1][Option.type] == bytes([Type.ack])


def test_renewal_is_answered_to_the_client_itself() -> None:
    found = ask(packet(Type.request, client=LEASE.address))
    assert found
    assert found[0].to == LEASE.address


def test_another_address_is_refused() -> None:
    found = ask(packet(Type.request, (Option.requested, bytes([10, 0, 0, 9]))))
    assert found
    reply, options = found
    assert options == {Option.type: bytes([Type.nak]), Option.server: bytes([172, 31, 16, 1])}
    assert reply.to == "255.255.255.255"
    assert reply.data[16:20] == bytes(4)


def test_inform_gets_no_lease() -> None:
    found = ask(packet(Type.inform, client=LEASE.address))
    assert found
    reply, options = found
    assert Option.lease_seconds not in options
    assert reply.data[16:20] == bytes(4)


def test_all_that_a_set_of_options_can_say() -> None:
    lease = msgspec.structs.replace(
        LEASE,
        servers=("10.0.0.2", "10.0.0.3"),
        ntp=("10.0.0.4",),
        netbios=("10.0.0.5", "10.0.0.6"),
        netbios_type=2,
    )
    found = ask(packet(Type.request, client=LEASE.address), lease)
    assert found
    assert found[1][Option.dns] == bytes([10, 0, 0, 2, 10, 0, 0, 3])
    assert found[1][Option.ntp] == bytes([10, 0, 0, 4])
    assert found[1][Option.netbios] == bytes([10, 0, 0, 5, 10, 0, 0, 6])
    assert found[1][Option.netbios_type] == b"\x02"


def test_what_is_not_set_is_not_mentioned() -> None:
    found = ask(packet(Type.discover), msgspec.structs.replace(LEASE, servers=(), domain=""))
    assert found
    assert not found[1].keys() & {
        Option.dns,
        Option.domain,
        Option.ntp,
        Option.netbios,
        Option.netbios_type,
    }
    assert found[1][Option.mtu] == (1450).to_bytes(2, "big")


def test_static_routes_for_those_who_ask() -> None:
    found = ask(packet(Type.discover, (Option.parameters, bytes([Option.mask, Option.routes]))))
    assert found
    assert found[1][Option.routes] == bytes([0, 172, 31, 16, 1, 32, 169, 254, 169, 254, 172, 31, 16, 1])


@pytest.mark.parametrize(
    "data",
    [
        packet(Type.release, client=LEASE.address),
        packet(Type.decline),
        packet(Type.discover, mac="06:00:00:00:00:06"),
        packet(Type.discover, relay="10.0.0.1"),
        packet(Type.request, (Option.server, bytes([10, 0, 0, 1]))),
        packet(Type.inform, client="10.0.0.9"),
        packet(Type.discover, op=2),
        packet(99),
    ],
)
def test_silence(data: bytes) -> None:
    assert ask(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(240),
        packet(Type.discover)[:239],
        packet(Type.discover, end=b"\x0c"),
        packet(Type.discover, end=b"\x0c\x05ab"),
        packet(Type.discover, (Option.type, b"\x01")),
        packet(Type.discover).ljust(MESSAGE_BYTES_MAX + 1, b"\0"),
        packet(Type.discover).replace(COOKIE, b"\0\0\0\0"),
    ],
)
def test_malformed(data: bytes) -> None:
    assert parse(data) is None


def test_no_end_mark_is_tolerated() -> None:
    assert parse(packet(Type.discover, end=b"\0\0")) is not None


@given(st.binary(max_size=400))
def test_any_bytes_as_options(tail: bytes) -> None:
    message = parse(packet(Type.request, end=b"") + tail)
    if message is not None:
        answer(message, LEASE)


@given(st.binary(max_size=1600))
def test_any_bytes(data: bytes) -> None:
    parse(data)


@given(
    st.builds(
        Message,
        type=st.integers(0, 255),
        xid=st.integers(0, 2**32 - 1),
        flags=st.integers(0, 2**16 - 1),
        client=st.sampled_from(["", LEASE.address, "10.0.0.9"]),
        relay=st.just(bytes(4)),
        hardware=st.just(bytes.fromhex(LEASE.mac.replace(":", "")) + bytes(10)),
        requested=st.sampled_from(["", LEASE.address, "10.0.0.9"]),
        server=st.sampled_from(["", LEASE.router, "10.0.0.9"]),
        parameters=st.binary(max_size=255),
    )
)
def test_every_answer_is_well_formed_and_never_hands_out_another_address(message: Message) -> None:
    reply = answer(message, LEASE)
    if reply is not None:
        assert _options(reply.data[240:]) is not None
        assert reply.data[16:20] in (bytes(4), IPv4Address(LEASE.address).packed)
        assert reply.to in ("255.255.255.255", LEASE.address)
