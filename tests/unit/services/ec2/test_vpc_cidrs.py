from __future__ import annotations

from ipaddress import IPv6Network
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import (
    NetworkAcl,
    PeeringConnection,
    PeeringState,
    RouteTable,
    SecurityGroup,
    Vpc,
)
from gureum.services.ec2 import limits
from gureum.services.ec2.networks6 import network6

if TYPE_CHECKING:
    from ..conftest import Rig


@pytest.fixture
async def vpc(rig: Rig) -> str:
    id: str = (await rig.call("CreateVpc", CidrBlock="10.0.0.0/16"))["Vpc"]["VpcId"]
    return id


async def test_another_network(rig: Rig, vpc: str) -> None:
    answer = await rig.call("AssociateVpcCidrBlock", VpcId=vpc, CidrBlock="10.1.0.4/24")
    association = answer["CidrBlockAssociation"]
    assert answer["VpcId"] == vpc
    assert association["CidrBlock"] == "10.1.0.0/24"
    assert association["CidrBlockState"] == {"State": "associating"}
    assert (await rig.get(Vpc, vpc)).cidrs == ("10.0.0.0/16", "10.1.0.0/24")
    answer = await rig.call("DisassociateVpcCidrBlock", AssociationId=association["AssociationId"])
    assert answer["VpcId"] == vpc
    assert answer["CidrBlockAssociation"] == {
        **association,
        "CidrBlockState": {"State": "disassociating"},
    }
    assert (await rig.get(Vpc, vpc)).cidrs == ("10.0.0.0/16",)


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("MissingParameter", {}),
        ("InvalidParameterCombination", {"CidrBlock": "10.1.0.0/16", "AmazonProvidedIpv6CidrBlock": True}),
        ("InvalidParameterValue", {"CidrBlock": "x"}),
        ("InvalidVpc.Range", {"CidrBlock": "10.0.0.0/16"}),
        ("InvalidVpc.Range", {"CidrBlock": "10.0.4.0/24"}),
        ("InvalidVpc.Range", {"CidrBlock": "10.0.0.0/15"}),
        ("InvalidVpc.Range", {"CidrBlock": "172.16.0.0/16"}),
        ("InvalidVpc.Range", {"CidrBlock": "192.168.0.0/16"}),
        ("InvalidVpc.Range", {"CidrBlock": "198.19.0.0/16"}),
        ("InvalidVpcID.NotFound", {"VpcId": "vpc-00000001", "CidrBlock": "10.1.0.0/16"}),
        ("UnsupportedOperation", {"Ipv6Pool": "pool", "Ipv6CidrBlock": "2001:db8::/56"}),
    ],
)
async def test_refused(rig: Rig, vpc: str, code: str, input: dict[str, Any]) -> None:
    await rig.fails(code, "AssociateVpcCidrBlock", **{"VpcId": vpc, **input})


@pytest.mark.parametrize(
    ("first", "refused", "taken"),
    [
        ("172.16.0.0/16", "172.31.0.0/16", "172.17.0.0/16"),
        ("172.16.0.0/16", "10.0.0.0/16", "100.64.0.0/16"),
        ("192.168.0.0/16", "10.0.0.0/16", "100.64.0.0/16"),
        ("100.64.0.0/16", "10.0.0.0/16", "100.65.0.0/16"),
        ("8.8.0.0/16", "192.168.0.0/24", "9.9.0.0/16"),
    ],
)
async def test_ranges_do_not_mix(rig: Rig, first: str, refused: str, taken: str) -> None:
    id = (await rig.call("CreateVpc", CidrBlock=first))["Vpc"]["VpcId"]
    message = await rig.fails("InvalidVpc.Range", "AssociateVpcCidrBlock", VpcId=id, CidrBlock=refused)
    assert message.startswith(f"The CIDR '{refused}' is restricted.")
    await rig.call("AssociateVpcCidrBlock", VpcId=id, CidrBlock=taken)


async def test_five_are_the_most(rig: Rig, vpc: str) -> None:
    for number in range(1, limits.CIDRS_PER_VPC_MAX):
        await rig.call("AssociateVpcCidrBlock", VpcId=vpc, CidrBlock=f"10.{number}.0.0/16")
    message = await rig.fails(
        "CidrLimitExceeded", "AssociateVpcCidrBlock", VpcId=vpc, CidrBlock="10.9.0.0/16"
    )
    assert message == f"This network {vpc} has met its maximum number of allowed CIDRs: 5"


async def test_not_over_a_route(rig: Rig, vpc: str) -> None:
    gateway = (await rig.call("CreateInternetGateway"))["InternetGateway"]["InternetGatewayId"]
    await rig.call("AttachInternetGateway", InternetGatewayId=gateway, VpcId=vpc)
    [table] = await rig.find(RouteTable, vpc=vpc)
    await rig.call(
        "CreateRoute", RouteTableId=table.id, DestinationCidrBlock="10.1.4.0/24", GatewayId=gateway
    )
    await rig.fails("InvalidVpc.Range", "AssociateVpcCidrBlock", VpcId=vpc, CidrBlock="10.1.0.0/16")
    await rig.call("AssociateVpcCidrBlock", VpcId=vpc, CidrBlock="10.1.4.0/25")


async def test_not_over_a_peer(rig: Rig, vpc: str) -> None:
    other = (await rig.call("CreateVpc", CidrBlock="10.1.0.0/16"))["Vpc"]["VpcId"]
    peering = PeeringConnection(
        id="pcx-00000001",
        state=PeeringState.active,
        number=1,
        requester=vpc,
        accepter=other,
        requester_account="123456789012",
        accepter_account="123456789012",
    )
    await rig.put(peering)
    await rig.fails("InvalidVpc.Range", "AssociateVpcCidrBlock", VpcId=vpc, CidrBlock="10.1.4.0/24")
    await rig.call("AssociateVpcCidrBlock", VpcId=vpc, CidrBlock="10.2.0.0/16")


async def test_ipv6(rig: Rig, vpc: str) -> None:
    answer = await rig.call("AssociateVpcCidrBlock", VpcId=vpc, AmazonProvidedIpv6CidrBlock=True)
    association = answer["Ipv6CidrBlockAssociation"]
    assert association["Ipv6CidrBlockState"] == {"State": "associating"}
    assert (await rig.get(Vpc, vpc)).cidrs6 == (association["Ipv6CidrBlock"],)
    [acl] = await rig.find(NetworkAcl, vpc=vpc)
    assert [(e.number, e.egress) for e in acl.entries if e.cidr == "::/0"] == [(101, False), (101, True)]
    [group] = await rig.find(SecurityGroup, vpc=vpc)
    assert [rule.cidr6 for rule in group.rules if rule.egress] == ["", "::/0"]
    message = await rig.fails(
        "CidrLimitExceeded", "AssociateVpcCidrBlock", VpcId=vpc, AmazonProvidedIpv6CidrBlock=True
    )
    assert message.endswith("allowed CIDRs: 1")
    answer = await rig.call("DisassociateVpcCidrBlock", AssociationId=association["AssociationId"])
    assert answer["Ipv6CidrBlockAssociation"]["Ipv6CidrBlockState"] == {"State": "disassociating"}
    assert (await rig.get(Vpc, vpc)).cidrs6 == ()


async def test_ipv6_opens_only_what_was_open(rig: Rig, vpc: str) -> None:
    [group] = await rig.find(SecurityGroup, vpc=vpc)
    await rig.put(replace(group, rules=()))
    await rig.call("AssociateVpcCidrBlock", VpcId=vpc, AmazonProvidedIpv6CidrBlock=True)
    [group] = await rig.find(SecurityGroup, vpc=vpc)
    assert group.rules == ()


def test_ipv6_networks_are_of_the_cloud_and_the_vpc(rig: Rig) -> None:
    one, two = network6(rig.cloud, 1, ()), network6(rig.cloud, (1 << 24) - 1, ())
    other = rig.cloud.__class__(
        name="other", account="1", region="r", zones=("a",), public_cidr="198.18.0.0/24"
    )
    assert one.prefixlen == 56
    assert one.subnet_of(IPv6Network("fd80::/9"))
    assert one.supernet(new_prefix=32) == two.supernet(new_prefix=32)
    assert one != two
    assert not network6(other, 1, ()).overlaps(one)


def test_ipv6_networks_of_a_prefix_that_is_led_to_the_cloud(rig: Rig) -> None:
    cloud = replace(rig.cloud, ipv6_prefix="2001:db8:7::/54")
    taken: list[str] = []
    for number in (1, 2, 5, 6):
        taken.append(str(network6(cloud, number, taken)))
    assert taken == [f"2001:db8:7{each}::/56" for each in (":100", ":200", ":300", "")]
    with pytest.raises(ApiError, match="has 4 for VPCs"):
        network6(cloud, 7, taken)


async def test_disassociate_refuses(rig: Rig, vpc: str) -> None:
    first = vpc.replace("vpc-", "vpc-cidr-assoc-")
    message = await rig.fails("OperationNotPermitted", "DisassociateVpcCidrBlock", AssociationId=first)
    assert message.endswith("may not be disassociated. It is the primary IPv4 CIDR block of the VPC")
    await rig.fails(
        "InvalidVpcCidrBlockAssociationID.NotFound",
        "DisassociateVpcCidrBlock",
        AssociationId="vpc-cidr-assoc-00000001",
    )
    answer = await rig.call("AssociateVpcCidrBlock", VpcId=vpc, CidrBlock="10.1.0.0/24")
    id = answer["CidrBlockAssociation"]["AssociationId"]
    subnet = (await rig.call("CreateSubnet", VpcId=vpc, CidrBlock="10.1.0.0/28"))["Subnet"]
    message = await rig.fails("InvalidCidrBlock.InUse", "DisassociateVpcCidrBlock", AssociationId=id)
    assert message == f"The vpc {vpc} currently has a subnet within CIDR block 10.1.0.0/24"
    await rig.call("DeleteSubnet", SubnetId=subnet["SubnetId"])
    await rig.call("DisassociateVpcCidrBlock", AssociationId=id)
