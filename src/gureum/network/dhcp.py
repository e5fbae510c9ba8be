"""DHCP messages (RFC 2131, 2132, 3442): one known client, one lease, so no state and nothing to remember.

``parse`` takes what a guest sent, which may be anything; ``answer`` says what to send back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from ipaddress import IPv4Address

import msgspec

CLIENT_PORT, SERVER_PORT = 68, 67
MESSAGE_BYTES_MAX = 1500
REPLY_BYTES_MIN = 300
"""BOOTP's size: some clients drop anything shorter."""
_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"


class Type(IntEnum):
    discover = 1
    offer = 2
    request = 3
    decline = 4
    ack = 5
    nak = 6
    release = 7
    inform = 8


class Option(IntEnum):
    pad = 0
    mask = 1
    router = 3
    dns = 6
    hostname = 12
    domain = 15
    mtu = 26
    broadcast = 28
    ntp = 42
    netbios = 44
    netbios_type = 46
    requested = 50
    lease_seconds = 51
    type = 53
    server = 54
    parameters = 55
    renewal_seconds = 58
    rebinding_seconds = 59
    routes = 121
    end = 255


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What the client of a port is told. ``prefix`` is the length of the subnet's mask.

    Of the rest, what is empty or 0 is not mentioned. A client learns what changed when it renews its lease,
    after half of ``seconds``; an hour is what EC2's leases last.
    """

    mac: str
    address: str
    prefix: int
    router: str
    hostname: str
    mtu: int
    domain: str = ""
    servers: tuple[str, ...] = ()
    ntp: tuple[str, ...] = ()
    netbios: tuple[str, ...] = ()
    netbios_type: int = 0
    seconds: int = 3600


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A client's message: what an answer depends on. ``client`` is ciaddr, "" for none."""

    type: int
    xid: int
    flags: int
    client: str
    relay: bytes
    hardware: bytes
    requested: str = ""
    server: str = ""
    parameters: bytes = b""


class Reply(msgspec.Struct, frozen=True):
    """``to`` is the address to send to; the limited broadcast for a client that has none yet."""

    data: bytes
    to: str


def parse(data: bytes) -> Message | None:
    """None for everything that is not a well-formed message of an Ethernet client."""
    if not _FIXED.size <= len(data) <= MESSAGE_BYTES_MAX:
        return None
    op, htype, hlen, _, xid, _, flags, client, _, _, relay, hardware, _, _, cookie = _FIXED.unpack_from(data)
    if (op, htype, hlen, cookie) != (1, 1, 6, _COOKIE):
        return None
    options = _options(data[_FIXED.size :])
    if options is None or len(options.get(Option.type, b"")) != 1:
        return None
    return Message(
        type=options[Option.type][0],
        xid=xid,
        flags=flags,
        client=_address(client),
        relay=relay,
        hardware=hardware,
        requested=_address(options.get(Option.requested, b"")),
        server=_address(options.get(Option.server, b"")),
        parameters=options.get(Option.parameters, b""),
    )


def _options(data: bytes) -> dict[int, bytes] | None:
    """Options by number; one that comes twice is joined (RFC 3396). None if one runs past the end."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != Option.end:
        if data[at] == Option.pad:
            at += 1
            continue
        if at + 1 >= len(data) or at + 2 + data[at + 1] > len(data):
            return None
        end = at + 2 + data[at + 1]
        found[data[at]] = found.get(data[at], b"") + data[at + 2 : end]
        at = end
    return found


def _address(data: bytes) -> str:
    return str(IPv4Address(data)) if len(data) == 4 and data != bytes(4) else ""


def answer(message: Message, lease: Lease) -> Reply | None:
    """The server's answer, None for silence."""
    hardware = bytes.fromhex(lease.mac.replace(":", ""))
    if message.hardware[:6] != hardware or message.relay != bytes(4):
        return None
    if message.type == Type.discover:
        return _reply(message, lease, Type.offer)
    if message.type == Type.inform:
        return _reply(message, lease, Type.ack) if message.client == lease.address else None
    if message.type != Type.request or message.server not in ("", lease.router):
        return None
    asked = message.requested or message.client
    return _reply(message, lease, Type.ack if asked == lease.address else Type.nak)


def _reply(message: Message, lease: Lease, kind: Type) -> Reply:
    nak, inform = kind == Type.nak, message.type == Type.inform
    options = [(Option.type, bytes([kind])), (Option.server, IPv4Address(lease.router).packed)]
    if not nak:
        options += _configuration(lease, message.parameters, leased=not inform)
    encoded = b"".join(bytes([key, len(value)]) + value for key, value in options) + bytes([Option.end])
    none = bytes(4)
    client = IPv4Address(message.client).packed if message.client and not nak else none
    yours = none if nak or inform else IPv4Address(lease.address).packed
    fixed = _FIXED.pack(
        2,
        1,
        6,
        0,
        message.xid,
        0,
        message.flags,
        client,
        yours,
        none,
        none,
        message.hardware,
        b"",
        b"",
        _COOKIE,
    )
    unicast = message.client == lease.address and not nak
    to = lease.address if unicast else "255.255.255.255"
    return Reply((fixed + encoded).ljust(REPLY_BYTES_MIN, b"\0"), to)


def _packed(addresses: Iterable[str]) -> bytes:
    return b"".join(IPv4Address(address).packed for address in addresses)


def _configuration(lease: Lease, parameters: bytes, leased: bool) -> list[tuple[Option, bytes]]:
    mask = (0xFFFFFFFF << (32 - lease.prefix)) & 0xFFFFFFFF
    broadcast = int(IPv4Address(lease.address)) | (~mask & 0xFFFFFFFF)
    router = IPv4Address(lease.router).packed
    options = [
        (Option.mask, mask.to_bytes(4, "big")),
        (Option.router, router),
        (Option.hostname, lease.hostname.encode()),
        (Option.mtu, lease.mtu.to_bytes(2, "big")),
        (Option.broadcast, broadcast.to_bytes(4, "big")),
    ]
    told = (
        (Option.domain, lease.domain.encode()),
        (Option.dns, _packed(lease.servers)),
        (Option.ntp, _packed(lease.ntp)),
        (Option.netbios, _packed(lease.netbios)),
        (Option.netbios_type, bytes([lease.netbios_type]) if lease.netbios_type else b""),
    )
    options += [(key, value) for key, value in told if value]
    if leased:
        options += [
            (Option.lease_seconds, lease.seconds.to_bytes(4, "big")),
            (Option.renewal_seconds, (lease.seconds // 2).to_bytes(4, "big")),
            (Option.rebinding_seconds, (lease.seconds * 7 // 8).to_bytes(4, "big")),
        ]
    if Option.routes in parameters:
        # A client that asks for these ignores the router option (RFC 3442): the default route is among them.
        metadata = bytes([32, 169, 254, 169, 254])
        options.append((Option.routes, bytes([0]) + router + metadata + router))
    return options
