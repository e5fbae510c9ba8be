"""SQLite connections: opening, locking, migrating, and what their errors mean."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from gureum.errors import StoreError, StoreFull
from gureum.files import sync
from gureum.resources import KINDS
from gureum.store import codec, migrations
from gureum.store.sqlite import queries

log = logging.getLogger(__name__)

MEMORY = ":memory:"
APPLICATION_ID = 0x6775726D
BUSY_TIMEOUT_MS = 5000

Rows = list[tuple[Any, ...]]


def explain(error: sqlite3.Error, path: str, *, writing: bool = False) -> StoreError:
    """The StoreError for an error of SQLite's, saying what to do about it."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if writing and code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return StoreFull(f"{path}: nothing was committed ({error}); free some space on its disk")
    advice = {
        sqlite3.SQLITE_CORRUPT: (
            "the file is damaged: stop gureum, move it and its -wal and -shm files away, put a backup here"
        ),
        sqlite3.SQLITE_NOTADB: "this is not a gureum store: move the file away",
        sqlite3.SQLITE_CANTOPEN: "check that its directory exists and that this user may write there",
        sqlite3.SQLITE_READONLY: "check that this user may write there and that the disk is not read-only",
        sqlite3.SQLITE_PERM: "check that this user may read and write it",
        sqlite3.SQLITE_BUSY: "another program is writing to it: close any SQL shell that has it open",
        sqlite3.SQLITE_LOCKED: "another program is writing to it: close any SQL shell that has it open",
        sqlite3.SQLITE_IOERR: "reading or writing failed: look for disk errors in the kernel's log",
        sqlite3.SQLITE_FULL: "the disk is full: free some space",
    }.get(code, "this is a bug in gureum")
    return StoreError(f"{path}: {error}; {advice}")


class explained:
    """Makes SQLite's errors StoreErrors. A class, as it is around each statement: a generator costs more."""

    __slots__ = ("_path", "_writing")

    def __init__(self, path: str, *, writing: bool = False) -> None:
        self._path = path
        self._writing = writing

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, sqlite3.Error):
            raise explain(error, self._path, writing=self._writing) from error


def fetch(connection: sqlite3.Connection, sql: str, parameters: Sequence[object] = ()) -> Rows:
    return connection.execute(sql, parameters).fetchall()


def number(connection: sqlite3.Connection, sql: str, parameters: Sequence[object] = ()) -> int:
    """The single integer that a query answers; 0 for NULL."""
    (value,) = connection.execute(sql, parameters).fetchone()
    return value or 0


class FileLock:
    """Keeps a second writing process off the store: an flock on a file beside it."""

    def __init__(self, path: str) -> None:
        self._path = path + ".lock"
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}; check the state directory") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._descriptor, 20).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise StoreError(
                f"{path} is in use by another gureum (process {holder}):"
                " stop it, or choose another state directory"
            ) from error
        with suppress(OSError):  # the number is for the message above only; the disk may be full
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)


def connect(path: str, mode: str, setup: Sequence[str]) -> sqlite3.Connection:
    """A connection in autocommit mode, usable from any one thread at a time. ``mode``: rwc, rw or ro."""
    uri = f"file:{quote(path)}?mode={mode}" if path != MEMORY else MEMORY
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_MS / 1000
    )
    try:
        for statement in setup:
            connection.execute(statement).fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def open_writer(path: str) -> sqlite3.Connection:
    """The connection that writes, on an up-to-date schema."""
    if path != MEMORY:
        # SQLite gives its -wal and -shm files the same mode: secrets of guests (user data) are in there.
        # Never closed here once it exists: that would drop locks that SQLite holds in this process.
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; check the state directory") from error
        flush_found(path)
    with explained(path, writing=True):
        connection = connect(path, "rwc", ())
        try:
            check_schema(connection, path)
            for statement in queries.WRITER_SETUP:
                connection.execute(statement).fetchall()
            migrate(connection, path)
            reindex(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def flush_found(path: str) -> None:
    """What a killed process had committed and not flushed is found, and believed: make it durable first."""
    try:
        for found in (Path(path + "-wal"), Path(path).absolute().parent):
            if found.exists():
                sync(found)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; look for disk errors in the kernel's log") from error


def check_schema(connection: sqlite3.Connection, path: str) -> int:
    """The schema's version, 0 for an empty file. Raises StoreError if this is no store or a newer one."""
    application = number(connection, queries.APPLICATION_ID)
    if application != APPLICATION_ID and number(connection, queries.TABLES_COUNT):
        raise StoreError(f"{path} is a database, but not a gureum store: choose another state directory")
    version = number(connection, queries.SCHEMA_VERSION)
    if version > migrations.LATEST:
        raise StoreError(
            f"{path} was written by a newer gureum (schema {version}, this one knows {migrations.LATEST}):"
            " install that version again, or put back the backup made before the upgrade"
        )
    return version


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Apply each missing step in a transaction of its own."""
    version = check_schema(connection, path)
    while version < migrations.LATEST:
        version += 1
        script = (
            f"{queries.BEGIN_WRITE};\n{migrations.step(version)}\n"
            f"{queries.SET_SCHEMA_VERSION.format(version=version)};\n"
            f"{queries.SET_APPLICATION_ID.format(number=APPLICATION_ID)};\n{queries.COMMIT};"
        )
        try:
            connection.executescript(script)
        except sqlite3.Error:
            rollback(connection)
            raise
        log.info("store %s: schema is now at version %d", Path(path).name, version)


def reindex(connection: sqlite3.Connection) -> None:
    """Rebuild the entries of the kinds whose indexed fields are not those of the last start."""
    known: dict[str, str] = dict(fetch(connection, queries.INDEXED))
    wanted = {kind: ",".join(record.indexes) for kind, record in KINDS.items()}
    changed = [kind for kind, fields in wanted.items() if known.get(kind) != fields]
    if not changed:
        return
    connection.execute(queries.BEGIN_WRITE)
    try:
        for kind in changed:
            connection.execute(queries.DELETE_ENTRIES, (kind,))
            cursor = connection.execute(queries.RECORDS_PAGE, (kind, "", -1))
            for id, body in cursor:
                rows = [(kind, field, value, id) for field, value in codec.entries(codec.decode(kind, body))]
                connection.executemany(queries.INSERT_ENTRY, rows)
            connection.execute(queries.SET_INDEXED, (kind, wanted[kind]))
        connection.execute(queries.COMMIT)
    except BaseException:
        rollback(connection)
        raise


def rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute(queries.ROLLBACK)
