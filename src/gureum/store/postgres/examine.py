"""What a server is like, for those who choose it and look after it."""

from __future__ import annotations

from typing import NamedTuple

from gureum.errors import StoreError
from gureum.store.postgres import queries
from gureum.store.postgres.address import Address
from gureum.store.postgres.connection import connect, discard, explained
from gureum.store.postgres.leadership import Leader

VERSION_MIN = 130000
NOBODY = Leader(0, 0, "", "", "")


class Server(NamedTuple):
    """``dangers``: settings with which a power cut loses or damages what was committed. ``replicated``: what
    it commits another server has, too. ``schema``: its version, 0 if there is none yet.
    """

    version: str
    dangers: tuple[str, ...]
    replicated: bool
    leader: Leader
    schema: int = 0


async def examine(address: Address) -> Server:
    """Raises StoreError if it cannot be reached, or cannot hold a store."""
    connection = await connect(address)
    try:
        with explained(address.place):
            number, version, standby, dangers, replicated = await connection.fetchrow(queries.SERVER)
            if number < VERSION_MIN:
                raise StoreError(f"{address.place}: PostgreSQL {version} is too old: 13 or newer is needed")
            if standby:
                raise StoreError(f"{address.place} is a standby server: name the one that is written to")
            leader, schema = NOBODY, 0
            if await connection.fetchval(queries.SCHEMA_TABLE):
                leader = Leader(*await connection.fetchrow(queries.LEADER))
                schema = await connection.fetchval(queries.SCHEMA_VERSION)
            elif await connection.fetchval(queries.TABLES_COUNT):
                raise StoreError(
                    f"{address.place} has tables, but is not a gureum store: create a database of its own"
                )
            return Server(version, tuple(dangers), replicated, leader, schema)
    finally:
        await discard(connection)
