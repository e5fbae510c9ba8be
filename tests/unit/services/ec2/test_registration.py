from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import Image, ImageState, Snapshot, SnapshotState, Volume

if TYPE_CHECKING:
    from ..conftest import Rig

OWN = "ami-00000000000000001"
OF_IMAGE = "snap-00000000000000001"


def root(snapshot: str, **ebs: Any) -> dict[str, Any]:
    device = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot, **ebs}}
    return {"Name": "mine", "BlockDeviceMappings": [device]}


async def test_register(rig: Rig) -> None:
    snapshot = await rig.snapshot(await rig.volume(Size=3))
    id = (await rig.call("RegisterImage", **root(snapshot, VolumeSize=4), EnaSupport=True))["ImageId"]
    [shown] = (await rig.call("DescribeImages", ImageIds=[id]))["Images"]
    assert (shown["Name"], shown["State"], shown["EnaSupport"], shown["Public"]) == (
        "mine",
        "available",
        True,
        False,
    )
    [device] = shown["BlockDeviceMappings"]
    assert (device["DeviceName"], device["Ebs"]["VolumeSize"]) == ("/dev/sda1", 4)
    instance = await rig.launch(ImageId=id)
    [volume] = await rig.find(Volume, instances=instance["InstanceId"])
    assert (volume.source, volume.size_bytes) == (snapshot, 4 << 30)
    assert instance["RootDeviceName"] == "/dev/sda1"


async def test_what_began_as_a_built_image_boots_as_that(rig: Rig) -> None:
    await rig.change(Image, OWN, kernel="/k", initrd="/i")
    await rig.running()
    [volume] = await rig.find(Volume)
    snapshot = await rig.snapshot(volume.id)
    again = await rig.snapshot(await rig.volume(SnapshotId=snapshot, Size=2))
    for name, source in (("one", snapshot), ("two", again), ("three", OF_IMAGE)):
        id = (await rig.call("RegisterImage", **{**root(source), "Name": name}))["ImageId"]
        image = await rig.get(Image, id)
        assert (image.kernel, image.initrd, image.disk) == ("/k", "/i", "")


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("MissingParameter", {"Name": "mine"}),
        ("InvalidBlockDeviceMapping", {**root(OF_IMAGE), "RootDeviceName": "/dev/sdb"}),
        ("InvalidParameterValue", {**root(OF_IMAGE), "RootDeviceName": "disk"}),
        ("InvalidBlockDeviceMapping", root(OF_IMAGE, VolumeSize=1)),
        ("InvalidBlockDeviceMapping", root(OF_IMAGE, Encrypted=True)),
        ("InvalidSnapshot.NotFound", root("snap-00000009")),
        ("InvalidAMIName.Duplicate", {**root(OF_IMAGE), "Name": "tiny"}),
        ("UnsupportedOperation", {**root(OF_IMAGE), "Architecture": "arm64"}),
        ("UnsupportedOperation", {**root(OF_IMAGE), "VirtualizationType": "paravirtual"}),
        ("UnsupportedOperation", {**root(OF_IMAGE), "BootMode": "uefi"}),
        ("UnsupportedOperation", {**root(OF_IMAGE), "ImageLocation": "bucket/manifest"}),
        ("UnsupportedOperation", {**root(OF_IMAGE), "KernelId": "aki-1"}),
    ],
)
async def test_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    await rig.fails(code, "RegisterImage", **input)


async def test_deregister(rig: Rig) -> None:
    snapshot = await rig.snapshot(await rig.volume())
    id = (await rig.call("RegisterImage", **root(snapshot)))["ImageId"]
    assert await rig.call("DeregisterImage", ImageId=id) == {"Return": True}
    await rig.fails("InvalidAMIID.NotFound", "DescribeImages", ImageIds=[id])
    await rig.fails("InvalidAMIID.NotFound", "DeregisterImage", ImageId=id)
    assert (await rig.get(Snapshot, snapshot)).state is SnapshotState.completed
    assert (await rig.call("RegisterImage", **root(snapshot)))["ImageId"] != id


async def test_deregister_with_snapshots(rig: Rig) -> None:
    own = await rig.snapshot(await rig.volume())
    both = await rig.snapshot(await rig.volume())
    other = {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": both}}
    input = root(own)
    mappings = [*input["BlockDeviceMappings"], other]
    id = (await rig.call("RegisterImage", **{**input, "BlockDeviceMappings": mappings}))["ImageId"]
    await rig.call("RegisterImage", **{**root(both), "Name": "also"})
    answer = await rig.call("DeregisterImage", ImageId=id, DeleteAssociatedSnapshots=True)
    assert answer["DeleteSnapshotResults"] == [
        {"SnapshotId": own, "ReturnCode": "success"},
        {"SnapshotId": both, "ReturnCode": "skipped"},
    ]
    assert (await rig.get(Snapshot, own)).state is SnapshotState.deleting
    assert (await rig.get(Snapshot, both)).state is SnapshotState.completed


async def test_deregister_refuses(rig: Rig) -> None:
    await rig.change(Image, OWN, account="")
    await rig.fails("AuthFailure", "DeregisterImage", ImageId=OWN)


async def test_deregister_while_it_is_made(rig: Rig) -> None:
    instance = await rig.running()
    id = (await rig.call("CreateImage", InstanceId=instance, Name="gold"))["ImageId"]
    [snapshot] = (await rig.get(Image, id)).snapshots
    await rig.call("DeregisterImage", ImageId=id)
    await rig.fails("InvalidAMIID.NotFound", "DescribeImages", ImageIds=[id])
    image = await rig.get(Image, id)
    assert (image.state, image.cancelled) == (ImageState.pending, True)
    await rig.call("DeleteSnapshot", SnapshotId=snapshot)
