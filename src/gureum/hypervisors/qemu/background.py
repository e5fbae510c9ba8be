"""Work with a machine that nobody waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

from gureum.errors import HypervisorError

log = logging.getLogger(__name__)


class Background:
    """``whose`` begins what is logged of work that fails."""

    def __init__(self, whose: str) -> None:
        self._whose = whose
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        async def logged() -> None:
            try:
                await work
            except HypervisorError as error:
                log.warning("%s: %s", self._whose, error)

        task = asyncio.create_task(logged())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # it may have been cancelled before it began
        return task

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """When all that there is has ended, however."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
