from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import (
    DhcpOptions,
    FlowLog,
    InternetGateway,
    NetworkAcl,
    PeeringConnection,
    PeeringState,
    Record,
    RouteTable,
    SecurityGroup,
    Subnet,
    Vpc,
)
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig

ABSENT = "vpc-00000001"


async def new(rig: Rig, cidr: str = "10.0.0.0/16", **input: Any) -> dict[str, Any]:
    vpc: dict[str, Any] = (await rig.call("CreateVpc", CidrBlock=cidr, **input))["Vpc"]
    return vpc


async def test_create(rig: Rig) -> None:
    tags = [{"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": "x"}]}]
    shown = await new(rig, TagSpecifications=tags)
    id = shown["VpcId"]
    [options] = await rig.find(DhcpOptions)
    assert shown == {
        "VpcId": id,
        "OwnerId": "123456789012",
        "State": "available",
        "CidrBlock": "10.0.0.0/16",
        "DhcpOptionsId": options.id,
        "InstanceTenancy": "default",
        "Ipv6CidrBlockAssociationSet": [],
        "CidrBlockAssociationSet": [
            {
                "AssociationId": id.replace("vpc-", "vpc-cidr-assoc-"),
                "CidrBlock": "10.0.0.0/16",
                "CidrBlockState": {"State": "associated"},
            }
        ],
        "IsDefault": False,
        "Tags": [{"Key": "Name", "Value": "x"}],
        "BlockPublicAccessStates": {"InternetGatewayBlockMode": "off"},
    }
    assert (await rig.call("DescribeVpcs", VpcIds=[id]))["Vpcs"] == [shown]
    [table] = await rig.find(RouteTable, vpc=id)
    assert (table.main, table.routes, table.number) == (True, (), 1)
    [acl] = await rig.find(NetworkAcl, vpc=id)
    assert acl.default
    assert {entry.number for entry in acl.entries} == {100}
    [group] = await rig.find(SecurityGroup, vpc=id)
    assert group.name == "default"
    assert await rig.find(InternetGateway, vpc=id) == []


async def test_create_normalizes_the_network(rig: Rig) -> None:
    assert (await new(rig, "10.1.2.3/16"))["CidrBlock"] == "10.1.0.0/16"


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("MissingParameter", {}),
        ("InvalidParameterValue", {"CidrBlock": "1000.1.0.0/20"}),
        ("InvalidParameterValue", {"CidrBlock": "10.0.0.0"}),
        ("InvalidParameterValue", {"CidrBlock": "10.0.0.0/255.255.0.0"}),
        ("InvalidParameterValue", {"CidrBlock": "fd00::/56"}),
        ("InvalidVpc.Range", {"CidrBlock": "10.0.0.0/15"}),
        ("InvalidVpc.Range", {"CidrBlock": "10.1.0.0/29"}),
        ("InvalidVpc.Range", {"CidrBlock": "127.0.0.0/16"}),
        ("InvalidVpc.Range", {"CidrBlock": "169.254.0.0/24"}),
        ("InvalidVpc.Range", {"CidrBlock": "224.0.0.0/16"}),
        ("InvalidVpc.Range", {"CidrBlock": "0.0.0.0/16"}),
        ("InvalidVpc.Range", {"CidrBlock": "198.18.0.0/16"}),
        ("UnsupportedOperation", {"CidrBlock": "10.0.0.0/16", "InstanceTenancy": "dedicated"}),
        ("InvalidParameterValue", {"CidrBlock": "10.0.0.0/16", "InstanceTenancy": "host"}),
        ("UnsupportedOperation", {"Ipv4IpamPoolId": "ipam-pool-1", "Ipv4NetmaskLength": 16}),
        ("UnsupportedOperation", {"CidrBlock": "10.0.0.0/16", "Ipv6CidrBlock": "2001:db8::/56"}),
        ("UnsupportedOperation", {"CidrBlock": "10.0.0.0/16", "VpcEncryptionControl": {"Mode": "monitor"}}),
        (
            "UnsupportedOperation",
            {"CidrBlock": "10.0.0.0/16", "Ipv6CidrBlockNetworkBorderGroup": "us-west-2-lax-1"},
        ),
        (
            "InvalidParameterValue",
            {"CidrBlock": "10.0.0.0/16", "TagSpecifications": [{"ResourceType": "subnet", "Tags": []}]},
        ),
    ],
)
async def test_create_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    await rig.fails(code, "CreateVpc", **input)


async def test_messages_are_as_ec2_has_them(rig: Rig) -> None:
    message = await rig.fails("InvalidParameterValue", "CreateVpc", CidrBlock="1000.1.0.0/20")
    assert message == (
        "Value (1000.1.0.0/20) for parameter cidrBlock is invalid. This is not a valid CIDR block."
    )
    message = await rig.fails("InvalidVpc.Range", "CreateVpc", CidrBlock="10.1.0.0/29")
    assert message == "The CIDR '10.1.0.0/29' is invalid. It has to be a /16 to /28."


async def test_there_is_a_limit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VPCS_MAX", 2)
    await new(rig)
    await rig.fails("VpcLimitExceeded", "CreateVpc", CidrBlock="10.0.0.0/16")


async def test_create_with_ipv6(rig: Rig) -> None:
    first = await new(rig, AmazonProvidedIpv6CidrBlock=True)
    second = await new(rig, AmazonProvidedIpv6CidrBlock=True)
    [one], [two] = first["Ipv6CidrBlockAssociationSet"], second["Ipv6CidrBlockAssociationSet"]
    assert one["Ipv6CidrBlock"] != two["Ipv6CidrBlock"]
    assert one["Ipv6CidrBlock"].startswith("fd")
    assert one["Ipv6CidrBlock"].endswith("::/56")
    assert one["Ipv6CidrBlockState"] == {"State": "associated"}
    assert one["AssociationId"].startswith("vpc-cidr-assoc-")
    [acl] = await rig.find(NetworkAcl, vpc=first["VpcId"])
    assert {(entry.number, entry.cidr) for entry in acl.entries} == {(100, "0.0.0.0/0"), (101, "::/0")}
    [group] = await rig.find(SecurityGroup, vpc=first["VpcId"])
    assert [rule.cidr6 for rule in group.rules if rule.egress] == ["", "::/0"]


async def test_delete_takes_what_every_vpc_has(rig: Rig) -> None:
    id = (await new(rig))["VpcId"]
    log = FlowLog(
        id="fl-00000001",
        account="123456789012",
        resource=id,
        traffic="ALL",
        created=rig.env.utcnow(),
    )
    await rig.put(log)
    await rig.call("DeleteVpc", VpcId=id)
    for kind in (RouteTable, NetworkAcl, SecurityGroup):
        assert await rig.find(kind, vpc=id) == []
    assert await rig.find(FlowLog) == []
    await rig.fails("InvalidVpcID.NotFound", "DeleteVpc", VpcId=id)


async def test_delete_refuses_while_anything_is_in_it(rig: Rig) -> None:
    id = (await new(rig))["VpcId"]
    [other] = [each.id for each in await rig.find(Vpc) if each.default]
    peering = PeeringConnection(
        id="pcx-00000001",
        account="123456789012",
        number=1,
        requester=other,
        accepter=id,
        requester_account="123456789012",
        accepter_account="123456789012",
    )
    account = "123456789012"
    for record in (
        Subnet(id="subnet-00000001", account=account, vpc=id, zone="us-east-1a", cidr="10.0.0.0/24"),
        InternetGateway(id="igw-00000001", account=account, vpc=id),
        RouteTable(id="rtb-00000001", account=account, vpc=id, number=2),
        NetworkAcl(id="acl-00000001", account=account, vpc=id),
        SecurityGroup(id="sg-00000001", account=account, vpc=id, name="web", description="x"),
        peering,
    ):
        await rig.put(record)
        message = await rig.fails("DependencyViolation", "DeleteVpc", VpcId=id)
        assert message == f"The vpc '{id}' has dependencies and cannot be deleted: {record.id}."
        kind: type[Record] = type(record)
        await rig.delete(await rig.get(kind, record.id))
    for n in range(12):
        await rig.put(SecurityGroup(id=f"sg-{n:08d}", account=account, vpc=id, name=f"g{n}", description="x"))
    message = await rig.fails("DependencyViolation", "DeleteVpc", VpcId=id)
    assert message.endswith("sg-00000009 and 2 more.")
    for n in range(12):
        await rig.delete(await rig.get(SecurityGroup, f"sg-{n:08d}"))
    await rig.put(PeeringConnection(**{**_fields(peering), "state": PeeringState.deleted}))
    await rig.call("DeleteVpc", VpcId=id)


def _fields(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


async def test_describe(rig: Rig) -> None:
    [shown] = (await rig.call("DescribeVpcs"))["Vpcs"]
    assert (shown["CidrBlock"], shown["IsDefault"], shown["State"]) == ("172.31.0.0/16", True, "available")
    for name in ("is-default", "isDefault"):
        answer = await rig.call("DescribeVpcs", Filters=[{"Name": name, "Values": ["true"]}])
        assert answer["Vpcs"] == [shown]
    answer = await rig.call("DescribeVpcs", Filters=[{"Name": "cidr", "Values": ["10.*"]}])
    assert answer["Vpcs"] == []
    message = await rig.fails("InvalidVpcID.NotFound", "DescribeVpcs", VpcIds=[ABSENT])
    assert message == f"The vpc ID '{ABSENT}' does not exist"


async def test_filters(rig: Rig) -> None:
    plain = await new(rig)
    shown = await new(rig, AmazonProvidedIpv6CidrBlock=True)
    await rig.call("AssociateVpcCidrBlock", VpcId=shown["VpcId"], CidrBlock="10.1.0.0/16")
    [shown] = (await rig.call("DescribeVpcs", VpcIds=[shown["VpcId"]]))["Vpcs"]
    [_, second] = shown["CidrBlockAssociationSet"]
    [ipv6] = shown["Ipv6CidrBlockAssociationSet"]
    for name, value in (
        ("cidr-block-association.association-id", second["AssociationId"]),
        ("cidr-block-association.cidr-block", "10.1.0.0/16"),
        ("ipv6-cidr-block-association.association-id", ipv6["AssociationId"]),
        ("ipv6-cidr-block-association.ipv6-cidr-block", ipv6["Ipv6CidrBlock"]),
        ("ipv6-cidr-block-association.ipv6-pool", "Amazon"),
        ("ipv6-cidr-block-association.state", "associated"),
        ("vpc-id", shown["VpcId"]),
    ):
        found = await rig.call("DescribeVpcs", Filters=[{"Name": name, "Values": [value]}])
        assert found["Vpcs"] == [shown], name
    for name, value in (
        ("cidr", "10.0.0.0/16"),
        ("cidr-block-association.state", "associated"),
        ("dhcp-options-id", shown["DhcpOptionsId"]),
        ("owner-id", "123456789012"),
        ("state", "available"),
    ):
        found = await rig.call("DescribeVpcs", Filters=[{"Name": name, "Values": [value]}])
        assert {shown["VpcId"], plain["VpcId"]} <= {each["VpcId"] for each in found["Vpcs"]}, name
    await rig.fails("InvalidParameterValue", "DescribeVpcs", Filters=[{"Name": "x", "Values": ["y"]}])


async def test_create_default(rig: Rig) -> None:
    message = await rig.fails("DefaultVpcAlreadyExists", "CreateDefaultVpc")
    assert message == "A Default VPC already exists for this account in this region."
    [vpc] = await rig.find(Vpc)
    for subnet in await rig.find(Subnet):
        await rig.call("DeleteSubnet", SubnetId=subnet.id)
    [gateway] = await rig.find(InternetGateway)
    await rig.call("DetachInternetGateway", InternetGatewayId=gateway.id, VpcId=vpc.id)
    await rig.call("DeleteVpc", VpcId=vpc.id)
    shown = (await rig.call("CreateDefaultVpc"))["Vpc"]
    assert shown["IsDefault"]
    assert shown["CidrBlock"] == "172.31.0.0/16"
    assert len(await rig.find(Subnet, vpc=shown["VpcId"])) == 3
    [table] = await rig.find(RouteTable, vpc=shown["VpcId"])
    [attached] = await rig.find(InternetGateway, vpc=shown["VpcId"])
    assert table.routes[0].target == attached.id
    await rig.launch()


async def attribute(rig: Rig, vpc: str, name: str) -> bool:
    answer = await rig.call("DescribeVpcAttribute", VpcId=vpc, Attribute=name)
    value: bool = answer[name[0].upper() + name[1:]]["Value"]
    return value


async def test_attributes(rig: Rig) -> None:
    [default] = await rig.find(Vpc)
    id = (await new(rig))["VpcId"]
    for vpc, expected in ((default.id, (True, True, False)), (id, (True, False, False))):
        names = ("enableDnsSupport", "enableDnsHostnames", "enableNetworkAddressUsageMetrics")
        assert tuple([await attribute(rig, vpc, name) for name in names]) == expected
    await rig.fails("InvalidParameterValue", "DescribeVpcAttribute", VpcId=id, Attribute="x")
    await rig.call("ModifyVpcAttribute", VpcId=id, EnableDnsHostnames={"Value": True})
    assert await attribute(rig, id, "enableDnsHostnames")
    await rig.call("ModifyVpcAttribute", VpcId=id, EnableDnsHostnames={"Value": False})
    await rig.call("ModifyVpcAttribute", VpcId=id, EnableDnsSupport={"Value": False})
    assert not await attribute(rig, id, "enableDnsSupport")
    await rig.call("ModifyVpcAttribute", VpcId=id, EnableNetworkAddressUsageMetrics={"Value": False})


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("InvalidParameterCombination", {}),
        (
            "InvalidParameterCombination",
            {"EnableDnsSupport": {"Value": True}, "EnableDnsHostnames": {"Value": True}},
        ),
        ("MissingParameter", {"EnableDnsSupport": {}}),
        ("InvalidParameterValue", {"EnableDnsHostnames": {"Value": True}}),
        ("UnsupportedOperation", {"EnableNetworkAddressUsageMetrics": {"Value": True}}),
        ("InvalidVpcID.NotFound", {"VpcId": ABSENT, "EnableDnsSupport": {"Value": True}}),
    ],
)
async def test_modify_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    id = (await new(rig))["VpcId"]
    await rig.change(Vpc, id, dns_support=False)
    await rig.fails(code, "ModifyVpcAttribute", **{"VpcId": id, **input})


async def test_public_names_follow_the_vpc(rig: Rig) -> None:
    [vpc] = await rig.find(Vpc)
    await rig.call("ModifyVpcAttribute", VpcId=vpc.id, EnableDnsHostnames={"Value": False})
    shown = await rig.launch()
    assert shown["PublicIpAddress"]
    assert shown["PublicDnsName"] == ""
