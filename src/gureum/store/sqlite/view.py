"""Snapshots of SQLite's, and transactions on top of one."""

from __future__ import annotations

import sqlite3
from typing import ClassVar

from gureum.store import codec, search, view
from gureum.store.cache import RecordCache
from gureum.store.sqlite import queries
from gureum.store.sqlite.connection import explained, fetch, number
from gureum.store.sqlite.search import Search
from gureum.store.view import Horizon, Rows


class View(view.View):
    """The snapshot of a connection that has begun to read."""

    searches: ClassVar[type[Search]] = Search

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: str,
        revision: int,
        cache: RecordCache,
        horizon: Horizon,
        *,
        breathe: bool,
    ) -> None:
        super().__init__(revision, cache, horizon, breathe=breathe)
        self.connection = connection
        self._path = path

    async def _body(self, kind: str, id: str) -> str | None:
        with explained(self._path):
            rows = fetch(self.connection, queries.RECORD, (kind, id))
        return rows[0][0] if rows else None

    async def _bodies(self, kind: str, ids: list[str]) -> Rows:
        with explained(self._path):
            return fetch(self.connection, queries.RECORDS, (kind, codec.text_array(ids)))

    async def _page(self, sought: search.Search, after: str, limit: int) -> Rows:
        assert isinstance(sought, Search)
        with explained(self._path):
            return sought.page(self.connection, after, limit)

    async def _ids(self, sought: search.Search, after: str, limit: int) -> list[str]:
        assert isinstance(sought, Search)
        with explained(self._path):
            return sought.ids(self.connection, after, limit)

    async def _total(self, sought: search.Search) -> int:
        assert isinstance(sought, Search)
        with explained(self._path):
            return sought.count(self.connection)

    async def _changes_of(self, kinds: list[str], since: int) -> Rows | None:
        with explained(self._path):
            if since < number(self.connection, queries.HORIZON):
                return None
            return fetch(self.connection, queries.CHANGES_OF, (codec.text_array(kinds), since))


class WriteView(View, view.WriteView):
    """A transaction on such a snapshot."""
