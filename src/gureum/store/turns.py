"""Turns of transactions: one after the other, in bounded time, and again after a conflict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from gureum.errors import Conflict, StoreError, StoreFull
from gureum.store.outcomes import Superseded

T = TypeVar("T")

ATTEMPTS_MAX = 10
WRITERS_MAX = 1024
WAIT_SECONDS_MAX = 15.0
"""For a turn to write, or for a snapshot where all that there may be are taken."""
WORK_SECONDS_MAX = 30.0
"""For the work of one transaction: nobody else in this process can begin one meanwhile."""


class Turns:
    """Of one store."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._turn_of: asyncio.Task[object] | None = None
        self._writers = 0

    async def transact(
        self, attempt: Callable[[], Awaitable[T]], made_room: Callable[[], bool] = lambda: False
    ) -> T:
        """``attempt`` takes a turn and commits, as often as it has to: after a StoreFull if ``made_room``."""
        if self._turn_of is not None and self._turn_of is asyncio.current_task():
            raise StoreError("a transaction inside a transaction would wait for itself")
        if self._writers >= WRITERS_MAX:
            raise StoreError(f"more than {WRITERS_MAX} transactions are waiting")
        self._writers += 1
        try:
            for number in range(1, ATTEMPTS_MAX + 1):
                try:
                    return await attempt()
                except Superseded as error:
                    if number == ATTEMPTS_MAX:
                        raise error.cause from error
                except Conflict:
                    if number == ATTEMPTS_MAX:
                        raise
                except StoreFull:
                    if number == ATTEMPTS_MAX or not made_room():
                        raise
            raise AssertionError("unreachable")
        finally:
            self._writers -= 1

    @asynccontextmanager
    async def mine(self) -> AsyncIterator[None]:
        await patiently(self._turn.acquire, "a turn to write")
        self._turn_of = asyncio.current_task()
        try:
            yield
        finally:
            self._turn_of = None
            self._turn.release()


async def bounded(work: Awaitable[T]) -> T:
    """Do the work of a transaction. Raises StoreError if that takes too long."""
    try:
        async with asyncio.timeout(WORK_SECONDS_MAX) as bound:
            return await work
    except TimeoutError as error:
        if bound.expired():
            raise StoreError(f"a transaction's work took more than {WORK_SECONDS_MAX:.0f} s") from error
        raise


async def one_of(places: asyncio.Semaphore, what: str) -> None:
    """Take a place. Mostly there is one, and nothing to wait for."""
    if places.locked():
        await patiently(places.acquire, what)
    else:
        await places.acquire()


async def patiently(acquire: Callable[[], Awaitable[object]], what: str) -> None:
    try:
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            await acquire()
    except TimeoutError as error:
        raise StoreError(f"waited more than {WAIT_SECONDS_MAX:.0f} s for {what}") from error
