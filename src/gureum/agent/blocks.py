"""The blocks of snapshots, for the EBS direct APIs: listed, read, and written to volumes that nobody uses.

Of what is encrypted they are what a machine sees. What was never written is noise to a machine, and of no use
to anybody: it is not listed, and is zeros where a block that is listed has such sectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from gureum.agent.disks import Disks
from gureum.errors import HostError
from gureum.san.base import Pool
from gureum.san.blocks import SECTOR
from gureum.san.luks import LUKS_HEADER_BYTES, decrypted, require_header
from gureum.transport.messages import BLOCK_BYTES, BlockUse, Call

KNOWN_MAX = 1000
_KNOWN: dict[str, bytes] = {}
"""By snapshot, the SHA-256 of the key that it was seen to be encrypted with. Neither changes, and ids are
random."""


async def called(disks: Disks, call: Call) -> bytes:
    """The answer to a call about blocks. Raises HostError."""
    match call.method:
        case "list-blocks":
            uses = await _used(disks.pool(call.pool), call)
            return msgspec.msgpack.encode(uses)
        case "read-block":
            data = await _read(disks.pool(call.pool), call, min(call.length, call.size - call.offset))
            return data + bytes(call.length - len(data))
        case "write-block":
            await disks.write(call.volume, call.offset, call.data)
            return b""
    raise HostError(f"unknown method {call.method}")


async def _read(pool: Pool, call: Call, length: int) -> bytes:
    of = call.snapshot, call.volume
    if not call.encrypted:
        return await pool.read_snapshot(*of, call.offset, length)
    digest = hashlib.sha256(call.key).digest()
    if _KNOWN.get(call.snapshot) != digest:
        require_header(call.snapshot, call.key, await pool.read_snapshot(*of, 0, 2 * SECTOR))
        while len(_KNOWN) >= KNOWN_MAX:
            del _KNOWN[next(iter(_KNOWN))]
        _KNOWN[call.snapshot] = digest
    data = await pool.read_snapshot(*of, LUKS_HEADER_BYTES + call.offset, length)
    return decrypted(call.key, call.offset, data)


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
    header = LUKS_HEADER_BYTES if call.encrypted else 0

    async def blocks(snapshot: str, volume: str, since: str) -> set[int]:
        extents = await pool.snapshot_extents(snapshot, volume, since, header + offset, length)
        return _blocks((start - header, size) for start, size in extents)

    here = await blocks(call.snapshot, call.volume, "")
    if not call.since:
        return [BlockUse(at, False, True) for at in sorted(here)]
    changed = await blocks(call.snapshot, call.volume, call.since)
    before = await blocks(call.since, call.since_volume, "")
    return [BlockUse(at, at in before, at in here) for at in sorted(changed)]


def _blocks(extents: Iterable[tuple[int, int]]) -> set[int]:
    found: set[int] = set()
    for offset, length in extents:
        found.update(range(offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)))
    return found
