from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import RouteTable, Subnet, Vpc
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig

ABSENT = "rtb-00000001"


@pytest.fixture
async def vpc(rig: Rig) -> str:
    id: str = (await rig.call("CreateVpc", CidrBlock="10.0.0.0/16"))["Vpc"]["VpcId"]
    return id


@pytest.fixture
async def subnet(rig: Rig, vpc: str) -> str:
    id: str = (await rig.call("CreateSubnet", VpcId=vpc, CidrBlock="10.0.0.0/24"))["Subnet"]["SubnetId"]
    return id


async def new(rig: Rig, vpc: str) -> str:
    id: str = (await rig.call("CreateRouteTable", VpcId=vpc))["RouteTable"]["RouteTableId"]
    return id


async def shown(rig: Rig, id: str) -> dict[str, Any]:
    [table] = (await rig.call("DescribeRouteTables", RouteTableIds=[id]))["RouteTables"]
    item: dict[str, Any] = table
    return item


async def main_table(rig: Rig, vpc: str) -> RouteTable:
    [main] = [table for table in await rig.find(RouteTable, vpc=vpc) if table.main]
    return main


async def test_create(rig: Rig, vpc: str) -> None:
    tags = [{"ResourceType": "route-table", "Tags": [{"Key": "a", "Value": "b"}]}]
    answer = await rig.call("CreateRouteTable", VpcId=vpc, TagSpecifications=tags, ClientToken="once")
    assert answer["ClientToken"] == "once"
    id = answer["RouteTable"]["RouteTableId"]
    assert answer["RouteTable"] == {
        "RouteTableId": id,
        "VpcId": vpc,
        "OwnerId": "123456789012",
        "Associations": [],
        "PropagatingVgws": [],
        "Routes": [
            {
                "DestinationCidrBlock": "10.0.0.0/16",
                "GatewayId": "local",
                "Origin": "CreateRouteTable",
                "State": "active",
            }
        ],
        "Tags": [{"Key": "a", "Value": "b"}],
    }
    assert await shown(rig, id) == answer["RouteTable"]
    await rig.fails("InvalidVpcID.NotFound", "CreateRouteTable", VpcId="vpc-00000001")


async def test_every_network_of_the_vpc_has_a_local_route(rig: Rig, vpc: str) -> None:
    await rig.call("AssociateVpcCidrBlock", VpcId=vpc, CidrBlock="10.1.0.0/24")
    await rig.call("AssociateVpcCidrBlock", VpcId=vpc, AmazonProvidedIpv6CidrBlock=True)
    table = await shown(rig, await new(rig, vpc))
    assert [route.get("DestinationCidrBlock") for route in table["Routes"]] == [
        "10.0.0.0/16",
        "10.1.0.0/24",
        None,
    ]
    assert table["Routes"][2]["DestinationIpv6CidrBlock"] == (await rig.get(Vpc, vpc)).cidrs6[0]


async def test_numbers_are_the_lowest_free_ones(rig: Rig, vpc: str) -> None:
    second, third = await new(rig, vpc), await new(rig, vpc)
    assert (await rig.get(RouteTable, third)).number == 3
    await rig.call("DeleteRouteTable", RouteTableId=second)
    assert (await rig.get(RouteTable, await new(rig, vpc))).number == 2


async def test_there_is_a_limit(rig: Rig, vpc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROUTE_TABLES_PER_VPC_MAX", 1)
    await rig.fails("RouteTableLimitExceeded", "CreateRouteTable", VpcId=vpc)


async def test_associate(rig: Rig, vpc: str, subnet: str) -> None:
    first, second = await new(rig, vpc), await new(rig, vpc)
    answer = await rig.call("AssociateRouteTable", RouteTableId=first, SubnetId=subnet)
    id = answer["AssociationId"]
    assert answer["AssociationState"] == {"State": "associated"}
    assert (await shown(rig, first))["Associations"] == [
        {
            "Main": False,
            "RouteTableAssociationId": id,
            "RouteTableId": first,
            "SubnetId": subnet,
            "AssociationState": {"State": "associated"},
        }
    ]
    again = await rig.call("AssociateRouteTable", RouteTableId=first, SubnetId=subnet)
    assert again["AssociationId"] == id
    await rig.fails("Resource.AlreadyAssociated", "AssociateRouteTable", RouteTableId=second, SubnetId=subnet)
    message = await rig.fails("DependencyViolation", "DeleteRouteTable", RouteTableId=first)
    assert message == f"The routeTable '{first}' has dependencies and cannot be deleted."
    await rig.call("DisassociateRouteTable", AssociationId=id)
    assert (await shown(rig, first))["Associations"] == []
    message = await rig.fails("InvalidAssociationID.NotFound", "DisassociateRouteTable", AssociationId=id)
    assert message == f"The association ID '{id}' does not exist"
    await rig.call("DeleteRouteTable", RouteTableId=first)
    await rig.fails("InvalidRouteTableID.NotFound", "DeleteRouteTable", RouteTableId=first)
    await rig.fails("InvalidRouteTableId.Malformed", "DeleteRouteTable", RouteTableId="x")


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("MissingParameter", {"SubnetId": ""}),
        ("InvalidSubnetID.NotFound", {"SubnetId": "subnet-00000001"}),
        ("InvalidRouteTableID.NotFound", {"RouteTableId": ABSENT}),
        ("UnsupportedOperation", {"GatewayId": "igw-00000001"}),
        ("UnsupportedOperation", {"PublicIpv4Pool": "ipv4pool-ec2-1"}),
    ],
)
async def test_associate_refuses(rig: Rig, vpc: str, subnet: str, code: str, input: dict[str, Any]) -> None:
    table = await new(rig, vpc)
    await rig.fails(code, "AssociateRouteTable", **{"RouteTableId": table, "SubnetId": subnet, **input})


async def test_tables_and_subnets_of_different_vpcs(rig: Rig, vpc: str, subnet: str) -> None:
    [default] = [each for each in await rig.find(Vpc) if each.default]
    table = await new(rig, default.id)
    wrong = {"RouteTableId": table, "SubnetId": subnet}
    await rig.fails("InvalidParameterValue", "AssociateRouteTable", **wrong)
    own = await rig.call("AssociateRouteTable", RouteTableId=await new(rig, vpc), SubnetId=subnet)
    for id in (own["AssociationId"], (await main_table(rig, vpc)).main_association):
        await rig.fails(
            "InvalidParameterValue", "ReplaceRouteTableAssociation", AssociationId=id, RouteTableId=table
        )


async def test_no_association_is_none(rig: Rig, vpc: str, subnet: str) -> None:
    table = await new(rig, vpc)
    nothing = {"AssociationId": ""}
    await rig.fails("InvalidAssociationID.NotFound", "DisassociateRouteTable", **nothing)
    await rig.fails(
        "InvalidAssociationID.NotFound", "ReplaceRouteTableAssociation", RouteTableId=table, **nothing
    )


async def test_replace_an_association(rig: Rig, vpc: str, subnet: str) -> None:
    first, second = await new(rig, vpc), await new(rig, vpc)
    id = (await rig.call("AssociateRouteTable", RouteTableId=first, SubnetId=subnet))["AssociationId"]
    answer = await rig.call("ReplaceRouteTableAssociation", AssociationId=id, RouteTableId=second)
    new_id = answer["NewAssociationId"]
    assert new_id != id
    assert answer["AssociationState"] == {"State": "associated"}
    assert (await rig.get(Subnet, subnet)).route_table == second
    again = await rig.call("ReplaceRouteTableAssociation", AssociationId=new_id, RouteTableId=second)
    assert again["NewAssociationId"] == new_id
    await rig.fails(
        "InvalidAssociationID.NotFound",
        "ReplaceRouteTableAssociation",
        AssociationId="rtbassoc-1234abcd",
        RouteTableId=first,
    )
    await rig.fails(
        "InvalidRouteTableID.NotFound",
        "ReplaceRouteTableAssociation",
        AssociationId=new_id,
        RouteTableId=ABSENT,
    )


async def test_another_main_table(rig: Rig, vpc: str) -> None:
    main, table = await main_table(rig, vpc), await new(rig, vpc)
    id = main.main_association
    await rig.fails("DependencyViolation", "DeleteRouteTable", RouteTableId=main.id)
    message = await rig.fails("InvalidParameterValue", "DisassociateRouteTable", AssociationId=id)
    assert message == f"cannot disassociate the main route table association {id}"
    same = await rig.call("ReplaceRouteTableAssociation", AssociationId=id, RouteTableId=main.id)
    assert same["NewAssociationId"] == id
    answer = await rig.call("ReplaceRouteTableAssociation", AssociationId=id, RouteTableId=table)
    assert (await shown(rig, main.id))["Associations"] == []
    assert (await shown(rig, table))["Associations"] == [
        {
            "Main": True,
            "RouteTableAssociationId": answer["NewAssociationId"],
            "RouteTableId": table,
            "AssociationState": {"State": "associated"},
        }
    ]
    await rig.call("DeleteRouteTable", RouteTableId=main.id)
    await rig.call("DeleteVpc", VpcId=vpc)


async def test_filters(rig: Rig, vpc: str, subnet: str) -> None:
    table = await new(rig, vpc)
    main = (await main_table(rig, vpc)).id
    id = (await rig.call("AssociateRouteTable", RouteTableId=table, SubnetId=subnet))["AssociationId"]
    gateway = (await rig.call("CreateInternetGateway"))["InternetGateway"]["InternetGatewayId"]
    await rig.call("AttachInternetGateway", InternetGatewayId=gateway, VpcId=vpc)
    for destination in ({"DestinationCidrBlock": "0.0.0.0/0"}, {"DestinationIpv6CidrBlock": "::/0"}):
        await rig.call("CreateRoute", RouteTableId=table, GatewayId=gateway, **destination)
    for name, value, expected in (
        ("association.main", "true", {main}),
        ("association.main", "false", {table}),
        ("association.route-table-association-id", id, {table}),
        ("association.route-table-id", table, {table}),
        ("association.subnet-id", subnet, {table}),
        ("owner-id", "123456789012", {main, table}),
        ("route-table-id", main, {main}),
        ("route.destination-cidr-block", "0.0.0.0/0", {table}),
        ("route.destination-ipv6-cidr-block", "::/0", {table}),
        ("route.gateway-id", gateway, {table}),
        ("route.gateway-id", "local", {main, table}),
        ("route.origin", "CreateRoute", {table}),
        ("route.state", "active", {main, table}),
        ("route.state", "blackhole", set()),
        ("route.transit-gateway-id", "tgw-*", set()),
    ):
        filters = [{"Name": name, "Values": [value]}, {"Name": "vpc-id", "Values": [vpc]}]
        answer = await rig.call("DescribeRouteTables", Filters=filters)
        assert {each["RouteTableId"] for each in answer["RouteTables"]} == expected, name
    await rig.fails("InvalidRouteTableID.NotFound", "DescribeRouteTables", RouteTableIds=[ABSENT])
    await rig.fails("InvalidParameterValue", "DescribeRouteTables", MaxResults=101)
