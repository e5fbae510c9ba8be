from __future__ import annotations

import asyncio
from typing import Any

from gureum.errors import HypervisorError, PoolError
from gureum.hostspec import MachineState
from gureum.hypervisors.fake import FakeHypervisor
from gureum.san.luks import LUKS_HEADER_BYTES, luks_header

GIB = 1 << 30
KEY = bytes(range(64))


def test_volumes_are_made_grown_and_deleted_by_word(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.volume(source="ami-1"))
        assert (lab.seen_volume().present, lab.seen_volume().size_bytes) == (True, GIB)
        assert lab.seen_volume().revision == lab.revision
        await lab.take(parts.volume(source="ami-1", size_bytes=2 * GIB))
        assert lab.seen_volume().size_bytes == 2 * GIB
        await lab.take()
        assert lab.disk.volumes() == {"vol-1"}
        assert any("unknown to the manager" in each for each in lab.agent.report().problems)
        await lab.take(parts.volume(present=False))
        assert not lab.disk.volumes()
        assert (lab.seen_volume().present, lab.seen_volume().revision) == (False, lab.revision)

    parts.on_lab(test)


def test_a_volume_in_a_machine_is_deleted_once_it_is_free(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        lab.machines.ignore_power_button("i-1")
        off = parts.machine(run=False, shutdown_seconds=5.0, volumes=())
        await lab.take(off, parts.volume(present=False), seconds=2)
        assert lab.disk.volumes()
        await asyncio.sleep(10)
        assert not lab.disk.volumes()

    parts.on_lab(test)


def test_a_running_machine_goes_on_over_snapshots_and_chains_are_merged_after(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        snapshots = [parts.SnapshotSpec(id=f"snap-{n}", volume="vol-1") for n in range(5)]
        await lab.take(parts.machine(), parts.volume(), *snapshots, seconds=10)
        disk = lab.machines.machines["i-1"].disks["vol-1"]
        assert len(disk.layers) == 6
        lab.disk.write(disk.layers[0], 1, b"x")
        before = len((await lab.agent.disks.local.pool.open_volume("vol-1")).layers)
        await lab.take(parts.machine(run=False), parts.volume(), *snapshots, seconds=10)
        after = len((await lab.agent.disks.local.pool.open_volume("vol-1")).layers)
        assert after < before
        assert lab.disk.contents_of("vol-1") == {1: b"x"}

    parts.on_lab(test)


def test_a_merge_that_fails_does_not_keep_a_machine_from_starting(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.volume())

        async def compact(id: str) -> bool:
            raise PoolError("no room")

        lab.agent.disks.local.pool.compact = compact
        await lab.take(parts.machine(), parts.volume())
        assert lab.machines.running()

    parts.on_lab(test)


def test_performance_changes_under_a_running_machine(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume(iops=100))
        running = lab.machines.machines["i-1"]
        disk = running.disks["vol-1"]
        assert (disk.disk.iops, disk.disk.throughput) == (100, 0)
        await lab.take(parts.machine(), parts.volume(iops=500, throughput=200))
        assert (disk.disk.iops, disk.disk.throughput) == (500, 200)
        assert lab.seen_volume().revision == lab.revision
        await lab.take(parts.machine(), parts.volume())
        assert (disk.disk.iops, disk.disk.throughput) == (0, 0)
        assert lab.machines.machines["i-1"].run == running.run == 1

    parts.on_lab(test)


def test_performance_that_changed_while_the_agent_was_away(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume(iops=500))
        await lab.stop()
        lab.start()
        await asyncio.sleep(1)
        await lab.take(parts.machine(), parts.volume())
        assert lab.machines.machines["i-1"].disks["vol-1"].disk.iops == 0

    parts.on_lab(test)


def test_a_machine_that_starts_meanwhile_gets_the_new_performance(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lab.agent.take(lab.spec(parts.machine(), parts.volume(iops=100)))
        await asyncio.sleep(0.1)
        assert lab.machines.machines["i-1"].state is MachineState.starting  # with what it was given
        await lab.take(parts.machine(), parts.volume(iops=500))
        assert lab.machines.machines["i-1"].disks["vol-1"].disk.iops == 500

    parts.on_lab(test)


def test_a_machine_that_does_not_take_it_fails_the_change(parts: Any, monkeypatch: Any) -> None:
    async def limit(*_: Any) -> None:
        raise HypervisorError("told to fail")

    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), parts.volume())
        monkeypatch.setattr(FakeHypervisor, "limit_disk", limit)
        await lab.take(parts.machine(), parts.volume(iops=500), seconds=60)
        assert "performance is not changed: told to fail" in lab.seen_volume().error

    parts.on_lab(test)


async def stored(lab: Any, volume: str, length: int) -> bytes:
    pool = lab.agent.disks.local.pool
    await pool.create_snapshot("snap-000000ff", volume)
    data: bytes = await pool.read_snapshot("snap-000000ff", volume, 0, length)
    await pool.delete_snapshot("snap-000000ff", volume)
    return data


def test_a_new_encrypted_volume_has_its_header(parts: Any) -> None:
    async def test(lab: Any) -> None:
        volume = parts.volume("vol-00000001", key=KEY)
        await lab.take(volume)
        seen = lab.seen_volume(volume.id)
        assert (seen.present, seen.size_bytes) == (True, GIB)
        assert lab.agent.disks.local.volumes[volume.id].size_bytes == GIB + LUKS_HEADER_BYTES
        assert await stored(lab, volume.id, LUKS_HEADER_BYTES) == luks_header(KEY)
        await lab.take(parts.volume("vol-00000001", key=KEY, size_bytes=2 * GIB, made=True))
        assert lab.seen_volume(volume.id).size_bytes == 2 * GIB

    parts.on_lab(test)


def test_an_agent_that_dies_before_the_header_is_written(parts: Any) -> None:
    """The volume is not said to be there, and gets its header from the next one."""

    async def test(lab: Any) -> None:
        volume = parts.volume("vol-00000001", key=KEY)
        created = asyncio.Event()

        def die(name: str) -> None:
            if name == "agent.volume.created":
                created.set()
                raise asyncio.CancelledError

        lab.env.crashpoint = die
        lab.agent.take(lab.spec(volume))
        await created.wait()
        assert not lab.agent.report().volumes[0].present
        lab.env.crashpoint = lambda name: None
        await lab.stop()
        lab.start()
        await asyncio.sleep(1)
        assert volume.id in lab.agent.disks.local.volumes
        await lab.take(volume)
        assert lab.seen_volume(volume.id).present
        assert await stored(lab, volume.id, LUKS_HEADER_BYTES) == luks_header(KEY)

    parts.on_lab(test)


def test_a_clone_keeps_the_header_that_it_has(parts: Any) -> None:
    async def test(lab: Any) -> None:
        volume = parts.volume("vol-00000001", key=KEY)
        await lab.take(volume)
        snapshot = parts.SnapshotSpec(id="snap-00000001", volume=volume.id)
        await lab.take(volume, snapshot)
        clone = parts.volume("vol-00000002", key=KEY, source=snapshot.id, source_volume=volume.id)
        await lab.take(volume, snapshot, clone)
        assert lab.seen_volume(clone.id).present
        assert await stored(lab, clone.id, LUKS_HEADER_BYTES) == luks_header(KEY)

    parts.on_lab(test)
