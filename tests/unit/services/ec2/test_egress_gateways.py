from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import EgressGateway
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig

SIX = {"DestinationIpv6CidrBlock": "::/0"}


async def new_vpc(rig: Rig, cidr: str = "10.0.0.0/16") -> str:
    made = await rig.call("CreateVpc", CidrBlock=cidr, AmazonProvidedIpv6CidrBlock=True)
    id: str = made["Vpc"]["VpcId"]
    return id


async def new(rig: Rig, vpc: str, **input: Any) -> str:
    made = await rig.call("CreateEgressOnlyInternetGateway", VpcId=vpc, **input)
    id: str = made["EgressOnlyInternetGateway"]["EgressOnlyInternetGatewayId"]
    return id


async def table_of(rig: Rig, vpc: str) -> dict[str, Any]:
    tables: list[dict[str, Any]] = (await rig.call("DescribeRouteTables"))["RouteTables"]
    return next(each for each in tables if each["VpcId"] == vpc)


async def test_a_life(rig: Rig) -> None:
    vpc = await new_vpc(rig)
    tags = [{"ResourceType": "egress-only-internet-gateway", "Tags": [{"Key": "a", "Value": "b"}]}]
    id = await new(rig, vpc, TagSpecifications=tags)
    assert id.startswith("eigw-")
    answer = await rig.call("DescribeEgressOnlyInternetGateways", EgressOnlyInternetGatewayIds=[id])
    assert answer["EgressOnlyInternetGateways"] == [
        {
            "EgressOnlyInternetGatewayId": id,
            "Attachments": [{"VpcId": vpc, "State": "attached"}],
            "Tags": [{"Key": "a", "Value": "b"}],
        }
    ]
    message = await rig.fails("DependencyViolation", "DeleteVpc", VpcId=vpc)
    assert id in message
    done = await rig.call("DeleteEgressOnlyInternetGateway", EgressOnlyInternetGatewayId=id)
    assert done["ReturnCode"] is True
    await rig.fails(
        "InvalidGatewayID.NotFound", "DeleteEgressOnlyInternetGateway", EgressOnlyInternetGatewayId=id
    )
    await rig.call("DeleteVpc", VpcId=vpc)


async def test_routes_are_of_ipv6_and_of_its_vpc(rig: Rig) -> None:
    vpc, other = await new_vpc(rig), await new_vpc(rig, "10.1.0.0/16")
    id, foreign = await new(rig, vpc), await new(rig, other)
    table = (await table_of(rig, vpc))["RouteTableId"]
    await rig.call("CreateRoute", RouteTableId=table, **SIX, EgressOnlyInternetGatewayId=id)
    route = (await table_of(rig, vpc))["Routes"][-1]
    assert (route["EgressOnlyInternetGatewayId"], route["State"]) == (id, "active")
    found = await rig.call(
        "DescribeRouteTables",
        Filters=[{"Name": "route.egress-only-internet-gateway-id", "Values": [id]}],
    )
    assert [each["RouteTableId"] for each in found["RouteTables"]] == [table]
    four = {"RouteTableId": table, "DestinationCidrBlock": "0.0.0.0/0"}
    message = await rig.fails("InvalidParameterValue", "CreateRoute", **four, EgressOnlyInternetGatewayId=id)
    assert "IPv6 only" in message
    await rig.fails(
        "InvalidParameterValue",
        "ReplaceRoute",
        RouteTableId=table,
        **SIX,
        EgressOnlyInternetGatewayId=foreign,
    )
    await rig.call("DeleteEgressOnlyInternetGateway", EgressOnlyInternetGatewayId=id)
    assert (await table_of(rig, vpc))["Routes"][-1]["State"] == "blackhole"


async def test_there_are_limits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    vpc = await new_vpc(rig)
    monkeypatch.setattr(limits, "EGRESS_GATEWAYS_MAX", 1)
    await new(rig, vpc)
    await rig.fails("GatewayLimitExceeded", "CreateEgressOnlyInternetGateway", VpcId=vpc)
    assert len(await rig.find(EgressGateway, vpc=vpc)) == 1
