from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest

from gureum.agent import blocks
from gureum.agent.zeros import PART_BYTES
from gureum.errors import HostError
from gureum.san.luks import LUKS_HEADER_BYTES, encrypted, luks_header
from gureum.san.pool import LayeredPool
from gureum.transport.messages import BLOCK_BYTES, BlockUse, Call

GIB = 1 << 30
KEY = bytes(range(64))


def call(method: str, **values: Any) -> Call:
    return Call(id=1, method=method, **{"pool": "local", "size": GIB, **values})


async def used(lab: Any, **values: Any) -> list[BlockUse]:
    asked = {"snapshot": "snap-00000001", "volume": "vol-00000001", "offset": 0, "length": 100, **values}
    answer = await blocks.called(lab.agent.disks, call("list-blocks", **asked))
    return msgspec.msgpack.decode(answer, type=list[BlockUse])


def test_blocks_are_written_listed_and_read(parts: Any) -> None:
    async def test(lab: Any) -> None:
        volume = parts.volume("vol-00000001")
        await lab.take(volume)
        for index in (0, 3, 2047):
            data = bytes([index % 255 + 1]) * BLOCK_BYTES
            asked = {"volume": volume.id, "offset": index * BLOCK_BYTES, "data": data}
            await blocks.called(lab.agent.disks, call("write-block", **asked))
        one = parts.SnapshotSpec(id="snap-00000001", volume=volume.id)
        await lab.take(volume, one)
        assert [use.at for use in await used(lab)] == [0, 3, 2047]
        assert [use.at for use in await used(lab, offset=1, length=1)] == [3]
        asked = {"snapshot": one.id, "volume": volume.id, "length": BLOCK_BYTES}
        read = await blocks.called(lab.agent.disks, call("read-block", offset=3 * BLOCK_BYTES, **asked))
        assert read == bytes([4]) * BLOCK_BYTES
        hole = await blocks.called(lab.agent.disks, call("read-block", offset=BLOCK_BYTES, **asked))
        assert hole == bytes(BLOCK_BYTES)
        change = {"volume": volume.id, "offset": BLOCK_BYTES, "data": b"x" * BLOCK_BYTES}
        await blocks.called(lab.agent.disks, call("write-block", **change))
        two = parts.SnapshotSpec(id="snap-00000002", volume=volume.id)
        await lab.take(volume, one, two)
        changed = await used(lab, snapshot=two.id, since=one.id, since_volume=volume.id)
        assert changed == [BlockUse(1, False, True)]

    parts.on_lab(test)


def test_refuses(parts: Any) -> None:
    async def test(lab: Any) -> None:
        volume = parts.volume("vol-00000001")
        await lab.take(volume, parts.machine(volumes=(volume.id,)))
        for wrong in (
            call("write-block", volume=volume.id, data=b"x" * 512),  # a machine has it
            call("write-block", volume="vol-00000002", data=b"x" * 512),
            call("read-block", pool="nowhere", length=512),
            call("list-blocks", snapshot="snap-00000009", volume=volume.id, length=1),
            call("format"),
        ):
            with pytest.raises(HostError):
                await blocks.called(lab.agent.disks, wrong)

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


async def upload(lab: Any, parts: Any, *given: tuple[int, bytes]) -> Any:
    """An encrypted volume with these blocks, as a machine would have them."""
    volume = parts.volume("vol-00000001", key=KEY, size_bytes=16 * BLOCK_BYTES)
    await lab.take(volume)
    for index, data in given:
        asked = {"volume": volume.id, "offset": index * BLOCK_BYTES, "data": data}
        await blocks.called(lab.agent.disks, call("write-block", **asked))
    return volume


async def read(lab: Any, index: int, key: bytes = KEY, size: int = 16 * BLOCK_BYTES) -> bytes:
    asked = {"snapshot": "snap-00000001", "volume": "vol-00000001", "encrypted": True, "key": key}
    asked |= {"offset": index * BLOCK_BYTES, "length": BLOCK_BYTES, "size": size}
    return await blocks.called(lab.agent.disks, call("read-block", **asked))


def test_encrypted_blocks_are_what_a_machine_sees(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_KNOWN", {})

    async def test(lab: Any) -> None:
        data = random.Random(1).randbytes(BLOCK_BYTES)
        volume = await upload(lab, parts, (0, data), (9, bytes(BLOCK_BYTES)))
        one = parts.SnapshotSpec(id="snap-00000001", volume=volume.id)
        await lab.take(volume, one)
        at = LUKS_HEADER_BYTES
        pool = lab.agent.disks.local.pool
        assert await pool.read_snapshot(one.id, volume.id, at, BLOCK_BYTES) == encrypted(KEY, 0, data)
        size = {"size": 16 * BLOCK_BYTES, "encrypted": True}
        listed = [use.at for use in await used(lab, **size)]
        assert {0, 9} <= set(listed) <= {0, 1, 8, 9, 10}
        assert await read(lab, 0) == data
        assert await read(lab, 9) == await read(lab, 4) == bytes(BLOCK_BYTES)
        with pytest.raises(HostError, match="of another key"):
            await read(lab, 0, bytes(64))
        change = {"volume": volume.id, "offset": 9 * BLOCK_BYTES, "data": data}
        await blocks.called(lab.agent.disks, call("write-block", **change))
        two = parts.SnapshotSpec(id="snap-00000002", volume=volume.id)
        await lab.take(volume, one, two)
        changed = await used(lab, snapshot=two.id, since=one.id, since_volume=volume.id, **size)
        assert BlockUse(9, True, True) in changed
        assert 0 not in [use.at for use in changed]

    parts.on_lab(test)


@pytest.mark.parametrize("pool", ["local", "san"])
def test_what_was_not_uploaded_is_zeros_to_a_machine(parts: Any, pool: str) -> None:
    async def test(lab: Any) -> None:
        size = 2 * PART_BYTES + BLOCK_BYTES
        data = random.Random(1).randbytes(BLOCK_BYTES)
        volume = parts.volume("vol-00000001", key=KEY, size_bytes=size, pool=pool)
        await lab.take(volume)
        write = {"volume": volume.id, "offset": 9 * BLOCK_BYTES, "data": data}
        await blocks.called(lab.agent.disks, call("write-block", **write))
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
        volume = await upload(lab, parts, (1, b"x" * BLOCK_BYTES))
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
