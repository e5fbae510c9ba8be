from __future__ import annotations

from typing import TYPE_CHECKING

from gureum.resources import Snapshot, SnapshotState, Volume, VolumeState

if TYPE_CHECKING:
    from ..conftest import Rig

HERE = {"SourceRegion": "us-east-1"}
OF_IMAGE = "snap-00000000000000001"


async def test_copy_by_way_of_a_volume_that_nobody_sees(rig: Rig) -> None:
    source = await rig.snapshot(await rig.volume(Size=3))
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "a", "Value": "b"}]}]
    answer = await rig.call(
        "CopySnapshot", SourceSnapshotId=source, Description="copy", TagSpecifications=tags, **HERE
    )
    assert answer["Tags"] == [{"Key": "a", "Value": "b"}]
    copy = await rig.get(Snapshot, answer["SnapshotId"])
    assert (copy.state, copy.volume, copy.size_bytes) == (SnapshotState.pending, "vol-ffffffff", 3 << 30)
    staged = await rig.get(Volume, copy.staging)
    assert (staged.source, staged.staged, staged.state) == (source, copy.id, VolumeState.creating)
    assert staged.id not in str(await rig.call("DescribeVolumes"))
    await rig.fails("InvalidVolume.NotFound", "DeleteVolume", VolumeId=staged.id)
    [shown] = (await rig.call("DescribeSnapshots", SnapshotIds=[copy.id]))["Snapshots"]
    assert (shown["VolumeId"], shown["Description"], shown["State"]) == ("vol-ffffffff", "copy", "pending")


async def test_how_far_an_encrypted_copy_is(rig: Rig) -> None:
    source = await rig.snapshot(await rig.volume(Size=3))
    answer = await rig.call("CopySnapshot", SourceSnapshotId=source, Encrypted=True, **HERE)
    copy = await rig.get(Snapshot, answer["SnapshotId"])
    await rig.change(Volume, copy.staging, host="host-0")
    for done, shown in ((0, "0%"), (1 << 30, "33%"), (3 << 30, "99%")):
        rig.hosts.copying["host-0", copy.staging] = (done, 3 << 30)
        [item] = (await rig.call("DescribeSnapshots", SnapshotIds=[copy.id]))["Snapshots"]
        assert item["Progress"] == shown
    staged = await rig.get(Volume, copy.staging)
    assert (staged.encrypts, staged.source_bytes) == (True, 3 << 30)


async def test_copy_of_the_snapshot_of_an_image(rig: Rig) -> None:
    answer = await rig.call("CopySnapshot", SourceSnapshotId=OF_IMAGE, **HERE)
    copy = await rig.get(Snapshot, answer["SnapshotId"])
    staged = await rig.get(Volume, copy.staging)
    assert staged.source == copy.origin == "ami-00000000000000001"
    assert copy.image == ""


async def test_refuses(rig: Rig) -> None:
    source = await rig.snapshot(await rig.volume())
    await rig.fails("InvalidSnapshot.NotFound", "CopySnapshot", SourceSnapshotId="snap-00000009", **HERE)
    await rig.fails(
        "InvalidParameterValue", "CopySnapshot", SourceSnapshotId=source, SourceRegion="eu-west-1"
    )
    await rig.fails(
        "InvalidParameterValue",
        "CopySnapshot",
        SourceSnapshotId=source,
        DestinationRegion="eu-west-1",
        **HERE,
    )
    await rig.fails(
        "UnsupportedOperation", "CopySnapshot", SourceSnapshotId=source, DestinationOutpostArn="x", **HERE
    )
    await rig.change(Snapshot, source, state=SnapshotState.deleting)
    await rig.fails("InvalidSnapshot.NotFound", "CopySnapshot", SourceSnapshotId=source, **HERE)


async def test_source_is_kept_while_it_is_copied(rig: Rig) -> None:
    source = await rig.snapshot(await rig.volume())
    copy = await rig.get(
        Snapshot, (await rig.call("CopySnapshot", SourceSnapshotId=source, **HERE))["SnapshotId"]
    )
    await rig.fails("InvalidSnapshot.InUse", "DeleteSnapshot", SnapshotId=source)
    await rig.change(Volume, copy.staging, state=VolumeState.available)
    await rig.call("DeleteSnapshot", SnapshotId=source)
