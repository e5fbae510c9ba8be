"""Snapshots of PostgreSQL's, and transactions on top of one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TypeVar

from gureum.errors import Conflict, StoreError
from gureum.resources.record import Record
from gureum.store import view
from gureum.store.cache import RecordCache
from gureum.store.postgres import queries, search
from gureum.store.postgres.connection import ERRORS, Connection, explain
from gureum.store.search import Condition, Search
from gureum.store.view import Horizon, Overlay, Rows

R = TypeVar("R", bound=Record)

SAMPLES_MAX = 4096
SAMPLE_SECONDS_MAX = 10.0


class Samples:
    """How selective conditions were a moment ago: a hint that saves a round trip."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, tuple[str, ...]], int] = {}
        self._began = 0.0

    def known(self, kind: str, condition: Condition) -> int | None:
        now = asyncio.get_running_loop().time()
        if now > self._began + SAMPLE_SECONDS_MAX or len(self._counts) >= SAMPLES_MAX:
            self._counts.clear()
            self._began = now
        return self._counts.get((kind, condition.field, condition.values))

    def note(self, kind: str, condition: Condition, count: int) -> None:
        self._counts[kind, condition.field, condition.values] = count


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
        samples: Samples,
        closed: Callable[[], StoreError | None],
    ) -> None:
        super().__init__(snapshot.revision, cache, horizon, breathe=True)
        self.snapshot = snapshot
        self._samples = samples
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

    async def _changes_of(self, kinds: list[str], since: int) -> Rows | None:
        rows = await self._fetch(queries.CHANGES_OF, kinds, since)
        if since < rows[0][0]:
            return None
        return [tuple(row)[1:] for row in rows if row[1] is not None]

    async def _by_selectivity(self, sought: Search) -> list[Condition]:
        if len(sought.conditions) == 1:
            return sought.conditions
        counts = {each.field: self._samples.known(sought.kind, each) for each in sought.conditions}
        if missing := [each for each in sought.conditions if counts[each.field] is None]:
            sql, parameters = search.samples(sought.kind, missing)
            (row,) = await self._fetch(sql, *parameters)
            for condition, count in zip(missing, row, strict=True):
                counts[condition.field] = count
                self._samples.note(sought.kind, condition, count)
        return sorted(sought.conditions, key=lambda each: (counts[each.field], len(each.values)))


class WriteView(View, view.WriteView):
    """A transaction on a snapshot that several transactions share, one after the other.

    Its overlay begins with what was written since the snapshot, all of it: as long as nobody else commits
    (``valid``), what is in neither is as the snapshot has it. ``replaced``: what the snapshot has of that.
    Whether the ids of new records are new is asked once, at the end (``prove``).
    """

    def share(self, overlay: Overlay, replaced: Overlay, valid: Callable[[], bool]) -> None:
        """Before ``begin``."""
        self.overlay = {kind: dict(changed) for kind, changed in overlay.items()}
        self._replaced = replaced
        self._valid = valid
        self._absent: set[tuple[str, str]] = set()
        self._unproven: set[tuple[str, str]] = set()

    async def prove(self) -> None:
        """Raises Conflict if a record that was put as a new one is there already."""
        unproven = [key for key in self._unproven if key in self.writes]
        if not unproven:
            return
        kinds, ids = map(list, zip(*unproven, strict=True))
        for kind, id in await self._fetch(queries.EXISTING, kinds, ids):
            raise Conflict(f"{kind} {id}: a new one was to be stored, and there is one")

    def _is_latest(self, kind: str, id: str) -> bool:
        return self._valid() and id not in self.overlay.get(kind, ())

    async def _body(self, kind: str, id: str) -> str | None:
        body = await super()._body(kind, id)
        if body is None:
            self._absent.add((kind, id))
        return body

    async def _current(self, record: R) -> R | None:
        self._check_open()
        kind, id = key = record.kind, record.id
        if record.version or id in self.overlay.get(kind, ()) or self._cached(kind, id) is not None:
            return await self.get(type(record), id)
        if key not in self._absent:
            self._unproven.add(key)
        return None

    async def _hidden(self, kind: str, ids: Collection[str]) -> list[Record]:
        before = self._replaced.get(kind, {})
        records = [before[id] if id in before else self.writes[kind, id].before for id in ids]
        return [record for record in records if record is not None]
