from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec.structs import replace

from gureum.resources import Instance, Volume, VolumeState

if TYPE_CHECKING:
    from ..conftest import Rig

NOBODY = "vol-0123456789abcdef0"
GIB = 1 << 30
BASE = {"AvailabilityZone": "us-east-1a"}
GP3 = {**BASE, "VolumeType": "gp3"}


async def test_create(rig: Rig) -> None:
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "b"}]}]
    shown = await rig.call("CreateVolume", **BASE, Size=2, TagSpecifications=tags)
    volume = await rig.get(Volume, shown["VolumeId"])
    assert volume.state is VolumeState.creating
    assert (volume.size_bytes, volume.type, volume.zone) == (2 * GIB, "gp2", "us-east-1a")
    assert (volume.iops, volume.throughput, volume.host, volume.source) == (0, 0, None, "")
    assert shown["State"] == "creating"
    assert shown["Iops"] == 100
    assert "Throughput" not in shown
    assert shown["Tags"] == [{"Key": "a", "Value": "b"}]


async def test_bounds_are_inclusive(rig: Rig) -> None:
    for input in (
        {"Size": 10, "VolumeType": "io1", "Iops": 500},
        {"Size": 200, "VolumeType": "gp3", "Iops": 80000, "Throughput": 2000},
        {"Size": 1, "VolumeType": "gp3", "Iops": 3000, "Throughput": 750},
        {"Size": 125, "VolumeType": "st1"},
        {"Size": 16384},
        {"Size": 65536, "VolumeType": "gp3"},
    ):
        await rig.call("CreateVolume", **BASE, **input)


async def test_create_by_zone_id(rig: Rig) -> None:
    shown = await rig.call("CreateVolume", AvailabilityZoneId="use1-az2", Size=1)
    assert shown["AvailabilityZone"] == "us-east-1b"


async def test_create_from_snapshot(rig: Rig) -> None:
    snapshot = await rig.snapshot(await rig.volume(Size=3))
    shown = await rig.call("CreateVolume", **BASE, SnapshotId=snapshot)
    volume = await rig.get(Volume, shown["VolumeId"])
    assert (volume.source, volume.snapshot, volume.size_bytes) == (snapshot, snapshot, 3 * GIB)
    assert (await rig.call("CreateVolume", **BASE, SnapshotId=snapshot, Size=5))["Size"] == 5
    await rig.fails("InvalidParameterValue", "CreateVolume", **BASE, SnapshotId=snapshot, Size=2)


async def test_create_from_the_snapshot_of_an_image(rig: Rig) -> None:
    shown = await rig.call("CreateVolume", **BASE, SnapshotId="snap-00000000000000001")
    volume = await rig.get(Volume, shown["VolumeId"])
    assert volume.source == "ami-00000000000000001"
    assert volume.snapshot == "snap-00000000000000001"


async def test_create_from_a_pending_snapshot(rig: Rig) -> None:
    volume = await rig.volume()
    pending = await rig.call("CreateSnapshot", VolumeId=volume)
    await rig.fails("IncorrectState", "CreateVolume", **BASE, SnapshotId=pending["SnapshotId"])


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("MissingParameter", {"Size": 1}),
        ("MissingParameter", {**BASE}),
        ("MissingParameter", {**BASE, "Size": 10, "VolumeType": "io1"}),
        ("InvalidZone.NotFound", {"AvailabilityZone": "mars", "Size": 1}),
        ("InvalidParameterValue", {"AvailabilityZoneId": "mars", "Size": 1}),
        ("InvalidParameterValue", {**BASE, "AvailabilityZoneId": "use1-az1", "Size": 1}),
        ("InvalidParameterValue", {**BASE, "Size": 0}),
        ("InvalidParameterValue", {**BASE, "Size": 16385}),
        ("InvalidParameterValue", {**GP3, "Size": 65537}),
        ("InvalidParameterValue", {**BASE, "Size": 1, "VolumeType": "gp9"}),
        ("InvalidParameterValue", {**BASE, "Size": 124, "VolumeType": "st1"}),
        ("InvalidParameterValue", {**GP3, "Size": 100, "Iops": 2999}),
        ("InvalidParameterValue", {**GP3, "Size": 10, "Iops": 6000}),
        ("InvalidParameterValue", {**GP3, "Size": 500, "Iops": 80001}),
        ("InvalidParameterValue", {**BASE, "Size": 10, "VolumeType": "io1", "Iops": 501}),
        ("InvalidParameterValue", {**GP3, "Size": 10, "Throughput": 124}),
        ("InvalidParameterValue", {**GP3, "Size": 10, "Throughput": 2001}),
        ("InvalidParameterValue", {**GP3, "Size": 10, "Throughput": 1000}),
        ("InvalidParameterCombination", {**BASE, "Size": 10, "VolumeType": "gp2", "Iops": 100}),
        ("InvalidParameterCombination", {**BASE, "Size": 10, "VolumeType": "gp2", "Throughput": 125}),
        ("InvalidParameterDependency", {**BASE, "Size": 1, "KmsKeyId": "k"}),
        ("InvalidParameterCombination", {**BASE, "Size": 1, "MultiAttachEnabled": True}),
        ("UnsupportedOperation", {**BASE, "Size": 1, "OutpostArn": "x"}),
        ("InvalidSnapshot.NotFound", {**BASE, "SnapshotId": "snap-0123456789abcdef0"}),
        ("InvalidParameterValue", {**BASE, "SnapshotId": "backup"}),
    ],
)
async def test_create_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    await rig.fails(code, "CreateVolume", **input)


async def test_describe_an_attached_volume(rig: Rig) -> None:
    instance = await rig.running()
    [shown] = (await rig.call("DescribeVolumes"))["Volumes"]
    assert shown["State"] == "in-use"
    assert shown["SnapshotId"] == "snap-00000000000000001"
    [attachment] = shown["Attachments"]
    assert attachment["InstanceId"] == instance
    assert attachment["State"] == "attached"
    assert attachment["Device"] == "/dev/xvda"
    assert attachment["DeleteOnTermination"]


async def test_filters(rig: Rig) -> None:
    instance = await rig.running()
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "b"}]}]
    free = await rig.volume(TagSpecifications=tags, Size=7)
    for name, value in {
        "status": "available",
        "size": "7",
        "tag:a": "b",
        "volume-id": free,
        "snapshot-id": "",
    }.items():
        answer = await rig.call("DescribeVolumes", Filters=[{"Name": name, "Values": [value]}])
        found = [each["VolumeId"] for each in answer["Volumes"]]
        assert found == ([] if not value else [free]), name
    for name, value in {
        "attachment.instance-id": instance,
        "attachment.status": "attached",
        "attachment.device": "/dev/xvd?",
        "attachment.delete-on-termination": "true",
        "status": "in-use",
    }.items():
        answer = await rig.call("DescribeVolumes", Filters=[{"Name": name, "Values": [value]}])
        assert [each["Attachments"][0]["InstanceId"] for each in answer["Volumes"]] == [instance], name


async def test_unknown_volume(rig: Rig) -> None:
    message = await rig.fails("InvalidVolume.NotFound", "DescribeVolumes", VolumeIds=[NOBODY])
    assert message == f"The volume '{NOBODY}' does not exist."
    message = await rig.fails("InvalidParameterValue", "DescribeVolumes", VolumeIds=["disk"])
    assert message == "Value (disk) for parameter volumes is invalid. Expected: 'vol-...'."


async def test_deleted_volume_is_gone(rig: Rig) -> None:
    id = await rig.volume()
    await rig.change(Volume, id, state=VolumeState.deleting)
    await rig.change(Volume, id, state=VolumeState.deleted)
    assert (await rig.call("DescribeVolumes"))["Volumes"] == []
    await rig.fails("InvalidVolume.NotFound", "DescribeVolumes", VolumeIds=[id])


async def test_delete(rig: Rig) -> None:
    id = await rig.volume()
    assert await rig.call("DeleteVolume", VolumeId=id) == {}
    assert (await rig.get(Volume, id)).state is VolumeState.deleting
    await rig.fails("InvalidVolume.NotFound", "DeleteVolume", VolumeId=id)


async def test_delete_a_failed_volume(rig: Rig) -> None:
    id = (await rig.call("CreateVolume", **BASE, Size=1))["VolumeId"]
    await rig.fails("IncorrectState", "DeleteVolume", VolumeId=id)
    await rig.change(Volume, id, state=VolumeState.error)
    await rig.call("DeleteVolume", VolumeId=id)
    assert (await rig.get(Volume, id)).state is VolumeState.deleting


async def test_delete_a_volume_in_use(rig: Rig) -> None:
    instance = await rig.running()
    [volume] = await rig.find(Volume)
    message = await rig.fails("VolumeInUse", "DeleteVolume", VolumeId=volume.id)
    assert message == f"Volume {volume.id} is currently attached to {instance}"


async def test_modify(rig: Rig) -> None:
    id = await rig.volume(Size=2)
    answer = await rig.call("ModifyVolume", VolumeId=id, Size=5)
    shown = answer["VolumeModification"]
    assert shown["ModificationState"] == "modifying"
    assert (shown["OriginalSize"], shown["TargetSize"]) == (2, 5)
    assert (shown["OriginalIops"], shown["TargetIops"]) == (3000, 3000)
    assert shown["Progress"] == 0
    volume = await rig.get(Volume, id)
    assert volume.size_bytes == 5 * GIB
    assert volume.modification is not None
    assert volume.modification.original_size_bytes == 2 * GIB
    await rig.fails("IncorrectModificationState", "ModifyVolume", VolumeId=id, Size=6)
    done = replace(volume.modification, state="completed", ended=rig.env.utcnow())
    await rig.change(Volume, id, modification=done)
    [shown] = (await rig.call("DescribeVolumesModifications", VolumeIds=[id]))["VolumesModifications"]
    assert (shown["ModificationState"], shown["Progress"]) == ("completed", 100)
    assert "EndTime" in shown
    await rig.call("ModifyVolume", VolumeId=id, Size=6)


async def test_modify_type_and_performance(rig: Rig) -> None:
    id = await rig.volume(Size=20, Iops=4000, Throughput=250)
    await rig.call("ModifyVolume", VolumeId=id, VolumeType="io2", Iops=1000)
    volume = await rig.get(Volume, id)
    assert (volume.type, volume.iops, volume.throughput) == ("io2", 1000, 0)
    assert volume.modification is not None
    assert (volume.modification.original_type, volume.modification.original_iops) == ("gp3", 4000)
    assert volume.modification.original_throughput == 250


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("InvalidParameterValue", {"Size": 4}),
        ("InvalidParameterCombination", {}),
        ("InvalidParameterValue", {"VolumeType": "gp9"}),
        ("MissingParameter", {"VolumeType": "io1"}),
        ("InvalidParameterValue", {"Iops": 100}),
        ("InvalidParameterCombination", {"MultiAttachEnabled": True}),
    ],
)
async def test_modify_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    id = await rig.volume(Size=5)
    await rig.fails(code, "ModifyVolume", VolumeId=id, **input)


async def test_modify_needs_a_ready_volume(rig: Rig) -> None:
    id = (await rig.call("CreateVolume", **BASE, Size=1))["VolumeId"]
    await rig.fails("IncorrectState", "ModifyVolume", VolumeId=id, Size=2)


async def test_modifications_are_listed(rig: Rig) -> None:
    untouched, changed = await rig.volume(), await rig.volume()
    await rig.call("ModifyVolume", VolumeId=changed, Size=9)
    answer = await rig.call("DescribeVolumesModifications")
    assert [each["VolumeId"] for each in answer["VolumesModifications"]] == [changed]
    filters = [{"Name": "modification-state", "Values": ["completed"]}]
    answer = await rig.call("DescribeVolumesModifications", Filters=filters)
    assert answer["VolumesModifications"] == []
    await rig.fails(
        "InvalidVolumeModification.NotFound", "DescribeVolumesModifications", VolumeIds=[untouched]
    )


async def test_status(rig: Rig) -> None:
    good = await rig.volume()
    bad = await rig.volume()
    await rig.change(Volume, bad, state=VolumeState.error, message="the pool is full")
    answer = await rig.call("DescribeVolumeStatus", VolumeIds=[good, bad])
    none, [event] = [each["Events"] for each in answer["VolumeStatuses"]]
    assert none == []
    assert (event["Description"], event["EventType"]) == ("the pool is full", "io-enabled:failed")
    assert [each["VolumeStatus"]["Status"] for each in answer["VolumeStatuses"]] == ["ok", "impaired"]
    filters = [{"Name": "volume-status.status", "Values": ["impaired"]}]
    answer = await rig.call("DescribeVolumeStatus", Filters=filters)
    assert [each["VolumeId"] for each in answer["VolumeStatuses"]] == [bad]


async def test_status_of_a_volume_that_its_instance_waits_for(rig: Rig) -> None:
    instance = await rig.running()
    stuck, other = await rig.volume(), await rig.volume()
    for id, device in ((stuck, "/dev/sdf"), (other, "/dev/sdg")):
        await rig.call("AttachVolume", VolumeId=id, InstanceId=instance, Device=device)
    message = f"its storage does not answer: {stuck}"
    await rig.change(Instance, instance, impaired=message)
    answer = await rig.call("DescribeVolumeStatus", VolumeIds=[stuck, other])
    assert [each["VolumeStatus"]["Status"] for each in answer["VolumeStatuses"]] == ["impaired", "ok"]
    [event], none = [each["Events"] for each in answer["VolumeStatuses"]]
    assert (event["Description"], none) == (message, [])


async def test_attribute(rig: Rig) -> None:
    id = await rig.volume()
    answer = await rig.call("DescribeVolumeAttribute", VolumeId=id, Attribute="autoEnableIO")
    assert answer == {"VolumeId": id, "AutoEnableIO": {"Value": False}}
    answer = await rig.call("DescribeVolumeAttribute", VolumeId=id, Attribute="productCodes")
    assert answer["ProductCodes"] == []
    await rig.fails("InvalidParameterValue", "DescribeVolumeAttribute", VolumeId=id, Attribute="x")


async def test_where_types_have_pools(rig: Rig) -> None:
    rig.cloud = msgspec.structs.replace(rig.cloud, pool="fast", type_pools=(("st1", "slow"),))
    fast = await rig.volume()
    slow = await rig.volume(VolumeType="st1", Size=125)
    assert [(await rig.get(Volume, id)).pool for id in (fast, slow)] == ["fast", "slow"]
    await rig.call("ModifyVolume", VolumeId=fast, VolumeType="gp2")
    snapshot = await rig.snapshot(slow)
    clone = await rig.call("CreateVolume", **GP3, SnapshotId=snapshot)
    made = await rig.get(Volume, clone["VolumeId"])
    assert (made.pool, made.move.target) == ("slow", "fast")
