"""PostgresStore: transactions, readers, changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from gureum.errors import StoreError
from gureum.resources import KINDS
from gureum.store.base import Change, Reader, Transaction
from gureum.store.cache import RecordCache
from gureum.store.outcomes import settled
from gureum.store.postgres import queries
from gureum.store.postgres.address import Address
from gureum.store.postgres.committer import Committer
from gureum.store.postgres.connection import Unreachable, connect, discard, explained, prepare
from gureum.store.postgres.follower import Follower
from gureum.store.postgres.snapshots import Snapshots
from gureum.store.postgres.view import Samples, Snapshot, View, WriteView
from gureum.store.postgres.writer import TOMBSTONES_KEPT, Writer
from gureum.store.turns import Turns, bounded, one_of
from gureum.store.view import Horizon, Rows, Writes, remember

log = logging.getLogger(__name__)

T = TypeVar("T")

READERS_MAX = 24
"""Snapshots at once: a connection, and a process of the server's, each."""
WATCH_RETRY_SECONDS = 1.0


class PostgresStore:
    """A Store in a PostgreSQL database. Use ``open``.

    It commits as one leader's (``fence``, its epoch) only while no later one leads. 0: as long as nobody ever
    led.
    """

    def __init__(self, address: Address, writer: Writer, revision: int) -> None:
        self._place = address.place
        self._cache = RecordCache()
        self._samples = Samples()
        self._horizon = Horizon(revision)
        self._writer = writer
        self._snapshots = Snapshots(address)
        self._committer = Committer(writer, self._snapshots, self._write_view, self._committed)
        self._follower = Follower(
            address,
            writer.name,
            self._cache,
            self._horizon,
            self._committer.others_committed,
            self._tell,
        )
        self._turns = Turns()
        self._readers = asyncio.Semaphore(READERS_MAX)
        self._news = asyncio.Event()
        self._closed = False

    @classmethod
    async def open(
        cls, address: Address, *, fence: int = 0, tombstones_kept: int = TOMBSTONES_KEPT
    ) -> PostgresStore:
        """Open the store, bringing its schema up to date. Raises StoreError, saying what to do."""
        connection = await connect(address)
        try:
            await prepare(connection, address.place)
            with explained(address.place):
                revision = await connection.fetchval(queries.REVISION)
            store = cls(address, Writer(address, connection, fence, tombstones_kept), revision)
            await store._follower.start()
        except BaseException:
            await discard(connection)
            raise
        return store

    @property
    def revision(self) -> int:
        return self._horizon.revision

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Reader]:
        self._check_open()
        await one_of(self._readers, "a snapshot to read")
        try:
            snapshot = await self._take()
            view = View(snapshot, self._cache, self._horizon, self._samples, self._closed_error)
            try:
                yield view
            finally:
                view.close()
                self._snapshots.release(snapshot)
        finally:
            self._readers.release()

    async def transact(self, work: Callable[[Transaction], Awaitable[T]], *, frees: bool = False) -> T:
        """``frees`` means nothing here: the disk is the server's."""
        return await self._turns.transact(lambda: self._attempt(work))

    async def changes(self, since: int, limit: int = 1000) -> Sequence[Change]:
        self._check_open()
        await one_of(self._readers, "a snapshot to read")
        try:
            return await self._changes(since, limit)
        finally:
            self._readers.release()

    async def _changes(self, since: int, limit: int) -> Sequence[Change]:
        changes: list[Change] = []
        snapshot = await self._take()
        view = View(snapshot, self._cache, self._horizon, self._samples, self._closed_error)
        try:
            while not changes and (rows := await self._changed_rows(snapshot, since, limit)):
                for since, kind, id, body in rows:
                    if kind in KINDS:
                        record = None if body is None else view.decoded(kind, id, body)
                        changes.append(Change(since, kind, id, record))
        finally:
            view.close()
            self._snapshots.release(snapshot)
        return changes

    async def _changed_rows(self, snapshot: Snapshot, since: int, limit: int) -> Rows:
        """(revision, kind, id, body) of the latest changes, of whole transactions."""
        try:
            rows = await snapshot.fetch(queries.CHANGES, since, limit)
        except StoreError as error:
            raise self._closed_error() or error from error
        if since < rows[0][0]:
            raise StoreError(f"deletions as old as revision {since} are no longer kept: read everything anew")
        return [row[1:] for row in map(tuple, rows) if row[1] is not None]

    async def watch(self, since: int) -> AsyncIterator[Sequence[Change]]:
        """Goes on when the server was away."""
        while True:
            news = self._news
            try:
                changes = await self.changes(since)
            except Unreachable as error:
                log.warning("the store cannot be watched: %s", error)
                await asyncio.sleep(WATCH_RETRY_SECONDS)
                continue
            if changes:
                since = changes[-1].revision
                yield changes
            else:
                await news.wait()

    async def close(self) -> None:
        """Waits for commits under way. What is open on the store fails with StoreError from then on."""
        if self._closed:
            return
        self._closed = True
        self._news.set()
        await self._committer.drain()
        await self._follower.close()
        await self._snapshots.close()
        await self._writer.close()

    async def _attempt(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        self._check_open()
        async with self._turns.mine():
            try:
                view = await self._committer.begin()
            except StoreError as error:
                raise self._closed_error() or error from error
            try:
                result = await bounded(work(view))
                self._check_open()
                await view.prove()
                commit = self._committer.submit(view)
            finally:
                self._committer.end(view)
        try:
            await settled(commit, wrote=bool(view.writes))
        except StoreError:
            self._follower.look()
            raise
        return result

    async def _take(self) -> Snapshot:
        try:
            return await self._snapshots.take()
        except StoreError as error:
            raise self._closed_error() or error from error

    def _write_view(self, snapshot: Snapshot) -> WriteView:
        return WriteView(snapshot, self._cache, self._horizon, self._samples, self._closed_error)

    async def _committed(self, writes: Writes, base: int, last: int) -> None:
        if self._horizon.revision == base:
            remember(self._cache, writes)
            self._horizon.revision = last
            self._tell()
        elif self._horizon.revision < last:
            # Others committed before; what they did is not yet known here.
            try:
                await self._follower.catch_up()
            except StoreError as error:
                log.warning("store: %s", error)

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _closed_error(self) -> StoreError | None:
        return StoreError(f"the store, {self._place}, is closed") if self._closed else None

    def _check_open(self) -> None:
        if (error := self._closed_error()) is not None:
            raise error
