"""Copies that take long: of what is not encrypted into new encrypted volumes, beside all other work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import PoolUnavailable
from gureum.hostspec import VolumeReport, VolumeSpec, source_clone
from gureum.san import encrypted_copy
from gureum.san.base import Pool
from gureum.san.luks import luks_header

CONCURRENT_MAX = 2
ATTEMPTS_MAX = 3


class Copies:
    """``done(volume id)`` is called when a copy has ended, well or not."""

    def __init__(self, env: Env, done: Callable[[str], None]) -> None:
        self._env = env
        self._done = done
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._attempts: dict[str, int] = {}
        """That failed."""
        self._percent: dict[str, float] = {}
        """Of those under way."""
        self._turn = asyncio.Semaphore(CONCURRENT_MAX)

    async def step(self, pool: Pool, spec: VolumeSpec) -> bool:
        """Whether the copy is done; begins it if it is not begun.

        Raises PoolError as the copy did. Then the next step begins it once more, but not for ever.
        """
        task = self._tasks.get(spec.id)
        if task is None:
            task = self._tasks[spec.id] = asyncio.create_task(self._copy(pool, spec))
            task.add_done_callback(lambda _: self._done(spec.id))
        if not task.done():
            return False
        if (error := task.exception()) is not None:
            # A pool that is away comes back, and a host that holds the volume still lets go.
            failed = self._attempts.get(spec.id, 0) + (not isinstance(error, PoolUnavailable))
            self._attempts[spec.id] = failed
            if failed < ATTEMPTS_MAX:
                del self._tasks[spec.id]
        else:
            self._forget(spec.id)
        task.result()
        return True

    def told(self, spec: VolumeSpec, report: VolumeReport) -> VolumeReport:
        """The report with how far the copy is, if there is one under way."""
        percent = self._percent.get(spec.id)
        if percent is None:
            return report
        size_bytes = spec.source_bytes or spec.size_bytes
        return replace(report, done_bytes=int(size_bytes * percent / 100), total_bytes=size_bytes)

    def _forget(self, volume: str) -> None:
        self._tasks.pop(volume, None)
        self._attempts.pop(volume, None)

    async def stop(self, volume: str) -> None:
        """End the copy, if there is one."""
        task = self._tasks.get(volume)
        self._forget(volume)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        for volume in list(self._tasks):
            await self.stop(volume)

    async def _copy(self, pool: Pool, spec: VolumeSpec) -> None:
        source = source_clone(spec.id)
        size_bytes = spec.source_bytes or spec.size_bytes
        async with self._turn:
            await pool.create_volume(source, size_bytes, spec.source, spec.source_volume)
            self._env.crashpoint("agent.copy.begun")
            await pool.write_volume(spec.id, 0, luks_header(spec.key))
            try:
                opened = await pool.open_volume(source), await pool.open_volume(spec.id)
                await encrypted_copy.copy(*opened, spec.key, size_bytes, partial(self._note, spec.id))
            finally:
                self._percent.pop(spec.id, None)
                for volume in (source, spec.id):
                    await pool.release_volume(volume)
            self._env.crashpoint("agent.copy.done")
            await pool.delete_volume(source)

    def _note(self, volume: str, percent: float) -> None:
        self._percent[volume] = percent
