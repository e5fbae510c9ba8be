"""Networks in requests. Bits beyond the prefix are dropped, as EC2 does: 10.0.0.4/24 is 10.0.0.0/24."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from gureum.errors import ApiError
from gureum.services.ec2.faults import invalid_parameter_value

Network = IPv4Network | IPv6Network

_PREFIX = re.compile(r"[^/]+/[0-9]{1,3}\Z")


def parse4(text: str, parameter: str) -> IPv4Network:
    """Raises InvalidParameterValue."""
    try:
        if _PREFIX.match(text):
            return IPv4Network(text, strict=False)
    except ValueError:
        pass
    raise invalid_parameter_value(text, parameter, "This is not a valid CIDR block.")


def parse6(text: str, parameter: str) -> IPv6Network:
    """Raises InvalidParameterValue."""
    try:
        if _PREFIX.match(text) and "%" not in text:
            return IPv6Network(text, strict=False)
    except ValueError:
        pass
    raise invalid_parameter_value(text, parameter, "This is not a valid CIDR block.")


def networks(cidrs: Iterable[str]) -> list[Network]:
    return [_network(cidr) for cidr in cidrs]


@lru_cache(maxsize=4096)
def _network(cidr: str) -> Network:
    """Of a record, in canonical form. Remembered, since hosts' route tables are made of them often."""
    return ip_network(cidr)


def contains(outer: Network, inner: Network) -> bool:
    """Whether one network is a part of the other, or all of it."""
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def within(network: Network, others: Iterable[Network]) -> bool:
    return any(contains(other, network) for other in others)


def overlapping(network: Network, others: Iterable[Network]) -> bool:
    return any(contains(other, network) or contains(network, other) for other in others)


def invalid_range(code: str, network: Network, rule: str) -> ApiError:
    """EC2's words, and what would be valid."""
    return ApiError(code, f"The CIDR '{network}' is invalid. {rule}")
