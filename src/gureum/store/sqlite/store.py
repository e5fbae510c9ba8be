"""SqliteStore: transactions, readers, changes.

A transaction reads a snapshot and keeps its writes in memory (``WriteView``); they go to SQLite when its work
is done. So a rollback is forgetting them, the file's write lock is held only as long as a commit takes, and a
transaction can begin while its predecessor's commit is still being made durable: it sees those writes, and is
run again should that commit fail. Transactions that are waiting then share one commit.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

from gureum.errors import StoreError, StoreFull
from gureum.resources import KINDS
from gureum.store import migrations
from gureum.store.base import Change, Reader, Transaction
from gureum.store.cache import RecordCache
from gureum.store.outcomes import settled
from gureum.store.sqlite import queries
from gureum.store.sqlite.backup import back_up, back_up_file
from gureum.store.sqlite.committer import Committer
from gureum.store.sqlite.connection import (
    MEMORY,
    FileLock,
    Rows,
    check_schema,
    connect,
    explained,
    fetch,
    number,
)
from gureum.store.sqlite.readers import FileReaders, MemoryReaders, Readers
from gureum.store.sqlite.reserve import Reserve
from gureum.store.sqlite.view import View, WriteView
from gureum.store.sqlite.writer import TOMBSTONES_KEPT, Writer
from gureum.store.turns import Turns, bounded, one_of
from gureum.store.view import Horizon, Writes, remember

T = TypeVar("T")

log = logging.getLogger(__name__)

READERS_MAX = 64
LEAP = 1_000_000


class Reading(AbstractAsyncContextManager[Reader]):
    """One read. There are so many that a generator for each would be felt."""

    def __init__(self, begin: Callable[[], Awaitable[View]], end: Callable[[View], None]) -> None:
        self._begin = begin
        self._end = end

    async def __aenter__(self) -> Reader:
        self._view = await self._begin()
        return self._view

    async def __aexit__(self, *_: object) -> None:
        self._end(self._view)


class SqliteStore:
    """A Store in one SQLite file, or in memory. Use ``open``."""

    def __init__(
        self,
        path: str,
        lock: FileLock | None,
        writer: Writer | None,
        readers: Readers,
        cache: RecordCache,
        horizon: Horizon,
        executor: ThreadPoolExecutor | None,
        reserve: Reserve | None = None,
    ) -> None:
        self._path = path
        self._reserve = reserve
        self._lock = lock
        self._writer = writer
        self._readers = readers
        self._cache = cache
        self._horizon = horizon
        self._executor = executor
        self._committer = None if writer is None else Committer(writer, horizon, executor, self._committed)
        self._turns = Turns()
        self._snapshots = asyncio.Semaphore(READERS_MAX)
        self._news = asyncio.Event()
        self._closed = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        threaded: bool = True,
        readonly: bool = False,
        tombstones_kept: int = TOMBSTONES_KEPT,
        reserve_bytes: int = 0,
    ) -> SqliteStore:
        """Open the store at ``path`` (":memory:": a new one in memory), bringing its schema up to date.

        One process at a time may have it open for writing; ``readonly`` is for tools that look at it beside
        that process. ``threaded`` commits in a thread of its own, so that the event loop does not wait for
        the disk; without it nothing here depends on threads or time. ``reserve_bytes`` of the disk are kept
        for transactions that free space. Raises StoreError, saying what to do.
        """
        path = os.fspath(path)
        cache = RecordCache()
        if readonly:
            horizon = Horizon(inspect(path))
            return cls(
                path, None, None, FileReaders(path, cache, horizon, breathe=threaded), cache, horizon, None
            )
        if path == MEMORY:
            writer = Writer(path, tombstones_kept=tombstones_kept)
            horizon = Horizon(writer.revision)
            memory = MemoryReaders(writer.connection, path, cache, horizon)
            return cls(path, None, writer, memory, cache, horizon, None)
        lock = FileLock(path)
        try:
            writer = Writer(path, tombstones_kept=tombstones_kept)
            reserve = Reserve(path + ".reserve", reserve_bytes) if reserve_bytes else None
        except BaseException:
            lock.release()
            raise
        horizon = Horizon(writer.revision)
        executor = ThreadPoolExecutor(1, "gureum-store") if threaded else None
        files = FileReaders(path, cache, horizon, breathe=threaded)
        return cls(path, lock, writer, files, cache, horizon, executor, reserve)

    @property
    def revision(self) -> int:
        return self._horizon.revision

    def read(self) -> AbstractAsyncContextManager[Reader]:
        return Reading(self._begin_read, self._end_read)

    async def _begin_read(self) -> View:
        self._check_open()
        await one_of(self._snapshots, "a snapshot to read")
        try:
            return self._readers.view(View)
        except BaseException:
            self._snapshots.release()
            raise

    def _end_read(self, view: View) -> None:
        try:
            self._readers.release(view)
        finally:
            self._snapshots.release()

    async def transact(self, work: Callable[[Transaction], Awaitable[T]], *, frees: bool = False) -> T:
        return await self._turns.transact(
            lambda: self._attempt(work, frees), lambda: frees and self._release()
        )

    async def changes(self, since: int, limit: int = 1000) -> Sequence[Change]:
        self._check_open()
        changes: list[Change] = []
        view = self._readers.view(View)
        try:
            if since >= view.revision:
                return changes
            with explained(self._path):
                if since < number(view.connection, queries.HORIZON):
                    raise StoreError(
                        f"deletions as old as revision {since} are no longer kept: read everything anew"
                    )
                while not changes and (rows := changed_rows(view, since, limit)):
                    for since, kind, id, body in rows:
                        if kind in KINDS:
                            record = None if body is None else view.decoded(kind, id, body)
                            changes.append(Change(since, kind, id, record))
        finally:
            self._readers.release(view)
        return changes

    async def watch(self, since: int) -> AsyncIterator[Sequence[Change]]:
        if self._writer is None:
            raise StoreError(f"{self._path} is open for reading only: commits of others are not noticed")
        while True:
            news = self._news
            changes = await self.changes(since)
            if changes:
                since = changes[-1].revision
                yield changes
            else:
                await news.wait()

    async def lead(self, now: float) -> None:
        """Go on above all revisions that hosts know of (``now``: Unix time), also if a backup was put back.

        For the manager, before its first transaction. A full disk does not keep it from its work.
        """
        try:
            await self._turns.transact(lambda: self._leap(now), self._release)
        except StoreFull as error:
            log.warning("%s: revisions go on from %d: %s", self._path, self.revision, error)

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of the last commit to a new file, durably. Raises StoreError or StoreFull."""
        self._check_open()
        if self._path == MEMORY:
            assert self._writer is not None
            back_up(self._writer.connection, self._path, Path(path))
        elif self._executor is None:
            back_up_file(self._path, Path(path))
        else:
            await asyncio.to_thread(back_up_file, self._path, Path(path))

    async def close(self) -> None:
        """Waits for commits under way. What is open on the store fails with StoreError from then on."""
        if self._closed:
            return
        self._closed = True
        self._news.set()
        if self._committer is not None:
            await self._committer.drain()
        self._readers.close()
        if self._executor is not None:
            self._executor.shutdown()
        if self._writer is not None:
            self._writer.close()
        if self._reserve is not None:
            self._reserve.close()
        if self._lock is not None:
            self._lock.release()

    async def _leap(self, now: float) -> None:
        self._check_open()
        writer, committer = self._writer, self._committer
        if writer is None or committer is None:
            raise StoreError(f"{self._path} is open for reading only")
        async with self._turns.mine():
            await committer.drain()
            revision = max(self.revision + LEAP, int(now * 1_000_000))
            writer.begin(wait=True)
            writer.seal(revision)
            writer.commit()
            self._horizon.revision = revision

    def _release(self) -> bool:
        return self._reserve is not None and self._reserve.release()

    def _check_room(self) -> None:
        """While the reserve is in use, others wait until the disk has room for it again."""
        if self._reserve is not None and not self._reserve.whole and not self._reserve.fill():
            raise StoreFull(
                f"{self._path}: nothing was committed: its disk is full, and only what makes room there is"
                " done; free some space on its disk"
            )

    async def _attempt(self, work: Callable[[Transaction], Awaitable[T]], frees: bool) -> T:
        self._check_open()
        committer = self._committer
        if committer is None:
            raise StoreError(f"{self._path} is open for reading only")
        async with self._turns.mine():
            view = self._readers.view(WriteView)
            try:
                committer.begin(view)
                result = await bounded(work(view))
                self._check_open()
                if view.writes and not frees:
                    self._check_room()
                commit = committer.submit(view)
            finally:
                self._readers.release(view)
        await settled(commit, wrote=bool(view.writes))
        return result

    def _committed(self, writes: Writes) -> None:
        remember(self._cache, writes)
        self._readers.committed(writes)
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the store {self._path} is closed")


def changed_rows(view: View, since: int, limit: int) -> Rows:
    """(revision, kind, id, body) of the latest changes. Whole transactions: ``since`` cannot name a part."""
    connection = view.connection
    rows = fetch(connection, queries.CHANGES, (since, view.snapshot_revision, limit))
    if len(rows) == limit:
        last = rows[-1][0]
        rows = [row for row in rows if row[0] < last]
        rows += fetch(connection, queries.CHANGES, (last - 1, last, -1))
    return rows


def inspect(path: str) -> int:
    """The revision of a store that is opened for reading only."""
    with explained(path):
        connection = connect(path, "ro", queries.READER_SETUP)
        try:
            version = check_schema(connection, path)
            if version < migrations.LATEST:
                raise StoreError(
                    f"{path} has an older schema ({version}): start gureum on it once to bring it up to date"
                )
            return number(connection, queries.REVISION)
        finally:
            connection.close()
