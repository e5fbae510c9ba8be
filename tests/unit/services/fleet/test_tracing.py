from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.resources import NetworkInterface

OUTSIDE = "203.0.113.9"


async def trace(rig: Any, source: str, destination: str, **values: Any) -> dict[str, Any]:
    given = {"Protocol": "tcp", "Port": 22, **values}
    return await rig.call(  # type: ignore[no-any-return]
        "TraceNetworkPath", service="fleet", Source=source, Destination=destination, **given
    )


async def interface_of(rig: Any, instance: str) -> NetworkInterface:
    return (await rig.find(NetworkInterface, instance=instance))[0]  # type: ignore[no-any-return]


async def test_members_of_a_group_reach_each_other(rig: Any) -> None:
    one, other = await rig.running(), await rig.running()
    answer = await trace(rig, one, other)
    assert answer["Reachable"]
    assert answer["Source"] == (await interface_of(rig, one)).id
    assert answer["Destination"] == (await interface_of(rig, other)).private_ip
    assert [hop["Step"] for hop in answer["Hops"]] == [
        "sender",
        "security groups, egress",
        "route",
        "security groups, ingress",
        "receiver",
    ]
    assert answer["Hops"][-1]["Explanation"] == f"{other} on host-a"


async def test_it_gets_to_who_was_asked_for(rig: Any) -> None:
    """The private address of another VPC is nobody's here: the way out of the cloud is none to it."""
    one, other = await rig.running(), await rig.running()
    interface = await interface_of(rig, other)
    vpc = (await rig.call("CreateVpc", CidrBlock="10.9.0.0/16"))["Vpc"]["VpcId"]
    subnet = await rig.call("CreateSubnet", VpcId=vpc, CidrBlock="10.9.1.0/24")
    await rig.put(
        replace(interface, vpc=vpc, subnet=subnet["Subnet"]["SubnetId"], private_ip="10.9.1.5", groups=())
    )
    answer = await trace(rig, one, other)
    assert not answer["Reachable"]
    assert answer["Explanation"].startswith(f"{interface.id}: not reached: 10.9.1.5 is its address inside")
    assert f"public address {interface.public_ip}" in answer["Explanation"]
    out = await trace(rig, one, OUTSIDE)
    assert out["Reachable"]
    assert out["Hops"][-1]["ComponentId"] == "outside"


async def test_ipv6_from_outside(rig: Any) -> None:
    one = await rig.running()
    interface = await interface_of(rig, one)
    vpc = interface.vpc
    await rig.call("AssociateVpcCidrBlock", VpcId=vpc, AmazonProvidedIpv6CidrBlock=True)
    [found] = (await rig.call("DescribeVpcs", VpcIds=[vpc]))["Vpcs"]
    network = found["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"].replace("/56", "/64")
    await rig.call("AssociateSubnetCidrBlock", SubnetId=interface.subnet, Ipv6CidrBlock=network)
    given = await rig.call("AssignIpv6Addresses", NetworkInterfaceId=interface.id, Ipv6AddressCount=1)
    [address] = given["AssignedIpv6Addresses"]
    permission = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}
    await rig.call("AuthorizeSecurityGroupIngress", GroupId=interface.groups[0], IpPermissions=[permission])
    tables = (await rig.call("DescribeRouteTables"))["RouteTables"]
    [table] = [each for each in tables if each["VpcId"] == vpc]
    gateway = next(each["GatewayId"] for each in table["Routes"] if each["GatewayId"].startswith("igw-"))
    assert not (await trace(rig, "2001:db8::9", address))["Reachable"]
    way = {"RouteTableId": table["RouteTableId"], "DestinationIpv6CidrBlock": "::/0"}
    await rig.call("CreateRoute", **way, GatewayId=gateway)
    assert (await trace(rig, "2001:db8::9", address))["Reachable"]
    assert (await trace(rig, "2001:db8::9", one))["Destination"] == address
    out = await trace(rig, one, "2001:db8::9")
    assert out["Reachable"]
    assert any("hidden behind its host's address" in hop["Explanation"] for hop in out["Hops"])
    made = await rig.call("CreateEgressOnlyInternetGateway", VpcId=vpc)
    id = made["EgressOnlyInternetGateway"]["EgressOnlyInternetGatewayId"]
    await rig.call("ReplaceRoute", **way, EgressOnlyInternetGatewayId=id)
    assert (await trace(rig, one, "2001:db8::9"))["Reachable"]
    refused = await trace(rig, "2001:db8::9", address)
    assert "egress-only" in refused["Explanation"]


async def test_the_rule_that_is_missing_is_told(rig: Any) -> None:
    one = await rig.running()
    group = (await rig.call("CreateSecurityGroup", GroupName="g", Description="d"))["GroupId"]
    other = await rig.running(SecurityGroupIds=[group])
    answer = await trace(rig, one, other)
    assert not answer["Reachable"]
    assert group in answer["Explanation"]
    permission = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    await rig.call("AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[permission])
    assert (await trace(rig, one, other))["Reachable"]
    public = (await interface_of(rig, other)).public_ip
    assert (await trace(rig, OUTSIDE, public))["Reachable"]
    assert (await trace(rig, OUTSIDE, other))["Destination"] == public
    assert not (await trace(rig, OUTSIDE, public, Port=23))["Reachable"]


@pytest.mark.parametrize(
    "values",
    [
        {"Port": None},
        {"Protocol": "tcpp"},
        {"Protocol": "icmp", "Port": 1},
        {"Destination": "somewhere"},
        {"Source": "192.0.2.1", "Destination": "192.0.2.2"},
        {"Destination": "fd00::1"},
        {"Destination": "169.254.169.254"},
        {"Destination": "172.31.0.2"},
        {"Destination": "172.31.0.1"},
        {"Destination": "fd00:ec2::253"},
    ],
)
async def test_wrong_questions(rig: Any, values: dict[str, Any]) -> None:
    given = {"Source": await rig.running(), "Destination": OUTSIDE, "Protocol": "tcp", "Port": 1, **values}
    given = {name: value for name, value in given.items() if value is not None}
    await rig.fails("InvalidParameterValueException", "TraceNetworkPath", service="fleet", **given)


async def test_what_does_not_run_is_not_reached(rig: Any) -> None:
    one = await rig.running()
    other = (await rig.launch())["InstanceId"]
    await rig.fails(
        "InvalidStateException",
        "TraceNetworkPath",
        service="fleet",
        Source=one,
        Destination=other,
        Port=22,
    )


async def test_without_a_public_address_nothing_comes_from_outside(rig: Any) -> None:
    one = await rig.running()
    interface = await interface_of(rig, one)
    await rig.put(replace(interface, public_ip=""))
    answer = await trace(rig, OUTSIDE, one)
    assert not answer["Reachable"]
    [hop] = answer["Hops"]
    assert (hop["ComponentId"], hop["Passes"]) == (interface.id, False)
    assert "no public address" in hop["Explanation"]
    assert (answer["Source"], answer["Destination"]) == (OUTSIDE, interface.private_ip)
    await rig.fails(
        "InvalidParameterValueException",
        "TraceNetworkPath",
        service="fleet",
        Source="nowhere",
        Destination=one,
        Port=22,
    )
