"""Forgetting flows: when an address loses its port, what was established with it must not go on with the
next.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

from gureum.errors import NetworkError

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 1 << 8
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_TUPLE_ORIGINAL, _TUPLE_REPLY, _ID = 1, 2, 12
_TUPLE_IP = 1
_SOURCE, _DESTINATION = 1, 2
_RECEIVE_BYTES = 1 << 18
_SECONDS_MAX = 5.0


def forget_flows(addresses: Iterable[str]) -> int:
    """Delete every flow of these IPv4 addresses in the calling thread's namespace; how many there were."""
    wanted = {IPv4Address(address).packed for address in addresses}
    if not wanted:
        return 0
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        ) as sock:
            sock.settimeout(_SECONDS_MAX)
            sock.bind((0, 0))
            doomed = [flow for flow in _flows(sock) if _addresses(flow) & wanted]
            for flow in doomed:
                _delete(sock, flow)
    except OSError as error:
        raise NetworkError(f"connection tracking: {error.strerror or error}") from error
    return len(doomed)


def _message(kind: int, flags: int, attributes: bytes = b"") -> bytes:
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, 1, 0) + body


def _flows(sock: socket.socket) -> Iterator[dict[int, bytes]]:
    """The attributes of every flow, undecoded."""
    sock.send(_message(_GET, _DUMP))
    while True:
        data = sock.recv(_RECEIVE_BYTES)
        at = 0
        while at + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == _DONE or length < 16:
                return
            if kind == _ERROR:
                _raise(data, at)
            yield _attributes(data[at + 20 : at + length])
            at += (length + 3) & ~3


def _delete(sock: socket.socket, flow: dict[int, bytes]) -> None:
    tuple_ = _attribute(_TUPLE_ORIGINAL | _NESTED, flow[_TUPLE_ORIGINAL])
    sock.send(_message(_DELETE, _ACK, tuple_ + _attribute(_ID, flow[_ID])))
    data = sock.recv(_RECEIVE_BYTES)
    if struct.unpack_from("=H", data, 4)[0] == _ERROR:
        _raise(data, 0, but=2)


def _raise(data: bytes, at: int, but: int = 0) -> None:
    """Raise what a netlink error message says, except for success and ``but`` (ENOENT: it has ended
    itself).
    """
    code = -struct.unpack_from("=i", data, at + 16)[0]
    if code not in (0, but):
        raise OSError(code, os.strerror(code))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value.ljust((len(value) + 3) & ~3, b"\0")


def _attributes(data: bytes) -> dict[int, bytes]:
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
    for direction in (_TUPLE_ORIGINAL, _TUPLE_REPLY):
        ip = _attributes(_attributes(flow.get(direction, b"")).get(_TUPLE_IP, b""))
        found |= {ip.get(_SOURCE, b""), ip.get(_DESTINATION, b"")}
    return found
