from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from gureum.agent.zeros import PART_BYTES
from gureum.san.luks import LUKS_HEADER_BYTES, encrypted
from gureum.san.pool import LayeredPool
from gureum.transport.messages import BLOCK_BYTES

KEY = bytes(range(64))


@pytest.mark.parametrize("pool", ["local", "san"])
def test_what_was_not_uploaded_is_zeros_to_a_machine(parts: Any, pool: str) -> None:
    async def test(lab: Any) -> None:
        size = 2 * PART_BYTES + BLOCK_BYTES
        data = random.Random(1).randbytes(BLOCK_BYTES)
        volume = parts.volume("vol-00000001", key=KEY, size_bytes=size, pool=pool)
        await lab.take(volume)
        await lab.agent.disks.write(volume.id, 9 * BLOCK_BYTES, data)
        one = parts.SnapshotSpec(id="snap-00000001", volume=volume.id, pool=pool, zeros=True)
        await lab.take(volume, one, seconds=60.0)
        assert lab.seen_snapshot(one.id).present
        found = lab.agent.disks.pool(pool)
        for index in (0, 8, 9, 10, size // BLOCK_BYTES - 1):
            at = index * BLOCK_BYTES
            stored = await found.read_snapshot(one.id, volume.id, LUKS_HEADER_BYTES + at, BLOCK_BYTES)
            assert stored == encrypted(KEY, at, data if index == 9 else bytes(BLOCK_BYTES)), index

    parts.on_lab(test)


def test_other_snapshots_stay_thin(parts: Any) -> None:
    async def test(lab: Any) -> None:
        volume = parts.volume("vol-00000001", key=KEY, size_bytes=16 * BLOCK_BYTES)
        await lab.take(volume)
        await lab.agent.disks.write(volume.id, BLOCK_BYTES, b"x" * BLOCK_BYTES)
        one = parts.SnapshotSpec(id="snap-00000001", volume=volume.id)
        await lab.take(volume, one)
        clone = parts.volume(
            "vol-00000002", key=KEY, size_bytes=volume.size_bytes, source=one.id, source_volume=volume.id
        )
        two = parts.SnapshotSpec(id="snap-00000002", volume=clone.id, zeros=True)
        await lab.take(volume, one, clone, two)
        assert lab.seen_snapshot(two.id).present
        pool = lab.agent.disks.local.pool
        for snapshot, of in ((one.id, volume.id), (two.id, clone.id)):
            assert await pool.read_snapshot(snapshot, of, LUKS_HEADER_BYTES, 512) == bytes(512)

    parts.on_lab(test)


def test_an_agent_that_dies_while_it_writes_zeros(parts: Any) -> None:
    async def test(lab: Any) -> None:
        size = 3 * PART_BYTES
        volume = parts.volume("vol-00000001", key=KEY, size_bytes=size)
        await lab.take(volume)
        one = parts.SnapshotSpec(id="snap-00000001", volume=volume.id, zeros=True)
        writes, write_volume, begun = 0, LayeredPool.write_volume, asyncio.Event()

        async def slow(*values: Any) -> None:
            nonlocal writes
            writes += 1
            if writes == 70:
                begun.set()
                await asyncio.sleep(1)
            await write_volume(*values)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LayeredPool, "write_volume", slow)
            lab.agent.take(lab.spec(volume, one))
            await begun.wait()
            await lab.stop()
        assert one.id not in lab.disk.snapshots()
        lab.start()
        await lab.take(volume, one, seconds=60.0)
        assert lab.seen_snapshot(one.id).present
        pool = lab.agent.disks.local.pool
        for at in range(0, size, 16 << 20):
            stored = await pool.read_snapshot(one.id, volume.id, LUKS_HEADER_BYTES + at, 512)
            assert stored == encrypted(KEY, at, bytes(512)), at

    parts.on_lab(test)


def test_zeros_are_not_written_where_guests_would_lack_the_room(parts: Any) -> None:
    async def test(lab: Any) -> None:
        volume = parts.volume("vol-00000001", key=KEY, size_bytes=PART_BYTES, pool="san")
        await lab.take(volume)
        lab.san.size_bytes = lab.san.used_bytes() + (64 << 10)
        one = parts.SnapshotSpec(id="snap-00000001", volume=volume.id, pool="san", zeros=True)
        await lab.take(volume, one, seconds=10.0)
        seen = lab.seen_snapshot(one.id)
        assert not seen.present
        assert "can't be written in full" in seen.error

    parts.on_lab(test)
