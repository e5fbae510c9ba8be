"""Router advertisements (RFC 4861): who the router of a port is, and that addresses come by DHCPv6.

They name no network: to a guest nothing is on its link but the router, so all that it sends is routed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct

from gureum.errors import NetworkError
from gureum.network.datagrams import RECEIVE_BUFFER_BYTES, Datagrams, Message
from gureum.network.names import ROUTER_MAC

log = logging.getLogger(__name__)

PERIOD_SECONDS = 600.0
LIFETIME_SECONDS = 9000
"""The longest that RFC 4861 allows: guests keep their router through an agent's absence."""
ALL_NODES, ALL_ROUTERS = "ff02::1", "ff02::2"
HOP_LIMIT = 255
"""Of all neighbour discovery: what has passed a router has less."""
_SOLICITATION, _ADVERTISEMENT = 133, 134
_GUEST_HOP_LIMIT = 64
_MANAGED_AND_OTHER = 0xC0
_SOURCE_LINK_ADDRESS, _MTU = 1, 5
_ICMP6_FILTER = 1
_HEAD_BYTES = 8


def advertisement(mtu: int, lifetime: int = LIFETIME_SECONDS) -> bytes:
    """An ICMPv6 message; the kernel adds its checksum."""
    head = struct.pack(
        "!BBHBBHII", _ADVERTISEMENT, 0, 0, _GUEST_HOP_LIMIT, _MANAGED_AND_OTHER, lifetime, 0, 0
    )
    source = struct.pack("!BB6s", _SOURCE_LINK_ADDRESS, 1, bytes.fromhex(ROUTER_MAC.replace(":", "")))
    return head + source + struct.pack("!BBHI", _MTU, 1, 0, mtu)


def is_solicitation(data: bytes, hops: int) -> bool:
    """RFC 4861, 6.1.1. The kernel has checked the checksum."""
    if hops != HOP_LIMIT or len(data) < _HEAD_BYTES or (data[0], data[1]) != (_SOLICITATION, 0):
        return False
    at = _HEAD_BYTES
    while at < len(data):
        if at + 1 >= len(data) or data[at + 1] == 0:
            return False
        at += 8 * data[at + 1]
    return at == len(data)


def listen(tap: str) -> socket.socket:
    """A socket for the advertiser, made in the calling thread's namespace."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
    try:
        index = socket.if_nametoindex(tap)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, tap.encode())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _only(_SOLICITATION))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOP_LIMIT)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        group = socket.inet_pton(socket.AF_INET6, ALL_ROUTERS) + struct.pack("=I", index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    except OSError as error:
        sock.close()
        raise NetworkError(f"cannot advertise a router on {tap}: {error.strerror}") from error
    return sock


def _only(kind: int) -> bytes:
    """A filter that lets one ICMPv6 type pass: a bit is set for each that does not."""
    words = [0xFFFFFFFF] * 8
    words[kind >> 5] &= ~(1 << (kind & 31))
    return struct.pack("=8I", *words)


class Advertiser(Datagrams):
    """Advertises at once, when asked, and every PERIOD_SECONDS."""

    def __init__(self, sock: socket.socket, mtu: int) -> None:
        super().__init__(sock, "router advertisements")
        self._mtu = mtu
        self._timer: asyncio.Handle = self._loop.call_soon(self._tick)

    def close(self) -> None:
        self._timer.cancel()
        super().close()

    def update(self, mtu: int) -> None:
        """What changed is told at once."""
        if mtu != self._mtu:
            self._mtu = mtu
            self._advertise()

    def serve(self, message: Message) -> None:
        if is_solicitation(message.data, message.hops):
            self._advertise()

    def _tick(self) -> None:
        self._advertise()
        self._timer = self._loop.call_later(PERIOD_SECONDS, self._tick)

    def _advertise(self) -> None:
        try:
            self.socket.sendto(advertisement(self._mtu), (ALL_NODES, 0))
        except OSError as error:
            # Nobody is there yet, or no more; a guest that comes will ask.
            log.debug("router advertisement not sent: %s", error)
