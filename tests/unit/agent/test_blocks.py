from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from gureum.agent import blocks
from gureum.errors import HostError
from gureum.san.luks import LUKS_HEADER_BYTES, encrypted
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
