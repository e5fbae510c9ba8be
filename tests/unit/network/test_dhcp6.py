from __future__ import annotations

import struct
from ipaddress import IPv6Address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gureum.network.dhcp6 import (
    ASSOCIATIONS_MAX,
    MESSAGE_BYTES_MAX,
    SERVER,
    Association,
    Lease6,
    Message,
    Option,
    Status,
    Type,
    _options,
    answer,
    parse,
)

LEASE = Lease6(
    addresses=("fd00:1::5", "fd00:1::6"),
    servers=("fd00:ec2::253",),
    domain="ec2.internal",
)
FIVE, SIX, OTHER = (IPv6Address(f"fd00:1::{number}").packed for number in (5, 6, 9))
CLIENT = bytes.fromhex("00030001060000000005")
TO_US = (Option.server, SERVER)
REQUESTED = (Option.requested, struct.pack("!HH", Option.dns, Option.search))
SUCCESS = bytes(2)


def wants(*addresses: bytes, id: bytes = b"\0\0\0\1") -> tuple[int, bytes]:
    inside = b"".join(struct.pack("!HH16sII", Option.address, 24, address, 0, 0) for address in addresses)
    return Option.association, id + bytes(8) + inside


def packet(kind: int, *options: tuple[int, bytes], client: bytes = CLIENT) -> bytes:
    named = [(Option.client, client)] if client else []
    body = b"".join(struct.pack("!HH", code, len(value)) + value for code, value in (*named, *options))
    return bytes([kind]) + b"\x12\x34\x56" + body


def ask(data: bytes, lease: Lease6 = LEASE) -> tuple[int, list[tuple[int, bytes]]] | None:
    message = parse(data)
    reply = answer(message, lease) if message else None
    if reply is None:
        return None
    assert reply[1:4] == b"\x12\x34\x56"
    options = _options(reply[4:])
    assert options is not None
    assert dict(options)[Option.server] == SERVER
    return reply[0], options


def told(options: list[tuple[int, bytes]]) -> list[dict[bytes, int]]:
    """For each association, its addresses with the seconds for which they are preferred."""
    found = []
    for code, value in options:
        if code == Option.association:
            inside = _options(value[12:])
            assert inside is not None
            found.append(
                {body[:16]: int.from_bytes(body[16:20]) for kind, body in inside if kind == Option.address}
            )
    return found


def status(options: list[tuple[int, bytes]]) -> list[int]:
    """Of the message, and of all in it."""
    found = [int.from_bytes(value[:2]) for code, value in options if code == Option.status]
    for code, value in options:
        if code in (Option.association, Option.prefixes):
            found += status(_options(value[12:]) or [])
    return found


def test_solicit_is_answered_with_all_addresses() -> None:
    found = ask(packet(Type.solicit, wants(), REQUESTED))
    assert found
    kind, options = found
    assert kind == Type.advertise
    assert told(options) == [{FIVE: 3600, SIX: 3600}]
    assert dict(options)[Option.client] == CLIENT
    assert dict(options)[Option.dns] == IPv6Address("fd00:ec2::253").packed
    assert dict(options)[Option.search] == b"\x03ec2\x08internal\0"
    association = dict(options)[Option.association]
    assert struct.unpack_from("!4sII", association) == (b"\0\0\0\1", 1800, 2880)


def test_only_what_is_asked_for() -> None:
    found = ask(packet(Type.solicit, wants()))
    assert found
    assert not dict(found[1]).keys() & {Option.dns, Option.search}


def test_rapid_commit() -> None:
    found = ask(packet(Type.solicit, wants(), (Option.rapid_commit, b"")))
    assert found
    assert found[0] == Type.reply
    assert Option.rapid_commit in dict(found[1])


def test_request_and_renewal() -> None:
    for data in (
        packet(Type.request, TO_US, wants(FIVE)),
        packet(Type.renew, TO_US, wants(FIVE, SIX)),
        packet(Type.rebind, wants(SIX)),
    ):
        found = ask(data)
        assert found
        assert found[0] == Type.reply
        assert told(found[1]) == [{FIVE: 3600, SIX: 3600}]


def test_address_that_the_port_lost_is_over() -> None:
    found = ask(packet(Type.renew, TO_US, wants(FIVE, OTHER, OTHER)))
    assert found
    assert told(found[1]) == [{FIVE: 3600, SIX: 3600, OTHER: 0}]


def test_port_without_addresses() -> None:
    none = msgspec.structs.replace(LEASE, addresses=())
    found = ask(packet(Type.solicit, wants()), none)
    assert found
    assert told(found[1]) == [{}]
    assert status(found[1]) == [Status.no_addresses]
    found = ask(packet(Type.renew, TO_US, wants(FIVE)), none)
    assert found
    assert told(found[1]) == [{FIVE: 0}]


def test_second_association_and_prefixes_are_refused() -> None:
    prefix = (Option.prefixes, b"\0\0\0\7" + bytes(8))
    found = ask(packet(Type.solicit, wants(), wants(id=b"\0\0\0\2"), prefix))
    assert found
    assert told(found[1]) == [{FIVE: 3600, SIX: 3600}, {}]
    assert status(found[1]) == [Status.no_addresses, Status.no_prefix]


@pytest.mark.parametrize(("address", "wanted"), [(FIVE, Status.success), (OTHER, Status.not_on_link)])
def test_confirm(address: bytes, wanted: Status) -> None:
    found = ask(packet(Type.confirm, wants(address)))
    assert found
    assert status(found[1]) == [wanted]
    assert not told(found[1])


@pytest.mark.parametrize("kind", [Type.release, Type.decline])
def test_giving_back_changes_nothing(kind: Type) -> None:
    found = ask(packet(kind, TO_US, wants(FIVE)))
    assert found
    assert status(found[1]) == [Status.success]


def test_information_request_needs_no_client() -> None:
    found = ask(packet(Type.information_request, REQUESTED, client=b""))
    assert found
    assert found[0] == Type.reply
    assert {code for code, _ in found[1]} == {Option.server, Option.dns, Option.search}


@pytest.mark.parametrize(
    "data",
    [
        packet(Type.solicit, wants(), client=b""),
        packet(Type.solicit, TO_US, wants()),
        packet(Type.request, wants()),
        packet(Type.request, (Option.server, b"other"), wants()),
        packet(Type.renew, wants(FIVE)),
        packet(Type.rebind, TO_US, wants(FIVE)),
        packet(Type.confirm, wants()),
        packet(Type.information_request, wants()),
        packet(Type.information_request, (Option.server, b"other")),
        packet(Type.advertise),
        packet(Type.reply),
        packet(12),
        packet(0),
    ],
)
def test_silence(data: bytes) -> None:
    assert ask(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1\0\0",
        packet(Type.solicit)[:-1],
        packet(Type.solicit, (Option.association, bytes(11))),
        packet(Type.solicit, (Option.association, bytes(12) + b"\0\5\0\1x")),
        packet(Type.solicit, (Option.association, bytes(12) + b"\0\5\0\4")),
        packet(Type.solicit, (Option.client, CLIENT)),
        packet(Type.solicit, client=bytes(131)),
        packet(Type.solicit, *[wants()] * (ASSOCIATIONS_MAX + 1)),
        packet(Type.solicit) + bytes(MESSAGE_BYTES_MAX),
    ],
)
def test_malformed(data: bytes) -> None:
    assert parse(data) is None


@given(st.binary(max_size=1600))
def test_any_bytes(data: bytes) -> None:
    message = parse(data)
    if message is not None:
        answer(message, LEASE)


@given(st.integers(0, 13), st.binary(max_size=400))
def test_any_bytes_as_options(kind: int, tail: bytes) -> None:
    message = parse(packet(kind) + tail)
    if message is not None:
        answer(message, LEASE)


@given(
    st.builds(
        Message,
        type=st.integers(0, 255),
        transaction=st.binary(min_size=3, max_size=3),
        client=st.binary(max_size=130),
        server=st.sampled_from([b"", SERVER, b"other"]),
        associations=st.lists(
            st.builds(
                Association,
                st.binary(min_size=4, max_size=4),
                st.lists(st.sampled_from([FIVE, SIX, OTHER])).map(tuple),
            ),
            max_size=ASSOCIATIONS_MAX,
        ).map(tuple),
        prefixes=st.lists(st.binary(min_size=4, max_size=4), max_size=4).map(tuple),
        requested=st.frozensets(st.integers(0, 65535)),
        rapid_commit=st.booleans(),
    )
)
def test_every_answer_is_well_formed_and_never_hands_out_another_address(message: Message) -> None:
    reply = answer(message, LEASE)
    if reply is not None:
        options = _options(reply[4:])
        assert options is not None
        given = {address for each in told(options) for address, seconds in each.items() if seconds}
        assert given <= {FIVE, SIX}
