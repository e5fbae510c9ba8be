"""``find`` and ``count`` as SQL."""

from __future__ import annotations

import sqlite3
from functools import cache

from gureum.store import codec, search
from gureum.store.search import Condition
from gureum.store.sqlite import queries
from gureum.store.sqlite.connection import Rows, fetch, number

SAMPLE_MAX = 1000
"""Entries counted to see which condition is the most selective."""
FEW = 20
"""A condition with so few entries is selective enough: the others' are not counted."""
PROBE_VALUES_MAX = 8
"""Up to this many values, a condition is probed for each candidate; above, its ids are collected first."""


def statement(condition: Condition, template: str, alias: str) -> str:
    """The template with the test of the value filled in."""
    return _filled(template, alias, len(condition.values) == 1)


@cache
def _filled(template: str, alias: str, one: bool) -> str:
    test = queries.VALUE_IS if one else queries.VALUE_IN
    return template.format(distinct="" if one else "DISTINCT", value=test.format(alias=alias))


def parameters_of(condition: Condition) -> tuple[str, str]:
    value = condition.values[0] if len(condition.values) == 1 else codec.text_array(condition.values)
    return condition.field, value


class Search(search.Search):
    """A search that SQLite can do."""

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
        sql = statement(drive, queries.ENTRIES_DRIVE, "e")
        parameters: list[object] = [self.kind, *parameters_of(drive), after]
        for condition in others:
            probe = len(condition.values) <= PROBE_VALUES_MAX
            sql += statement(condition, queries.ENTRIES_PROBE if probe else queries.ENTRIES_JOIN, "p")
            parameters += [self.kind, *parameters_of(condition)]
        return sql + queries.ENTRIES_ORDER, [*parameters, limit]

    def _by_selectivity(self, connection: sqlite3.Connection) -> list[Condition]:
        if len(self.conditions) == 1:
            return self.conditions

        samples: list[tuple[int, int, Condition]] = []
        for condition in sorted(self.conditions, key=lambda each: len(each.values)):
            sql = statement(condition, queries.ENTRIES_SAMPLE, "e")
            sample = number(connection, sql, (self.kind, *parameters_of(condition), SAMPLE_MAX))
            if sample <= FEW:
                return [condition, *(each for each in self.conditions if each is not condition)]
            samples.append((sample, len(condition.values), condition))
        return [condition for *_, condition in sorted(samples, key=lambda each: each[:2])]
