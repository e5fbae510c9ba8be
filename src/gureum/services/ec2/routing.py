"""Where a route leads: decided in one place, for what the API shows and for what is programmed on hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gureum.hostspec import RouteKind
from gureum.resources import (
    EgressGateway,
    InternetGateway,
    NatGateway,
    NatGatewayState,
    NetworkInterface,
    PeeringConnection,
    PeeringState,
    PrefixList,
    Route,
    RouteTable,
    Vpc,
)
from gureum.services.ec2.cidrs import networks, within
from gureum.store.base import Reader


class Target(NamedTuple):
    """``id`` is that of the gateway, the interface or the peering connection."""

    kind: RouteKind
    id: str


class Targets:
    """The records that routes may lead to. Others may be among them, and do no harm."""

    def __init__(
        self,
        *,
        gateways: Iterable[InternetGateway] = (),
        egress: Iterable[EgressGateway] = (),
        nats: Iterable[NatGateway] = (),
        interfaces: Iterable[NetworkInterface] = (),
        peerings: Iterable[PeeringConnection] = (),
    ) -> None:
        self.gateways = {each.id: each for each in gateways}
        self.egress = {each.id: each for each in egress}
        self.nats = {each.id: each for each in nats}
        self.interfaces = {each.id: each for each in interfaces}
        self.peerings = {each.id: each for each in peerings}


def resolve(route: Route, vpc: str, targets: Targets) -> Target | None:
    """Where the route of a table of the VPC leads now; None for a blackhole.

    As EC2: a target that is gone, not attached to the VPC, not active yet or without a running machine
    behind it takes no traffic. A gateway endpoint (vpce-) takes none either: this cloud has no service
    behind one.
    """
    id = route.target
    if gateway := targets.gateways.get(id):
        return Target(RouteKind.internet, id) if gateway.vpc == vpc else None
    if egress := targets.egress.get(id):
        return Target(RouteKind.egress, id) if egress.vpc == vpc else None
    if nat := targets.nats.get(id):
        works = nat.vpc == vpc and nat.state is NatGatewayState.available
        return Target(RouteKind.port, nat.interface) if works else None
    if interface := targets.interfaces.get(id):
        works = interface.vpc == vpc and interface.host is not None
        return Target(RouteKind.port, id) if works else None
    if peering := targets.peerings.get(id):
        works = vpc in peering.vpcs and peering.state is PeeringState.active
        return Target(RouteKind.peering, id) if works else None
    return None


def expand(table: RouteTable, vpc: Vpc, prefix_lists: Mapping[str, PrefixList]) -> list[tuple[str, Route]]:
    """The table's routes by network, each network once: a prefix list stands for all of its own.

    As EC2: for the same network a route of its own goes before one by a prefix list, and the first list goes
    before further ones. Inside the VPC a list leads to interfaces and NAT gateways at most, as any route.
    """
    local = networks((*vpc.cidrs, *vpc.cidrs6))
    found = {route.destination: route for route in table.routes if "/" in route.destination}
    for route in table.routes:
        prefix_list = prefix_lists.get(route.destination)
        for entry in prefix_list.entries if prefix_list is not None else ():
            [network] = networks([entry.cidr])
            inside = within(network, local)
            if network not in local and (not inside or route.target.startswith(("eni-", "nat-"))):
                found.setdefault(entry.cidr, route)
    return list(found.items())


async def load_targets(tx: Reader, tables: Iterable[RouteTable]) -> Targets:
    """What the routes of these tables lead to. One query for each kind of target."""
    wanted = {id for table in tables for id in table.targets}
    return Targets(
        gateways=await tx.get_many(InternetGateway, _of_kind(wanted, "igw")),
        egress=await tx.get_many(EgressGateway, _of_kind(wanted, "eigw")),
        nats=await tx.get_many(NatGateway, _of_kind(wanted, "nat")),
        interfaces=await tx.get_many(NetworkInterface, _of_kind(wanted, "eni")),
        peerings=await tx.get_many(PeeringConnection, _of_kind(wanted, "pcx")),
    )


def _of_kind(ids: Iterable[str], prefix: str) -> list[str]:
    return [id for id in ids if id.startswith(f"{prefix}-")]
