"""``find`` and ``count`` as SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from typing import NamedTuple

from gureum.errors import StoreError
from gureum.resources.record import Record
from gureum.store import codec
from gureum.store.sqlite import queries
from gureum.store.sqlite.connection import Rows, fetch, number

SAMPLE_MAX = 1000
"""Entries counted to see which condition is the most selective."""
PROBE_VALUES_MAX = 8
"""Up to this many values, a condition is probed for each candidate; above, its ids are collected first."""


class Condition(NamedTuple):
    """``field`` has one of ``values``."""

    field: str
    values: list[str]

    def sql(self, template: str, alias: str) -> str:
        """The template with the test of the value filled in."""
        test = queries.VALUE_IS if len(self.values) == 1 else queries.VALUE_IN
        distinct = "" if len(self.values) == 1 else "DISTINCT"
        return template.format(distinct=distinct, value=test.format(alias=alias))

    def admits(self, record: Record) -> bool:
        """As ``codec.entries`` has the field."""
        value = getattr(record, self.field)
        if isinstance(value, str):
            return str(value) in self.values
        return value is not None and any(str(each) in self.values for each in value)

    @property
    def parameters(self) -> tuple[str, str]:
        value = self.values[0] if len(self.values) == 1 else codec.text_array(self.values)
        return self.field, value


class Search:
    """A kind of record and the conditions on its indexed fields."""

    def __init__(self, kind: type[Record], index: Mapping[str, str | Collection[str]]) -> None:
        self.kind = kind.kind
        self.conditions: list[Condition] = []
        for field, wanted in index.items():
            if field not in kind.indexes:
                raise StoreError(f"{kind.kind} has no index on {field!r}")
            values = {str(wanted)} if isinstance(wanted, str) else {str(value) for value in wanted}
            self.conditions.append(Condition(field, sorted(filter(codec.storable, values))))

    @property
    def hopeless(self) -> bool:
        return any(not condition.values for condition in self.conditions)

    def matches(self, record: Record) -> bool:
        return all(condition.admits(record) for condition in self.conditions)

    def ids(self, connection: sqlite3.Connection, after: str, limit: int) -> list[str]:
        """The matching ids above ``after``, in order, at most ``limit`` (-1: all). Needs a condition."""
        sql, parameters = self._statement(connection, after, limit)
        return [id for (id,) in fetch(connection, sql, parameters)]

    def count(self, connection: sqlite3.Connection) -> int:
        if not self.conditions:
            return number(connection, queries.RECORDS_COUNT, (self.kind,))
        sql, parameters = self._statement(connection, "", -1)
        return number(connection, queries.ENTRIES_COUNT.format(drive=sql), parameters)

    def page(self, connection: sqlite3.Connection, after: str, limit: int) -> Rows:
        """(id, body) of the kind's records above ``after``. Without conditions only."""
        return fetch(connection, queries.RECORDS_PAGE, (self.kind, after, limit))

    def _statement(self, connection: sqlite3.Connection, after: str, limit: int) -> tuple[str, list[object]]:
        drive, *others = self._by_selectivity(connection)
        sql = drive.sql(queries.ENTRIES_DRIVE, "e")
        parameters: list[object] = [self.kind, *drive.parameters, after]
        for condition in others:
            probe = len(condition.values) <= PROBE_VALUES_MAX
            sql += condition.sql(queries.ENTRIES_PROBE if probe else queries.ENTRIES_JOIN, "p")
            parameters += [self.kind, *condition.parameters]
        return sql + queries.ENTRIES_ORDER, [*parameters, limit]

    def _by_selectivity(self, connection: sqlite3.Connection) -> list[Condition]:
        if len(self.conditions) == 1:
            return self.conditions

        def cost(condition: Condition) -> tuple[int, int]:
            sql = condition.sql(queries.ENTRIES_SAMPLE, "e")
            sample = number(connection, sql, (self.kind, *condition.parameters, SAMPLE_MAX))
            return sample, len(condition.values)

        return sorted(self.conditions, key=cost)
