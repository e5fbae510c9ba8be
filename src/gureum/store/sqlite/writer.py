"""The connection that writes: applies transactions' writes and commits them durably."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from gureum.errors import StoreError
from gureum.store import codec
from gureum.store.sqlite import queries
from gureum.store.sqlite.connection import BUSY_TIMEOUT_MS, explain, number, open_writer, rollback
from gureum.store.view import Writes

log = logging.getLogger(__name__)

TOMBSTONES_KEPT = 10_000


class Writer:
    """For each transaction: ``begin``, ``apply`` (in parts, if it is large), ``seal``, ``commit``.

    Each of them rolls everything back when it raises. One at a time, but ``begin`` and ``commit``, which may
    wait for a lock or the disk, can run in another thread than the rest.
    """

    def __init__(self, path: str, *, tombstones_kept: int = TOMBSTONES_KEPT) -> None:
        self._path = path
        self._tombstones_kept = tombstones_kept
        self.connection = open_writer(path)
        self.revision = number(self.connection, queries.REVISION)
        self._tombstones = number(self.connection, queries.TOMBSTONES_COUNT)

    def begin(self, *, wait: bool) -> bool:
        """False, without ``wait``, if another program has the write lock just now."""
        try:
            self.connection.execute(queries.BUSY_TIMEOUT.format(milliseconds=BUSY_TIMEOUT_MS if wait else 0))
            self.connection.execute(queries.BEGIN_WRITE)
        except sqlite3.Error as error:
            if not wait and error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                return False
            raise explain(error, self._path, writing=True) from error
        return True

    def apply(self, writes: Writes) -> None:
        with self._rolling_back():
            self._apply(writes)

    def seal(self, revision: int) -> None:
        """``revision`` is that of the last transaction."""
        with self._rolling_back():
            self._prune()
            self.connection.execute(queries.SET_REVISION, (revision,))

    def commit(self) -> None:
        """Durable on return."""
        with self._rolling_back():
            self.connection.execute(queries.COMMIT)

    @contextmanager
    def _rolling_back(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self.rollback()
            raise explain(error, self._path, writing=True) from error
        except BaseException:
            self.rollback()
            raise

    def rollback(self) -> None:
        try:
            rollback(self.connection)
        except sqlite3.Error as error:
            log.error("%s: rollback failed: %s", self._path, error)
        with suppress(sqlite3.Error):
            self._tombstones = number(self.connection, queries.TOMBSTONES_COUNT)

    def close(self) -> None:
        self.connection.close()

    def _apply(self, writes: Writes) -> None:
        inserts, updates, deletes = [], [], []
        gone: list[tuple[str, str, str, str]] = []
        new: list[tuple[str, str, str, str]] = []
        for (kind, id), (before, after, body, revision) in writes.items():
            if before is None and after is None:
                continue
            if after is None:
                assert before is not None
                deletes.append((kind, id, before.version, revision))
            elif before is None:
                inserts.append((kind, id, revision, body.decode()))
            else:
                updates.append((revision, body.decode(), kind, id, before.version))
            old_entries = codec.entries(before) if before is not None else set()
            new_entries = codec.entries(after) if after is not None else set()
            gone += [(kind, field, value, id) for field, value in old_entries - new_entries]
            new += [(kind, field, value, id) for field, value in new_entries - old_entries]
        self._many(queries.INSERT_RECORD, inserts)
        self._many(queries.UPDATE_RECORD, updates)
        self._many(queries.DELETE_RECORD, [row[:3] for row in deletes])
        self._many(queries.DELETE_ENTRY, gone)
        self._many(queries.INSERT_ENTRY, new)
        execute = self.connection.executemany
        if self._tombstones and inserts:
            self._tombstones -= execute(queries.DELETE_TOMBSTONE, [row[:2] for row in inserts]).rowcount
        if deletes:
            execute(queries.INSERT_TOMBSTONE, [(kind, id, revision) for kind, id, _, revision in deletes])
            self._tombstones += len(deletes)

    def _many(self, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Run for each row; each must touch exactly one."""
        if rows and self.connection.executemany(sql, rows).rowcount != len(rows):
            raise StoreError(f"{self._path} was changed by another program: restart gureum")

    def _prune(self) -> None:
        """Forget the oldest deletions, a quarter of the bound at a time."""
        if self._tombstones <= self._tombstones_kept * 5 // 4:
            return
        surplus = self._tombstones - self._tombstones_kept
        horizon = number(self.connection, queries.TOMBSTONES_HORIZON, (surplus,))
        self._tombstones -= self.connection.execute(queries.PRUNE_TOMBSTONES, (horizon,)).rowcount
        self.connection.execute(queries.SET_HORIZON, (horizon,))
