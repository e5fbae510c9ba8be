"""Snapshots of PostgreSQL's, and transactions on top of one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gureum.errors import StoreError
from gureum.store import view
from gureum.store.cache import RecordCache
from gureum.store.postgres import queries, search
from gureum.store.postgres.connection import ERRORS, Connection, explain
from gureum.store.search import Condition, Search
from gureum.store.view import Horizon, Rows


class Snapshot:
    """A connection in a transaction that reads; its revision pinned it. One query at a time."""

    def __init__(self, connection: Connection, revision: int, place: str) -> None:
        self.connection = connection
        self.revision = revision
        self.sound = True
        """Whether the connection can be used again."""
        self._place = place
        self._turn = asyncio.Lock()

    async def fetch(self, sql: str, *parameters: object) -> Rows:
        async with self._turn:
            try:
                rows: Rows = await self.connection.fetch(sql, *parameters)
                return rows
            except ERRORS as error:
                self.sound = False
                raise explain(error, self._place) from error
            except BaseException:
                self.sound = False
                raise


class View(view.View):
    def __init__(
        self,
        snapshot: Snapshot,
        cache: RecordCache,
        horizon: Horizon,
        closed: Callable[[], StoreError | None],
    ) -> None:
        super().__init__(snapshot.revision, cache, horizon, breathe=True)
        self.snapshot = snapshot
        self._closed = closed

    async def _fetch(self, sql: str, *parameters: object) -> Rows:
        try:
            rows = await self.snapshot.fetch(sql, *parameters)
        except StoreError as error:
            raise self._closed() or error from error
        self._check_open()
        return rows

    async def _body(self, kind: str, id: str) -> str | None:
        rows = await self._fetch(queries.RECORD, kind, id)
        return rows[0][0] if rows else None

    async def _bodies(self, kind: str, ids: list[str]) -> Rows:
        return await self._fetch(queries.RECORDS, kind, ids)

    async def _page(self, sought: Search, after: str, limit: int) -> Rows:
        return await self._fetch(queries.RECORDS_PAGE, sought.kind, after, limit)

    async def _ids(self, sought: Search, after: str, limit: int) -> list[str]:
        conditions = await self._by_selectivity(sought)
        sql, parameters = search.ids(sought, conditions, after, limit if limit >= 0 else None)
        return [id for (id,) in await self._fetch(sql, *parameters)]

    async def _total(self, sought: Search) -> int:
        if sought.conditions:
            sql, parameters = search.count(sought, await self._by_selectivity(sought))
        else:
            sql, parameters = queries.RECORDS_COUNT, [sought.kind]
        ((total,),) = await self._fetch(sql, *parameters)
        return int(total)

    async def _by_selectivity(self, sought: Search) -> list[Condition]:
        if len(sought.conditions) == 1:
            return sought.conditions
        sql, parameters = search.samples(sought)
        (row,) = await self._fetch(sql, *parameters)
        return search.by_selectivity(sought, row)


class WriteView(View, view.WriteView):
    """A transaction on a snapshot that several transactions share, one after the other.

    Its overlay begins with what was written since the snapshot, all of it: as long as nobody else commits
    (``valid``), what is in neither is as the snapshot has it.
    """

    valid: Callable[[], bool]

    def _is_latest(self, kind: str, id: str) -> bool:
        return self.valid() and id not in self.overlay.get(kind, ())
