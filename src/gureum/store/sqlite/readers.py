"""Where views get their snapshots: a connection each on a file, the one connection in memory."""

from __future__ import annotations

import logging
import sqlite3
from typing import Protocol, TypeVar

from gureum.store.cache import RecordCache
from gureum.store.sqlite import queries
from gureum.store.sqlite.connection import connect, explained, number, rollback
from gureum.store.sqlite.view import View
from gureum.store.view import Horizon, Writes

log = logging.getLogger(__name__)

V = TypeVar("V", bound=View)

IDLE_MAX = 4


class Readers(Protocol):
    def view(self, kind: type[V]) -> V:
        """A view of the last commit, with an empty overlay. To be released."""

    def release(self, view: View) -> None: ...

    def committed(self, writes: Writes) -> None:
        """Called after each commit, in the same step of the event loop."""

    def close(self) -> None: ...


class FileReaders:
    """Snapshots are SQLite's own: a read transaction in WAL mode, one connection each."""

    def __init__(self, path: str, cache: RecordCache, horizon: Horizon, *, breathe: bool) -> None:
        self._path = path
        self._cache = cache
        self._horizon = horizon
        self._breathe = breathe
        self._idle: list[sqlite3.Connection] = []
        self._open: set[View] = set()

    def view(self, kind: type[V]) -> V:
        with explained(self._path):
            connection = self._idle.pop() if self._idle else connect(self._path, "ro", queries.READER_SETUP)
            try:
                connection.execute(queries.BEGIN_READ)
                revision = number(connection, queries.REVISION)  # the first read pins the snapshot
            except BaseException:
                connection.close()
                raise
        view = kind(connection, self._path, revision, self._cache, self._horizon, breathe=self._breathe)
        self._open.add(view)
        return view

    def release(self, view: View) -> None:
        if view not in self._open:
            return
        self._open.remove(view)
        view.close()
        connection = view.connection
        try:
            rollback(connection)
        except sqlite3.Error as error:
            log.warning("%s: a read ended with %s", self._path, error)
            connection.close()
            return
        if len(self._idle) < IDLE_MAX:
            self._idle.append(connection)
        else:
            connection.close()

    def committed(self, writes: Writes) -> None:
        pass

    def close(self) -> None:
        for view in self._open:
            view.close()
            view.connection.close()
        for connection in self._idle:
            connection.close()
        self._open.clear()
        self._idle.clear()


class MemoryReaders:
    """A database in memory has one connection.

    A view that is open over a commit keeps what the commit replaced, as its overlay.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: str, cache: RecordCache, horizon: Horizon
    ) -> None:
        self._connection = connection
        self._path = path
        self._cache = cache
        self._horizon = horizon
        self._views: set[View] = set()

    def view(self, kind: type[V]) -> V:
        view = kind(
            self._connection, self._path, self._horizon.revision, self._cache, self._horizon, breathe=False
        )
        self._views.add(view)
        return view

    def release(self, view: View) -> None:
        view.close()
        self._views.discard(view)

    def committed(self, writes: Writes) -> None:
        for view in self._views:
            for (kind, id), write in writes.items():
                view.overlay.setdefault(kind, {}).setdefault(id, write.before)

    def close(self) -> None:
        for view in self._views:
            view.close()
        self._views.clear()
