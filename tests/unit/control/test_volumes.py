from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import volumes
from gureum.hostspec import MachineState
from gureum.resources import (
    AttachmentState,
    BlockDevice,
    Instance,
    InstanceState,
    Modification,
    SnapshotState,
    Volume,
    VolumeState,
)

GIB = 1 << 30


async def test_a_volume_is_placed_on_the_emptiest_pool_of_its_zone(bench: Any, make: Any) -> None:
    await bench.put(
        make.host("host-0", zone="us-east-1a", pool_free_bytes=1),
        make.host("host-1", zone="us-east-1a", pool_free_bytes=2),
        make.host("host-2", zone="us-east-1b", pool_free_bytes=3),
        make.host("host-3", zone="us-east-1a", pool_free_bytes=4, state="down"),
        make.volume(host=None),
    )
    assert (await bench.step_volume()).host == "host-1"


async def test_a_clone_is_placed_where_its_snapshot_is(bench: Any, make: Any) -> None:
    await bench.put(
        make.host("host-0", pool_free_bytes=1),
        make.host("host-1", pool_free_bytes=9),
        make.snapshot("snap-9", host="host-0", state=SnapshotState.completed),
        make.volume(host=None, source="snap-9"),
    )
    assert (await bench.step_volume()).host == "host-0"


async def test_a_volume_of_an_instance_waits_to_be_placed_with_it(bench: Any, make: Any) -> None:
    await bench.put(make.host(), replace(make.attached(host=None), state=VolumeState.creating))
    assert (await bench.step_volume()).host is None


async def test_created_when_the_pool_has_it_in_full_size(bench: Any, make: Any) -> None:
    await bench.put(make.volume(size_bytes=2 * GIB))
    bench.volume(present=False)
    assert (await bench.step_volume()).state is VolumeState.creating
    bench.volume(size_bytes=GIB)
    assert (await bench.step_volume()).state is VolumeState.creating
    bench.volume(size_bytes=2 * GIB, revision=0)
    assert (await bench.step_volume()).state is VolumeState.available


async def test_a_volume_that_failed_is_not_attaching_for_ever(bench: Any, make: Any) -> None:
    attaching = replace(make.attached(state=AttachmentState.attaching), state=VolumeState.error)
    assert not volumes.settled(attaching)
    await bench.put(make.instance(state=InstanceState.stopped), attaching)
    after = await bench.step_volume()
    assert (after.state, after.attachments[0].state) == (VolumeState.error, AttachmentState.attached)
    assert volumes.settled(after)


async def test_an_error_counts_if_it_is_of_this_request(bench: Any, make: Any) -> None:
    await bench.put(make.volume())
    version = (await bench.get(Volume, "vol-1")).version
    bench.volume(present=False, error="full", revision=version - 1)
    assert (await bench.step_volume()).state is VolumeState.creating
    bench.volume(present=False, error="full", revision=version)
    failed = await bench.step_volume()
    assert (failed.state, failed.message) == (VolumeState.error, "full")


async def test_deleted_on_new_enough_evidence_only(bench: Any, make: Any) -> None:
    await bench.put(make.volume(state=VolumeState.deleting))
    version = (await bench.get(Volume, "vol-1")).version
    for said in ({"present": True}, {"present": False, "revision": version - 1}):
        bench.volume(**said)
        assert await bench.step_volume() is not None
    bench.volume(present=False, revision=version)
    assert await bench.step_volume() is None


async def test_deleting_what_was_never_placed(bench: Any, make: Any) -> None:
    await bench.put(make.volume(state=VolumeState.deleting, host=None))
    assert await bench.step_volume() is None


async def test_attached_when_the_machine_has_it(bench: Any, make: Any) -> None:
    await bench.put(
        make.instance(state=InstanceState.running), make.attached(state=AttachmentState.attaching)
    )
    bench.machine()
    assert (await bench.step_volume()).attachments[0].state is AttachmentState.attaching
    bench.machine(state=MachineState.starting, disks=("vol-1",))
    assert (await bench.step_volume()).attachments[0].state is AttachmentState.attaching
    bench.machine(disks=("vol-1",))
    assert (await bench.step_volume()).attachments[0].state is AttachmentState.attached


async def test_detached_when_the_machine_does_not_have_it_any_more(bench: Any, make: Any) -> None:
    device = BlockDevice(device="/dev/sdf", volume="vol-1")
    await bench.put(
        make.instance(state=InstanceState.running, devices=(device,)),
        make.attached(state=AttachmentState.detaching),
    )
    version = (await bench.get(Volume, "vol-1")).version
    bench.machine(revision=version - 1)
    assert (await bench.step_volume()).attachments
    bench.machine(revision=version, disks=("vol-1",))
    assert (await bench.step_volume()).attachments
    bench.machine(revision=version)
    after = await bench.step_volume()
    assert (after.state, after.attachments) == (VolumeState.available, ())
    assert (await bench.get(Instance, "i-1")).devices == ()


@pytest.mark.parametrize("state", [InstanceState.stopped, InstanceState.terminated])
async def test_an_instance_that_is_off_has_let_go(bench: Any, make: Any, state: InstanceState) -> None:
    await bench.put(make.instance(state=state), make.attached(state=AttachmentState.detaching))
    assert not (await bench.step_volume()).attachments


async def test_a_volume_whose_instance_is_gone_is_free(bench: Any, make: Any) -> None:
    await bench.put(make.attached())
    assert (await bench.step_volume()).state is VolumeState.available


def growing(make: Any) -> Volume:
    modification = Modification(
        state="modifying",
        started=make.volume().created,
        original_size_bytes=GIB,
        original_type="gp2",
    )
    grown: Volume = make.volume(
        state=VolumeState.available, size_bytes=3 * GIB, type="gp3", iops=4000, modification=modification
    )
    return grown


async def test_a_modification_is_complete_when_the_pool_shows_the_size(bench: Any, make: Any) -> None:
    await bench.put(growing(make))
    bench.volume(size_bytes=GIB)
    assert (await bench.step_volume()).modification.state == "modifying"
    bench.volume(size_bytes=3 * GIB)
    after = await bench.step_volume()
    assert (after.modification.state, after.size_bytes) == ("completed", 3 * GIB)


async def test_a_modification_that_fails_takes_the_size_back(bench: Any, make: Any) -> None:
    await bench.put(growing(make))
    bench.volume(size_bytes=GIB, error="full", full=True)
    after = await bench.step_volume()
    assert (after.modification.state, after.size_bytes) == ("failed", GIB)
    assert after.modification.message == "full"
    assert (after.type, after.iops, after.throughput) == ("gp2", 0, 0)


async def test_a_modification_that_fails_takes_multi_attach_back(bench: Any, make: Any) -> None:
    await bench.put(replace(growing(make), multi_attach=True))
    bench.volume(size_bytes=GIB, error="full", full=True)
    assert not (await bench.step_volume()).multi_attach


async def test_a_snapshot_is_taken_where_its_volume_is(bench: Any, make: Any) -> None:
    await bench.put(make.volume(state=VolumeState.available), make.snapshot(host=None))
    assert (await bench.step_snapshot()).host == "host-0"
    bench.snapshot()
    assert (await bench.step_snapshot()).state is SnapshotState.completed


async def test_a_snapshot_of_a_volume_that_never_was_fails(bench: Any, make: Any) -> None:
    await bench.put(make.snapshot("snap-1"), make.volume("vol-2", state="error", message="full"))
    await bench.put(make.snapshot("snap-2", volume="vol-2"))
    first, second = await bench.step_snapshot("snap-1"), await bench.step_snapshot("snap-2")
    assert (first.state, second.state) == (SnapshotState.error, SnapshotState.error)
    assert second.message == "full"


async def test_a_snapshot_fails_and_is_deleted_on_evidence(bench: Any, make: Any) -> None:
    await bench.put(make.volume(state=VolumeState.available), make.snapshot())
    bench.snapshot(present=False, error="broken", revision=0)
    assert (await bench.step_snapshot()).state is SnapshotState.pending
    bench.snapshot(present=False, error="broken")
    failed = await bench.step_snapshot()
    assert failed.state is SnapshotState.error
    await bench.put(replace(failed, state=SnapshotState.deleting))
    bench.snapshot(present=False, revision=failed.version)
    assert await bench.step_snapshot() is not None
    bench.snapshot(present=False)
    assert await bench.step_snapshot() is None


def test_settled_is_what_needs_no_news(make: Any) -> None:
    assert volumes.settled(make.volume(state=VolumeState.available))
    assert volumes.settled(make.attached())
    assert not volumes.settled(make.attached(state=AttachmentState.detaching))
    assert not volumes.settled(make.volume(state=VolumeState.deleting))
    assert not volumes.settled(growing(make))


async def test_a_host_that_is_drained_gets_no_volumes(bench: Any, make: Any) -> None:
    await bench.put(
        make.host("host-0", draining=True, pool_free_bytes=99),
        make.host("host-1", pool_free_bytes=1),
        make.volume(state=VolumeState.creating, host=None),
    )
    assert (await bench.step_volume()).host == "host-1"


async def test_a_clone_of_a_snapshot_on_a_host_that_is_drained(bench: Any, make: Any) -> None:
    await bench.put(
        make.host("host-0", draining=True),
        make.snapshot("snap-9", host="host-0", state=SnapshotState.completed),
        make.volume(state=VolumeState.creating, host=None, source="snap-9"),
    )
    after = await bench.step_volume()
    assert after.state is VolumeState.error
    assert "host-0, which takes nothing while it is being drained" in after.message


async def test_it_is_free_when_the_last_of_several_has_given_it_up(bench: Any, make: Any) -> None:
    both = make.attached(state=AttachmentState.detaching, multi_attach=True, instances=["i-1", "i-2"])
    await bench.put(make.instance(state=InstanceState.stopped), make.instance("i-2"), both)
    left = await bench.step_volume()
    assert (left.state, left.instances) == (VolumeState.in_use, ("i-2",))
    await bench.put(replace(await bench.get(Instance, "i-2"), state=InstanceState.stopped))
    assert (await bench.step_volume()).state is VolumeState.available
