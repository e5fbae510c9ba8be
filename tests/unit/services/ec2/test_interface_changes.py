from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import (
    Address,
    CidrAssociation,
    FlowLog,
    Instance,
    NetworkInterface,
    SecurityGroup,
    Subnet,
)
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig

NETWORK6 = "fd00:1:2:3::/64"


async def subnet_of(rig: Rig, zone: str = "us-east-1a") -> Subnet:
    return (await rig.find(Subnet, zone=zone))[0]


async def created(rig: Rig, **input: Any) -> dict[str, Any]:
    if "SubnetId" not in input:
        input["SubnetId"] = (await subnet_of(rig)).id
    shown: dict[str, Any] = (await rig.call("CreateNetworkInterface", **input))["NetworkInterface"]
    return shown


async def with_ipv6(rig: Rig, **changes: Any) -> Subnet:
    subnet = await subnet_of(rig)
    ipv6 = CidrAssociation(id="subnet-cidr-assoc-1", cidr=NETWORK6)
    return await rig.change(Subnet, subnet.id, ipv6=ipv6, **changes)


async def test_create(rig: Rig) -> None:
    tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "a", "Value": "b"}]}]
    shown = await created(rig, Description="front", TagSpecifications=tags)
    record = await rig.get(NetworkInterface, shown["NetworkInterfaceId"])
    assert (shown["Status"], shown["Description"], shown["TagSet"]) == ("available", "front", tags[0]["Tags"])
    assert not {"Attachment", "Association"} & set(shown)
    assert record.private_ip == shown["PrivateIpAddress"] == "172.31.0.4"
    assert shown["Groups"][0]["GroupName"] == "default"
    assert (record.instance, record.host, record.public_ip) == (None, None, "")
    [again] = (await rig.call("DescribeNetworkInterfaces"))["NetworkInterfaces"]
    assert again == shown


async def test_create_with_addresses(rig: Rig) -> None:
    subnet = await with_ipv6(rig)
    other = await created(rig, PrivateIpAddress="172.31.0.5")
    shown = await created(
        rig,
        SubnetId=subnet.id,
        PrivateIpAddresses=[
            {"PrivateIpAddress": "172.31.0.9", "Primary": False},
            {"PrivateIpAddress": "172.31.0.4", "Primary": True},
        ],
        Ipv6Addresses=[{"Ipv6Address": "FD00:1:2:3:0:0:0:10"}],
    )
    private = [(each["PrivateIpAddress"], each["Primary"]) for each in shown["PrivateIpAddresses"]]
    assert private == [("172.31.0.4", True), ("172.31.0.9", False)]
    assert shown["Ipv6Addresses"] == [{"Ipv6Address": "fd00:1:2:3::10", "IsPrimaryIpv6": False}]
    counted = await created(rig, SecondaryPrivateIpAddressCount=3, Ipv6AddressCount=2)
    private = [each["PrivateIpAddress"] for each in counted["PrivateIpAddresses"]]
    assert private == ["172.31.0.6", "172.31.0.7", "172.31.0.8", "172.31.0.10"]
    assert len({each["Ipv6Address"] for each in counted["Ipv6Addresses"]}) == 2
    assert other["PrivateIpAddress"] == "172.31.0.5"
    found = await rig.call(
        "DescribeNetworkInterfaces", Filters=[{"Name": "ipv6-addresses.ipv6-address", "Values": ["*::10"]}]
    )
    assert [each["NetworkInterfaceId"] for each in found["NetworkInterfaces"]] == [
        shown["NetworkInterfaceId"]
    ]


async def test_the_subnet_may_give_an_ipv6_address(rig: Rig) -> None:
    await with_ipv6(rig, assign_ipv6=True)
    assert len((await created(rig))["Ipv6Addresses"]) == 1
    assert (await created(rig, Ipv6AddressCount=0))["Ipv6Addresses"] == []


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("InvalidSubnetID.NotFound", {"SubnetId": "subnet-00000001"}),
        ("InvalidGroup.NotFound", {"Groups": ["sg-00000001"]}),
        ("InvalidParameterValue", {"PrivateIpAddress": "10.0.0.1"}),
        ("InvalidParameterValue", {"PrivateIpAddress": "172.31.0.1"}),
        ("InvalidParameterValue", {"Ipv6AddressCount": 1}),
        ("InvalidParameterValue", {"SecondaryPrivateIpAddressCount": -1}),
        ("InvalidParameterValue", {"PrivateIpAddresses": [{"Primary": True}]}),
        (
            "InvalidParameterValue",
            {"PrivateIpAddresses": [{"PrivateIpAddress": "172.31.0.9", "Primary": False}]},
        ),
        (
            "InvalidParameterValue",
            {"PrivateIpAddresses": [{"PrivateIpAddress": "172.31.0.9"}, {"PrivateIpAddress": "172.31.0.9"}]},
        ),
        (
            "InvalidParameterCombination",
            {
                "PrivateIpAddress": "172.31.0.8",
                "PrivateIpAddresses": [{"PrivateIpAddress": "172.31.0.9", "Primary": True}],
            },
        ),
        (
            "InvalidParameterCombination",
            {
                "SecondaryPrivateIpAddressCount": 1,
                "PrivateIpAddress": "172.31.0.8",
                "PrivateIpAddresses": [{"PrivateIpAddress": "172.31.0.9", "Primary": False}],
            },
        ),
        (
            "InvalidParameterCombination",
            {"Ipv6AddressCount": 1, "Ipv6Addresses": [{"Ipv6Address": "fd00::1"}]},
        ),
        ("PrivateIpAddressLimitExceeded", {"SecondaryPrivateIpAddressCount": 50}),
        ("UnsupportedOperation", {"Ipv4PrefixCount": 1}),
        ("UnsupportedOperation", {"InterfaceType": "efa"}),
        ("UnsupportedOperation", {"EnablePrimaryIpv6": True}),
        ("InvalidParameterValue", {"Description": "x" * 256}),
        (
            "InvalidParameterValue",
            {"TagSpecifications": [{"ResourceType": "vpc", "Tags": [{"Key": "a", "Value": "b"}]}]},
        ),
    ],
)
async def test_create_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    given = {"SubnetId": (await subnet_of(rig)).id, **input}
    await rig.fails(code, "CreateNetworkInterface", **given)


@pytest.mark.parametrize("address", ["x", "fd00:9::9", "fd00:1:2:3::3", "fd00:1:2:3:ffff:ffff:ffff:ffff"])
async def test_create_refuses_an_ipv6_address(rig: Rig, address: str) -> None:
    subnet = await with_ipv6(rig)
    await rig.fails(
        "InvalidParameterValue",
        "CreateNetworkInterface",
        SubnetId=subnet.id,
        Ipv6Addresses=[{"Ipv6Address": address}],
    )


async def test_create_refuses_an_address_in_use(rig: Rig) -> None:
    subnet = await with_ipv6(rig)
    await created(rig, PrivateIpAddress="172.31.0.9", Ipv6Addresses=[{"Ipv6Address": "fd00:1:2:3::9"}])
    for input in (
        {"PrivateIpAddress": "172.31.0.9"},
        {"PrivateIpAddresses": [{"PrivateIpAddress": "172.31.0.8"}, {"PrivateIpAddress": "172.31.0.9"}]},
        {"Ipv6Addresses": [{"Ipv6Address": "fd00:1:2:3:0::9"}]},
    ):
        await rig.fails("InvalidIPAddress.InUse", "CreateNetworkInterface", SubnetId=subnet.id, **input)


async def test_limit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INTERFACES_MAX", 1)
    id = (await created(rig))["SubnetId"]
    await rig.fails("NetworkInterfaceLimitExceeded", "CreateNetworkInterface", SubnetId=id)


async def test_delete(rig: Rig) -> None:
    id = (await created(rig))["NetworkInterfaceId"]
    allocation = (await rig.call("AllocateAddress"))["AllocationId"]
    await rig.call("AssociateAddress", AllocationId=allocation, NetworkInterfaceId=id)
    log = {"ResourceType": "NetworkInterface", "ResourceIds": [id], "TrafficType": "ALL"}
    assert (await rig.call("CreateFlowLogs", **log))["FlowLogIds"]
    await rig.call("DeleteNetworkInterface", NetworkInterfaceId=id)
    assert await rig.find(NetworkInterface) == []
    assert await rig.find(FlowLog) == []
    address = await rig.get(Address, allocation)
    assert (address.association, address.interface, address.private_ip) == ("", "", "")
    await rig.fails("InvalidNetworkInterfaceID.NotFound", "DeleteNetworkInterface", NetworkInterfaceId=id)


async def test_what_is_in_use_is_not_deleted(rig: Rig) -> None:
    await rig.running()
    [record] = await rig.find(NetworkInterface)
    message = await rig.fails("InvalidParameterValue", "DeleteNetworkInterface", NetworkInterfaceId=record.id)
    assert message == f"Network interface '{record.id}' is currently in use."
    managed = (await created(rig))["NetworkInterfaceId"]
    await rig.change(NetworkInterface, managed, requester="nat-1", type="nat_gateway")
    await rig.fails("InvalidParameterValue", "DeleteNetworkInterface", NetworkInterfaceId=managed)


async def test_modify(rig: Rig) -> None:
    id = (await created(rig))["NetworkInterfaceId"]

    async def modified(**input: Any) -> NetworkInterface:
        await rig.call("ModifyNetworkInterfaceAttribute", NetworkInterfaceId=id, **input)
        return await rig.get(NetworkInterface, id)

    group = (await rig.call("CreateSecurityGroup", GroupName="g", Description="d"))["GroupId"]
    assert (await modified(Description={"Value": "x"})).description == "x"
    assert not (await modified(SourceDestCheck={"Value": False})).source_dest_check
    assert (await modified(Groups=[group])).groups == (group,)


async def test_modify_the_interface_of_an_instance(rig: Rig) -> None:
    instance = await rig.running()
    [record] = await rig.find(NetworkInterface)
    public_ip = record.public_ip

    async def modified(**input: Any) -> NetworkInterface:
        await rig.call("ModifyNetworkInterfaceAttribute", NetworkInterfaceId=record.id, **input)
        return await rig.get(NetworkInterface, record.id)

    await modified(SourceDestCheck={"Value": False})
    assert not (await rig.get(Instance, instance)).source_dest_check
    kept = {"AttachmentId": record.attachment, "DeleteOnTermination": False}
    assert not (await modified(Attachment=kept)).delete_on_termination
    without = await modified(AssociatePublicIpAddress=False)
    assert (without.public_ip, without.auto_public) == ("", False)
    anew = await modified(AssociatePublicIpAddress=True)
    assert anew.auto_public
    assert anew.public_ip not in ("", public_ip)


async def test_modify_refuses(rig: Rig) -> None:
    id = (await created(rig))["NetworkInterfaceId"]
    [vpc_group] = await rig.find(SecurityGroup)
    foreign = SecurityGroup(
        id="sg-00000009", account=vpc_group.account, name="x", description="x", vpc="vpc-00000009"
    )
    await rig.put(foreign)
    for code, input in (
        ("InvalidParameterCombination", {}),
        ("InvalidParameterCombination", {"Description": {"Value": "x"}, "SourceDestCheck": {"Value": True}}),
        ("InvalidParameterValue", {"Groups": []}),
        ("InvalidParameter", {"Groups": [foreign.id]}),
        ("MissingParameter", {"SourceDestCheck": {}}),
        ("MissingParameter", {"Attachment": {"DeleteOnTermination": True}}),
        (
            "InvalidAttachmentID.NotFound",
            {"Attachment": {"AttachmentId": "eni-attach-1", "DeleteOnTermination": True}},
        ),
        ("InvalidParameterValue", {"AssociatePublicIpAddress": True}),
        ("UnsupportedOperation", {"EnablePrimaryIpv6": True}),
    ):
        await rig.fails(code, "ModifyNetworkInterfaceAttribute", NetworkInterfaceId=id, **input)
    await rig.change(NetworkInterface, id, requester="nat-1", type="nat_gateway")
    await rig.fails(
        "OperationNotPermitted",
        "ModifyNetworkInterfaceAttribute",
        NetworkInterfaceId=id,
        Description={"Value": "x"},
    )
