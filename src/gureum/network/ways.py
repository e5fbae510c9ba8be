"""Where routes of a VPC lead, and its ways to the IPv6 outside."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address

import msgspec

from gureum.hostspec import NetworkSpec, RouteKind, VpcSpec
from gureum.network import checks
from gureum.network.names import UPLINK

_LAST = (1 << 128) - 1


class Hop(msgspec.Struct, frozen=True):
    """Where a route leads: ``via`` an address on a device; "" is the link's other end, of IPv6 that it is
    unreachable. No device: nowhere. ``egress_only``: what begins outside does not come in by it.
    """

    device: str = ""
    via: str = ""
    egress_only: bool = False


NOWHERE = Hop()


def all_networks(vpc: VpcSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All IPv4 and all IPv6 networks of a VPC, the first IPv4 one first."""
    four = [vpc.cidr, *(cidr for cidr in vpc.cidrs if ":" not in cidr)]
    six = [cidr for cidr in vpc.cidrs if ":" in cidr]
    return (
        tuple(dict.fromkeys(str(checks.network(cidr)) for cidr in four)),
        tuple(dict.fromkeys(str(checks.network6(cidr)) for cidr in six)),
    )


def goes_out6(vpc: VpcSpec, networks6: Sequence[str]) -> bool:
    """Whether it has a way out by IPv6: routes there, and networks that are of the cloud (``networks6``)."""
    routes = (route for table in vpc.route_tables for route in table.routes if ":" in route.destination)
    leads = any(
        route.kind is RouteKind.egress or (route.kind is RouteKind.internet and vpc.internet)
        for route in routes
    )
    if not leads or not networks6:
        return False
    whole = [checks.network6(each) for each in networks6]
    own = [checks.network6(each) for each in all_networks(vpc)[1]]
    return bool(own) and all(any(each.subnet_of(one) for one in whole) for each in own)


def without6(spec: NetworkSpec) -> NetworkSpec:
    """For a kernel that has no IPv6: the same with IPv4 only."""
    replace = msgspec.structs.replace
    return replace(
        spec,
        networks6=(),
        hidden6=(),
        vpcs=tuple(
            replace(
                vpc,
                cidrs=_four(vpc.cidrs),
                subnets=tuple(replace(each, cidr6="") for each in vpc.subnets),
                route_tables=tuple(
                    replace(table, routes=tuple(each for each in table.routes if ":" not in each.destination))
                    for table in vpc.route_tables
                ),
            )
            for vpc in spec.vpcs
        ),
        ports=tuple(replace(port, ipv6=()) for port in spec.ports),
        remotes=tuple(replace(remote, ipv6=()) for remote in spec.remotes),
        members={id: _four(addresses) for id, addresses in spec.members.items()},
    )


def _four(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text for text in texts if ":" not in text)


def inbound6(tables: Mapping[int, Mapping[str, Hop]]) -> dict[int, tuple[str, ...]]:
    """Of those tables that lead out by IPv6, from which ranges outside ("first-last") connections come in:
    those to which the answers would go by an Internet gateway.
    """
    return {
        number: tuple(f"{IPv6Address(first)}-{IPv6Address(last)}" for first, last in _open6(hops))
        for number, hops in tables.items()
        if any(hop.device == UPLINK and ":" in hop.via for hop in hops.values())
    }


def _open6(hops: Mapping[str, Hop]) -> list[tuple[int, int]]:
    """The networks by which all may come, without the longer ones in them by which not. Sorted."""
    found: list[tuple[int, int]] = []
    six = [(checks.network6(text), hop) for text, hop in hops.items() if ":" in text]
    for network, hop in sorted(six, key=lambda pair: pair[0].prefixlen):
        first, last = int(network[0]), int(network[-1])
        # No one that was found is a part of this one: it is in one of them, or in none.
        at = bisect_right(found, (first, _LAST))
        inside = at > 0 and found[at - 1][1] >= last
        comes = hop.device == UPLINK and bool(hop.via) and not hop.egress_only
        if comes and not inside:
            found.insert(at, (first, last))
        elif inside and not comes:
            begin, end = found[at - 1]
            found[at - 1 : at] = [
                each for each in ((begin, first - 1), (last + 1, end)) if each[0] <= each[1]
            ]
    return found
