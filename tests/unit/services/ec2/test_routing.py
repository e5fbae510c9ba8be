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
    Route,
    Vpc,
)
from gureum.services.ec2.routing import Target, Targets, resolve

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
    targets = Targets(vpc=VPC, **{name: [record] for name, record in records.items()})
    return resolve(Route(destination="0.0.0.0/0", target=id), targets)


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
