"""Where the IPv6 networks of VPCs come from: the cloud's own local prefix, or one that is led to it."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv6Network

from gureum.errors import ApiError
from gureum.network import names
from gureum.services.operation import Cloud

PREFIX6 = 56
"""Of a VPC's network."""


@lru_cache(maxsize=4)
def local6(cloud: Cloud) -> IPv6Network:
    """The cloud's unique local prefix, in which the network ids of VPCs follow: no two have the same."""
    return names.local6(cloud.name, cloud.account, cloud.region)


@lru_cache(maxsize=4)
def networks6(cloud: Cloud) -> tuple[IPv6Network, ...]:
    """All VPCs' networks are parts of these, but for those from a prefix that the cloud had before."""
    led = (IPv6Network(cloud.ipv6_prefix),) if cloud.ipv6_prefix else ()
    return (local6(cloud), *led)


def hidden6(cloud: Cloud) -> tuple[IPv6Network, ...]:
    """Those of them that nobody leads to the hosts. To those of one machine it is the machine that does."""
    return () if cloud.one_machine else (local6(cloud),)


def network6(cloud: Cloud, number: int, taken: Collection[str]) -> IPv6Network:
    """The IPv6 network for the VPC with this network id. ``taken``: those of all VPCs.

    Raises InsufficientCidrBlocks.
    """
    if not cloud.ipv6_prefix:
        packed = local6(cloud).network_address.packed[:4] + number.to_bytes(3, "big") + bytes(9)
        return IPv6Network((packed, PREFIX6))
    prefix = IPv6Network(cloud.ipv6_prefix)
    count, first = 1 << (PREFIX6 - prefix.prefixlen), int(prefix.network_address)
    # Among so many one is free, if any is.
    for step in range(min(count, len(taken) + 1)):
        network = IPv6Network((first + ((number + step) % count << 128 - PREFIX6), PREFIX6))
        if str(network) not in taken:
            return network
    raise ApiError(
        "InsufficientCidrBlocks",
        f"There are no more CIDR blocks: {prefix}, which is led to this cloud, has {count} for VPCs.",
    )
