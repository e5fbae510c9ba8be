from __future__ import annotations

from typing import TYPE_CHECKING

from gureum.resources import Instance, Snapshot, SnapshotState

if TYPE_CHECKING:
    from ..conftest import Rig

EXTRA = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 3}}]


async def test_of_all_volumes(rig: Rig) -> None:
    id = await rig.running(BlockDeviceMappings=EXTRA)
    devices = (await rig.get(Instance, id)).devices
    taken = (
        await rig.call("CreateSnapshots", InstanceSpecification={"InstanceId": id}, Description="together")
    )["Snapshots"]
    assert [each["VolumeId"] for each in taken] == [each.volume for each in devices]
    assert [each["VolumeSize"] for each in taken] == [2, 3]
    for each in taken:
        record = await rig.get(Snapshot, each["SnapshotId"])
        assert (record.state, record.host, record.description) == (
            SnapshotState.pending,
            "host-a",
            "together",
        )


async def test_some_are_left_out(rig: Rig) -> None:
    id = await rig.running(BlockDeviceMappings=EXTRA)
    root, data = (each.volume for each in (await rig.get(Instance, id)).devices)

    async def taken(**specification: object) -> list[str]:
        answer = await rig.call("CreateSnapshots", InstanceSpecification={"InstanceId": id, **specification})
        return [each["VolumeId"] for each in answer["Snapshots"]]

    assert await taken(ExcludeBootVolume=True) == [data]
    assert await taken(ExcludeDataVolumeIds=[data]) == [root]
    for wrong in (
        {"ExcludeDataVolumeIds": [root]},
        {"ExcludeDataVolumeIds": ["vol-00000009"]},
        {"ExcludeDataVolumeIds": [data], "ExcludeBootVolume": True},
    ):
        specification = {"InstanceId": id, **wrong}
        await rig.fails("InvalidParameterValue", "CreateSnapshots", InstanceSpecification=specification)


async def test_tags_of_the_volumes(rig: Rig) -> None:
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "1"}]}]
    id = await rig.running(TagSpecifications=tags)
    own = [{"ResourceType": "snapshot", "Tags": [{"Key": "b", "Value": "2"}]}]
    answer = await rig.call(
        "CreateSnapshots",
        InstanceSpecification={"InstanceId": id},
        CopyTagsFromSource="volume",
        TagSpecifications=own,
    )
    [snapshot] = answer["Snapshots"]
    assert (await rig.get(Snapshot, snapshot["SnapshotId"])).tags == {"a": "1", "b": "2"}


async def test_refuses(rig: Rig) -> None:
    specification = {"InstanceId": "i-00000009"}
    await rig.fails("InvalidInstanceID.NotFound", "CreateSnapshots", InstanceSpecification=specification)
    id = (await rig.launch())["InstanceId"]
    specification = {"InstanceId": id}
    await rig.fails("IncorrectState", "CreateSnapshots", InstanceSpecification=specification)
    await rig.settle(id)
    await rig.fails(
        "UnsupportedOperation", "CreateSnapshots", InstanceSpecification=specification, Location="local"
    )
