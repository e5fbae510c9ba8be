"""Snapshots of a store, and a transaction's own writes on top of one: what all stores have in common."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

from gureum.errors import Conflict, StoreError
from gureum.resources.record import Record
from gureum.store import codec
from gureum.store.cache import RecordCache
from gureum.store.search import Search
from gureum.store.tally import Changed, Tally

R = TypeVar("R", bound=Record)
S = TypeVar("S", bound=Tally)

LOADED_AT_ONCE_MAX = 1000
"""Records read and decoded before other tasks get their turn: a few milliseconds."""

Overlay = dict[str, dict[str, Record | None]]
"""What differs from the snapshot, by kind and id. None: not there."""

Writes = dict[tuple[str, str], "Write"]
Rows = Sequence[Sequence[Any]]


class Horizon:
    """The last revision whose records the cache knows of; shared by the store and its views."""

    def __init__(self, revision: int) -> None:
        self.revision = revision


class View(ABC):
    """A consistent state of the store: a snapshot of the database with an overlay on top.

    The abstract methods ask the snapshot. ``breathe``: let other tasks have their turn during long reads.
    """

    searches: ClassVar[type[Search]] = Search

    def __init__(self, revision: int, cache: RecordCache, horizon: Horizon, *, breathe: bool) -> None:
        self.overlay: Overlay = {}
        self._revision = self._visible = revision
        self._cache = cache
        self._horizon = horizon
        self._breathe = breathe
        self._open = True

    @abstractmethod
    async def _body(self, kind: str, id: str) -> str | None: ...

    @abstractmethod
    async def _bodies(self, kind: str, ids: list[str]) -> Rows:
        """(id, body) of those that exist, ordered by id."""

    @abstractmethod
    async def _page(self, search: Search, after: str, limit: int) -> Rows:
        """(id, body) of all records of the kind above ``after``, in order, at most ``limit``."""

    @abstractmethod
    async def _ids(self, search: Search, after: str, limit: int) -> list[str]:
        """The matching ids above ``after``, in order, at most ``limit`` (-1: all). Needs a condition."""

    @abstractmethod
    async def _total(self, search: Search) -> int: ...

    @abstractmethod
    async def _changes_of(self, kinds: list[str], since: int) -> Rows | None:
        """(kind, id, body) of what changed after ``since``; None if deletions that old are forgotten."""

    @property
    def revision(self) -> int:
        return self._visible

    def close(self) -> None:
        self._open = False

    async def get(self, kind: type[R], id: str) -> R | None:
        self._check_open()
        changed = self.overlay.get(kind.kind)
        if changed is not None and id in changed:
            return cast("R | None", changed[id])
        record = self._cached(kind.kind, id)
        if record is None and codec.storable(id):
            body = await self._body(kind.kind, id)
            record = None if body is None else self._decode(kind.kind, id, body)
        return cast("R | None", record)

    async def get_many(self, kind: type[R], ids: Collection[str]) -> list[R]:
        self._check_open()
        changed = self.overlay.get(kind.kind, {})
        wanted = set(ids)
        records = [record for id in wanted & changed.keys() if (record := changed[id]) is not None]
        records += await self._load(kind.kind, sorted(filter(codec.storable, wanted - changed.keys())))
        records.sort(key=_id)
        return cast("list[R]", records)

    async def find(
        self,
        kind: type[R],
        *,
        after: str | None = None,
        limit: int | None = None,
        **index: str | Collection[str],
    ) -> list[R]:
        self._check_open()
        search = self.searches(kind, index)
        if search.hopeless or (limit is not None and limit <= 0):
            return []
        changed = dict(self.overlay.get(kind.kind, ()))
        start = after or ""
        # Of what SQL finds, the overlay may hide as many as it has.
        sql_limit = -1 if limit is None else limit + len(changed)
        records = await self._found(search, start, sql_limit, changed)
        if changed:
            records += [
                record
                for id, record in changed.items()
                if record is not None and id > start and search.matches(record)
            ]
            records.sort(key=_id)
        return cast("list[R]", records if limit is None else records[:limit])

    async def _found(self, search: Search, after: str, limit: int, but: Collection[str]) -> list[Record]:
        """Those of the first ``limit`` (-1: all) in the snapshot that are not among ``but``, in order."""
        finds, known = self._cache.finds, self._revision <= self._horizon.revision
        question = (search.kind, tuple(search.conditions), after, limit)
        ids = finds.get(question, self._revision) if known else None
        if ids is None and not search.conditions:
            records = [record async for record in self._scan(search, after, limit)]
            if known:
                finds.put(question, self._revision, [record.id for record in records])
            return [record for record in records if record.id not in but]
        if ids is None:
            ids = await self._ids(search, after, limit)
            if known:
                finds.put(question, self._revision, ids)
        return await self._load(search.kind, [id for id in ids if id not in but] if but else ids)

    async def count(self, kind: type[R], **index: str | Collection[str]) -> int:
        self._check_open()
        search = self.searches(kind, index)
        if search.hopeless:
            return 0
        changed = self.overlay.get(kind.kind, {})
        total = await self._total(search)
        hidden = await self._hidden(kind.kind, changed)
        total -= sum(map(search.matches, hidden))
        return total + sum(record is not None and search.matches(record) for record in changed.values())

    async def tally(self, of: type[S]) -> S:
        self._check_open()
        return await self._cache.tallies.seen(of, self)

    @property
    def snapshot_revision(self) -> int:
        return self._revision

    def every(self, kind: type[Record]) -> AsyncIterator[Record]:
        return self._scan(self.searches(kind, {}), "", -1)

    async def changed(self, kinds: Iterable[type[Record]], since: int) -> Changed | None:
        rows = await self._changes_of([kind.kind for kind in kinds], since)
        if rows is None:
            return None
        return [
            ((kind, id), None if body is None else self.decoded(kind, id, body)) for kind, id, body in rows
        ]

    async def _scan(self, search: Search, after: str, limit: int) -> AsyncIterator[Record]:
        """The snapshot's records of a kind above ``after``, at most ``limit`` (-1: all)."""
        while limit:
            size = LOADED_AT_ONCE_MAX if limit < 0 else min(limit, LOADED_AT_ONCE_MAX)
            rows = await self._page(search, after, size)
            for after, body in rows:
                yield self.decoded(search.kind, after, body)
            if len(rows) < size:
                return
            limit = limit - size if limit > 0 else limit
            await self._rest()

    async def _load(self, kind: str, ids: Sequence[str]) -> list[Record]:
        """The snapshot's records of these ids (in order, each once), whatever the overlay says."""
        known = self._revision <= self._horizon.revision
        found = self._cache.get_many(kind, ids, self._revision) if known else dict.fromkeys(ids)
        missing = [id for id, record in found.items() if record is None]
        for first in range(0, len(missing), LOADED_AT_ONCE_MAX):
            if first:
                await self._rest()
            for id, body in await self._bodies(kind, missing[first : first + LOADED_AT_ONCE_MAX]):
                found[id] = self._decode(kind, id, body)
        return [record for record in found.values() if record is not None]

    async def _hidden(self, kind: str, ids: Collection[str]) -> list[Record]:
        """What the snapshot has of these ids, which the overlay hides."""
        return await self._load(kind, sorted(ids))

    def _cached(self, kind: str, id: str) -> Record | None:
        if self._revision > self._horizon.revision:
            return None
        return self._cache.get(kind, id, self._revision)

    def decoded(self, kind: str, id: str, body: str) -> Record:
        """The snapshot's record that has this body."""
        return self._cached(kind, id) or self._decode(kind, id, body)

    def _decode(self, kind: str, id: str, body: str) -> Record:
        record = codec.decode(kind, body)
        if self._is_latest(kind, id):
            self._cache.put(record, len(body))
        return record

    def _is_latest(self, kind: str, id: str) -> bool:
        """Whether the snapshot's record is the latest: that of an older snapshot may no longer be it."""
        return self._revision == self._horizon.revision

    async def _rest(self) -> None:
        if self._breathe:
            await asyncio.sleep(0)
            self._check_open()

    def _check_open(self) -> None:
        if not self._open:
            raise StoreError("the transaction or read that this belongs to is over")


class Write(NamedTuple):
    """The net change of one record in a transaction. ``revision`` is the transaction's."""

    before: Record | None
    after: Record | None
    body: bytes
    revision: int


class WriteView(View):
    """A transaction. Its writes stay here until ``work`` is done; then the store commits ``writes``."""

    writes: Writes
    commits_as: int
    """The revision that its writes have."""

    def begin(self, pending: Iterable[Writes], revision: int) -> None:
        """Start from the snapshot with the writes that it lacks, which bring it up to ``revision``."""
        self.writes = {}
        self._visible = revision
        self.commits_as = revision + 1
        for writes in pending:
            for (kind, id), write in writes.items():
                self.overlay.setdefault(kind, {})[id] = write.after

    async def put(self, record: R) -> R:
        current = await self._current(record)
        if record.version != (current.version if current is not None else 0):
            raise _conflict(record, current)
        if current is not None:
            record.check_transition(current)
        settled, body = codec.settle(record, self.commits_as)
        self._write(current, settled, body)
        return settled

    async def _current(self, record: R) -> R | None:
        """What is stored with the id of a record that is to be put."""
        return await self.get(type(record), record.id)

    async def delete(self, record: Record) -> None:
        current = await self.get(type(record), record.id)
        if current is None or current.version != record.version:
            raise _conflict(record, current)
        self._write(current, None, b"")

    def _write(self, current: Record | None, after: Record | None, body: bytes) -> None:
        subject = current or after
        assert subject is not None
        key = (subject.kind, subject.id)
        before = self.writes[key].before if key in self.writes else current
        self.writes[key] = Write(before, after, body, self.commits_as)
        self.overlay.setdefault(subject.kind, {})[subject.id] = after


def merge(batch: Iterable[Writes]) -> Writes:
    """The net writes of successive transactions."""
    merged: Writes = {}
    for writes in batch:
        for key, write in writes.items():
            earlier = merged.get(key)
            merged[key] = write if earlier is None else write._replace(before=earlier.before)
    return merged


def remember(cache: RecordCache, writes: Writes) -> None:
    """Keep what was committed."""
    for (kind, id), write in writes.items():
        if write.after is None:
            cache.drop(kind, id)
        else:
            cache.put(write.after, len(write.body))
        if _found_otherwise(write.before, write.after):
            cache.finds.changed(kind, write.revision)


def _found_otherwise(before: Record | None, after: Record | None) -> bool:
    if before is None or after is None:
        return True
    return any(getattr(before, field) != getattr(after, field) for field in after.indexes)


def _conflict(record: Record, current: Record | None) -> Conflict:
    stored = "it is gone" if current is None else f"version {current.version} is stored"
    return Conflict(f"{record.kind} {record.id}: version {record.version} was expected, {stored}")


def _id(record: Record) -> str:
    return record.id
