from __future__ import annotations

from typing import TYPE_CHECKING

from gureum.resources import Image, ImageState, Snapshot, SnapshotState, Volume, VolumeState

if TYPE_CHECKING:
    from ..conftest import Rig

OF_IMAGE = "snap-00000000000000001"


async def test_create(rig: Rig) -> None:
    volume = await rig.volume(Size=3)
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "a", "Value": "b"}]}]
    shown = await rig.call("CreateSnapshot", VolumeId=volume, Description="nightly", TagSpecifications=tags)
    snapshot = await rig.get(Snapshot, shown["SnapshotId"])
    assert snapshot.state is SnapshotState.pending
    assert (snapshot.volume, snapshot.host, snapshot.size_bytes) == (volume, "host-a", 3 << 30)
    assert (snapshot.description, snapshot.tags) == ("nightly", {"a": "b"})
    assert (shown["State"], shown["VolumeSize"], shown["Progress"]) == ("pending", 3, "0%")


async def test_create_of_a_volume_in_use(rig: Rig) -> None:
    await rig.running()
    [volume] = await rig.find(Volume)
    assert (await rig.call("CreateSnapshot", VolumeId=volume.id))["VolumeId"] == volume.id


async def test_create_refuses(rig: Rig) -> None:
    volume = await rig.volume()
    await rig.fails("InvalidVolume.NotFound", "CreateSnapshot", VolumeId="vol-00000001")
    await rig.fails("InvalidParameterValue", "CreateSnapshot", VolumeId=volume, Description="x" * 256)
    await rig.fails("UnsupportedOperation", "CreateSnapshot", VolumeId=volume, Location="local")
    creating = (await rig.call("CreateVolume", AvailabilityZone="us-east-1a", Size=1))["VolumeId"]
    await rig.fails("IncorrectState", "CreateSnapshot", VolumeId=creating)


async def test_describe(rig: Rig) -> None:
    id = await rig.snapshot(await rig.volume())
    shown = {each["SnapshotId"]: each for each in (await rig.call("DescribeSnapshots"))["Snapshots"]}
    assert set(shown) == {id, OF_IMAGE}
    assert (shown[id]["State"], shown[id]["Progress"]) == ("completed", "100%")
    assert shown[OF_IMAGE]["VolumeId"] == "vol-ffffffff"
    [only] = (await rig.call("DescribeSnapshots", SnapshotIds=[id]))["Snapshots"]
    assert only["SnapshotId"] == id
    await rig.fails("InvalidSnapshot.NotFound", "DescribeSnapshots", SnapshotIds=["snap-00000009"])


async def test_describe_by_owner(rig: Rig) -> None:
    await rig.change(Snapshot, OF_IMAGE, account="")
    id = await rig.snapshot(await rig.volume())

    async def owned(**input: list[str]) -> list[str]:
        answer = await rig.call("DescribeSnapshots", **input)
        return [each["SnapshotId"] for each in answer["Snapshots"]]

    assert await owned(OwnerIds=["self"]) == [id]
    assert await owned(OwnerIds=["123456789012"]) == [id]
    assert await owned(OwnerIds=["amazon"]) == [OF_IMAGE]
    assert await owned(OwnerIds=["999999999999"]) == []
    assert set(await owned(RestorableByUserIds=["self"])) == {id, OF_IMAGE}
    assert await owned(RestorableByUserIds=["all"]) == [OF_IMAGE]
    await rig.fails("UnauthorizedOperation", "DeleteSnapshot", SnapshotId=OF_IMAGE)


async def test_filters(rig: Rig) -> None:
    volume = await rig.volume(Size=4)
    pending = (await rig.call("CreateSnapshot", VolumeId=volume))["SnapshotId"]
    for name, value in {"status": "pending", "volume-id": volume, "volume-size": "4"}.items():
        answer = await rig.call("DescribeSnapshots", Filters=[{"Name": name, "Values": [value]}])
        assert [each["SnapshotId"] for each in answer["Snapshots"]] == [pending], name


async def test_delete(rig: Rig) -> None:
    id = await rig.snapshot(await rig.volume())
    assert await rig.call("DeleteSnapshot", SnapshotId=id) == {}
    assert (await rig.get(Snapshot, id)).state is SnapshotState.deleting
    await rig.fails("InvalidSnapshot.NotFound", "DeleteSnapshot", SnapshotId=id)
    assert id not in str(await rig.call("DescribeSnapshots"))


async def test_delete_one_that_an_image_uses(rig: Rig) -> None:
    message = await rig.fails("InvalidSnapshot.InUse", "DeleteSnapshot", SnapshotId=OF_IMAGE)
    assert message == f"The snapshot {OF_IMAGE} is currently in use by ami-00000000000000001"
    await rig.change(Image, "ami-00000000000000001", state=ImageState.deregistered)
    await rig.call("DeleteSnapshot", SnapshotId=OF_IMAGE)


async def test_delete_one_that_a_volume_is_made_of(rig: Rig) -> None:
    id = await rig.snapshot(await rig.volume())
    volume = (await rig.call("CreateVolume", AvailabilityZone="us-east-1a", SnapshotId=id))["VolumeId"]
    await rig.fails("InvalidSnapshot.InUse", "DeleteSnapshot", SnapshotId=id)
    await rig.change(Volume, volume, state=VolumeState.available)
    await rig.call("DeleteSnapshot", SnapshotId=id)
