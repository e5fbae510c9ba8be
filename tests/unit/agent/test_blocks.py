from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from gureum.agent import blocks
from gureum.errors import HostError
from gureum.san.luks import LUKS_HEADER_BYTES, luks_header
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
