"""Connections to PostgreSQL: opening, migrating, and what their errors mean."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import asyncpg

from gureum.errors import Conflict, StoreAway, StoreError, StoreFull
from gureum.resources import KINDS
from gureum.store import codec, migrations
from gureum.store.postgres import queries
from gureum.store.postgres.address import Address

log = logging.getLogger(__name__)

CONNECT_SECONDS_MAX = 5.0
QUERY_SECONDS_MAX = 30.0
SETTINGS = {
    "application_name": "gureum",
    "jit": "off",  # it takes longer than any query here
    "statement_timeout": "30000",
    # A manager that stops in the middle of something must not hold rows for ever.
    "idle_in_transaction_session_timeout": "120000",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
REINDEXED_AT_ONCE = 1000

Connection = Any  # asyncpg has no types


class Unreachable(StoreAway):
    """The server does not answer, or the connection broke."""


class Overtaken(Conflict):
    """Another manager committed meanwhile: the transaction is run again."""


class Deposed(StoreAway):
    """Another manager leads, so that this one cannot commit any more."""


class Revoked(StoreError):
    """This machine was revoked as one with managers: it may not lead."""


def explain(error: BaseException, place: str) -> StoreError:
    """The StoreError for an error of the driver's, saying what to do about it."""
    state = getattr(error, "sqlstate", None) or ""
    if state == "GU001":
        return Overtaken(f"{place}: {error}")
    if state == "GU002":
        return Deposed(f"{place}: nothing was committed: another manager leads ({error})")
    if state == "GU003":
        return StoreError(f"{place} was changed by another program: {error}; restart gureum")
    if state == "GU004":
        return StoreError(f"{place} is the store of another cloud, {error}: create a database of its own")
    if state == "GU005":
        return Revoked(
            f"{place}: this machine, {error}, was revoked as one with managers, and none may lead here any "
            "more. End it for good: gureum down. It can join again from an empty directory, as another --name"
        )
    if state == "53100":
        return StoreFull(f"{place}: nothing was committed ({error}); free some space on its server's disk")
    advice = {
        "28": "check the user, its password in ~/.pgpass or the passfile, and the server's pg_hba.conf",
        "3D": "create the database: createdb -O USER DATABASE",
        "42501": "check that the user owns the database",
        "25": "is this a standby server? The store has to be at the one that is written to",
        "53": "the server lacks connections or memory: see its log, and max_connections",
        "57": "the server is being stopped or started, or ended what took too long",
        "XX": "the database is damaged: see the server's log",
    }
    todo = advice.get(state) or advice.get(state[:2])
    if isinstance(error, asyncpg.PostgresError) and state[:2] not in ("57", "53", "08"):
        return StoreError(f"{place}: {error}; {todo or 'this is a bug in gureum'}")
    text = str(error) or type(error).__name__
    return Unreachable(f"{place}: {text}; {todo or 'does its server run, and can it be reached?'}")


ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What the driver raises. TimeoutError and ConnectionError are among them."""


@contextmanager
def explained(place: str) -> Iterator[None]:
    try:
        yield
    except ERRORS as error:
        raise explain(error, place) from error


async def connect(address: Address, machine: str = "") -> Connection:
    """To the server that can be written to. ``machine``: among those with managers, for who wants to lead.
    Raises StoreError.
    """
    with explained(address.place):
        connection = await _connect(address, {**SETTINGS, "gureum.machine": machine} if machine else SETTINGS)
        try:
            await connection.execute(queries.DURABLE)
        except BaseException:
            connection.terminate()
            raise
        return connection


async def _connect(address: Address, settings: dict[str, str]) -> Connection:
    """Of several servers all are tried at once: one may have died silently. Raises what the driver does."""
    several = len(address.servers) > 1
    trying = [
        asyncio.ensure_future(
            asyncpg.connect(
                server,
                timeout=CONNECT_SECONDS_MAX,
                command_timeout=QUERY_SECONDS_MAX,
                server_settings=settings,
                target_session_attrs="read-write" if several else "any",
            )
        )
        for server in address.servers
    ]
    connection, failed = None, None
    try:
        for attempt in asyncio.as_completed(trying):
            try:
                connection = await attempt
                return connection
            except ERRORS as error:
                failed = error
        assert failed is not None
        raise failed
    finally:
        for task in trying:
            task.cancel()
        for other in await asyncio.gather(*trying, return_exceptions=True):
            if not isinstance(other, BaseException) and other is not connection:
                other.terminate()


async def discard(connection: Connection) -> None:
    """Close it in good order, or at least close it."""
    try:
        await connection.close(timeout=2.0)
    except Exception:
        with suppress(Exception):
            connection.terminate()


async def prepare(connection: Connection, place: str, *, upgrade: bool = True) -> None:
    """Bring the schema and the entries up to date; without ``upgrade`` only those of an empty database, since
    a manager of an earlier gureum may be at work. Raises StoreError if this is no store or a newer one.
    """
    with explained(place):
        async with connection.transaction():
            await connection.execute(queries.SCHEMA_LOCK)
            version = await _schema(connection, place)
            if version and not upgrade:
                return
            while version < migrations.LATEST_POSTGRES:
                version += 1
                await connection.execute(migrations.step(version, "postgres"))
                await connection.execute(queries.SET_SCHEMA_VERSION, version)
                log.info("store: schema is now at version %d", version)
            await _reindex(connection)
    # Prepared statements know the search path and tables as they were.
    await connection.reload_schema_state()


async def _schema(connection: Connection, place: str) -> int:
    if not await connection.fetchval(queries.SCHEMA_TABLE):
        if await connection.fetchval(queries.TABLES_COUNT):
            raise StoreError(f"{place} has tables, but is not a gureum store: create a database of its own")
        await connection.execute(queries.CREATE_SCHEMA_TABLE)
        await connection.execute(queries.INSERT_SCHEMA_VERSION)
    version: int = await connection.fetchval(queries.SCHEMA_VERSION)
    if version > migrations.LATEST_POSTGRES:
        raise StoreError(
            f"{place} was written by a newer gureum (schema {version}, this one knows "
            f"{migrations.LATEST_POSTGRES}): install that version again, or put back the backup made before"
        )
    return version


async def _reindex(connection: Connection) -> None:
    """Rebuild the entries of the kinds whose indexed fields are not those of the last start."""
    known = dict(map(tuple, await connection.fetch(queries.INDEXED)))
    wanted = {kind: ",".join(record.indexes) for kind, record in KINDS.items()}
    for kind, fields in wanted.items():
        if known.get(kind) == fields:
            continue
        await connection.execute(queries.DELETE_ENTRIES, kind)
        after = ""
        while rows := await connection.fetch(queries.RECORDS_PAGE, kind, after, REINDEXED_AT_ONCE):
            entries = [
                (kind, field, value, id)
                for id, body in rows
                for field, value in codec.entries(codec.decode(kind, body))
            ]
            await connection.executemany(queries.INSERT_ENTRY, entries)
            after = rows[-1][0]
            await asyncio.sleep(0)
        await connection.execute(queries.SET_INDEXED, kind, fields)
