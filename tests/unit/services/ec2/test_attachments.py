from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from gureum.resources import (
    AttachmentState,
    Image,
    Instance,
    InstanceState,
    Snapshot,
    Volume,
    VolumeState,
)
from gureum.services.ec2 import limits

if TYPE_CHECKING:
    from ..conftest import Rig


async def attached(rig: Rig, device: str = "/dev/sdf") -> tuple[str, str]:
    instance, volume = await rig.running(), await rig.volume()
    await rig.call("AttachVolume", VolumeId=volume, InstanceId=instance, Device=device)
    await rig.attached(volume)
    return instance, volume


async def test_attach(rig: Rig) -> None:
    instance, id = await rig.running(), await rig.volume()
    shown = await rig.call("AttachVolume", VolumeId=id, InstanceId=instance, Device="/dev/sdf")
    assert (shown["State"], shown["Device"], shown["InstanceId"]) == ("attaching", "/dev/sdf", instance)
    assert shown["DeleteOnTermination"] is False
    volume = await rig.get(Volume, id)
    assert volume.state is VolumeState.in_use
    assert volume.instances == (instance,)
    [attachment] = volume.attachments
    assert attachment.state is AttachmentState.attaching
    device = (await rig.get(Instance, instance)).devices[-1]
    assert (device.device, device.volume, device.delete_on_termination) == ("/dev/sdf", id, False)


async def test_attach_to_a_stopped_instance(rig: Rig) -> None:
    instance, id = await rig.stopped(), await rig.volume()
    await rig.call("AttachVolume", VolumeId=id, InstanceId=instance, Device="/dev/sdf")
    assert (await rig.get(Volume, id)).instances == (instance,)


async def test_attach_refuses(rig: Rig) -> None:
    instance, volume = await attached(rig)
    free = await rig.volume()
    both = {"VolumeId": free, "InstanceId": instance}
    await rig.fails("InvalidParameterValue", "AttachVolume", **both, Device="/dev/sdf")
    await rig.fails("InvalidParameterValue", "AttachVolume", **both, Device="/dev/xvda")
    await rig.fails("InvalidParameterValue", "AttachVolume", **both, Device="sdf")
    await rig.fails("UnsupportedOperation", "AttachVolume", **both, Device="/dev/sdg", EbsCardIndex=1)
    other = await rig.running()
    message = await rig.fails(
        "VolumeInUse", "AttachVolume", VolumeId=volume, InstanceId=other, Device="/dev/sdg"
    )
    assert message == f"{volume} is already attached to an instance"
    creating = (await rig.call("CreateVolume", AvailabilityZone="us-east-1a", Size=1))["VolumeId"]
    await rig.fails(
        "IncorrectState", "AttachVolume", VolumeId=creating, InstanceId=instance, Device="/dev/sdg"
    )
    far = await rig.volume(AvailabilityZone="us-east-1b")
    await rig.fails(
        "InvalidVolume.ZoneMismatch", "AttachVolume", VolumeId=far, InstanceId=instance, Device="/dev/sdg"
    )
    pending = (await rig.launch())["InstanceId"]
    await rig.fails("IncorrectState", "AttachVolume", VolumeId=free, InstanceId=pending, Device="/dev/sdg")
    await rig.fails(
        "InvalidInstanceID.NotFound",
        "AttachVolume",
        VolumeId=free,
        InstanceId="i-00000001",
        Device="/dev/sdg",
    )
    await rig.fails(
        "InvalidVolume.NotFound", "AttachVolume", VolumeId="vol-00000001", InstanceId=other, Device="/dev/sdg"
    )


async def test_attach_has_a_limit(rig: Rig) -> None:
    instance = await rig.running()
    record = await rig.get(Instance, instance)
    many = record.devices * (limits.VOLUMES_PER_INSTANCE_MAX + 1)
    await rig.change(Instance, instance, devices=many)
    await rig.fails(
        "AttachmentLimitExceeded",
        "AttachVolume",
        VolumeId=await rig.volume(),
        InstanceId=instance,
        Device="/dev/sdz",
    )


async def test_detach(rig: Rig) -> None:
    instance, id = await attached(rig)
    shown = await rig.call("DetachVolume", VolumeId=id)
    assert (shown["State"], shown["InstanceId"]) == ("detaching", instance)
    volume = await rig.get(Volume, id)
    [attachment] = volume.attachments
    assert attachment.state is AttachmentState.detaching
    assert not attachment.force
    # It is the reconcilers that take the device away, when the guest has given it up.
    assert len((await rig.get(Instance, instance)).devices) == 2
    await rig.fails("IncorrectState", "DetachVolume", VolumeId=id)
    await rig.call("DetachVolume", VolumeId=id, Force=True)
    [again] = (await rig.get(Volume, id)).attachments
    assert again is not None
    assert again.force
    await rig.fails("IncorrectState", "DetachVolume", VolumeId=id, Force=True)


async def test_detach_refuses(rig: Rig) -> None:
    instance, id = await attached(rig)
    other = await rig.running()
    await rig.fails("IncorrectState", "DetachVolume", VolumeId=await rig.volume())
    await rig.fails("InvalidAttachment.NotFound", "DetachVolume", VolumeId=id, InstanceId=other)
    await rig.fails("InvalidAttachment.NotFound", "DetachVolume", VolumeId=id, Device="/dev/sdz")
    await rig.fails("InvalidInstanceID.NotFound", "DetachVolume", VolumeId=id, InstanceId="i-00000001")
    root = (await rig.get(Instance, instance)).devices[0].volume
    message = await rig.fails("OperationNotPermitted", "DetachVolume", VolumeId=root)
    assert message == f"Unable to detach root volume '{root}' from instance '{instance}'"


async def test_detach_the_root_of_a_stopped_instance(rig: Rig) -> None:
    instance = await rig.stopped()
    root = (await rig.get(Instance, instance)).devices[0].volume
    shown = await rig.call("DetachVolume", VolumeId=root, InstanceId=instance, Device="/dev/xvda")
    assert shown["State"] == "detaching"


async def test_detach_while_it_is_made(rig: Rig) -> None:
    instance = (await rig.launch(BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1}}]))[
        "InstanceId"
    ]
    extra = (await rig.get(Instance, instance)).devices[1].volume
    await rig.fails("IncorrectState", "DetachVolume", VolumeId=extra)
    await rig.change(Instance, instance, state=InstanceState.running)
    await rig.fails("IncorrectState", "DetachVolume", VolumeId=extra)


async def test_a_microvm_has_no_hot_plug(rig: Rig) -> None:
    running, free = await rig.running(), await rig.volume()
    stopped = await rig.stopped()
    kept, volume = await attached(rig)
    image = await rig.get(Image, (await rig.get(Instance, running)).image)
    await rig.put(replace(image, machine="microvm"))
    both = {"VolumeId": free, "Device": "/dev/sdf"}
    message = await rig.fails("UnsupportedOperation", "AttachVolume", **both, InstanceId=running)
    assert "Stop it first" in message
    await rig.fails("UnsupportedOperation", "DetachVolume", VolumeId=volume, InstanceId=kept)
    await rig.call("AttachVolume", **both, InstanceId=stopped)


async def test_a_local_volume_of_another_host_is_refused(rig: Rig) -> None:
    instance, volume = await rig.running(), await rig.volume()
    await rig.put(replace(await rig.get(Instance, instance), host="host-0"))
    await rig.put(replace(await rig.get(Volume, volume), host="host-1"))
    await rig.fails(
        "UnsupportedOperation", "AttachVolume", VolumeId=volume, InstanceId=instance, Device="/dev/sdf"
    )


async def test_a_volume_of_a_shared_pool_comes_to_the_instances_host(rig: Rig) -> None:
    instance, volume = await rig.running(), await rig.volume()
    await rig.put(replace(await rig.get(Instance, instance), host="host-0"))
    await rig.put(replace(await rig.get(Volume, volume), host="host-1", pool="san"))
    snapshot = (await rig.call("CreateSnapshot", VolumeId=volume))["SnapshotId"]
    await rig.call("AttachVolume", VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
    assert (await rig.get(Volume, volume)).host == "host-0"
    waiting = await rig.get(Snapshot, snapshot)
    assert (waiting.host, waiting.former) == ("host-0", ("host-1",))
