"""The connection that commits."""

from __future__ import annotations

import asyncio
import logging
import secrets

from gureum.errors import CommitUnknown
from gureum.store import codec
from gureum.store.postgres import queries
from gureum.store.postgres.address import Address
from gureum.store.postgres.connection import (
    ERRORS,
    Connection,
    Unreachable,
    connect,
    discard,
    explain,
)
from gureum.store.view import Writes

log = logging.getLogger(__name__)

TOMBSTONES_KEPT = 10_000
SETTLE_SECONDS_MAX = 10.0
"""For finding out whether a commit happened whose answer was lost."""
SETTLE_PAUSE_SECONDS = 0.2
WRITES_ENCODED_AT_ONCE = 200


class Writer:
    """Commits batches, one at a time. ``fence``: the epoch as which it may. ``name``: of this writer only."""

    def __init__(self, address: Address, connection: Connection, fence: int, tombstones_kept: int) -> None:
        self.fence = fence
        self._address = address
        self._connection: Connection | None = connection
        self._tombstones_kept = tombstones_kept
        self.name = secrets.token_hex(8)

    async def commit(self, writes: Writes, base: int, last: int) -> None:
        """Durable on return. Raises StoreError: nothing was committed, but for CommitUnknown."""
        columns = await _columns(writes)
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._address)
        try:
            await self._connection.execute(
                queries.COMMIT, base, last, self.fence, self.name, self._tombstones_kept, *columns
            )
        except ERRORS as error:
            explained = explain(error, self._address.place)
            if not isinstance(explained, Unreachable):
                raise explained from error
            log.warning("a commit was not answered: %s", explained)
            if not await self._is_committed(base, last):
                raise explained from error

    async def _is_committed(self, base: int, last: int) -> bool:
        """Whether a commit happened whose answer was lost; if not, it never will. Raises StoreError.

        It may still be under way: so another, which changes nothing, takes its place.
        """
        place = self._address.place
        try:
            async with asyncio.timeout(SETTLE_SECONDS_MAX):
                while True:
                    try:
                        connection = await self._anew()
                        if await connection.fetchval(queries.SUPERSEDE, base) is not None:
                            return False
                        revision, writer = await connection.fetchrow(queries.LAST_COMMIT)
                        break
                    except (Unreachable, *ERRORS):
                        await asyncio.sleep(SETTLE_PAUSE_SECONDS)
        except TimeoutError as error:
            raise CommitUnknown(
                f"{place}: it does not answer, so whether something was committed is not known"
            ) from error
        if (revision, writer) == (last, self.name):
            return True
        raise CommitUnknown(f"{place}: others commit there, so whether something was committed is not known")

    async def _anew(self) -> Connection:
        old, self._connection = self._connection, None
        if old is not None:
            old.terminate()
        self._connection = await connect(self._address)
        return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            await discard(self._connection)


async def _columns(writes: Writes) -> list[list[object]]:
    """The arrays that ``commit_writes`` takes, in its order."""
    new: list[tuple[object, ...]] = []
    changed: list[tuple[object, ...]] = []
    gone: list[tuple[object, ...]] = []
    lost: list[tuple[object, ...]] = []
    won: list[tuple[object, ...]] = []
    for number, ((kind, id), (before, after, body, revision)) in enumerate(writes.items()):
        if number and number % WRITES_ENCODED_AT_ONCE == 0:
            await asyncio.sleep(0)
        if before is None and after is None:
            continue
        if after is None:
            assert before is not None
            gone.append((kind, id, before.version, revision))
        elif before is None:
            new.append((kind, id, revision, body.decode()))
        else:
            changed.append((kind, id, before.version, revision, body.decode()))
        old_entries = codec.entries(before) if before is not None else set()
        new_entries = codec.entries(after) if after is not None else set()
        lost += [(kind, field, value, id) for field, value in old_entries - new_entries]
        won += [(kind, field, value, id) for field, value in new_entries - old_entries]
    return [
        [row[column] for row in rows]
        for rows, width in ((new, 4), (changed, 5), (gone, 4), (lost, 4), (won, 4))
        for column in range(width)
    ]
