from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import InternetGateway, NetworkInterface, Subnet, Vpc
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig

ABSENT = "igw-00000001"


async def new(rig: Rig, **input: Any) -> str:
    id: str = (await rig.call("CreateInternetGateway", **input))["InternetGateway"]["InternetGatewayId"]
    return id


@pytest.fixture
async def vpc(rig: Rig) -> str:
    id: str = (await rig.call("CreateVpc", CidrBlock="10.0.0.0/16"))["Vpc"]["VpcId"]
    return id


async def test_a_life(rig: Rig, vpc: str) -> None:
    tags = [{"ResourceType": "internet-gateway", "Tags": [{"Key": "a", "Value": "b"}]}]
    shown = (await rig.call("CreateInternetGateway", TagSpecifications=tags))["InternetGateway"]
    id = shown["InternetGatewayId"]
    assert shown == {
        "InternetGatewayId": id,
        "OwnerId": "123456789012",
        "Attachments": [],
        "Tags": [{"Key": "a", "Value": "b"}],
    }
    await rig.call("AttachInternetGateway", InternetGatewayId=id, VpcId=vpc)
    answer = await rig.call("DescribeInternetGateways", InternetGatewayIds=[id])
    [attached] = answer["InternetGateways"]
    assert attached["Attachments"] == [{"VpcId": vpc, "State": "available"}]
    await rig.fails("DependencyViolation", "DeleteInternetGateway", InternetGatewayId=id)
    await rig.call("DetachInternetGateway", InternetGatewayId=id, VpcId=vpc)
    await rig.call("DeleteInternetGateway", InternetGatewayId=id)
    message = await rig.fails(
        "InvalidInternetGatewayID.NotFound", "DeleteInternetGateway", InternetGatewayId=id
    )
    assert message == f"The internetGateway ID '{id}' does not exist"


async def test_one_gateway_and_one_vpc(rig: Rig, vpc: str) -> None:
    first, second = await new(rig), await new(rig)
    [other] = [each.id for each in await rig.find(Vpc) if each.default]
    await rig.call("AttachInternetGateway", InternetGatewayId=first, VpcId=vpc)
    for where in (vpc, other):
        await rig.fails(
            "Resource.AlreadyAssociated", "AttachInternetGateway", InternetGatewayId=first, VpcId=where
        )
    message = await rig.fails(
        "InvalidParameterValue", "AttachInternetGateway", InternetGatewayId=second, VpcId=vpc
    )
    assert message == f"Network {vpc} already has an internet gateway attached"
    for gateway, where in ((first, other), (second, vpc), (first, "vpc-00000001")):
        message = await rig.fails(
            "Gateway.NotAttached", "DetachInternetGateway", InternetGatewayId=gateway, VpcId=where
        )
        assert message == f"resource {gateway} is not attached to network {where}"


async def test_what_is_not_there(rig: Rig, vpc: str) -> None:
    gateway = await new(rig)
    for operation in ("AttachInternetGateway", "DetachInternetGateway"):
        await rig.fails("InvalidInternetGatewayID.NotFound", operation, InternetGatewayId=ABSENT, VpcId=vpc)
    await rig.fails(
        "InvalidVpcID.NotFound", "AttachInternetGateway", InternetGatewayId=gateway, VpcId="vpc-00000001"
    )
    await rig.fails(
        "InvalidInternetGatewayID.NotFound", "DescribeInternetGateways", InternetGatewayIds=[ABSENT]
    )


async def test_it_stays_while_public_addresses_are_mapped(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gureum.services.ec2.internet_gateways.SCAN", 2)
    [gateway] = await rig.find(InternetGateway)
    subnet = (await rig.find(Subnet))[0]
    for number in range(4):
        await rig.put(
            NetworkInterface(
                id=f"eni-0000000{number}",
                account="123456789012",
                vpc=gateway.vpc,
                subnet=subnet.id,
                zone=subnet.zone,
                mac=f"0a:00:00:00:00:0{number}",
                private_ip=f"172.31.0.1{number}",
                public_ip="198.18.0.9" if number == 2 else "",
            )
        )
    attachment = {"InternetGatewayId": gateway.id, "VpcId": gateway.vpc}
    message = await rig.fails("DependencyViolation", "DetachInternetGateway", **attachment)
    assert message.startswith(f"Network {gateway.vpc} has some mapped public address(es).")
    await rig.change(NetworkInterface, "eni-00000002", public_ip="")
    await rig.call("DetachInternetGateway", **attachment)


async def test_there_is_a_limit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INTERNET_GATEWAYS_MAX", 2)
    await new(rig)
    await rig.fails("InternetGatewayLimitExceeded", "CreateInternetGateway")


async def test_filters(rig: Rig, vpc: str) -> None:
    free, attached = await new(rig), await new(rig)
    await rig.call("AttachInternetGateway", InternetGatewayId=attached, VpcId=vpc)
    [default] = [each.id for each in await rig.find(InternetGateway) if each.vpc not in ("", vpc)]
    for name, value, expected in (
        ("attachment.vpc-id", vpc, {attached}),
        ("attachment.state", "available", {attached, default}),
        ("internet-gateway-id", free, {free}),
        ("owner-id", "123456789012", {free, attached, default}),
    ):
        answer = await rig.call("DescribeInternetGateways", Filters=[{"Name": name, "Values": [value]}])
        assert {each["InternetGatewayId"] for each in answer["InternetGateways"]} == expected, name
