"""DHCPv6 messages (RFC 8415): one known client a port, and its addresses, so no state.

``parse`` takes what a guest sent, which may be anything; ``answer`` says what to send back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from ipaddress import IPv6Address

import msgspec

from gureum.network.names import ROUTER_MAC

CLIENT_PORT, SERVER_PORT = 546, 547
MESSAGE_BYTES_MAX = 1500
IDENTIFIER_BYTES_MAX = 130
ASSOCIATIONS_MAX = 4
SERVER = struct.pack("!HH6s", 3, 1, bytes.fromhex(ROUTER_MAC.replace(":", "")))
"""The server's identifier: the router's Ethernet address, which is the same on every host."""


class Type(IntEnum):
    solicit = 1
    advertise = 2
    request = 3
    confirm = 4
    renew = 5
    rebind = 6
    reply = 7
    release = 8
    decline = 9
    information_request = 11


class Option(IntEnum):
    client = 1
    server = 2
    association = 3
    address = 5
    requested = 6
    status = 13
    rapid_commit = 14
    dns = 23
    search = 24
    prefixes = 25


class Status(IntEnum):
    success = 0
    no_addresses = 2
    no_binding = 3
    not_on_link = 4
    no_prefix = 6


class Lease6(msgspec.Struct, frozen=True, kw_only=True):
    """What the client of a port is told. ``seconds``: how long its addresses are preferred; they are valid
    for twice that, and renewed after half of it.
    """

    addresses: tuple[str, ...]
    servers: tuple[str, ...] = ()
    domain: str = ""
    seconds: int = 3600


class Association(msgspec.Struct, frozen=True):
    """A set of addresses (IA_NA) that the client names ``id``; ``addresses`` are those it has or wants."""

    id: bytes
    addresses: tuple[bytes, ...]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A client's message: what an answer depends on. ``prefixes`` are the ids of prefixes that it wants."""

    type: int
    transaction: bytes
    client: bytes = b""
    server: bytes = b""
    associations: tuple[Association, ...] = ()
    prefixes: tuple[bytes, ...] = ()
    requested: frozenset[int] = frozenset()
    rapid_commit: bool = False


def parse(data: bytes) -> Message | None:
    """None for everything that is not a well-formed message of a client."""
    if not 4 <= len(data) <= MESSAGE_BYTES_MAX:
        return None
    options = _options(data[4:])
    if options is None:
        return None
    single = {key: [value for code, value in options if code == key] for key in Option}
    client, server = single[Option.client], single[Option.server]
    if len(client) > 1 or len(server) > 1 or any(len(value) > IDENTIFIER_BYTES_MAX for value in client):
        return None
    associations = [_association(value) for value in single[Option.association]]
    prefixes = [value[:4] for value in single[Option.prefixes] if len(value) >= 12]
    if len(associations) > ASSOCIATIONS_MAX or len(prefixes) > ASSOCIATIONS_MAX:
        return None
    found = tuple(each for each in associations if each is not None)
    if len(found) != len(associations):
        return None
    wanted = b"".join(single[Option.requested])
    return Message(
        type=data[0],
        transaction=data[1:4],
        client=b"".join(client),
        server=b"".join(server),
        associations=found,
        prefixes=tuple(prefixes),
        requested=frozenset(code for (code,) in struct.iter_unpack("!H", wanted[: len(wanted) & ~1])),
        rapid_commit=bool(single[Option.rapid_commit]),
    )


def _options(data: bytes) -> list[tuple[int, bytes]] | None:
    """None if one runs past the end."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            return None
        code, length = struct.unpack_from("!HH", data, at)
        at += 4 + length
        if at > len(data):
            return None
        found.append((code, data[at - length : at]))
    return found


def _association(data: bytes) -> Association | None:
    options = _options(data[12:]) if len(data) >= 12 else None
    if options is None:
        return None
    inside = [value for code, value in options if code == Option.address]
    if any(len(value) < 24 for value in inside):
        return None
    return Association(data[:4], tuple(value[:16] for value in inside))


_FOR_ONE_SERVER = (Type.request, Type.renew, Type.release, Type.decline)
"""What a client says to one server, by its identifier; the rest is for any."""


def answer(message: Message, lease: Lease6) -> bytes | None:
    """The server's answer, None for silence."""
    if message.type == Type.information_request:
        if message.associations or message.server not in (b"", SERVER):
            return None
        return _reply(message, Type.reply, _configuration(message, lease))
    if not message.client:
        return None
    if message.server != (SERVER if message.type in _FOR_ONE_SERVER else b""):
        return None
    match message.type:
        case Type.solicit if not message.rapid_commit:
            return _reply(message, Type.advertise, _leases(message, lease))
        case Type.solicit:
            return _reply(message, Type.reply, [(Option.rapid_commit, b""), *_leases(message, lease)])
        case Type.request | Type.renew | Type.rebind:
            return _reply(message, Type.reply, _leases(message, lease))
        case Type.confirm:
            claimed = [address for each in message.associations for address in each.addresses]
            if not claimed:
                return None
            right = set(claimed) <= set(_packed(lease.addresses))
            return _reply(message, Type.reply, [_status(Status.success if right else Status.not_on_link)])
        case Type.release | Type.decline:
            # The addresses are the port's, whoever says what.
            return _reply(message, Type.reply, [_status(Status.success)])
    return None


def _reply(message: Message, kind: Type, options: Iterable[tuple[int, bytes]]) -> bytes:
    head = bytes([kind]) + message.transaction
    client = [(Option.client, message.client)] if message.client else []
    return head + _encode([*client, (Option.server, SERVER), *options])


def _encode(options: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(struct.pack("!HH", code, len(value)) + value for code, value in options)


def _status(status: Status) -> tuple[int, bytes]:
    return Option.status, status.to_bytes(2, "big")


def _packed(addresses: Iterable[str]) -> list[bytes]:
    return [IPv6Address(address).packed for address in addresses]


def _leases(message: Message, lease: Lease6) -> list[tuple[int, bytes]]:
    """All addresses are in the first association: a port has one client. What a client has and should not
    have is told to be over.
    """
    options: list[tuple[int, bytes]] = []
    renewed = message.type in (Type.renew, Type.rebind)
    for position, wanted in enumerate(message.associations):
        given = _packed(lease.addresses) if position == 0 else []
        inside = [_address(address, lease.seconds) for address in given]
        if renewed:
            inside += [
                _address(address, 0) for address in dict.fromkeys(wanted.addresses) if address not in given
            ]
        if not inside:
            inside = [_status(Status.no_binding if renewed else Status.no_addresses)]
        times = struct.pack("!II", lease.seconds // 2, lease.seconds * 4 // 5) if given else bytes(8)
        options.append((Option.association, wanted.id + times + _encode(inside)))
    refusal = bytes(8) + _encode([_status(Status.no_prefix)])
    options += [(Option.prefixes, id + refusal) for id in message.prefixes]
    return options + _configuration(message, lease)


def _address(address: bytes, seconds: int) -> tuple[int, bytes]:
    return Option.address, address + struct.pack("!II", seconds, 2 * seconds)


def _configuration(message: Message, lease: Lease6) -> list[tuple[int, bytes]]:
    told = (
        (Option.dns, b"".join(_packed(lease.servers))),
        (Option.search, _labels(lease.domain.split(".")) if lease.domain else b""),
    )
    return [(code, value) for code, value in told if value and code in message.requested]


def _labels(names: Sequence[str]) -> bytes:
    """A domain name as DNS writes it."""
    return b"".join(bytes([len(name)]) + name.encode() for name in names) + b"\0"
