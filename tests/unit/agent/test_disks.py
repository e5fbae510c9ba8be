from __future__ import annotations

import asyncio
from typing import Any

from gureum.errors import PoolFull

GIB = 1 << 30


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


def test_lost_data_is_reported_and_not_made_anew(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lost = parts.SnapshotSpec(id="snap-1", volume="vol-1", made=True)
        await lab.take(parts.volume(made=True), lost, parts.volume("vol-2", source="snap-1"))
        assert "lost" in lab.seen_volume().error
        assert "lost" in lab.seen_snapshot().error
        assert "lost" in lab.seen_volume("vol-2").error
        assert not lab.disk.volumes()

    parts.on_lab(test)
