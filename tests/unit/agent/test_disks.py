from __future__ import annotations

import asyncio
from typing import Any

from gureum.errors import HypervisorError, PoolError, PoolFull
from gureum.hostspec import MachineState
from gureum.hypervisors.fake import FakeHypervisor

GIB = 1 << 30


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


def test_a_lack_of_space_is_final_at_once_other_errors_after_some(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lab.disk.fail_next("create_layer", PoolFull("full"))
        await lab.take(parts.volume(), seconds=1)
        assert (lab.seen_volume().error, lab.seen_volume().full) == ("full", True)
        lab.disk.fail_next("create_layer")
        await lab.take(parts.volume("vol-2"), seconds=0.3)
        assert lab.seen_volume("vol-2").error == ""
        await asyncio.sleep(5)
        assert lab.seen_volume("vol-2").present

    parts.on_lab(test)


def test_a_deletion_is_never_given_up(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.volume())
        for _ in range(8):
            lab.disk.fail_next("drop_record")
        await lab.take(parts.volume(present=False), seconds=120)
        assert lab.seen_volume().error == ""
        assert not lab.disk.volumes()

    parts.on_lab(test)


def test_a_failure_of_what_is_not_asked_any_more_says_nothing(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.volume())
        lab.disk.fail_next("grow_layer", PoolFull("full"))
        lab.agent.take(lab.spec(parts.volume(size_bytes=2 * GIB)))
        await asyncio.sleep(0)
        await lab.take(parts.volume(size_bytes=GIB), seconds=5)
        assert (lab.seen_volume().error, lab.seen_volume().revision) == ("", lab.revision)

    parts.on_lab(test)


def test_what_failed_work_left_is_tidied_up(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.volume())
        lab.disk.fail_next("remove_layers")
        await lab.take(parts.volume(present=False), seconds=2)
        assert lab.disk.leaks()
        await asyncio.sleep(15)
        assert not lab.disk.leaks()

    parts.on_lab(test)


def test_a_volume_waits_for_its_snapshot_before_it_is_deleted(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.volume())
        lab.disk.fail_next("create_layer")
        snapshot = parts.SnapshotSpec(id="snap-1", volume="vol-1")
        await lab.take(parts.volume(present=False), snapshot, seconds=10)
        assert lab.seen_snapshot().present
        assert not lab.seen_volume().present
        await lab.take(snapshot, parts.volume("vol-2", source="snap-1"))
        assert lab.seen_volume("vol-2").present

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


def test_lost_data_is_reported_and_not_made_anew(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lost = parts.SnapshotSpec(id="snap-1", volume="vol-1", made=True)
        await lab.take(parts.volume(made=True), lost, parts.volume("vol-2", source="snap-1"))
        assert "lost" in lab.seen_volume().error
        assert "lost" in lab.seen_snapshot().error
        assert "lost" in lab.seen_volume("vol-2").error
        assert not lab.disk.volumes()

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
