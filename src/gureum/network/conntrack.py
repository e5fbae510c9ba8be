"""The kernel's connection tracking, by netlink: forgetting flows, reading and making them.

When an address loses its port, what was established with it must not go on with the next.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from gureum.errors import NetworkError

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 1 << 8
_NEW, _GET, _DELETE = _SUBSYSTEM, _SUBSYSTEM | 1, _SUBSYSTEM | 2
_REQUEST, _ACK, _DUMP, _CREATE = 0x1, 0x4, 0x300, 0x600
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
TUPLE_ORIGINAL, TUPLE_REPLY, _ID = 1, 2, 12
_TUPLE_IP = 1
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)
"""Of IPv4, and of IPv6."""
_FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}
_RECEIVE_BYTES = 1 << 18
_SECONDS_MAX = 5.0


def forget_flows(addresses: Iterable[str], keep: Iterable[str] = ()) -> int:
    """Delete every flow of these addresses in the calling thread's namespace, but those that are also of one
    of ``keep``; how many there were.
    """
    wanted = _packed(addresses)
    if not wanted:
        return 0
    kept = _packed(keep)
    doomed = 0
    with _tracking() as sock:
        for family in _families(wanted):
            for flow in [flow for flow in _flows(sock, family) if _touches(flow, wanted, kept)]:
                _delete(sock, family, flow)
                doomed += 1
    return doomed


def flows_of(addresses: Iterable[str]) -> Iterator[tuple[int, dict[int, bytes]]]:
    """(family, attributes) of every flow of these addresses in the calling thread's namespace."""
    wanted = _packed(addresses)
    with _tracking() as sock:
        for family in _families(wanted):
            yield from ((family, flow) for flow in _flows(sock, family) if _addresses(flow) & wanted)


def touches(flow: dict[int, bytes], addresses: Iterable[str]) -> bool:
    return bool(_addresses(flow) & _packed(addresses))


def create(flows: Iterable[tuple[int, bytes]]) -> int:
    """Make flows, each (family, attributes), in the calling thread's namespace; how many were not there."""
    made = 0
    with _tracking() as sock:
        for family, flow in flows:
            sock.send(_message(_NEW, _CREATE | _ACK, family, flow))
            made += _acknowledged(sock, but=errno.EEXIST)
    return made


def _packed(addresses: Iterable[str]) -> set[bytes]:
    return {ip_address(address).packed for address in addresses}


def _families(addresses: set[bytes]) -> list[int]:
    return [_FAMILIES[length] for length in sorted({len(address) for address in addresses})]


def _touches(flow: dict[int, bytes], wanted: set[bytes], kept: set[bytes]) -> bool:
    found = _addresses(flow)
    return bool(found & wanted) and not (found - wanted) & kept


@contextmanager
def _tracking() -> Iterator[socket.socket]:
    """A socket to the connection tracking of the calling thread's namespace."""
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        ) as sock:
            sock.settimeout(_SECONDS_MAX)
            sock.bind((0, 0))
            yield sock
    except OSError as error:
        raise NetworkError(f"connection tracking: {error.strerror or error}") from error


def _message(kind: int, flags: int, family: int, attributes: bytes = b"") -> bytes:
    body = struct.pack("=BBH", family, 0, 0) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, 1, 0) + body


def _flows(sock: socket.socket, family: int) -> Iterator[dict[int, bytes]]:
    """The attributes of every flow, undecoded."""
    sock.send(_message(_GET, _DUMP, family))
    while True:
        data = sock.recv(_RECEIVE_BYTES)
        at = 0
        while at + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == _DONE or length < 16:
                return
            if kind == _ERROR:
                _raise(data, at)
            yield attributes(data[at + 20 : at + length])
            at += (length + 3) & ~3


def _delete(sock: socket.socket, family: int, flow: dict[int, bytes]) -> None:
    tuple_ = attribute(TUPLE_ORIGINAL, flow[TUPLE_ORIGINAL], nested=True)
    sock.send(_message(_DELETE, _ACK, family, tuple_ + attribute(_ID, flow[_ID])))
    _acknowledged(sock, but=errno.ENOENT)


def _acknowledged(sock: socket.socket, but: int) -> bool:
    """Whether it was done; False if that could not be for this reason, OSError for all others."""
    data = sock.recv(_RECEIVE_BYTES)
    if struct.unpack_from("=H", data, 4)[0] == _ERROR:
        _raise(data, 0, but)
        return bool(struct.unpack_from("=i", data, 16)[0] == 0)
    return True


def _raise(data: bytes, at: int, but: int = 0) -> None:
    """Raise what a netlink error message says, except for success and ``but``."""
    code = -struct.unpack_from("=i", data, at + 16)[0]
    if code not in (0, but):
        raise OSError(code, os.strerror(code))


def attribute(kind: int, value: bytes, nested: bool = False) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind | (_NESTED if nested else 0)) + value.ljust(
        (len(value) + 3) & ~3, b"\0"
    )


def attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _addresses(flow: dict[int, bytes]) -> set[bytes]:
    found: set[bytes] = set()
    for direction in (TUPLE_ORIGINAL, TUPLE_REPLY):
        ip = attributes(attributes(flow.get(direction, b"")).get(_TUPLE_IP, b""))
        found |= {ip[key] for key in _SOURCES + _DESTINATIONS if key in ip}
    return found
