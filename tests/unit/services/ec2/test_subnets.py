from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import FlowLog, NetworkInterface, SecondaryAddress, Subnet, Vpc
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig

ABSENT = "subnet-00000001"


@pytest.fixture
async def vpc(rig: Rig) -> str:
    answer = await rig.call("CreateVpc", CidrBlock="10.0.0.0/16", AmazonProvidedIpv6CidrBlock=True)
    id: str = answer["Vpc"]["VpcId"]
    return id


async def new(rig: Rig, vpc: str, cidr: str = "10.0.0.0/24", **input: Any) -> dict[str, Any]:
    shown: dict[str, Any] = (await rig.call("CreateSubnet", VpcId=vpc, CidrBlock=cidr, **input))["Subnet"]
    return shown


async def slash64(rig: Rig, vpc: str, number: int = 0) -> str:
    [cidr] = (await rig.get(Vpc, vpc)).cidrs6
    return cidr.replace("00::/56", f"{number:02x}::/64")


async def interface(rig: Rig, subnet: dict[str, Any], **fields: Any) -> None:
    defaults = {"id": "eni-00000001", "mac": "0a:00:00:00:00:01", "private_ip": "10.0.0.9"}
    await rig.put(
        NetworkInterface(
            account="123456789012",
            vpc=subnet["VpcId"],
            subnet=subnet["SubnetId"],
            zone=subnet["AvailabilityZone"],
            **{**defaults, **fields},
        )
    )


async def test_create(rig: Rig, vpc: str) -> None:
    tags = [{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": "x"}]}]
    shown = await new(rig, vpc, TagSpecifications=tags, AvailabilityZone="us-east-1b")
    id = shown["SubnetId"]
    assert shown == {
        "SubnetId": id,
        "SubnetArn": f"arn:aws:ec2:us-east-1:123456789012:subnet/{id}",
        "OwnerId": "123456789012",
        "State": "available",
        "VpcId": vpc,
        "CidrBlock": "10.0.0.0/24",
        "AvailableIpAddressCount": 251,
        "AvailabilityZone": "us-east-1b",
        "AvailabilityZoneId": "use1-az2",
        "DefaultForAz": False,
        "MapPublicIpOnLaunch": False,
        "MapCustomerOwnedIpOnLaunch": False,
        "AssignIpv6AddressOnCreation": False,
        "Ipv6CidrBlockAssociationSet": [],
        "EnableDns64": False,
        "Ipv6Native": False,
        "PrivateDnsNameOptionsOnLaunch": {
            "HostnameType": "ip-name",
            "EnableResourceNameDnsARecord": False,
            "EnableResourceNameDnsAAAARecord": False,
        },
        "BlockPublicAccessStates": {"InternetGatewayBlockMode": "off"},
        "Tags": [{"Key": "Name", "Value": "x"}],
    }
    assert (await rig.call("DescribeSubnets", SubnetIds=[id]))["Subnets"] == [shown]
    record = await rig.get(Subnet, id)
    assert record.acl.startswith("acl-")
    assert record.acl_association.startswith("aclassoc-")


async def test_zones(rig: Rig, vpc: str) -> None:
    by_id = await new(rig, vpc, AvailabilityZoneId="use1-az3")
    assert by_id["AvailabilityZone"] == "us-east-1c"
    # Only the first zone has a host.
    assert (await new(rig, vpc, "10.0.1.0/24"))["AvailabilityZone"] == "us-east-1a"
    message = await rig.fails(
        "InvalidParameterValue",
        "CreateSubnet",
        VpcId=vpc,
        CidrBlock="10.0.2.0/24",
        AvailabilityZone="asfasfas",
    )
    assert message == (
        "Value (asfasfas) for parameter availabilityZone is invalid. Subnets can currently only be created "
        "in the following availability zones: us-east-1a, us-east-1b, us-east-1c."
    )


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("MissingParameter", {"CidrBlock": ""}),
        ("InvalidParameterValue", {"CidrBlock": "1000.1.0.0/20"}),
        ("InvalidSubnet.Range", {"CidrBlock": "10.1.0.0/20"}),
        ("InvalidSubnet.Range", {"CidrBlock": "10.0.0.0/15"}),
        ("InvalidSubnet.Range", {"CidrBlock": "10.0.0.0/29"}),
        ("InvalidSubnet.Conflict", {"CidrBlock": "10.0.7.0/25"}),
        ("InvalidSubnet.Conflict", {"CidrBlock": "10.0.0.0/20"}),
        ("InvalidVpcID.NotFound", {"VpcId": "vpc-00000001"}),
        ("InvalidParameterValue", {"AvailabilityZoneId": "x"}),
        ("InvalidParameterValue", {"Ipv6CidrBlock": "x"}),
        ("InvalidSubnet.Range", {"Ipv6CidrBlock": "fd00::/64"}),
        ("UnsupportedOperation", {"Ipv6Native": True}),
        ("UnsupportedOperation", {"OutpostArn": "arn:aws:outposts:us-east-1:1:outpost/op-1"}),
        ("UnsupportedOperation", {"Ipv4IpamPoolId": "ipam-pool-1"}),
    ],
)
async def test_create_refuses(rig: Rig, vpc: str, code: str, input: dict[str, Any]) -> None:
    await new(rig, vpc, "10.0.7.0/24")
    await rig.fails(code, "CreateSubnet", **{"VpcId": vpc, "CidrBlock": "10.0.8.0/24", **input})


async def test_messages_are_as_ec2_has_them(rig: Rig, vpc: str) -> None:
    await new(rig, vpc)
    message = await rig.fails("InvalidSubnet.Range", "CreateSubnet", VpcId=vpc, CidrBlock="10.1.0.0/20")
    assert message == "The CIDR '10.1.0.0/20' is invalid. It has to be a /16 to /28 within 10.0.0.0/16."
    message = await rig.fails("InvalidSubnet.Conflict", "CreateSubnet", VpcId=vpc, CidrBlock="10.0.0.0/24")
    assert message == "The CIDR '10.0.0.0/24' conflicts with another subnet"


async def test_there_is_a_limit(rig: Rig, vpc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SUBNETS_PER_VPC_MAX", 1)
    await new(rig, vpc)
    await rig.fails("SubnetLimitExceeded", "CreateSubnet", VpcId=vpc, CidrBlock="10.0.1.0/24")


async def test_in_a_further_network_of_the_vpc(rig: Rig, vpc: str) -> None:
    await rig.call("AssociateVpcCidrBlock", VpcId=vpc, CidrBlock="10.1.0.0/24")
    assert (await new(rig, vpc, "10.1.0.0/25"))["CidrBlock"] == "10.1.0.0/25"
    # Across both it is not, even where they lie side by side.
    await rig.fails("InvalidSubnet.Range", "CreateSubnet", VpcId=vpc, CidrBlock="10.1.0.0/23")


async def test_ipv6(rig: Rig, vpc: str) -> None:
    cidr = await slash64(rig, vpc)
    [association] = (await new(rig, vpc, Ipv6CidrBlock=cidr))["Ipv6CidrBlockAssociationSet"]
    assert association["Ipv6CidrBlock"] == cidr
    assert association["Ipv6CidrBlockState"] == {"State": "associated"}
    assert association["AssociationId"].startswith("subnet-cidr-assoc-")
    await rig.fails(
        "InvalidSubnet.Conflict", "CreateSubnet", VpcId=vpc, CidrBlock="10.0.1.0/24", Ipv6CidrBlock=cidr
    )
    wide = cidr.replace("/64", "/60")
    await rig.fails(
        "InvalidSubnet.Range", "CreateSubnet", VpcId=vpc, CidrBlock="10.0.1.0/24", Ipv6CidrBlock=wide
    )


async def test_associate_and_disassociate_ipv6(rig: Rig, vpc: str) -> None:
    shown = await new(rig, vpc)
    id, cidr = shown["SubnetId"], await slash64(rig, vpc, 7)
    await rig.fails("MissingParameter", "AssociateSubnetCidrBlock", SubnetId=id)
    await rig.fails("InvalidSubnetID.NotFound", "AssociateSubnetCidrBlock", SubnetId=ABSENT)
    await rig.fails(
        "UnsupportedOperation", "AssociateSubnetCidrBlock", SubnetId=id, Ipv6IpamPoolId="ipam-pool-1"
    )
    answer = await rig.call("AssociateSubnetCidrBlock", SubnetId=id, Ipv6CidrBlock=cidr)
    association = answer["Ipv6CidrBlockAssociation"]
    assert association["Ipv6CidrBlockState"] == {"State": "associating"}
    await rig.fails("CidrLimitExceeded", "AssociateSubnetCidrBlock", SubnetId=id, Ipv6CidrBlock=cidr)
    await rig.call("ModifySubnetAttribute", SubnetId=id, AssignIpv6AddressOnCreation={"Value": True})
    gone = {"AssociationId": association["AssociationId"]}
    message = await rig.fails("InvalidCidrBlock.InUse", "DisassociateSubnetCidrBlock", **gone)
    assert message.endswith("its subnet has assign-ipv6-address-on-creation set to true.")
    await rig.call("ModifySubnetAttribute", SubnetId=id, AssignIpv6AddressOnCreation={"Value": False})
    await interface(rig, shown, ipv6=(cidr.replace("::/64", "::9"),))
    await rig.fails("InvalidCidrBlock.InUse", "DisassociateSubnetCidrBlock", **gone)
    await rig.change(NetworkInterface, "eni-00000001", ipv6=())
    vpc_association = (await rig.get(Vpc, vpc)).associations[0].id
    await rig.fails("InvalidCidrBlock.InUse", "DisassociateVpcCidrBlock", AssociationId=vpc_association)
    answer = await rig.call("DisassociateSubnetCidrBlock", **gone)
    assert answer["Ipv6CidrBlockAssociation"]["Ipv6CidrBlockState"] == {"State": "disassociating"}
    await rig.fails("InvalidSubnetCidrBlockAssociationID.NotFound", "DisassociateSubnetCidrBlock", **gone)
    await rig.call("DisassociateVpcCidrBlock", AssociationId=vpc_association)


async def test_no_association_is_none(rig: Rig, vpc: str) -> None:
    await new(rig, vpc)
    await rig.fails(
        "InvalidSubnetCidrBlockAssociationID.NotFound", "DisassociateSubnetCidrBlock", AssociationId=""
    )


async def test_delete(rig: Rig, vpc: str) -> None:
    shown = await new(rig, vpc)
    id = shown["SubnetId"]
    await interface(rig, shown)
    await rig.fails("DependencyViolation", "DeleteSubnet", SubnetId=id)
    await rig.delete(await rig.get(NetworkInterface, "eni-00000001"))
    log = FlowLog(
        id="fl-00000001", account="123456789012", resource=id, traffic="ALL", created=rig.env.utcnow()
    )
    await rig.put(log)
    await rig.call("DeleteSubnet", SubnetId=id)
    assert await rig.find(FlowLog) == []
    message = await rig.fails("InvalidSubnetID.NotFound", "DeleteSubnet", SubnetId=id)
    assert message == f"The subnet ID '{id}' does not exist"


async def test_modify(rig: Rig, vpc: str) -> None:
    id = (await new(rig, vpc, Ipv6CidrBlock=await slash64(rig, vpc)))["SubnetId"]
    for member in (
        "MapPublicIpOnLaunch",
        "AssignIpv6AddressOnCreation",
        "EnableResourceNameDnsARecordOnLaunch",
        "EnableResourceNameDnsAAAARecordOnLaunch",
    ):
        await rig.call("ModifySubnetAttribute", SubnetId=id, **{member: {"Value": True}})
    await rig.call("ModifySubnetAttribute", SubnetId=id, PrivateDnsHostnameTypeOnLaunch="ip-name")
    await rig.call("ModifySubnetAttribute", SubnetId=id, EnableDns64={"Value": False})
    [shown] = (await rig.call("DescribeSubnets", SubnetIds=[id]))["Subnets"]
    assert shown["MapPublicIpOnLaunch"]
    assert shown["AssignIpv6AddressOnCreation"]
    assert shown["PrivateDnsNameOptionsOnLaunch"] == {
        "HostnameType": "ip-name",
        "EnableResourceNameDnsARecord": True,
        "EnableResourceNameDnsAAAARecord": True,
    }


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("InvalidParameterCombination", {}),
        ("MissingParameter", {"MapPublicIpOnLaunch": {}}),
        ("InvalidParameterValue", {"AssignIpv6AddressOnCreation": {"Value": True}}),
        ("UnsupportedOperation", {"PrivateDnsHostnameTypeOnLaunch": "resource-name"}),
        ("InvalidParameterValue", {"PrivateDnsHostnameTypeOnLaunch": "x"}),
        ("UnsupportedOperation", {"EnableDns64": {"Value": True}}),
        ("UnsupportedOperation", {"MapCustomerOwnedIpOnLaunch": {"Value": True}}),
        ("UnsupportedOperation", {"CustomerOwnedIpv4Pool": "ipv4pool-coip-1"}),
        ("UnsupportedOperation", {"EnableLniAtDeviceIndex": 1}),
        ("InvalidSubnetID.NotFound", {"SubnetId": ABSENT, "MapPublicIpOnLaunch": {"Value": True}}),
    ],
)
async def test_modify_refuses(rig: Rig, vpc: str, code: str, input: dict[str, Any]) -> None:
    id = (await new(rig, vpc))["SubnetId"]
    await rig.fails(code, "ModifySubnetAttribute", **{"SubnetId": id, **input})


async def test_describe(rig: Rig) -> None:
    shown = (await rig.call("DescribeSubnets"))["Subnets"]
    zones = {each["AvailabilityZone"]: each for each in shown}
    assert {zone: each["CidrBlock"] for zone, each in zones.items()} == {
        "us-east-1a": "172.31.0.0/20",
        "us-east-1b": "172.31.16.0/20",
        "us-east-1c": "172.31.32.0/20",
    }
    assert all(each["DefaultForAz"] and each["MapPublicIpOnLaunch"] for each in shown)
    assert {each["AvailableIpAddressCount"] for each in shown} == {4091}
    filters = [{"Name": "availability-zone", "Values": ["us-east-1a"]}]
    [first] = (await rig.call("DescribeSubnets", Filters=filters))["Subnets"]
    filters = [
        {"Name": "default-for-az", "Values": ["true"]},
        {"Name": "subnet-id", "Values": [first["SubnetId"]]},
    ]
    assert (await rig.call("DescribeSubnets", Filters=filters))["Subnets"] == [first]
    await rig.fails("InvalidSubnetID.NotFound", "DescribeSubnets", SubnetIds=[ABSENT])


async def test_all_private_addresses_are_counted(rig: Rig, vpc: str) -> None:
    shown = await new(rig, vpc)
    more = (SecondaryAddress(private_ip="10.0.0.10"), SecondaryAddress(private_ip="10.0.0.11"))
    await interface(rig, shown, secondary=more)
    await interface(rig, shown, id="eni-00000002", private_ip="10.0.0.12")
    [shown] = (await rig.call("DescribeSubnets", SubnetIds=[shown["SubnetId"]]))["Subnets"]
    assert shown["AvailableIpAddressCount"] == 251 - 4


async def test_create_default(rig: Rig) -> None:
    [first] = await rig.find(Subnet, zone="us-east-1a")
    message = await rig.fails(
        "DefaultSubnetAlreadyExistsInAvailabilityZone",
        "CreateDefaultSubnet",
        AvailabilityZone="us-east-1a",
    )
    assert message == f"'{first.id}' is already the default subnet in us-east-1a."
    await rig.fails("MissingParameter", "CreateDefaultSubnet")
    await rig.fails("InvalidParameterValue", "CreateDefaultSubnet", AvailabilityZone="x")
    await rig.fails(
        "UnsupportedOperation", "CreateDefaultSubnet", AvailabilityZone="us-east-1a", Ipv6Native=True
    )
    await rig.call("DeleteSubnet", SubnetId=first.id)
    shown = (await rig.call("CreateDefaultSubnet", AvailabilityZoneId="use1-az1"))["Subnet"]
    assert shown["DefaultForAz"]
    assert shown["MapPublicIpOnLaunch"]
    assert (shown["CidrBlock"], shown["AvailabilityZone"]) == ("172.31.0.0/20", "us-east-1a")


async def test_create_default_needs_the_default_vpc_and_room(rig: Rig) -> None:
    [vpc] = await rig.find(Vpc)
    [first] = await rig.find(Subnet, zone="us-east-1a")
    await rig.call("DeleteSubnet", SubnetId=first.id)
    for number in (0, *range(3, 16)):
        await new(rig, vpc.id, f"172.31.{16 * number}.0/20")
    await rig.fails("InvalidSubnet.Range", "CreateDefaultSubnet", AvailabilityZone="us-east-1a")
    await rig.change(Vpc, vpc.id, default=False)
    await rig.fails("DefaultVpcDoesNotExist", "CreateDefaultSubnet", AvailabilityZone="us-east-1a")
