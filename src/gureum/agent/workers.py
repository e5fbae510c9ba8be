"""Keyed workers: at most one piece of work at a time per key, done again while it is kicked or fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from gureum.bell import Bell
from gureum.errors import HostError

log = logging.getLogger(__name__)

K = TypeVar("K")

RETRY_SECONDS_MIN = 0.5
RETRY_SECONDS_MAX = 15.0


class Workers(Generic[K]):
    """Runs ``work(key)`` for each kicked key, ``limit`` of them at once.

    A key kicked while its work runs is run once more afterwards: levels, not events. Work that raises
    HostError is run again after a growing pause, or at the next kick.
    """

    def __init__(self, work: Callable[[K], Awaitable[None]], limit: int) -> None:
        self._work = work
        self._slots = asyncio.Semaphore(limit)
        self._kicked: dict[K, Bell] = {}
        self._tasks: dict[K, asyncio.Task[None]] = {}
        self._closed = False

    def kick(self, key: K) -> None:
        if self._closed:
            return
        event = self._kicked.setdefault(key, Bell())
        event.set()
        if key not in self._tasks:
            task = self._tasks[key] = asyncio.create_task(self._run(key, event))
            task.add_done_callback(lambda done: self._ended(key, done))

    def busy(self, key: K) -> bool:
        """Whether work on the key runs, waits or is to be tried again."""
        return key in self._tasks

    def busy_keys(self) -> Iterable[K]:
        return self._tasks.keys()

    async def wait_kick(self, key: K, seconds: float) -> None:
        """From inside ``work``: pause until the key is kicked, at most so long."""
        event = self._kicked[key]
        await event.wait(seconds)
        event.clear()

    async def close(self) -> None:
        """Cancel everything and wait until it has ended. Kicks have no effect any more."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: K, event: Bell) -> None:
        pause = RETRY_SECONDS_MIN
        while True:
            event.clear()
            try:
                async with self._slots:
                    await self._work(key)
            except HostError as error:
                log.warning("%s: %s (again in %g s)", key, error, pause)
            except Exception:
                log.exception("%s: unexpected (again in %g s)", key, pause)
            else:
                if not event.is_set():
                    return
                pause = RETRY_SECONDS_MIN
                continue
            if not await event.wait(pause):
                pause = min(2 * pause, RETRY_SECONDS_MAX)

    def _ended(self, key: K, task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        event = self._kicked[key]
        if task.cancelled():
            return
        if event.is_set():
            self.kick(key)
        else:
            del self._kicked[key]
