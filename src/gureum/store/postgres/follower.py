"""Hears of what other managers commit, and forgets what is remembered of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gureum.errors import StoreError
from gureum.store.cache import RecordCache
from gureum.store.postgres import queries
from gureum.store.postgres.address import Address
from gureum.store.postgres.connection import ERRORS, Connection, connect, discard, explained
from gureum.store.view import Horizon

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""Notifications are lost with their connection, which may be dead for a while before that shows."""
RETRY_SECONDS_FIRST = 0.2
RETRY_SECONDS_MAX = 2.0
TOUCHED_MAX = 10_000
"""More than that, and everything is forgotten."""


class Follower:
    """``own``: the name of this store's writer, whose commits it knows of. ``news`` is called when the
    horizon has moved, ``others_committed`` before.
    """

    def __init__(
        self,
        address: Address,
        own: str,
        cache: RecordCache,
        horizon: Horizon,
        others_committed: Callable[[], None],
        news: Callable[[], None],
    ) -> None:
        self._address = address
        self._own = own
        self._cache = cache
        self._horizon = horizon
        self._others_committed = others_committed
        self._news = news
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises StoreError."""
        await self._listen()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def look(self) -> None:
        """Something may have been committed."""
        self._wake.set()

    async def catch_up(self) -> None:
        """Know of everything that is committed now. Raises StoreError."""
        async with self._turn:
            if self._connection is None:
                raise StoreError(f"{self._address.place}: not connected")
            since = self._horizon.revision
            with explained(self._address.place):
                rows = await self._connection.fetch(queries.TOUCHED, since, TOUCHED_MAX + 1)
            revision, tombstones_from = rows[0][0], rows[0][1]
            if revision <= self._horizon.revision:
                return
            self._others_committed()
            if tombstones_from > since or len(rows) > TOUCHED_MAX:
                self._cache.clear()
            else:
                for _, _, kind, id in rows:
                    if kind is not None:
                        self._cache.drop(kind, id)
            self._cache.finds.outdated(revision)
            self._horizon.revision = revision
            self._news()

    async def _listen(self) -> None:
        connection = await connect(self._address)
        try:
            with explained(self._address.place):
                await connection.add_listener(queries.LISTEN_CHANNEL, self._heard)
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(lambda _: self._wake.set())
        self._connection = connection
        self._wake.set()

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        revision, _, writer = payload.partition(" ")
        if writer != self._own and int(revision) > self._horizon.revision:
            self._wake.set()

    async def _run(self) -> None:
        pause = RETRY_SECONDS_FIRST
        while True:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = None
                    await self._listen()
                    log.info("store: connected again")
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            except (StoreError, *ERRORS) as error:
                if pause == RETRY_SECONDS_FIRST:
                    log.error("store: %s", error)
                await asyncio.sleep(pause)
                pause = min(RETRY_SECONDS_MAX, pause * 2)
                continue
            pause = RETRY_SECONDS_FIRST
            self._wake.clear()
            try:
                await self.catch_up()
            except StoreError as error:
                log.warning("store: %s", error)
                if self._connection is not None:
                    self._connection.terminate()
                await asyncio.sleep(RETRY_SECONDS_FIRST)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._connection is not None:
            await discard(self._connection)
