from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import Image, ImageState, Instance, Snapshot, Volume

if TYPE_CHECKING:
    from ..conftest import Rig

OWN = "ami-00000000000000001"
EXTRA = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 8, "VolumeType": "gp3", "Iops": 4000}}]


async def snapshots_of(rig: Rig, id: str) -> list[Snapshot]:
    image = await rig.get(Image, id)
    return [await rig.get(Snapshot, each) for each in image.snapshots]


async def test_of_a_stopped_instance(rig: Rig) -> None:
    await rig.change(Image, OWN, kernel="/k", cmdline="quiet", machine="q35", login="root")
    instance = await rig.stopped(BlockDeviceMappings=EXTRA)
    tags = [
        {"ResourceType": "image", "Tags": [{"Key": "a", "Value": "i"}]},
        {"ResourceType": "snapshot", "Tags": [{"Key": "a", "Value": "s"}]},
    ]
    id = (await rig.call("CreateImage", InstanceId=instance, Name="gold", TagSpecifications=tags))["ImageId"]
    image = await rig.get(Image, id)
    assert (image.state, image.disk, image.kernel, image.cmdline) == (ImageState.pending, "", "/k", "quiet")
    assert image.tags == {"a": "i"}
    taken = await snapshots_of(rig, id)
    assert [each.volume for each in taken] == [
        each.volume for each in (await rig.get(Instance, instance)).devices
    ]
    assert all(each.host == "host-a" and not each.held and each.tags == {"a": "s"} for each in taken)
    assert taken[0].description == f"Created by CreateImage({instance}) for {id}"
    [shown] = (await rig.call("DescribeImages", ImageIds=[id]))["Images"]
    assert (shown["State"], shown["SourceInstanceId"], shown["RootDeviceName"]) == (
        "pending",
        instance,
        "/dev/xvda",
    )
    root, data = shown["BlockDeviceMappings"]
    assert (root["Ebs"]["VolumeSize"], root["Ebs"]["SnapshotId"]) == (2, taken[0].id)
    assert (data["DeviceName"], data["Ebs"]["Iops"]) == ("/dev/sdf", 4000)
    message = await rig.fails("InvalidSnapshot.InUse", "DeleteSnapshot", SnapshotId=taken[1].id)
    assert id in message


async def test_of_a_running_instance(rig: Rig) -> None:
    """It is shut down for it, unless NoReboot says not."""
    instance = await rig.running()
    id = (await rig.call("CreateImage", InstanceId=instance, Name="gold"))["ImageId"]
    assert (await rig.get(Instance, instance)).capturing == (id,)
    [snapshot] = await snapshots_of(rig, id)
    assert (snapshot.after, snapshot.host, snapshot.held) == (instance, None, True)
    other = (await rig.call("CreateImage", InstanceId=instance, Name="other"))["ImageId"]
    assert (await rig.get(Instance, instance)).capturing == (id, other)
    instance = await rig.running()
    id = (await rig.call("CreateImage", InstanceId=instance, Name="live", NoReboot=True))["ImageId"]
    assert (await rig.get(Instance, instance)).capturing == ()
    [snapshot] = await snapshots_of(rig, id)
    assert (snapshot.host, snapshot.held) == ("host-a", False)


async def test_devices_as_the_request_says(rig: Rig) -> None:
    instance = await rig.stopped(BlockDeviceMappings=EXTRA)
    other = await rig.snapshot(await rig.volume(Size=5))
    mappings = [
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8, "DeleteOnTermination": False}},
        {"DeviceName": "/dev/sdf", "NoDevice": ""},
        {"DeviceName": "/dev/sdg", "Ebs": {"SnapshotId": other}},
        {"DeviceName": "/dev/sdh", "Ebs": {"VolumeSize": 1, "Encrypted": True}},
        {"DeviceName": "/dev/sdi", "VirtualName": "ephemeral0"},
    ]
    answer = await rig.call("CreateImage", InstanceId=instance, Name="gold", BlockDeviceMappings=mappings)
    image = await rig.get(Image, answer["ImageId"])
    shown = {each.device: each for each in image.devices}
    assert list(shown) == ["/dev/xvda", "/dev/sdg", "/dev/sdh"]
    assert (shown["/dev/xvda"].size_gib, shown["/dev/xvda"].delete_on_termination) == (8, False)
    assert (shown["/dev/sdg"].snapshot, shown["/dev/sdg"].size_gib) == (other, 5)
    assert shown["/dev/sdh"].encrypted


async def test_launch_of_it(rig: Rig) -> None:
    instance = await rig.stopped(BlockDeviceMappings=EXTRA)
    id = (await rig.call("CreateImage", InstanceId=instance, Name="gold"))["ImageId"]
    await rig.fails("IncorrectState", "RunInstances", ImageId=id, MinCount=1, MaxCount=1)
    taken = await snapshots_of(rig, id)
    for each in taken:
        await rig.change(Snapshot, each.id, state="completed")
    await rig.change(Image, id, state=ImageState.available)
    launched = (await rig.launch(ImageId=id))["InstanceId"]
    devices = (await rig.get(Instance, launched)).devices
    volumes = [await rig.get(Volume, each.volume) for each in devices]
    assert [each.source for each in volumes] == [each.id for each in taken]
    assert [each.size_bytes >> 30 for each in volumes] == [2, 8]
    assert volumes[1].iops == 4000
    assert all(each.origin == OWN for each in volumes[:1])
    no_data = [{"DeviceName": "/dev/sdf", "NoDevice": ""}]
    launched = (await rig.launch(ImageId=id, BlockDeviceMappings=no_data))["InstanceId"]
    assert len((await rig.get(Instance, launched)).devices) == 1


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("InvalidAMIName.Malformed", {"Name": "with*star"}),
        ("InvalidAMIName.Malformed", {"Name": "x" * 129}),
        ("InvalidAMIName.Duplicate", {"Name": "tiny"}),
        ("InvalidParameterValue", {"Name": "gold", "Description": "x" * 256}),
        ("UnsupportedOperation", {"Name": "gold", "SnapshotLocation": "local"}),
        ("UnsupportedOperation", {"Name": "gold", "BootModeOverride": "uefi"}),
        (
            "InvalidBlockDeviceMapping",
            {"Name": "gold", "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "NoDevice": ""}]},
        ),
        (
            "InvalidBlockDeviceMapping",
            {"Name": "gold", "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 1}}]},
        ),
        (
            "InvalidBlockDeviceMapping",
            {
                "Name": "gold",
                "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"Encrypted": True}}],
            },
        ),
    ],
)
async def test_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    instance = await rig.stopped()
    await rig.fails(code, "CreateImage", InstanceId=instance, **input)


async def test_refuses_states(rig: Rig) -> None:
    pending = (await rig.launch())["InstanceId"]
    await rig.fails("IncorrectState", "CreateImage", InstanceId=pending, Name="gold")
    await rig.fails("InvalidInstanceID.NotFound", "CreateImage", InstanceId="i-00000009", Name="gold")
    rootless = await rig.stopped()
    await rig.change(Instance, rootless, devices=())
    await rig.fails("IncorrectState", "CreateImage", InstanceId=rootless, Name="gold")
