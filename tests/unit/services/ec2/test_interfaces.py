from __future__ import annotations

from typing import TYPE_CHECKING

from gureum.resources import NetworkInterface

if TYPE_CHECKING:
    from ..conftest import Rig


async def test_interface_of_an_instance(rig: Rig) -> None:
    instance = await rig.running()
    [shown] = (await rig.call("DescribeNetworkInterfaces"))["NetworkInterfaces"]
    [record] = await rig.find(NetworkInterface)
    assert shown["Attachment"]["InstanceId"] == instance
    assert shown["Attachment"]["DeviceIndex"] == 0
    assert (shown["Status"], shown["MacAddress"]) == ("in-use", record.mac)
    assert shown["Association"]["PublicIp"] == record.public_ip
    assert "AllocationId" not in shown["Association"]
    assert shown["Groups"][0]["GroupName"] == "default"
    assert shown["TagSet"] == []


async def test_interface_with_an_elastic_address(rig: Rig) -> None:
    instance = await rig.running()
    allocation = (await rig.call("AllocateAddress"))["AllocationId"]
    association = await rig.call("AssociateAddress", AllocationId=allocation, InstanceId=instance)
    [shown] = (await rig.call("DescribeNetworkInterfaces"))["NetworkInterfaces"]
    assert shown["Association"]["AllocationId"] == allocation
    assert shown["Association"]["AssociationId"] == association["AssociationId"]


async def test_interface_without_an_instance(rig: Rig) -> None:
    await rig.running()
    [record] = await rig.find(NetworkInterface)
    await rig.change(NetworkInterface, record.id, instance=None, public_ip="")
    [shown] = (await rig.call("DescribeNetworkInterfaces"))["NetworkInterfaces"]
    assert shown["Status"] == "available"
    assert not {"Attachment", "Association"} & set(shown)


async def test_filters(rig: Rig) -> None:
    instance = await rig.running()
    await rig.running()
    [record] = await rig.find(NetworkInterface, instance=instance)
    for name, value in {
        "attachment.instance-id": instance,
        "private-ip-address": record.private_ip,
        "network-interface-id": record.id,
        "mac-address": record.mac,
        "association.public-ip": record.public_ip,
    }.items():
        answer = await rig.call("DescribeNetworkInterfaces", Filters=[{"Name": name, "Values": [value]}])
        assert [each["NetworkInterfaceId"] for each in answer["NetworkInterfaces"]] == [record.id], name
    for name, value in {"group-id": record.groups[0], "vpc-id": record.vpc, "status": "in-use"}.items():
        answer = await rig.call("DescribeNetworkInterfaces", Filters=[{"Name": name, "Values": [value]}])
        assert len(answer["NetworkInterfaces"]) == 2, name


async def test_unknown(rig: Rig) -> None:
    message = await rig.fails(
        "InvalidNetworkInterfaceID.NotFound",
        "DescribeNetworkInterfaces",
        NetworkInterfaceIds=["eni-00000001"],
    )
    assert message == "The networkInterface ID 'eni-00000001' does not exist"


async def test_attributes(rig: Rig) -> None:
    await rig.running()
    [record] = await rig.find(NetworkInterface)

    async def attribute(name: str) -> object:
        answer = await rig.call(
            "DescribeNetworkInterfaceAttribute", NetworkInterfaceId=record.id, Attribute=name
        )
        assert answer.pop("NetworkInterfaceId") == record.id
        [value] = answer.values()
        return value

    assert await attribute("description") == {"Value": ""}
    assert await attribute("sourceDestCheck") == {"Value": True}
    assert await attribute("groupSet") == [{"GroupId": record.groups[0], "GroupName": "default"}]
    assert await attribute("associatePublicIpAddress") is True
    await rig.fails(
        "InvalidParameterValue",
        "DescribeNetworkInterfaceAttribute",
        NetworkInterfaceId=record.id,
        Attribute="colour",
    )
    await rig.fails(
        "InvalidParameterCombination", "DescribeNetworkInterfaceAttribute", NetworkInterfaceId=record.id
    )
