"""What may stand in a NetworkSpec. Everything in one ends up in commands, so nothing passes that is not an
address, a number or a plain name.

Each function returns its argument in its usual form, and raises NetworkError.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    NetmaskValueError,
    ip_network,
)

from gureum.errors import NetworkError
from gureum.hostspec import AclEntrySpec, AclSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_DOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})*")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_PROTOCOLS = ("-1", "tcp", "udp", "icmp", "icmpv6")
ACL_NUMBER_MAX = 32767


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def name(text: str) -> str:
    if not is_name(text):
        raise NetworkError(f"{text!r} is no id")
    return text


def domain(text: str) -> str:
    if not _DOMAIN.fullmatch(text):
        raise NetworkError(f"{text!r} is no domain name")
    return text


def mac(text: str) -> str:
    """Of one station: group addresses are none."""
    if not _MAC.fullmatch(text) or int(text[:2], 16) & 1:
        raise NetworkError(f"{text!r} is no MAC address")
    return text


@lru_cache(maxsize=32768)
def address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError as error:
        raise NetworkError(str(error)) from None


@lru_cache(maxsize=8192)
def address6(text: str) -> IPv6Address:
    try:
        found = IPv6Address(text)
    except AddressValueError as error:
        raise NetworkError(str(error)) from None
    if found.scope_id is not None:
        raise NetworkError(f"{text!r} has a scope")
    return found


def any_address(text: str) -> IPv4Address | IPv6Address:
    return address6(text) if ":" in text else address(text)


@lru_cache(maxsize=4096)
def network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise NetworkError(str(error)) from None


@lru_cache(maxsize=4096)
def any_network(text: str) -> IPv4Network | IPv6Network:
    if "%" in text:
        # What follows it may be any text.
        raise NetworkError(f"{text!r} has a scope")
    try:
        return ip_network(text)
    except ValueError as error:
        raise NetworkError(str(error)) from None


def loose_network(text: str) -> str:
    """As the rules of groups have them: what follows the prefix is cut off. "" stays."""
    if not text:
        return text
    family, bits = (socket.AF_INET6, 128) if ":" in text else (socket.AF_INET, 32)
    address, slash, length = text.partition("/")
    try:
        number = int.from_bytes(socket.inet_pton(family, address))
        ones = int(length) if slash else bits
    except (OSError, ValueError):
        raise NetworkError(f"{text!r} is no network") from None
    if not 0 <= ones <= bits or (slash and not length.isdecimal()):
        raise NetworkError(f"{text!r} is no network")
    rest = bits - ones
    if family == socket.AF_INET and slash and number & (1 << rest) - 1 == 0:
        return text
    return f"{socket.inet_ntop(family, (number >> rest << rest).to_bytes(bits // 8))}/{ones}"


def network6(text: str) -> IPv6Network:
    found = any_network(text)
    if not isinstance(found, IPv6Network):
        raise NetworkError(f"{text!r} is no IPv6 network")
    return found


def addresses(texts: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """IPv4 and IPv6 addresses, each sorted and once."""
    texts = set(texts)
    return (
        tuple(sorted({str(address(text)) for text in texts if ":" not in text})),
        tuple(sorted({str(address6(text)) for text in texts if ":" in text})),
    )


def acl(spec: AclSpec) -> AclSpec:
    entries = tuple(sorted((_acl_entry(entry) for entry in spec.entries), key=lambda entry: entry.number))
    return AclSpec(id=name(spec.id), entries=entries)


def _acl_entry(entry: AclEntrySpec) -> AclEntrySpec:
    any_network(entry.cidr)
    if not 0 < entry.number <= ACL_NUMBER_MAX:
        raise NetworkError(f"{entry.number} is no number of a network ACL's entry")
    if entry.protocol not in _PROTOCOLS and not (
        entry.protocol.isdecimal() and entry.protocol.isascii() and int(entry.protocol) <= 255
    ):
        raise NetworkError(f"{entry.protocol!r} is no protocol")
    if not -1 <= entry.from_port <= 65535 or not -1 <= entry.to_port <= 65535:
        raise NetworkError(f"{entry.from_port} to {entry.to_port} is no range of ports")
    return entry
