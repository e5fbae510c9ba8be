"""A volume goes from one pool to another, with a machine that has it open or without."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.agent.pool_volumes import PoolVolumes
from gureum.errors import HypervisorError, PoolError, PoolUnavailable
from gureum.hostspec import LOCAL, MachineState, SnapshotSpec, VolumeSpec
from gureum.hypervisors.base import Disk, describe
from gureum.hypervisors.fake import FakeHypervisor
from gureum.hypervisors.fake_machine import FakeDisk
from gureum.san.fake_shared import FakeImage
from gureum.san.luks import luks_header

GIB = 1 << 30
SAN = "san"
KEY = bytes(range(64))
WAYS = [(LOCAL, SAN), (SAN, LOCAL)]


def contents(lab: Any, pool: str, id: str = "vol-1") -> Any:
    found = (lab.san if pool == SAN else lab.disk).contents_of(id)
    return {block: data.rstrip(b"\0") for block, data in found.items() if data.strip(b"\0")}


def there(lab: Any, id: str = "vol-1") -> set[str]:
    return {pool for pool, disk in ((SAN, lab.san), (LOCAL, lab.disk)) if id in disk.volumes()}


def copied_by(lab: Any) -> None:
    """Let a mirror copy data."""

    def blocks(path: str) -> Any:
        return lab.san.rbd[lab.san.id(path)].blocks if path.startswith("rbd:") else None

    def copy(disk: FakeDisk, target: Disk) -> None:
        path = describe(target.source)
        source = lab.san.contents(disk.layers[0]) if disk.shared else lab.disk.contents(disk.layers[0])
        for block, data in source.items():
            if path.startswith("rbd:"):
                lab.san.write(path, block, data, "h")
            else:
                lab.disk.write(path, block, data)

    lab.machines.copy = copy


class Way:
    """A volume on its way, and what its spec says at each station."""

    def __init__(self, parts: Any, source: str, target: str, **values: Any) -> None:
        self.source, self.target = source, target
        self.before: VolumeSpec = parts.volume(pool=source, machine="i-1", source="ami-1", **values)
        self.made = replace(self.before, made=True)
        self.moving = replace(self.made, target=target)
        self.moved = replace(self.made, pool=target, leaves=(source,))
        self.after = replace(self.made, pool=target)
        self.cancelled = replace(self.made, leaves=(target,))


async def made(lab: Any, parts: Any, source: str, target: str, *machines: Any) -> Way:
    """A volume of the image, where it is first; open in these machines."""
    copied_by(lab)
    way = Way(parts, source, target)
    await lab.take(*machines, way.before if machines else replace(way.before, machine=""))
    return way


@pytest.mark.parametrize(("source", "target"), WAYS)
def test_a_running_machine_goes_over(parts: Any, source: str, target: str) -> None:
    async def test(lab: Any) -> None:
        way = await made(lab, parts, source, target, parts.machine())
        await lab.take(parts.machine(), way.moving, seconds=0.2)
        assert lab.seen_volume().copied == ""
        await asyncio.sleep(15)
        assert (lab.seen_volume().copied, lab.seen_volume().revision) == (target, lab.revision)
        assert there(lab) == {SAN, LOCAL}
        await lab.take(parts.machine(), way.moved)
        assert (lab.seen_volume().revision, lab.seen_volume().leaves) == (lab.revision, ())
        assert there(lab) == {target}
        machine = lab.machines.machines["i-1"]
        assert (machine.run, machine.disks["vol-1"].shared) == (1, target == SAN)
        await lab.take(parts.machine(run=False), way.after)
        assert lab.seen().revision == lab.revision
        assert contents(lab, target) == {0: b"boot"}
        if target == SAN:
            assert lab.san.rbd["vol-1"].holder is None

    parts.on_lab(test)


@pytest.mark.parametrize(("source", "target"), WAYS)
def test_what_no_machine_has_open_is_copied(parts: Any, source: str, target: str) -> None:
    async def test(lab: Any) -> None:
        lab.disk.images["/images/a"] = {0: b"boot", 7: b"more"}
        lab.san.disks["/images/a"] = {0: b"boot", 7: b"more"}
        way = await made(lab, parts, source, target)
        await lab.take(way.moving, seconds=10)
        assert lab.seen_volume().copied == target
        await lab.take(way.moved)
        assert there(lab) == {target}
        assert contents(lab, target) == {0: b"boot", 7: b"more"}
        assert not lab.agent.disks.pools.get(target).volumes["vol-1"].partial
        await lab.take(parts.machine(), way.after)
        assert lab.seen().state is MachineState.running

    parts.on_lab(test)


@pytest.mark.parametrize(("source", "target"), WAYS)
@pytest.mark.parametrize("runs", [True, False])
def test_cancelled(parts: Any, source: str, target: str, runs: bool) -> None:
    async def test(lab: Any) -> None:
        way = Way(parts, source, target)
        machines = (parts.machine(),) if runs else ()
        await lab.take(*machines, way.before)
        for seconds in (0.05, 0.5, 10):
            await lab.take(*machines, way.moving, seconds=seconds)
            await lab.take(*machines, way.cancelled, seconds=5)
            assert there(lab) == {source}
            assert lab.seen_volume().leaves == ()
            if runs:
                assert lab.machines.machines["i-1"].disks["vol-1"].mirror is None

    parts.on_lab(test)


def test_a_machine_that_starts_does_not_wait_for_the_copy(parts: Any) -> None:
    async def test(lab: Any) -> None:
        way = await made(lab, parts, LOCAL, SAN)
        lab.san.delay_next("write_volume", 500)
        await lab.take(way.moving, seconds=1)
        # Only what is under way is waited for.
        lab.san.delay_next("write_volume", 0)
        await lab.take(way.moving, seconds=500)
        await lab.take(parts.machine(), way.moving, seconds=20)
        assert lab.seen().state is MachineState.running
        assert lab.seen_volume().copied == SAN

    parts.on_lab(test)


def test_a_copy_is_not_complete_any_more_when_a_machine_starts(parts: Any) -> None:
    """The manager's word may cross with the start: the machine still goes over with all that it wrote."""

    async def test(lab: Any) -> None:
        way = await made(lab, parts, LOCAL, SAN)
        await lab.take(way.moving, seconds=5)
        assert not lab.san.rbd["vol-1"].partial
        lab.machines.fail_mirror("vol-1")
        await lab.take(parts.machine(), way.moving, seconds=5)
        assert lab.san.rbd["vol-1"].partial
        lab.disk.write(lab.machines.machines["i-1"].disks["vol-1"].layers[0], 1, b"new")
        await lab.take(parts.machine(), way.moved, seconds=5)
        assert there(lab) == {LOCAL, SAN}
        lab.machines.fail_mirror("vol-1", "")
        await asyncio.sleep(60)
        assert there(lab) == {SAN}
        assert contents(lab, SAN) == {0: b"boot", 1: b"new"}

    parts.on_lab(test)


def test_a_machine_that_ended_before_it_went_over_has_lost_nothing(parts: Any) -> None:
    async def test(lab: Any) -> None:
        way = await made(lab, parts, LOCAL, SAN, parts.machine())
        await lab.take(parts.machine(), way.moving, seconds=15)
        assert lab.seen_volume().copied == SAN
        lab.machines.fail_mirror("vol-1")
        await lab.stop()
        # The mirror breaks while nobody looks, the guest writes, and the power goes.
        disk = lab.machines.machines["i-1"].disks["vol-1"]
        lab.disk.write(disk.layers[0], 1, b"new")
        lab.machines.reboot_host()
        lab.start()
        await asyncio.sleep(1)
        await lab.take(parts.machine(generation=2), way.moved, seconds=10)
        assert lab.seen().state is MachineState.running
        assert there(lab) == {SAN}
        assert contents(lab, SAN) == {0: b"boot", 1: b"new"}

    parts.on_lab(test)


def test_nothing_is_copied_while_a_machine_opens_the_source(parts: Any) -> None:
    """The manager's word comes just then: what is copied before the machine writes lacks its writes."""

    async def test(lab: Any) -> None:
        way = await made(lab, parts, SAN, LOCAL)
        await lab.take(way.moving, seconds=5)
        assert lab.seen_volume().copied == LOCAL
        lab.machines.fail_mirror("vol-1")
        lab.san.delay_next("open_volume", 3)
        await lab.take(parts.machine(), way.moving, seconds=1)
        await lab.take(parts.machine(), way.moved, seconds=0.5)
        lab.agent.disks._workers.kick(("move", "vol-1"))
        await asyncio.sleep(5)
        assert lab.seen().state is MachineState.running
        lab.san.write(lab.machines.machines["i-1"].disks["vol-1"].layers[0], 1, b"new", "h")
        lab.machines.crash("i-1")
        await asyncio.sleep(60)
        assert there(lab) == {LOCAL}
        assert contents(lab, LOCAL) == {0: b"boot", 1: b"new"}

    parts.on_lab(test)


def test_the_source_stays_while_a_machine_is_about_to_open_it(parts: Any) -> None:
    """The manager's word comes before the copy says that it is not complete any more."""

    async def test(lab: Any) -> None:
        way = await made(lab, parts, LOCAL, SAN)
        await lab.take(way.moving, seconds=5)
        assert lab.seen_volume().copied == SAN
        lab.machines.fail_start("i-1")
        lab.san.delay_next("mark_partial", 3)
        await lab.take(parts.machine(), way.moving, seconds=1)
        await lab.take(parts.machine(), way.moved, seconds=0.5)
        lab.agent.disks._workers.kick(("move", "vol-1"))
        await asyncio.sleep(60)
        assert there(lab) == {SAN}
        assert contents(lab, SAN) == {0: b"boot"}
        assert (lab.seen_volume().error, lab.san.rbd["vol-1"].partial) == ("", False)

    parts.on_lab(test)


def test_a_copy_that_a_lost_host_still_holds_is_removed(parts: Any) -> None:
    async def test(lab: Any) -> None:
        way = await made(lab, parts, LOCAL, SAN)
        lab.san.rbd["vol-1"] = FakeImage(GIB, "", {})
        lab.san.rbd["vol-1"].holder = "lost"
        await lab.take(replace(way.cancelled, evict=("lost",)))
        assert there(lab) == {LOCAL}
        assert (lab.seen_volume().leaves, lab.seen_volume().revision) == ((), lab.revision)

    parts.on_lab(test)


def test_a_copy_that_says_that_it_is_complete_and_is_not(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror fails just as the machine goes over, and its pool takes no word of that."""

    async def finish(self: FakeHypervisor, id: str, volume: str) -> None:
        disk = self.host.machines[id].disks[volume]
        assert disk.mirror is not None
        disk.mirror = replace(disk.mirror, ready=False, error="no room")
        for _ in range(100):
            lab.san.fail_next("mark_partial", PoolError("no room"))
        raise HypervisorError("no room")

    async def test(given: Any) -> None:
        nonlocal lab
        lab = given
        way = await made(lab, parts, LOCAL, SAN, parts.machine())
        await lab.take(parts.machine(), way.moving, seconds=15)
        monkeypatch.setattr(FakeHypervisor, "finish_mirror", finish)
        await lab.take(parts.machine(), way.moved, seconds=5)
        lab.disk.write(lab.machines.machines["i-1"].disks["vol-1"].layers[0], 1, b"new")
        lab.machines.crash("i-1")
        await asyncio.sleep(30)
        lab.san.fail_nothing()
        await asyncio.sleep(60)
        assert there(lab) == {SAN}
        assert contents(lab, SAN) == {0: b"boot", 1: b"new"}

    lab: Any = None
    parts.on_lab(test)


def test_an_agent_finds_what_the_one_before_began(parts: Any) -> None:
    async def test(lab: Any) -> None:
        way = await made(lab, parts, SAN, LOCAL, parts.machine())
        await lab.take(parts.machine(), way.moving, seconds=0.3)
        await lab.stop()
        await asyncio.sleep(20)
        lab.start()
        await asyncio.sleep(1)
        await lab.take(parts.machine(), way.moving)
        assert lab.seen_volume().copied == LOCAL
        await lab.take(parts.machine(), way.moved)
        assert there(lab) == {LOCAL}
        assert lab.machines.machines["i-1"].run == 1

    parts.on_lab(test)


def test_a_volume_goes_though_its_snapshot_was_taken_by_the_agent_before(
    parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one learns of the snapshot after it has looked whether the volume waits for one."""

    async def test(lab: Any) -> None:
        way = await made(lab, parts, SAN, LOCAL)
        taken = SnapshotSpec(id="snap-1", volume="vol-1", pool=SAN)
        await lab.take(way.made, taken)
        assert lab.seen_snapshot().present
        await lab.stop()
        lab.start()
        ask = PoolVolumes.ask_snapshot

        async def slowly(self: PoolVolumes, id: str, volume: str) -> None:
            await asyncio.sleep(3)
            await ask(self, id, volume)

        monkeypatch.setattr(PoolVolumes, "ask_snapshot", slowly)
        await lab.take(way.moving, taken, seconds=20)
        assert lab.seen_volume().copied == LOCAL

    parts.on_lab(test)


def test_a_copy_that_fails_is_told_to_be_stuck(parts: Any) -> None:
    async def test(lab: Any) -> None:
        way = await made(lab, parts, LOCAL, SAN, parts.machine())
        lab.machines.fail_mirror("vol-1", "no room")
        await lab.take(parts.machine(), way.moving, seconds=60)
        assert "no room" in lab.seen_volume().stuck
        assert lab.seen_volume().error == ""
        await lab.take(parts.machine(), way.cancelled)
        assert (lab.seen_volume().stuck, there(lab)) == ("", {LOCAL})

    parts.on_lab(test)


def test_a_pool_that_is_away_is_waited_for(parts: Any) -> None:
    async def test(lab: Any) -> None:
        way = await made(lab, parts, LOCAL, SAN)
        lab.san.down = True
        await lab.take(way.moving, seconds=60)
        assert lab.seen_volume().stuck == ""
        lab.san.down = False
        await asyncio.sleep(40)
        assert lab.seen_volume().copied == SAN

    parts.on_lab(test)


def test_deleted_on_its_way(parts: Any) -> None:
    async def test(lab: Any) -> None:
        way = await made(lab, parts, LOCAL, SAN, parts.machine())
        await lab.take(parts.machine(), way.moving, seconds=2)
        assert there(lab) == {LOCAL, SAN}
        await lab.take(replace(way.moving, present=False), seconds=5)
        assert there(lab) == set()
        assert (lab.seen_volume().present, lab.seen_volume().revision) == (False, lab.revision)

    parts.on_lab(test)


@pytest.mark.parametrize(("source", "target"), WAYS)
def test_snapshots_stay_where_they_were_taken(parts: Any, source: str, target: str) -> None:
    async def test(lab: Any) -> None:
        copied_by(lab)
        way = Way(parts, source, target)
        taken = SnapshotSpec(id="snap-1", volume="vol-1", pool=source)
        await lab.take(parts.machine(), way.before, taken)
        await lab.take(parts.machine(), way.moving, taken, seconds=15)
        await lab.take(parts.machine(), way.moved, taken)
        assert there(lab) == {target}
        assert lab.seen_snapshot().present
        await lab.take(parts.machine(), way.after, replace(taken, present=False))
        assert not lab.seen_snapshot().present
        assert lab.disk.leaks() == [] == lab.san.leaks()

    parts.on_lab(test)


@pytest.mark.parametrize(("source", "target"), WAYS)
@pytest.mark.parametrize("step", ["create_volume", "open_volume", "mark_partial", "delete_volume"])
def test_what_fails_once_is_done_again(parts: Any, step: str, source: str, target: str) -> None:
    async def test(lab: Any) -> None:
        way = await made(lab, parts, source, target, parts.machine())
        lab.san.fail_next(step, PoolError("once"))
        await lab.take(parts.machine(), way.moving, seconds=30)
        assert lab.seen_volume().copied == target
        await lab.take(parts.machine(), way.moved, seconds=30)
        assert there(lab) == {target}
        assert lab.seen_volume().error == ""

    parts.on_lab(test)


# With its machine, from another host's own pool


def coming(parts: Any, **values: Any) -> VolumeSpec:
    found: VolumeSpec = parts.volume(**{"receives": True, "keeper": False, **values})
    return found


def test_a_copy_that_a_machine_fills_is_made_empty_and_not_complete(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(coming(parts))
        assert (lab.seen_volume().present, lab.seen_volume().revision) == (True, lab.revision)
        assert lab.agent.disks.local.volumes["vol-1"].partial
        assert lab.agent.disks.ready("vol-1")
        await lab.stop()
        lab.start()
        await asyncio.sleep(1)
        await lab.take(coming(parts))
        assert lab.agent.disks.local.volumes["vol-1"].partial
        # It is the volume from now on.
        await lab.take(parts.volume(made=True, source="ami-1"))
        assert not lab.agent.disks.local.volumes["vol-1"].partial
        assert lab.seen_volume().revision == lab.revision

    parts.on_lab(test)


def test_a_copy_that_came_to_nothing_is_removed(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(coming(parts))
        await lab.take()
        assert there(lab) == {LOCAL}
        await lab.take(coming(parts, present=False))
        assert there(lab) == set()
        assert (lab.seen_volume().present, lab.seen_volume().revision) == (False, lab.revision)

    parts.on_lab(test)


def test_a_copy_of_an_encrypted_volume_has_its_header(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(coming(parts, key=KEY))
        header = await lab.agent.disks.pool(LOCAL).read_volume("vol-1", 0, 4096)
        assert header == luks_header(KEY)[:4096]
        assert lab.agent.disks.ready("vol-1")

    parts.on_lab(test)


def test_what_was_left_from_before_is_not_complete_when_a_machine_fills_it(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.volume(source="ami-1"))
        assert not lab.agent.disks.local.volumes["vol-1"].partial
        await lab.take(coming(parts))
        async with lab.agent.disks.opened("i-1", ["vol-1"]):
            assert lab.agent.disks.local.volumes["vol-1"].partial

    parts.on_lab(test)


@pytest.mark.parametrize("mentioned", [True, False])
def test_a_machine_that_waited_to_open_what_is_deleted_meanwhile_does_not(
    parts: Any, mentioned: bool
) -> None:
    async def test(lab: Any) -> None:
        async def opens() -> None:
            async with lab.agent.disks.opened("i-1", ["vol-1"]):
                raise AssertionError("it is not there")

        await lab.take(coming(parts))
        async with lab.agent.disks.opened("i-1", ["vol-1"]):
            await lab.take(coming(parts, present=False), seconds=0.1)
            waits = asyncio.create_task(opens())
            await asyncio.sleep(0.1)
            if not mentioned:
                await lab.take(seconds=0.1)
        with pytest.raises(PoolUnavailable, match="vol-1 is"):
            await waits

    parts.on_lab(test)


def test_a_copy_without_room_is_told_of(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lab.disk.size_bytes = 0
        await lab.take(coming(parts), seconds=5)
        assert "full" in lab.seen_volume().error
        assert lab.seen_volume().revision == lab.revision

    parts.on_lab(test)


def test_a_volume_moves_once_a_snapshot_that_cannot_be_taken_is_given_up(parts: Any) -> None:
    async def test(lab: Any) -> None:
        way = await made(lab, parts, SAN, LOCAL)
        for _ in range(3):
            lab.san.fail_next("has_snapshot", PoolError("no answer"))
        snapshot = SnapshotSpec(id="snap-1", volume="vol-1", pool=SAN)
        await lab.take(way.moving, snapshot, seconds=1)
        assert lab.seen_volume().copied == ""
        await lab.take(way.moving)
        assert lab.seen_volume().copied == LOCAL

    parts.on_lab(test)


def test_a_copy_that_another_host_has_open_stays_complete(parts: Any) -> None:
    """It is the volume by now, though this host was not told so yet."""

    async def test(lab: Any) -> None:
        way = await made(lab, parts, LOCAL, SAN, parts.machine())
        lab.san.rbd["vol-1"] = FakeImage(GIB, "", {0: b"newer"})
        lab.san.rbd["vol-1"].holder = "other"
        await lab.take(parts.machine(), way.moving, seconds=30)
        image = lab.san.rbd["vol-1"]
        assert (image.partial, image.holder, image.blocks) == (False, "other", {0: b"newer"})

    parts.on_lab(test)
