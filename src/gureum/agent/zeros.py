"""Zeros for who reads it, where nothing was written to an encrypted volume: there it has noise by itself.

For what is uploaded in blocks (the EBS direct APIs): clients leave out blocks of zeros. A part at a time, so
that other work gets its turn; an agent that starts meanwhile begins anew, and finds what was done.
"""

from __future__ import annotations

from gureum.agent.pool_volumes import PoolVolumes, header_bytes
from gureum.errors import PoolFull
from gureum.hostspec import VolumeSpec
from gureum.san.luks import zeroed

PART_BYTES = 64 << 20
WRITE_BYTES = 1 << 20
"""Encrypted and written at once: more takes memory, and holds up the agent for longer than 10 ms."""


class Zeros:
    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        """By volume, up to where: of the machine's data, in bytes."""

    async def step(self, pool: PoolVolumes, spec: VolumeSpec) -> bool:
        """See to the next part of a volume that nobody else writes to; whether that was the last.

        Raises PoolError; PoolFull if others would soon lack the room. Done again after it was done it only
        reads.
        """
        begin = self._done.get(spec.id, 0)
        end = min(begin + PART_BYTES, spec.size_bytes)
        if pool.full:
            raise PoolFull(f"{spec.id} can't be written in full: {pool.full}")
        await self._fill(pool, spec, begin, end)
        if end < spec.size_bytes:
            self._done[spec.id] = end
            return False
        self.forget(spec.id)
        return True

    async def _fill(self, pool: PoolVolumes, spec: VolumeSpec, begin: int, end: int) -> None:
        header = header_bytes(spec)
        written = await pool.pool.volume_extents(spec.id, header + begin, end - begin)
        for offset in range(begin, end, WRITE_BYTES):
            length = min(WRITE_BYTES, end - offset)
            at = header + offset
            if any(start < at + length and at < start + size for start, size in written):
                before = await pool.pool.read_volume(spec.id, at, length)
            else:
                before = bytes(length)
            after = zeroed(spec.key, offset, before)
            if after != before:
                await pool.pool.write_volume(spec.id, at, after)

    def forget(self, volume: str) -> None:
        self._done.pop(volume, None)
