"""Volumes on their way, by the Fleet API, and by ModifyVolume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from gureum.hostspec import LOCAL
from gureum.resources import Host, HostState, Instance, Move, Pool, Snapshot, SnapshotState, Volume

if TYPE_CHECKING:
    from ..conftest import Rig
    from .conftest import Fleet

SAN = "san"
GIB = 1 << 30


@pytest.fixture
async def volume(rig: Rig, fleet: Fleet) -> str:
    """In the shared pool; volumes of type standard are local."""
    rig.cloud = replace(rig.cloud, pool=SAN, type_pools=(("standard", LOCAL),))
    await fleet.put(
        Host(
            id="host-0",
            state=HostState.up,
            zone="",
            cpus=4,
            memory_bytes=64 * GIB,
            pool_bytes=GIB,
            pool_free_bytes=GIB,
        )
    )
    made = await rig.call("CreateVolume", AvailabilityZone="us-east-1a", Size=1, VolumeType="gp3")
    await rig.change(Volume, made["VolumeId"], host="host-0", state="available")
    id: str = made["VolumeId"]
    return id


async def test_moved_looked_at_and_cancelled(rig: Rig, fleet: Fleet, volume: str) -> None:
    move = (await fleet.call("MoveVolume", VolumeId=volume, PoolName=LOCAL))["VolumeMove"]
    assert (move["State"], move["PoolName"], move["TargetPoolName"]) == ("moving", SAN, LOCAL)
    rig.hosts.copying["host-0", volume] = (1, 4)
    [shown] = (await fleet.call("DescribeVolumeMoves"))["VolumeMoves"]
    assert (shown["DoneBytes"], shown["TotalBytes"], shown["HostId"]) == (1, 4, "host-0")
    words = str(await fleet.refused("InvalidStateException", "MoveVolume", VolumeId=volume, PoolName=LOCAL))
    assert "CancelVolumeMove" in words
    ended = (await fleet.call("CancelVolumeMove", VolumeId=volume))["VolumeMove"]
    assert (ended["State"], ended["Cleaning"], ended["PoolName"]) == ("cancelled", [LOCAL], SAN)
    await fleet.refused("InvalidStateException", "CancelVolumeMove", VolumeId=volume)
    words = str(await fleet.refused("InvalidStateException", "MoveVolume", VolumeId=volume, PoolName=LOCAL))
    assert "still being removed" in words


async def test_pages(rig: Rig, fleet: Fleet, volume: str) -> None:
    record = await rig.get(Volume, volume)
    move = Move(state="completed", source=LOCAL, target=SAN, started=rig.env.utcnow())
    await rig.put(*(replace(record, id=f"vol-{n}", version=0, move=move) for n in range(3)))
    page = await fleet.call("DescribeVolumeMoves", MaxResults=2)
    assert [each["VolumeId"] for each in page["VolumeMoves"]] == ["vol-0", "vol-1"]
    page = await fleet.call("DescribeVolumeMoves", MaxResults=2, NextToken=page["NextToken"])
    assert [each["VolumeId"] for each in page["VolumeMoves"]] == ["vol-2"]
    assert "NextToken" not in page
    [none] = (await fleet.call("DescribeVolumeMoves", VolumeIds=[volume]))["VolumeMoves"]
    assert none["State"] == "none"


@pytest.mark.parametrize(
    ("input", "code"),
    [
        ({"PoolName": "other"}, "InvalidParameterValueException"),
        ({"PoolName": SAN, "HostId": "host-0"}, "InvalidParameterValueException"),
        ({"PoolName": LOCAL, "HostId": "host-9"}, "InvalidParameterValueException"),
        ({"PoolName": SAN}, "InvalidStateException"),
        ({"PoolName": LOCAL, "VolumeId": "vol-9"}, "ResourceNotFoundException"),
    ],
)
async def test_what_is_no_move(fleet: Fleet, volume: str, input: dict[str, str], code: str) -> None:
    await fleet.refused(code, "MoveVolume", **{"VolumeId": volume, **input})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": "error"}, "'error' state"),
        ({"multi_attach": True}, "Multi-Attach"),
        ({"former": ("host-7",)}, "host-7"),
        ({"host": "host-7"}, ""),
    ],
)
async def test_a_volume_that_cannot(
    rig: Rig, fleet: Fleet, volume: str, change: dict[str, Any], words: str
) -> None:
    await rig.change(Volume, volume, **change)
    if not words:
        # Any host that is up will do.
        await fleet.call("MoveVolume", VolumeId=volume, PoolName=LOCAL)
        assert (await rig.get(Volume, volume)).host == "host-0"
        return
    found = await fleet.refused("InvalidStateException", "MoveVolume", VolumeId=volume, PoolName=LOCAL)
    assert words in str(found)


async def test_a_pool_that_is_full(rig: Rig, fleet: Fleet, volume: str) -> None:
    await rig.put(Pool(id=SAN, account="1", full=True, message="full"))
    await rig.change(Volume, volume, pool=LOCAL)
    await fleet.refused("InsufficientVolumeCapacity", "MoveVolume", VolumeId=volume, PoolName=SAN)
    await rig.change(Volume, volume, pool=SAN)
    await rig.change(Host, "host-0", pool_free_bytes=0)
    await fleet.refused("InsufficientVolumeCapacity", "MoveVolume", VolumeId=volume, PoolName=LOCAL)


async def test_snapshots_in_the_way(rig: Rig, fleet: Fleet, volume: str) -> None:
    """One that is not taken, in a local pool; one that was, in the pool to come back to."""
    taken = (await rig.call("CreateSnapshot", VolumeId=volume))["SnapshotId"]
    await rig.change(Snapshot, taken, state=SnapshotState.completed)
    await rig.change(Volume, volume, pool=LOCAL)
    words = str(await fleet.refused("InvalidStateException", "MoveVolume", VolumeId=volume, PoolName=SAN))
    assert f"still has snapshot {taken}" in words
    await rig.change(Snapshot, taken, state=SnapshotState.deleting)
    await rig.delete(await rig.get(Snapshot, taken))
    pending = (await rig.call("CreateSnapshot", VolumeId=volume))["SnapshotId"]
    words = str(await fleet.refused("InvalidStateException", "MoveVolume", VolumeId=volume, PoolName=SAN))
    assert f"{pending} of volume {volume} is not taken yet" in words


async def test_no_snapshot_of_what_leaves_a_local_pool(rig: Rig, fleet: Fleet, volume: str) -> None:
    await rig.change(Volume, volume, pool=LOCAL)
    await fleet.call("MoveVolume", VolumeId=volume, PoolName=SAN)
    await rig.fails("IncorrectState", "CreateSnapshot", VolumeId=volume)
    await rig.fails("IncorrectModificationState", "ModifyVolume", VolumeId=volume, Size=9)


async def test_a_type_of_another_pool(rig: Rig, fleet: Fleet, volume: str) -> None:
    answer = await rig.call("ModifyVolume", VolumeId=volume, VolumeType="standard", Size=2)
    assert answer["VolumeModification"]["ModificationState"] == "modifying"
    record = await rig.get(Volume, volume)
    assert (record.target, record.type, record.size_bytes) == (LOCAL, "standard", 2 * GIB)
    rig.hosts.copying["host-0", volume] = (1, 4)
    [shown] = (await rig.call("DescribeVolumesModifications"))["VolumesModifications"]
    assert (shown["Progress"], shown["OriginalVolumeType"]) == (25, "gp3")
    await fleet.call("CancelVolumeMove", VolumeId=volume)
    record = await rig.get(Volume, volume)
    assert (record.type, record.modification.state) == ("gp3", "failed")


async def test_made_of_a_snapshot_it_goes_on_to_the_pool_of_its_type(rig: Rig, volume: str) -> None:
    await rig.change(Volume, volume, pool=LOCAL)
    taken = (await rig.call("CreateSnapshot", VolumeId=volume))["SnapshotId"]
    await rig.change(Snapshot, taken, state=SnapshotState.completed)
    made = (await rig.call("CreateVolume", AvailabilityZone="us-east-1a", SnapshotId=taken))["VolumeId"]
    record = await rig.get(Volume, made)
    assert (record.pool, record.target, record.move.target) == (LOCAL, "", SAN)
    await rig.change(Volume, made, state="available")
    assert (await rig.get(Volume, made)).target == SAN


async def test_to_the_disk_of_the_instance_s_host(rig: Rig, fleet: Fleet, volume: str) -> None:
    instance = await rig.running()
    await rig.change(Instance, instance, host="host-0")
    await rig.call("AttachVolume", VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
    second = replace(await rig.get(Host, "host-0"), id="host-1", version=0)
    await rig.put(second)
    input = {"VolumeId": volume, "PoolName": LOCAL}
    await fleet.refused("InvalidStateException", "MoveVolume", **input, HostId="host-1")
    await fleet.call("MoveVolume", **input)
    assert (await rig.get(Volume, volume)).host == "host-0"


async def test_by_way_of_the_host_that_its_instance_is_bound_to(rig: Rig, fleet: Fleet, volume: str) -> None:
    """Else that instance could not start until it is there: what it has would be on two hosts."""
    await rig.put(replace(await rig.get(Host, "host-0"), id="host-1", version=0))
    rig.cloud = replace(rig.cloud, type_pools=(("standard", LOCAL), ("gp2", "other")))
    instance = await rig.stopped()
    [root] = await rig.find(Volume, instances=instance)
    await rig.change(Instance, instance, host="host-0")
    await rig.change(Volume, root.id, pool=LOCAL, host="host-0")
    await rig.call("AttachVolume", VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
    await rig.change(Volume, volume, host="host-1")
    await fleet.call("MoveVolume", VolumeId=volume, PoolName="other")
    assert (await rig.get(Volume, volume)).host == "host-0"
