"""Where views get their snapshots: connections that are kept for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from gureum.errors import StoreError
from gureum.store.postgres import queries
from gureum.store.postgres.address import Address
from gureum.store.postgres.connection import ERRORS, Connection, connect, discard, explained
from gureum.store.postgres.view import Snapshot

IDLE_MAX = 4
IDLE_SECONDS_MAX = 60.0


class Snapshots:
    """An idle connection is in a transaction that has no snapshot yet: its first query pins one.

    So a snapshot costs one round trip, and an idle connection keeps the server from nothing.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[tuple[Connection, float]] = []
        self._open: set[Snapshot] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def take(self) -> Snapshot:
        """A snapshot of the last commit. To be released. Raises StoreError."""
        while self._idle:
            connection, _ = self._idle.pop()
            try:
                return self._taken(connection, await connection.fetchval(queries.REVISION))
            except ERRORS:
                connection.terminate()  # the server may have been restarted since
            except BaseException:
                connection.terminate()
                raise
        connection = await connect(self._address)
        try:
            with explained(self._address.place):
                await connection.execute(queries.BEGIN_READ)
                return self._taken(connection, await connection.fetchval(queries.REVISION))
        except BaseException:
            connection.terminate()
            raise

    def _taken(self, connection: Connection, revision: int) -> Snapshot:
        if self._closed:
            raise StoreError(f"the store {self._address.place} is closed")
        snapshot = Snapshot(connection, revision, self._address.place)
        self._open.add(snapshot)
        return snapshot

    def release(self, snapshot: Snapshot) -> None:
        if snapshot not in self._open:
            return
        self._open.remove(snapshot)
        if snapshot.sound and len(self._idle) < IDLE_MAX:
            self._background(self._recycle(snapshot.connection))
        elif snapshot.sound:
            self._background(discard(snapshot.connection))
        else:
            snapshot.connection.terminate()

    async def _recycle(self, connection: Connection) -> None:
        try:
            await connection.execute(queries.READ_AGAIN)
        except ERRORS:
            connection.terminate()
            return
        except BaseException:
            connection.terminate()
            raise
        if self._closed or len(self._idle) >= IDLE_MAX:
            await discard(connection)
        else:
            loop = asyncio.get_running_loop()
            self._idle.append((connection, loop.time()))
            if self._timer is None:
                self._timer = loop.call_later(IDLE_SECONDS_MAX, self._tidy)

    def _tidy(self) -> None:
        """Close what was not used for a while."""
        loop = asyncio.get_running_loop()
        while self._idle and loop.time() >= self._idle[0][1] + IDLE_SECONDS_MAX:
            self._background(discard(self._idle.pop(0)[0]))
        self._timer = loop.call_later(IDLE_SECONDS_MAX, self._tidy) if self._idle else None

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for snapshot in self._open:
            snapshot.connection.terminate()
        self._open.clear()
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            self._background(discard(connection))
        if self._tasks:
            await asyncio.wait(self._tasks)
