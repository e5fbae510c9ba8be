"""Packets as an attacker makes them: every field is the caller's."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

IP, ARP, VLAN, IP6 = 0x0800, 0x0806, 0x8100, 0x86DD
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
MORE_FRAGMENTS = 0x2000
ROUTER_MAC = "02:67:75:72:75:6d"


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(source: str, kind: int, payload: bytes, target: str = ROUTER_MAC) -> bytes:
    return bytes.fromhex((target + source).replace(":", "")) + kind.to_bytes(2, "big") + payload


def vlan(number: int, kind: int, payload: bytes) -> bytes:
    """What comes after the kind VLAN (802.1Q)."""
    return struct.pack("!HH", number, kind) + payload


def ipv4(
    source: str,
    target: str,
    protocol: int,
    payload: bytes,
    options: bytes = b"",
    fragment: int = 0,
    ttl: int = 64,
) -> bytes:
    """``fragment``: flags, and the offset in units of 8 bytes. ``options`` have whole words."""
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45 + len(options) // 4,
        0,
        20 + len(options) + len(payload),
        0x6775,
        fragment,
        ttl,
        protocol,
        0,
        IPv4Address(source).packed,
        IPv4Address(target).packed,
    )
    sums = checksum(head + options)
    return head[:10] + sums.to_bytes(2, "big") + head[12:] + options + payload


def fragments(source: str, target: str, protocol: int, payload: bytes, size: int = 8) -> list[bytes]:
    """The packet in pieces of ``size`` bytes, a multiple of 8."""
    last = (len(payload) - 1) // size
    return [
        ipv4(
            source,
            target,
            protocol,
            payload[n * size : (n + 1) * size],
            fragment=n * size // 8 | (MORE_FRAGMENTS if n < last else 0),
        )
        for n in range(last + 1)
    ]


def udp(source_port: int, port: int, data: bytes) -> bytes:
    """Without a checksum."""
    return struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data


def tcp(source: str, target: str, source_port: int, port: int, flags: int, data: bytes = b"") -> bytes:
    head = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 0x50, flags, 1024, 0, 0)
    pseudo = IPv4Address(source).packed + IPv4Address(target).packed
    pseudo += struct.pack("!HH", TCP, len(head) + len(data))
    return head[:16] + checksum(pseudo + head + data).to_bytes(2, "big") + head[18:] + data


def icmp(kind: int, code: int, data: bytes, rest: bytes = bytes(4)) -> bytes:
    head = struct.pack("!BBH", kind, code, 0) + rest
    return head[:2] + checksum(head + data).to_bytes(2, "big") + head[4:] + data


def ipv6(
    source: str, target: str, protocol: int, payload: bytes, hops: int = 255, headers: bytes = b""
) -> bytes:
    """``protocol`` is that of the first header; ``headers`` lead on from there."""
    size = len(headers) + len(payload)
    head = struct.pack("!IHBB", 6 << 28, size, protocol, hops)
    return head + IPv6Address(source).packed + IPv6Address(target).packed + headers + payload


def icmp6(source: str, target: str, kind: int, code: int, data: bytes, rest: bytes = bytes(4)) -> bytes:
    body = struct.pack("!BBH", kind, code, 0) + rest + data
    pseudo = IPv6Address(source).packed + IPv6Address(target).packed + struct.pack("!II", len(body), ICMP6)
    return body[:2] + checksum(pseudo + body).to_bytes(2, "big") + body[4:]


def udp6(source: str, target: str, source_port: int, port: int, data: bytes) -> bytes:
    body = struct.pack("!HHHH", source_port, port, 8 + len(data), 0) + data
    pseudo = IPv6Address(source).packed + IPv6Address(target).packed + struct.pack("!II", len(body), UDP)
    return body[:6] + (checksum(pseudo + body) or 0xFFFF).to_bytes(2, "big") + body[8:]


def vxlan(network: int, frame: bytes, mark: int = 0) -> bytes:
    """A datagram's data, with a group policy id if there is a mark."""
    return struct.pack("!BBHI", 0x88 if mark else 0x08, 0, mark, network << 8) + frame
