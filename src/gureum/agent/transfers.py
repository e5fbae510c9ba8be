"""The data of volumes that no machine has open, copied from one pool to another beside all other work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from gureum.san.base import BLOCKS_BYTES_MAX, Pool
from gureum.san.blocks import merged
from gureum.san.locks import uninterrupted

CONCURRENT_MAX = 2
WINDOW_BYTES = 1 << 30
"""Of so much at a time it is asked where there is data."""
TOLD_BYTES = 64 << 20
"""After so much the progress is told again."""


class Transfer:
    def __init__(self, task: asyncio.Task[None], total_bytes: int) -> None:
        self.task = task
        self.done_bytes = 0
        self.total_bytes = total_bytes


class Transfers:
    """``changed(volume id)`` is called when one got on, ``ended(volume id)`` when it ended, well or not."""

    def __init__(self, changed: Callable[[str], None], ended: Callable[[str], None]) -> None:
        self._changed = changed
        self._ended = ended
        self._transfers: dict[str, Transfer] = {}
        self._turn = asyncio.Semaphore(CONCURRENT_MAX)

    async def step(self, id: str, source: Pool, target: Pool, size_bytes: int) -> bool:
        """Whether all is copied; begins it if it is not begun. Raises PoolError as it did."""
        transfer = self._transfers.get(id)
        if transfer is None:
            task = asyncio.create_task(self._copy(id, source, target, size_bytes))
            self._transfers[id] = Transfer(task, size_bytes)
            task.add_done_callback(lambda _: self._ended(id))
            return False
        if not transfer.task.done():
            return False
        if transfer.task.exception() is not None:
            del self._transfers[id]
        transfer.task.result()
        return True

    def take_done(self, id: str) -> bool:
        """Forget one that is done; False if it was stopped meanwhile."""
        return self._transfers.pop(id, None) is not None

    def progress(self, id: str) -> tuple[int, int]:
        """Bytes done, of how many; zeros where none is under way."""
        transfer = self._transfers.get(id)
        return (transfer.done_bytes, transfer.total_bytes) if transfer is not None else (0, 0)

    async def stop(self, id: str) -> None:
        """End it; what it has copied does not count. Nothing of it is under way when this returns."""
        transfer = self._transfers.pop(id, None)
        if transfer is not None:
            transfer.task.cancel()
            await asyncio.gather(transfer.task, return_exceptions=True)

    async def close(self) -> None:
        for id in list(self._transfers):
            await self.stop(id)

    async def _copy(self, id: str, source: Pool, target: Pool, size_bytes: int) -> None:
        async with self._turn:
            # So that it is this host's, should it be lost.
            await target.open_volume(id)
            try:
                async for offset, length in _pieces(id, source, target, size_bytes):
                    data = await source.read_volume(id, offset, length)
                    # A write that comes to pass after another one has begun to copy would be a wrong one.
                    await uninterrupted(target.write_volume(id, offset, data))
                    self._note(id, offset + length)
            finally:
                await target.release_volume(id)

    def _note(self, id: str, done_bytes: int) -> None:
        transfer = self._transfers.get(id)
        if transfer is not None:
            before, transfer.done_bytes = transfer.done_bytes, done_bytes
            if before // TOLD_BYTES != done_bytes // TOLD_BYTES:
                self._changed(id)


async def _pieces(id: str, source: Pool, target: Pool, size_bytes: int) -> AsyncIterator[tuple[int, int]]:
    """What is to be copied, in order: where one of both has data. The rest of both is zeros."""
    for start in range(0, size_bytes, WINDOW_BYTES):
        end = min(start + WINDOW_BYTES, size_bytes)
        found = [
            *await source.volume_extents(id, start, end - start),
            *await target.volume_extents(id, start, end - start),
        ]
        for offset, length in merged(found, start, end):
            for at in range(offset, offset + length, BLOCKS_BYTES_MAX):
                yield at, min(BLOCKS_BYTES_MAX, offset + length - at)
