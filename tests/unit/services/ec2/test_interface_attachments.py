from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import (
    Address,
    Image,
    Instance,
    InstanceState,
    InterfaceAttachment,
    NetworkInterface,
    Subnet,
)

if TYPE_CHECKING:
    from ..conftest import Rig


async def created(rig: Rig, zone: str = "us-east-1a", **input: Any) -> str:
    subnet = (await rig.find(Subnet, zone=zone))[0].id
    answer = await rig.call("CreateNetworkInterface", SubnetId=subnet, **input)
    id: str = answer["NetworkInterface"]["NetworkInterfaceId"]
    return id


async def attached(rig: Rig, interface: str, instance: str, index: int = 1) -> str:
    answer = await rig.call(
        "AttachNetworkInterface", NetworkInterfaceId=interface, InstanceId=instance, DeviceIndex=index
    )
    id: str = answer["AttachmentId"]
    return id


async def test_attach_to_a_running_instance(rig: Rig) -> None:
    instance, interface = await rig.running(), await created(rig, SecondaryPrivateIpAddressCount=1)
    allocation = (await rig.call("AllocateAddress"))["AllocationId"]
    await rig.call("AssociateAddress", AllocationId=allocation, NetworkInterfaceId=interface)
    attachment = await attached(rig, interface, instance)
    record = await rig.get(NetworkInterface, interface)
    assert (record.instance, record.host, record.device_index) == (instance, "host-a", 1)
    assert (record.attachment, record.attachment_state) == (attachment, InterfaceAttachment.attaching)
    assert not record.delete_on_termination
    assert (await rig.get(Address, allocation)).instance == instance
    [described] = (await rig.call("DescribeInstances"))["Reservations"][0]["Instances"]
    first, second = described["NetworkInterfaces"]
    assert first["Attachment"]["DeviceIndex"] == 0
    assert (second["NetworkInterfaceId"], second["Attachment"]["Status"]) == (interface, "attaching")
    assert len(second["PrivateIpAddresses"]) == 2
    assert "Association" in second
    [shown] = (await rig.call("DescribeNetworkInterfaces", NetworkInterfaceIds=[interface]))[
        "NetworkInterfaces"
    ]
    assert (shown["Status"], shown["Attachment"]["Status"]) == ("in-use", "attaching")


async def test_attach_to_a_stopped_instance(rig: Rig) -> None:
    """It has no port before the instance starts."""
    instance, interface = await rig.stopped(), await created(rig)
    await attached(rig, interface, instance, index=5)
    record = await rig.get(NetworkInterface, interface)
    assert (record.instance, record.host, record.device_index) == (instance, None, 5)


async def test_interfaces_are_in_the_order_of_their_device_index(rig: Rig) -> None:
    instance = await rig.running(InstanceType="m5.xlarge")
    later, sooner = await created(rig), await created(rig)
    await attached(rig, later, instance, index=3)
    await attached(rig, sooner, instance, index=2)
    assert (await rig.get(Instance, instance)).interfaces[1:] == (sooner, later)


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("InvalidNetworkInterfaceID.NotFound", {"NetworkInterfaceId": "eni-00000001"}),
        ("InvalidInstanceID.NotFound", {"InstanceId": "i-00000001"}),
        ("InvalidParameterValue", {"DeviceIndex": 0}),
        ("InvalidParameterValue", {"DeviceIndex": -1}),
        ("InvalidParameterValue", {"DeviceIndex": 32}),
        ("UnsupportedOperation", {"NetworkCardIndex": 1}),
    ],
)
async def test_attach_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    instance, interface = await rig.running(), await created(rig)
    given = {"NetworkInterfaceId": interface, "InstanceId": instance, "DeviceIndex": 1, **input}
    await rig.fails(code, "AttachNetworkInterface", **given)


async def test_attach_only_where_it_can_work(rig: Rig) -> None:
    instance = await rig.running()

    async def refused(code: str, interface: str, instance: str = instance) -> None:
        await rig.fails(
            code, "AttachNetworkInterface", NetworkInterfaceId=interface, InstanceId=instance, DeviceIndex=1
        )

    pending = (await rig.launch())["InstanceId"]
    await refused("IncorrectState", await created(rig), pending)
    await refused("InvalidParameterValue", await created(rig, zone="us-east-1b"))
    await refused("PrivateIpAddressLimitExceeded", await created(rig, SecondaryPrivateIpAddressCount=2))
    primary = (await rig.get(Instance, pending)).interfaces[0]
    await refused("InvalidNetworkInterface.InUse", primary)
    await attached(rig, await created(rig), instance)
    third = await created(rig)
    message = await rig.fails(
        "AttachmentLimitExceeded",
        "AttachNetworkInterface",
        NetworkInterfaceId=third,
        InstanceId=instance,
        DeviceIndex=2,
    )
    assert message == "Interface count 3 exceeds the limit for t3.micro"


async def test_a_microvm_must_be_off(rig: Rig) -> None:
    running, stopped = await rig.running(), await rig.stopped()
    for image in await rig.find(Image):
        await rig.change(Image, image.id, machine="microvm")
    interface = await created(rig)
    await rig.fails(
        "UnsupportedOperation",
        "AttachNetworkInterface",
        NetworkInterfaceId=interface,
        InstanceId=running,
        DeviceIndex=1,
    )
    await attached(rig, interface, stopped)


async def test_detach(rig: Rig) -> None:
    instance, interface = await rig.running(), await created(rig)
    attachment = await attached(rig, interface, instance)
    await rig.call("DetachNetworkInterface", AttachmentId=attachment)
    record = await rig.get(NetworkInterface, interface)
    assert (record.attachment_state, record.force_detach) == (InterfaceAttachment.detaching, False)
    assert (record.instance, record.host) == (instance, "host-a")
    await rig.call("DetachNetworkInterface", AttachmentId=attachment)
    await rig.call("DetachNetworkInterface", AttachmentId=attachment, Force=True)
    assert (await rig.get(NetworkInterface, interface)).force_detach
    await rig.call("DetachNetworkInterface", AttachmentId=attachment)
    assert (await rig.get(NetworkInterface, interface)).force_detach


async def test_detach_refuses(rig: Rig) -> None:
    instance = await rig.running()
    [primary] = await rig.find(NetworkInterface, instance=instance)
    await rig.fails("OperationNotPermitted", "DetachNetworkInterface", AttachmentId=primary.attachment)
    await rig.change(Instance, instance, state=InstanceState.stopping)
    await rig.fails("InvalidAttachmentID.NotFound", "DetachNetworkInterface", AttachmentId="eni-attach-1")
    message = await rig.fails("OperationNotPermitted", "DetachNetworkInterface", AttachmentId="ela-attach-1")
    assert message == "You are not allowed to manage 'ela-attach' attachments."


async def test_what_means_the_only_interface_of_an_instance(rig: Rig) -> None:
    """As EC2: with several interfaces these operations need one of them."""
    instance = await rig.running()
    await attached(rig, await created(rig), instance)
    [group] = (await rig.find(NetworkInterface, instance=instance))[0].groups
    allocation = (await rig.call("AllocateAddress"))["AllocationId"]
    for operation, input in (
        ("AssociateAddress", {"AllocationId": allocation}),
        ("ModifyInstanceAttribute", {"SourceDestCheck": {"Value": False}}),
        ("ModifyInstanceAttribute", {"Groups": [group]}),
    ):
        message = await rig.fails("InvalidInstanceID", operation, InstanceId=instance, **input)
        assert message.startswith("There are multiple interfaces attached to instance")


async def test_a_smaller_type_must_have_room_for_them(rig: Rig) -> None:
    instance = await rig.stopped(InstanceType="t3.small")
    [primary] = (await rig.get(Instance, instance)).interfaces
    await rig.call("AssignPrivateIpAddresses", NetworkInterfaceId=primary, SecondaryPrivateIpAddressCount=2)
    change = {"InstanceId": instance, "InstanceType": {"Value": "t3.micro"}}
    await rig.fails("PrivateIpAddressLimitExceeded", "ModifyInstanceAttribute", **change)
    [second] = (await rig.get(NetworkInterface, primary)).secondary[1:]
    await rig.call(
        "UnassignPrivateIpAddresses", NetworkInterfaceId=primary, PrivateIpAddresses=[second.private_ip]
    )
    for index in (1, 2):
        await attached(rig, await created(rig), instance, index)
    await rig.fails("AttachmentLimitExceeded", "ModifyInstanceAttribute", **change)
    change["InstanceType"] = {"Value": "t3.medium"}
    await rig.call("ModifyInstanceAttribute", **change)
