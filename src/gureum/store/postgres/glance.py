"""A look at some records, for who does not lead: on a connection of its own, which changes nothing."""

from __future__ import annotations

from typing import TypeVar

from gureum.resources.record import Record
from gureum.store import codec
from gureum.store.postgres import queries
from gureum.store.postgres.address import Address
from gureum.store.postgres.connection import connect, discard, explained

R = TypeVar("R", bound=Record)

RECORDS_MAX = 1000


async def glance(address: Address, kind: type[R]) -> list[R]:
    """The first RECORDS_MAX of a kind, by id. Raises StoreError."""
    connection = await connect(address)
    try:
        with explained(address.place):
            rows = await connection.fetch(queries.RECORDS_PAGE, kind.kind, "", RECORDS_MAX)
    finally:
        await discard(connection)
    records = (codec.decode(kind.kind, body) for _, body in rows)
    return [record for record in records if isinstance(record, kind)]
