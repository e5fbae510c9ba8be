"""Saying to all on a device's network that this host has some addresses now.

It only makes others quicker to know: that it cannot be said is no failure.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

_ETHERNET_BROADCAST = b"\xff" * 6
_ARP = 0x0806
_NEIGHBOUR_ADVERTISEMENT = 136
_OVERRIDE = 0x20000000
_TARGET_LINK_ADDRESS = 2
_HOP_LIMIT = 255
"""Of all neighbour discovery: what has passed a router has less."""


def announce(device: str, addresses: Sequence[str]) -> None:
    """Tell all on the device's network that this host has these addresses, in the calling thread's namespace:
    by gratuitous ARP (RFC 5944, 4.6), and unsolicited neighbour advertisements (RFC 4861, 7.2.6).
    """
    four = [each for each in addresses if ":" not in each]
    six = [each for each in addresses if ":" in each]
    with contextlib.suppress(OSError):
        if four:
            _announce4(device, four)
        if six:
            _announce6(device, six)


def _announce4(device: str, addresses: Sequence[str]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.setblocking(False)
        sock.bind((device, 0))
        own: bytes = sock.getsockname()[4]
        for address in addresses:
            packed = IPv4Address(address).packed
            head = _ETHERNET_BROADCAST + own + _ARP.to_bytes(2, "big")
            for operation in (1, 2):
                body = b"\x00\x01\x08\x00\x06\x04" + operation.to_bytes(2, "big")
                sock.send(head + body + own + packed + _ETHERNET_BROADCAST + packed)


def _announce6(device: str, addresses: Sequence[str]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
        sock.bind((device, 0))
        own: bytes = sock.getsockname()[4]
    # The kernel adds source and checksum.
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOP_LIMIT)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(device))
        for address in addresses:
            head = struct.pack("!BBHI", _NEIGHBOUR_ADVERTISEMENT, 0, 0, _OVERRIDE)
            option = struct.pack("!BB6s", _TARGET_LINK_ADDRESS, 1, own)
            sock.sendto(head + IPv6Address(address).packed + option, ("ff02::1", 0))
