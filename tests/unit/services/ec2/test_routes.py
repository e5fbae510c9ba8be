from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import (
    Instance,
    NatGateway,
    NatGatewayState,
    NetworkInterface,
    PeeringConnection,
    PeeringState,
    PrefixList,
    RouteTable,
    Subnet,
    Vpc,
)
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig

ACCOUNT = "123456789012"
ANYWHERE = {"DestinationCidrBlock": "0.0.0.0/0"}


@pytest.fixture
async def vpc(rig: Rig) -> Vpc:
    """The default VPC, with another network, in IPv6."""
    [vpc] = await rig.find(Vpc)
    await rig.call("AssociateVpcCidrBlock", VpcId=vpc.id, AmazonProvidedIpv6CidrBlock=True)
    return await rig.get(Vpc, vpc.id)


@pytest.fixture
async def table(rig: Rig, vpc: Vpc) -> str:
    id: str = (await rig.call("CreateRouteTable", VpcId=vpc.id))["RouteTable"]["RouteTableId"]
    return id


@pytest.fixture
async def gateway(rig: Rig, vpc: Vpc) -> str:
    answer = await rig.call(
        "DescribeInternetGateways", Filters=[{"Name": "attachment.vpc-id", "Values": [vpc.id]}]
    )
    id: str = answer["InternetGateways"][0]["InternetGatewayId"]
    return id


@pytest.fixture
async def interface(rig: Rig, vpc: Vpc) -> str:
    """One with a machine behind it."""
    subnet = (await rig.find(Subnet, vpc=vpc.id))[0]
    await rig.put(
        NetworkInterface(
            id="eni-00000001",
            account=ACCOUNT,
            vpc=vpc.id,
            subnet=subnet.id,
            zone=subnet.zone,
            mac="0a:00:00:00:00:01",
            private_ip="172.31.0.9",
            instance="i-00000001",
            host="host-a",
        )
    )
    return "eni-00000001"


async def create(rig: Rig, table: str, **input: Any) -> None:
    assert await rig.call("CreateRoute", RouteTableId=table, **input) == {"Return": True}


async def routes(rig: Rig, table: str) -> list[dict[str, Any]]:
    """Those that are not local."""
    [shown] = (await rig.call("DescribeRouteTables", RouteTableIds=[table]))["RouteTables"]
    return [route for route in shown["Routes"] if route["Origin"] == "CreateRoute"]


async def nat(rig: Rig, vpc: str, state: NatGatewayState = NatGatewayState.available) -> str:
    await rig.put(
        NatGateway(
            id="nat-00000001",
            account=ACCOUNT,
            state=state,
            vpc=vpc,
            subnet="subnet-00000001",
            zone="us-east-1a",
            interface="eni-00000002",
            created=rig.env.utcnow(),
        )
    )
    return "nat-00000001"


async def peering(rig: Rig, vpc: str, state: PeeringState = PeeringState.active) -> str:
    await rig.put(
        PeeringConnection(
            id="pcx-00000001",
            account=ACCOUNT,
            state=state,
            number=1,
            requester=vpc,
            accepter="vpc-00000002",
            requester_account=ACCOUNT,
            accepter_account=ACCOUNT,
        )
    )
    return "pcx-00000001"


async def test_to_the_internet(rig: Rig, vpc: Vpc, table: str, gateway: str) -> None:
    await create(rig, table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    await create(rig, table, DestinationIpv6CidrBlock="::/0", GatewayId=gateway)
    made = {"GatewayId": gateway, "Origin": "CreateRoute", "State": "active"}
    assert await routes(rig, table) == [
        {"DestinationCidrBlock": "0.0.0.0/0", **made},
        {"DestinationIpv6CidrBlock": "::/0", **made},
    ]
    await rig.call("DetachInternetGateway", InternetGatewayId=gateway, VpcId=vpc.id)
    assert {route["State"] for route in await routes(rig, table)} == {"blackhole"}
    await rig.call("DeleteInternetGateway", InternetGatewayId=gateway)
    assert {route["State"] for route in await routes(rig, table)} == {"blackhole"}


async def test_destinations_are_normalized(rig: Rig, table: str, gateway: str) -> None:
    await create(rig, table, DestinationCidrBlock="10.0.0.4/24", GatewayId=gateway)
    assert (await routes(rig, table))[0]["DestinationCidrBlock"] == "10.0.0.0/24"
    await rig.call("DeleteRoute", RouteTableId=table, DestinationCidrBlock="10.0.0.7/24")
    assert await routes(rig, table) == []


async def test_to_an_interface(rig: Rig, table: str, interface: str) -> None:
    await create(rig, table, **ANYWHERE, NetworkInterfaceId=interface)
    [route] = await routes(rig, table)
    assert route == {
        **ANYWHERE,
        "NetworkInterfaceId": interface,
        "InstanceId": "i-00000001",
        "InstanceOwnerId": ACCOUNT,
        "Origin": "CreateRoute",
        "State": "active",
    }
    await rig.change(NetworkInterface, interface, host=None, instance=None)
    [route] = await routes(rig, table)
    assert "InstanceId" not in route
    assert route["State"] == "blackhole"
    await rig.delete(await rig.get(NetworkInterface, interface))
    [route] = await routes(rig, table)
    assert (route["NetworkInterfaceId"], route["State"]) == (interface, "blackhole")


async def test_to_an_instance(rig: Rig, table: str) -> None:
    id = await rig.running()
    [own] = await rig.find(NetworkInterface, instance=id)
    await create(rig, table, **ANYWHERE, InstanceId=id)
    [route] = await routes(rig, table)
    assert (route["NetworkInterfaceId"], route["InstanceId"]) == (own.id, id)
    filters = [{"Name": "route.instance-id", "Values": [id]}]
    answer = await rig.call("DescribeRouteTables", Filters=filters)
    assert [each["RouteTableId"] for each in answer["RouteTables"]] == [table]
    await rig.put(
        NetworkInterface(
            id="eni-00000003",
            account=ACCOUNT,
            vpc=own.vpc,
            subnet=own.subnet,
            zone=own.zone,
            mac="0a:00:00:00:00:03",
            private_ip="172.31.0.99",
            instance=id,
        )
    )
    there = {"RouteTableId": table, "DestinationCidrBlock": "10.0.0.0/8", "InstanceId": id}
    message = await rig.fails("InvalidInstanceID", "CreateRoute", **there)
    assert message.startswith(f"There are multiple interfaces attached to instance '{id}'.")
    for each in await rig.find(NetworkInterface, instance=id):
        await rig.change(NetworkInterface, each.id, instance=None)
    await rig.fails("InvalidInstanceID", "CreateRoute", **there)
    assert (await rig.get(Instance, id)).id == id


async def test_to_a_nat_gateway(rig: Rig, vpc: Vpc, table: str) -> None:
    id = await nat(rig, vpc.id, NatGatewayState.pending)
    await create(rig, table, **ANYWHERE, NatGatewayId=id)
    assert (await routes(rig, table))[0]["State"] == "blackhole"
    await rig.change(NatGateway, id, state=NatGatewayState.available)
    made = {"NatGatewayId": id, "Origin": "CreateRoute", "State": "active"}
    assert await routes(rig, table) == [{**ANYWHERE, **made}]
    await rig.fails(
        "InvalidParameterValue",
        "CreateRoute",
        RouteTableId=table,
        DestinationIpv6CidrBlock="::/0",
        NatGatewayId=id,
    )
    await rig.change(NatGateway, id, state=NatGatewayState.deleting)
    await rig.fails(
        "InvalidNatGatewayID.NotFound",
        "CreateRoute",
        RouteTableId=table,
        DestinationCidrBlock="10.0.0.0/8",
        NatGatewayId=id,
    )


async def test_to_a_peer(rig: Rig, vpc: Vpc, table: str) -> None:
    id = await peering(rig, vpc.id, PeeringState.pending_acceptance)
    to = {"DestinationCidrBlock": "10.0.0.0/16"}
    await create(rig, table, **to, VpcPeeringConnectionId=id)
    assert (await routes(rig, table))[0]["State"] == "blackhole"
    await rig.change(PeeringConnection, id, state=PeeringState.active)
    made = {"VpcPeeringConnectionId": id, "Origin": "CreateRoute", "State": "active"}
    assert await routes(rig, table) == [{**to, **made}]
    await rig.change(PeeringConnection, id, state=PeeringState.deleted)
    assert (await routes(rig, table))[0]["State"] == "blackhole"
    await rig.fails(
        "InvalidVpcPeeringConnectionID.NotFound",
        "ReplaceRoute",
        RouteTableId=table,
        **to,
        VpcPeeringConnectionId=id,
    )


async def test_no_ipv6_to_a_nat_gateway(rig: Rig, vpc: Vpc, table: str) -> None:
    await rig.put(PrefixList(id="pl-00000006", account=ACCOUNT, name="six", family="IPv6", max_entries=3))
    await rig.fails(
        "InvalidParameterValue",
        "CreateRoute",
        RouteTableId=table,
        DestinationPrefixListId="pl-00000006",
        NatGatewayId=await nat(rig, vpc.id),
    )


async def test_to_a_prefix_list(rig: Rig, table: str, gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.put(PrefixList(id="pl-00000001", account=ACCOUNT, name="x", max_entries=3))
    to = {"DestinationPrefixListId": "pl-00000001"}
    await create(rig, table, **to, GatewayId=gateway)
    made = {"GatewayId": gateway, "Origin": "CreateRoute", "State": "active"}
    assert await routes(rig, table) == [{**to, **made}]
    await rig.fails("RouteAlreadyExists", "CreateRoute", RouteTableId=table, **to, GatewayId=gateway)
    # The list counts as three routes.
    monkeypatch.setattr(limits, "ROUTES_PER_TABLE_MAX", 3)
    await rig.fails("RouteLimitExceeded", "CreateRoute", RouteTableId=table, **ANYWHERE, GatewayId=gateway)
    await rig.call("DeleteRoute", RouteTableId=table, **to)
    await create(rig, table, **ANYWHERE, GatewayId=gateway)
    await rig.fails(
        "InvalidPrefixListID.NotFound",
        "CreateRoute",
        RouteTableId=table,
        DestinationPrefixListId="pl-00000002",
        GatewayId=gateway,
    )


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("MissingParameter", {"GatewayId": "igw"}),
        ("MissingParameter", {**ANYWHERE}),
        (
            "InvalidParameterCombination",
            {**ANYWHERE, "DestinationIpv6CidrBlock": "::/0", "GatewayId": "igw"},
        ),
        ("InvalidParameterCombination", {**ANYWHERE, "GatewayId": "igw", "InstanceId": "i-00000001"}),
        ("InvalidParameterValue", {"DestinationCidrBlock": "1000.1.0.0/20", "GatewayId": "igw"}),
        ("InvalidParameterValue", {"DestinationCidrBlock": "::/0", "GatewayId": "igw"}),
        ("InvalidParameterValue", {"DestinationIpv6CidrBlock": "0.0.0.0/0", "GatewayId": "igw"}),
        ("InvalidParameterValue", {"DestinationCidrBlock": "169.254.169.254/32", "GatewayId": "igw"}),
        ("InvalidParameterValue", {"DestinationIpv6CidrBlock": "fe80::/64", "GatewayId": "igw"}),
        ("InvalidRouteTableID.NotFound", {**ANYWHERE, "RouteTableId": "rtb-00000001", "GatewayId": "igw"}),
        ("InvalidGatewayID.NotFound", {**ANYWHERE, "GatewayId": "igw-00000001"}),
        ("InvalidGatewayID.NotFound", {**ANYWHERE, "GatewayId": "x"}),
        ("InvalidVpcEndpointId.NotFound", {**ANYWHERE, "GatewayId": "vpce-00000001"}),
        ("InvalidVpcEndpointId.NotFound", {**ANYWHERE, "VpcEndpointId": "vpce-00000001"}),
        ("InvalidParameterValue", {**ANYWHERE, "GatewayId": "local"}),
        ("UnsupportedOperation", {**ANYWHERE, "GatewayId": "vgw-00000001"}),
        ("UnsupportedOperation", {**ANYWHERE, "TransitGatewayId": "tgw-00000001"}),
        ("UnsupportedOperation", {**ANYWHERE, "LocalGatewayId": "lgw-00000001"}),
        ("UnsupportedOperation", {**ANYWHERE, "CarrierGatewayId": "cagw-00000001"}),
        ("UnsupportedOperation", {**ANYWHERE, "CoreNetworkArn": "arn:x"}),
        (
            "InvalidGatewayID.NotFound",
            {"DestinationIpv6CidrBlock": "::/0", "EgressOnlyInternetGatewayId": "eigw-00000001"},
        ),
        ("InvalidParameterValue", {**ANYWHERE, "GatewayId": "eigw-00000001"}),
        ("InvalidNetworkInterfaceID.NotFound", {**ANYWHERE, "NetworkInterfaceId": "eni-1234abcd"}),
        ("InvalidInstanceID.NotFound", {**ANYWHERE, "InstanceId": "i-1234abcd"}),
        ("InvalidNatGatewayID.NotFound", {**ANYWHERE, "NatGatewayId": "nat-1234abcd"}),
        ("InvalidVpcPeeringConnectionID.NotFound", {**ANYWHERE, "VpcPeeringConnectionId": "pcx-1234abcd"}),
        ("InvalidVpcPeeringConnectionId.Malformed", {**ANYWHERE, "VpcPeeringConnectionId": "x"}),
    ],
)
async def test_create_refuses(rig: Rig, table: str, gateway: str, code: str, input: dict[str, Any]) -> None:
    if input.get("GatewayId") == "igw":
        input = {**input, "GatewayId": gateway}
    await rig.fails(code, "CreateRoute", **{"RouteTableId": table, **input})


async def test_a_gateway_endpoint_is_no_target(rig: Rig, vpc: Vpc, table: str) -> None:
    service = "com.amazonaws.us-east-1.s3"
    made = await rig.call("CreateVpcEndpoint", VpcId=vpc.id, ServiceName=service)
    id = made["VpcEndpoint"]["VpcEndpointId"]
    for member in ("GatewayId", "VpcEndpointId"):
        message = await rig.fails(
            "RouteNotSupported", "CreateRoute", RouteTableId=table, **ANYWHERE, **{member: id}
        )
        assert message.startswith(f"Route table contains unsupported route target: {id}.")


async def test_targets_of_another_vpc(rig: Rig, vpc: Vpc, gateway: str, interface: str) -> None:
    other = (await rig.call("CreateVpc", CidrBlock="10.0.0.0/16"))["Vpc"]["VpcId"]
    table = (await rig.call("CreateRouteTable", VpcId=other))["RouteTable"]["RouteTableId"]
    free = (await rig.call("CreateInternetGateway"))["InternetGateway"]["InternetGatewayId"]
    for target in (
        {"GatewayId": gateway},
        {"GatewayId": free},
        {"NetworkInterfaceId": interface},
        {"NatGatewayId": await nat(rig, vpc.id)},
        {"VpcPeeringConnectionId": await peering(rig, vpc.id)},
    ):
        message = await rig.fails(
            "InvalidParameterValue", "CreateRoute", RouteTableId=table, **ANYWHERE, **target
        )
        assert message.startswith(f"route table {table} and ")
        assert message.endswith(" belong to different networks")


async def test_local_routes(rig: Rig, vpc: Vpc, table: str, gateway: str, interface: str) -> None:
    local = {"RouteTableId": table, "DestinationCidrBlock": vpc.cidr}
    message = await rig.fails("InvalidParameterValue", "CreateRoute", **local, GatewayId=gateway)
    assert message == (
        "Route target is not supported. This route only supports interface and instance targets."
    )
    message = await rig.fails("RouteAlreadyExists", "CreateRoute", **local, NetworkInterfaceId=interface)
    assert message == f"The route identified by {vpc.cidr} already exists."
    message = await rig.fails("InvalidParameterValue", "DeleteRoute", **local)
    assert message == f"cannot remove local route {vpc.cidr} in route table {table}"
    await rig.fails("UnsupportedOperation", "ReplaceRoute", **local, NetworkInterfaceId=interface)
    await rig.fails("UnsupportedOperation", "ReplaceRoute", **local, LocalTarget=True)


async def test_routes_inside_the_vpc(rig: Rig, vpc: Vpc, table: str, gateway: str, interface: str) -> None:
    subnet = (await rig.find(Subnet, vpc=vpc.id))[0]
    inside = {"RouteTableId": table, "DestinationCidrBlock": subnet.cidr}
    await rig.fails("InvalidParameterValue", "CreateRoute", **inside, GatewayId=gateway)
    await rig.fails(
        "InvalidParameterValue",
        "CreateRoute",
        **inside,
        VpcPeeringConnectionId=await peering(rig, vpc.id),
    )
    part = {**inside, "DestinationCidrBlock": subnet.cidr.replace("/20", "/24")}
    await rig.fails("InvalidParameterValue", "CreateRoute", **part, NetworkInterfaceId=interface)
    await rig.call("CreateRoute", **inside, NetworkInterfaceId=interface)
    [cidr] = vpc.cidrs6
    cidr = cidr.replace("/56", "/64")
    await rig.call("AssociateSubnetCidrBlock", SubnetId=subnet.id, Ipv6CidrBlock=cidr)
    await create(rig, table, DestinationIpv6CidrBlock=cidr, NetworkInterfaceId=interface)
    # One that contains the VPC's network is like any other.
    await create(rig, table, DestinationCidrBlock="172.0.0.0/8", GatewayId=gateway)


async def test_the_longest_prefix_may_lead_elsewhere(rig: Rig, table: str, gateway: str) -> None:
    for cidr in ("10.0.0.0/23", "10.0.0.0/24", "10.0.2.0/24", "0.0.0.0/0"):
        await create(rig, table, DestinationCidrBlock=cidr, GatewayId=gateway)
    message = await rig.fails(
        "RouteAlreadyExists",
        "CreateRoute",
        RouteTableId=table,
        DestinationCidrBlock="10.0.0.0/23",
        GatewayId=gateway,
    )
    assert message == "The route identified by 10.0.0.0/23 already exists."


async def test_replace(rig: Rig, table: str, gateway: str, interface: str) -> None:
    await create(rig, table, DestinationCidrBlock="10.0.0.0/8", GatewayId=gateway)
    await create(rig, table, **ANYWHERE, GatewayId=gateway)
    await rig.call("ReplaceRoute", RouteTableId=table, **ANYWHERE, NetworkInterfaceId=interface)
    first, second = await routes(rig, table)
    assert first["GatewayId"] == gateway
    assert "GatewayId" not in second
    assert second["NetworkInterfaceId"] == interface
    assert (await rig.get(RouteTable, table)).targets == (interface, gateway)
    message = await rig.fails(
        "InvalidParameterValue",
        "ReplaceRoute",
        RouteTableId=table,
        DestinationCidrBlock="1.1.1.1/32",
        NetworkInterfaceId=interface,
    )
    assert message == (
        "There is no route defined for '1.1.1.1/32' in the route table. Use CreateRoute instead."
    )


async def test_delete(rig: Rig, table: str, gateway: str) -> None:
    await create(rig, table, **ANYWHERE, GatewayId=gateway)
    await rig.call("DeleteRoute", RouteTableId=table, **ANYWHERE)
    message = await rig.fails("InvalidRoute.NotFound", "DeleteRoute", RouteTableId=table, **ANYWHERE)
    assert message == f"no route with destination-cidr-block 0.0.0.0/0 in route table {table}"
    await rig.fails("MissingParameter", "DeleteRoute", RouteTableId=table)
