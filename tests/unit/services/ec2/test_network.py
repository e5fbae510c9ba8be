from __future__ import annotations

from typing import TYPE_CHECKING

from gureum.resources import SecurityGroup, Subnet, Vpc
from gureum.services.ec2.defaults import ensure_defaults
from gureum.store.base import Transaction

if TYPE_CHECKING:
    from ..conftest import Rig


async def test_defaults_are_made_once(rig: Rig) -> None:
    before = rig.store.revision

    async def work(tx: Transaction) -> None:
        await ensure_defaults(tx, rig.env, rig.cloud)

    await rig.store.transact(work)
    assert rig.store.revision == before
    assert len(await rig.find(Vpc)) == len(await rig.find(SecurityGroup)) == 1
    assert len(await rig.find(Subnet)) == 3


async def test_a_missing_default_subnet_is_made(rig: Rig) -> None:
    [second] = await rig.find(Subnet, zone="us-east-1b")
    await rig.delete(second)

    async def work(tx: Transaction) -> None:
        await ensure_defaults(tx, rig.env, rig.cloud)

    await rig.store.transact(work)
    [again] = await rig.find(Subnet, zone="us-east-1b")
    assert (again.cidr, again.default_for_az, again.map_public_ip) == ("172.31.16.0/20", True, True)


async def test_vpcs(rig: Rig) -> None:
    [shown] = (await rig.call("DescribeVpcs"))["Vpcs"]
    assert (shown["CidrBlock"], shown["IsDefault"], shown["State"]) == ("172.31.0.0/16", True, "available")
    [association] = shown["CidrBlockAssociationSet"]
    assert association["CidrBlock"] == "172.31.0.0/16"
    for name in ("is-default", "isDefault"):
        answer = await rig.call("DescribeVpcs", Filters=[{"Name": name, "Values": ["true"]}])
        assert answer["Vpcs"] == [shown]
    answer = await rig.call("DescribeVpcs", Filters=[{"Name": "cidr", "Values": ["10.*"]}])
    assert answer["Vpcs"] == []
    message = await rig.fails("InvalidVpcID.NotFound", "DescribeVpcs", VpcIds=["vpc-00000001"])
    assert message == "The vpc ID 'vpc-00000001' does not exist"


async def test_vpc_attributes(rig: Rig) -> None:
    [vpc] = await rig.find(Vpc)
    for attribute, member, value in (
        ("enableDnsSupport", "EnableDnsSupport", True),
        ("enableDnsHostnames", "EnableDnsHostnames", True),
        ("enableNetworkAddressUsageMetrics", "EnableNetworkAddressUsageMetrics", False),
    ):
        answer = await rig.call("DescribeVpcAttribute", VpcId=vpc.id, Attribute=attribute)
        assert answer == {"VpcId": vpc.id, member: {"Value": value}}
    await rig.fails("InvalidParameterValue", "DescribeVpcAttribute", VpcId=vpc.id, Attribute="x")


async def test_subnets(rig: Rig) -> None:
    shown = (await rig.call("DescribeSubnets"))["Subnets"]
    zones = {each["AvailabilityZone"]: each for each in shown}
    assert {zone: each["CidrBlock"] for zone, each in zones.items()} == {
        "us-east-1a": "172.31.0.0/20",
        "us-east-1b": "172.31.16.0/20",
        "us-east-1c": "172.31.32.0/20",
    }
    assert all(each["DefaultForAz"] and each["MapPublicIpOnLaunch"] for each in shown)
    assert {each["AvailableIpAddressCount"] for each in shown} == {4091}
    await rig.launch()
    filters = [{"Name": "availability-zone", "Values": ["us-east-1a"]}]
    [first] = (await rig.call("DescribeSubnets", Filters=filters))["Subnets"]
    assert first["AvailableIpAddressCount"] == 4090
    assert first["AvailabilityZoneId"] == "use1-az1"
    filters = [
        {"Name": "default-for-az", "Values": ["true"]},
        {"Name": "subnet-id", "Values": [first["SubnetId"]]},
    ]
    assert (await rig.call("DescribeSubnets", Filters=filters))["Subnets"] == [first]
    await rig.fails("InvalidSubnetID.NotFound", "DescribeSubnets", SubnetIds=["subnet-00000001"])


async def test_public_names_follow_the_vpc(rig: Rig) -> None:
    [vpc] = await rig.find(Vpc)
    await rig.change(Vpc, vpc.id, dns_hostnames=False)
    shown = await rig.launch()
    assert shown["PublicIpAddress"]
    assert shown["PublicDnsName"] == ""
