from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import captures
from gureum.hostspec import MachineState
from gureum.resources import (
    Image,
    ImageDevice,
    ImageState,
    Instance,
    InstanceState,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)
from gureum.services.ec2.uploads import UPLOADS

EPOCH = datetime.fromtimestamp(1_750_000_000.0, UTC)


def staged(make: Any, **values: Any) -> tuple[Volume, Snapshot]:
    """A snapshot, not yet taken, and the volume that is made for it."""
    volume = make.volume("vol-9", staged="snap-1", host=None, source="snap-0")
    return volume, make.snapshot(volume="vol-ffffffff", staging="vol-9", host=None, **values)


def image(*snapshots: str, **values: Any) -> Image:
    devices = tuple(
        ImageDevice(device=f"/dev/sd{letter}", snapshot=id, size_gib=1)
        for letter, id in zip("abc", snapshots, strict=False)
    )
    return Image(
        **{
            "id": "ami-9",
            "name": "gold",
            "state": ImageState.pending,
            "disk_bytes": 1 << 30,
            "root_device": "/dev/sda",
            "snapshot": snapshots[0],
            "devices": devices,
            "created": EPOCH,
            **values,
        }
    )


async def test_a_copy_from_its_volume_to_the_end(bench: Any, make: Any) -> None:
    volume, snapshot = staged(make)
    source = make.snapshot("snap-0", state=SnapshotState.completed)
    await bench.put(make.host(), source, volume, snapshot)
    assert (await bench.step_volume("vol-9")).host == "host-0"
    assert (await bench.get(Snapshot, "snap-1")).host == "host-0"
    bench.volume("vol-9")
    assert (await bench.step_volume("vol-9")).state is VolumeState.available
    bench.snapshot()
    done = await bench.step_snapshot()
    assert (done.state, done.completed) == (SnapshotState.completed, bench.env.utcnow())
    assert (await bench.get(Volume, "vol-9")).state is VolumeState.deleting
    bench.volume("vol-9", present=False)
    assert await bench.step_volume("vol-9") is None


async def test_a_volume_that_cannot_be_made_fails_its_snapshot_and_goes(bench: Any, make: Any) -> None:
    volume, snapshot = staged(make)
    await bench.put(make.host(), replace(volume, host="host-0"), snapshot, image("snap-1"))
    bench.volume("vol-9", present=False, error="no room")
    await bench.step_volume("vol-9")
    failed = await bench.get(Snapshot, "snap-1")
    assert (failed.state, failed.message) == (SnapshotState.error, "no room")
    assert (await bench.get(Volume, "vol-9")).state is VolumeState.deleting
    made = await bench.get(Image, "ami-9")
    assert (made.state, made.message) == (ImageState.failed, "no room")


async def test_a_deleted_copy_takes_its_volume_with_it(bench: Any, make: Any) -> None:
    volume, snapshot = staged(make, state=SnapshotState.deleting)
    await bench.put(make.host(), volume, snapshot)
    assert await bench.step_snapshot() is None
    assert (await bench.get(Volume, "vol-9")).state is VolumeState.deleting


async def test_an_upload_is_not_taken_before_it_is_complete(bench: Any, make: Any) -> None:
    volume, snapshot = staged(make, timeout_seconds=600.0)
    ready = replace(volume, host="host-0", state=VolumeState.available)
    await bench.put(make.host(), ready, snapshot)
    UPLOADS.begin("snap-1", bench.env.now())
    await bench.step_volume("vol-9")
    assert (await bench.step_snapshot()).host is None
    await bench.put(replace(await bench.get(Snapshot, "snap-1"), timeout_seconds=0.0))
    assert (await bench.step_snapshot()).host == "host-0"


async def test_an_abandoned_upload_is_given_up(bench: Any, make: Any) -> None:
    volume, snapshot = staged(make, timeout_seconds=600.0)
    await bench.put(make.host(), replace(volume, host="host-0", state=VolumeState.available), snapshot)
    UPLOADS.begin("snap-1", bench.env.now())
    bench.time += 500
    UPLOADS.wrote("snap-1", bench.env.now(), 0, b"")
    bench.time += 599
    assert (await bench.step_snapshot()).state is SnapshotState.pending
    bench.time += 1
    given_up = await bench.step_snapshot()
    assert given_up.state is SnapshotState.error
    assert "10 minutes" in given_up.message
    assert (await bench.get(Volume, "vol-9")).state is VolumeState.deleting


async def test_a_new_manager_gives_an_upload_its_time_once_more(bench: Any, make: Any) -> None:
    volume, snapshot = staged(make, timeout_seconds=600.0)
    await bench.put(make.host(), replace(volume, host="host-0", state=VolumeState.available), snapshot)
    UPLOADS.forget("snap-1")
    bench.time += 10_000
    assert (await bench.step_snapshot()).state is SnapshotState.pending
    bench.time += 600
    assert (await bench.step_snapshot()).state is SnapshotState.error


async def test_an_image_waits_for_the_last_of_its_snapshots(bench: Any, make: Any) -> None:
    await bench.put(
        make.host(),
        make.volume(state=VolumeState.available),
        make.snapshot(),
        make.snapshot("snap-2"),
        image("snap-1", "snap-2"),
    )
    bench.snapshot("snap-1")
    await bench.step_snapshot()
    assert (await bench.get(Image, "ami-9")).state is ImageState.pending
    bench.snapshot("snap-2")
    await bench.step_snapshot("snap-2")
    assert (await bench.get(Image, "ami-9")).state is ImageState.available


async def capturing(bench: Any, make: Any, **values: Any) -> None:
    await bench.put(
        make.host(),
        make.instance(state=InstanceState.running, capturing=("ami-9",), **values),
        make.attached(),
        make.snapshot(host=None, after="i-1"),
        image("snap-1", source_instance="i-1"),
    )


async def test_the_machine_is_off_while_snapshots_are_taken_for_an_image(bench: Any, make: Any) -> None:
    await capturing(bench, make)
    bench.machine(state=MachineState.running)
    assert (await bench.step_instance()).state is InstanceState.running
    assert (await bench.step_snapshot()).host is None
    bench.machine(state=MachineState.off, revision=0)
    await bench.step_instance()
    assert (await bench.step_snapshot()).held  # that it is off was before it was asked for
    bench.machine(state=MachineState.off)
    assert (await bench.step_instance()).capturing == ("ami-9",)
    snapshot = await bench.get(Snapshot, "snap-1")
    assert (snapshot.host, snapshot.held) == ("host-0", False)
    bench.snapshot()
    await bench.step_snapshot()
    assert (await bench.get(Image, "ami-9")).state is ImageState.available
    started = await bench.get(Instance, "i-1")
    assert (started.state, started.capturing, started.generation) == (InstanceState.running, (), 2)


@pytest.mark.parametrize("state", [InstanceState.stopping, InstanceState.shutting_down])
async def test_an_instance_that_is_ended_meanwhile(bench: Any, make: Any, state: InstanceState) -> None:
    await capturing(bench, make)
    await bench.put(replace(await bench.get(Instance, "i-1"), state=state))
    bench.machine(state=MachineState.off)
    assert (await bench.step_instance()).capturing == ()
    assert (await bench.get(Snapshot, "snap-1")).host == "host-0"
    bench.snapshot()
    await bench.step_snapshot()
    assert (await bench.get(Image, "ami-9")).state is ImageState.available
    assert (await bench.get(Instance, "i-1")).generation == 1


async def test_an_image_that_is_deregistered_meanwhile(bench: Any, make: Any) -> None:
    """Its snapshot goes before the machine is off; that starts again when it is, and not before."""
    await capturing(bench, make)
    await bench.put(replace(await bench.get(Image, "ami-9"), cancelled=True))
    await bench.put(replace(await bench.get(Snapshot, "snap-1"), state=SnapshotState.deleting))
    await bench.step_snapshot()
    assert (await bench.get(Image, "ami-9")).state is ImageState.deregistered
    assert (await bench.get(Instance, "i-1")).capturing == ("ami-9",)
    bench.machine(state=MachineState.off)
    started = await bench.step_instance()
    assert (started.capturing, started.generation) == ((), 2)


async def test_two_images_at_once(bench: Any, make: Any) -> None:
    """The machine starts once, when both are made."""
    await capturing(bench, make)
    await bench.put(
        replace(await bench.get(Instance, "i-1"), capturing=("ami-9", "ami-8")),
        make.snapshot("snap-2", host=None, after="i-1"),
        image("snap-2", id="ami-8", source_instance="i-1"),
    )
    bench.machine(state=MachineState.off)
    await bench.step_instance()
    for id, left in (("snap-1", ("ami-8",)), ("snap-2", ())):
        bench.snapshot(id)
        await bench.step_snapshot(id)
        assert (await bench.get(Instance, "i-1")).capturing == left
    assert (await bench.get(Instance, "i-1")).generation == 2


async def test_who_is_captured_is_found_again(bench: Any, make: Any) -> None:
    await capturing(bench, make)
    async with bench.store.read() as reader:
        assert [each.id for each in await captures.captured(reader)] == ["i-1"]
    await bench.put(replace(await bench.get(Image, "ami-9"), state=ImageState.available))
    async with bench.store.read() as reader:
        assert await captures.captured(reader) == []
