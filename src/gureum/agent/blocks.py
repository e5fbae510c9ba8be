"""The blocks of snapshots, for the EBS direct APIs: listed, read, and written to volumes that nobody uses."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gureum.agent.disks import Disks
from gureum.errors import HostError
from gureum.san.base import Pool
from gureum.transport.messages import BLOCK_BYTES, BlockUse, Call


async def called(disks: Disks, call: Call) -> bytes:
    """The answer to a call about blocks. Raises HostError."""
    match call.method:
        case "list-blocks":
            uses = await _used(disks.pool(call.pool), call)
            return msgspec.msgpack.encode(uses)
        case "read-block":
            size = min(call.length, call.size - call.offset)
            pool = disks.pool(call.pool)
            data = await pool.read_snapshot(call.snapshot, call.volume, call.offset, size)
            return data + bytes(call.length - size)
        case "write-block":
            await disks.write(call.volume, call.offset, call.data)
            return b""
    raise HostError(f"unknown method {call.method}")


async def _used(pool: Pool, call: Call) -> list[BlockUse]:
    """At most ``call.length`` from the block ``call.offset`` on."""
    found: list[BlockUse] = []
    begin, window = call.offset * BLOCK_BYTES, call.length * BLOCK_BYTES
    while begin < call.size and len(found) < call.length:
        part = await _part(pool, call, begin, min(window, call.size - begin))
        found += part
        begin += window
        # Where there is little, more is looked at at once.
        window *= 1 if part else 4
    return found[: call.length]


async def _part(pool: Pool, call: Call, offset: int, length: int) -> list[BlockUse]:
    here = _blocks(await pool.snapshot_extents(call.snapshot, call.volume, "", offset, length))
    if not call.since:
        return [BlockUse(at, False, True) for at in sorted(here)]
    changed = _blocks(await pool.snapshot_extents(call.snapshot, call.volume, call.since, offset, length))
    before = _blocks(await pool.snapshot_extents(call.since, call.since_volume, "", offset, length))
    return [BlockUse(at, at in before, at in here) for at in sorted(changed)]


def _blocks(extents: Iterable[tuple[int, int]]) -> set[int]:
    found: set[int] = set()
    for offset, length in extents:
        found.update(range(offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)))
    return found
