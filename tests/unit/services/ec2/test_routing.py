from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.hostspec import RouteKind
from gureum.resources import (
    InternetGateway,
    NatGateway,
    NatGatewayState,
    NetworkInterface,
    PeeringConnection,
    PeeringState,
    PrefixEntry,
    PrefixList,
    Route,
    RouteTable,
    Vpc,
)
from gureum.services.ec2.routing import Target, Targets, expand, resolve

VPC = Vpc(id="vpc-1", cidr="10.0.0.0/16", network_id=1)
GATEWAY = InternetGateway(id="igw-1", vpc="vpc-1")
NAT = NatGateway(
    id="nat-1",
    state=NatGatewayState.available,
    vpc="vpc-1",
    subnet="subnet-1",
    zone="a",
    interface="eni-9",
    created=datetime(2026, 1, 1, tzinfo=UTC),
)
INTERFACE = NetworkInterface(
    id="eni-1",
    vpc="vpc-1",
    subnet="subnet-1",
    zone="a",
    mac="0a:00:00:00:00:01",
    private_ip="10.0.0.4",
    host="host-0",
)
PEERING = PeeringConnection(
    id="pcx-1",
    state=PeeringState.active,
    number=1,
    requester="vpc-2",
    accepter="vpc-1",
    requester_account="1",
    accepter_account="1",
)


def target(id: str, **records: Any) -> Target | None:
    targets = Targets(**{name: [record] for name, record in records.items()})
    return resolve(Route(destination="0.0.0.0/0", target=id), VPC.id, targets)


def test_where_routes_lead() -> None:
    assert target("igw-1", gateways=GATEWAY) == (RouteKind.internet, "igw-1")
    assert target("nat-1", nats=NAT) == (RouteKind.port, "eni-9")
    assert target("eni-1", interfaces=INTERFACE) == (RouteKind.port, "eni-1")
    assert target("pcx-1", peerings=PEERING) == (RouteKind.peering, "pcx-1")


@pytest.mark.parametrize(
    ("id", "records"),
    [
        ("igw-1", {}),
        ("nat-1", {}),
        ("eni-1", {}),
        ("pcx-1", {}),
        ("vpce-1", {}),
        ("igw-1", {"gateways": replace(GATEWAY, vpc="")}),
        ("igw-1", {"gateways": replace(GATEWAY, vpc="vpc-2")}),
        ("nat-1", {"nats": replace(NAT, vpc="vpc-2")}),
        *(
            ("nat-1", {"nats": replace(NAT, state=state)})
            for state in NatGatewayState
            if state is not NatGatewayState.available
        ),
        ("eni-1", {"interfaces": replace(INTERFACE, host=None)}),
        ("eni-1", {"interfaces": replace(INTERFACE, vpc="vpc-2")}),
        ("pcx-1", {"peerings": replace(PEERING, accepter="vpc-3")}),
        *(
            ("pcx-1", {"peerings": replace(PEERING, state=state)})
            for state in PeeringState
            if state is not PeeringState.active
        ),
    ],
)
def test_blackholes(id: str, records: dict[str, Any]) -> None:
    assert target(id, **records) is None


def expanded(lists: dict[str, list[str]], *routes: tuple[str, str]) -> list[tuple[str, str]]:
    """Networks and targets of a table with these routes, given the entries of prefix lists."""
    records = {
        id: PrefixList(id=id, name=id, max_entries=9, entries=tuple(PrefixEntry(cidr=cidr) for cidr in cidrs))
        for id, cidrs in lists.items()
    }
    given = tuple(Route(destination=destination, target=target) for destination, target in routes)
    table = RouteTable(id="rtb-1", vpc="vpc-1", number=1, routes=given)
    return [(cidr, route.target) for cidr, route in expand(table, VPC, records)]


def test_a_prefix_list_stands_for_its_networks() -> None:
    lists = {"pl-1": ["8.0.0.0/8", "9.9.9.9/32"]}
    assert expanded(lists, ("0.0.0.0/0", "igw-1"), ("pl-1", "nat-1")) == [
        ("0.0.0.0/0", "igw-1"),
        ("8.0.0.0/8", "nat-1"),
        ("9.9.9.9/32", "nat-1"),
    ]
    assert expanded({}, ("pl-1", "nat-1")) == []


def test_each_network_has_one_route() -> None:
    lists = {"pl-1": ["8.0.0.0/8"], "pl-2": ["8.0.0.0/8", "9.0.0.0/8"]}
    both = (("pl-1", "nat-1"), ("pl-2", "eni-1"))
    assert expanded(lists, *both) == [("8.0.0.0/8", "nat-1"), ("9.0.0.0/8", "eni-1")]
    assert expanded(lists, *both, ("8.0.0.0/8", "igw-1")) == [
        ("8.0.0.0/8", "igw-1"),
        ("9.0.0.0/8", "eni-1"),
    ]


def test_a_prefix_list_does_not_take_traffic_out_of_the_vpc() -> None:
    lists = {"pl-1": ["10.0.0.0/16", "10.0.1.0/24", "10.0.0.0/8", "fd00::/56"]}
    assert expanded(lists, ("pl-1", "igw-1")) == [("10.0.0.0/8", "igw-1"), ("fd00::/56", "igw-1")]
    assert expanded(lists, ("pl-1", "eni-1"))[0] == ("10.0.1.0/24", "eni-1")
