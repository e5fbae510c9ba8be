"""``find`` and ``count`` as PostgreSQL's SQL."""

from __future__ import annotations

from collections.abc import Sequence

from gureum.store.postgres import queries
from gureum.store.search import Condition, Search

SAMPLE_MAX = 1000
"""Entries counted to see which condition is the most selective."""
PROBE_VALUES_MAX = 8
"""Up to this many values, a condition is probed for each candidate; above, its ids are collected first."""

Statement = tuple[str, list[object]]


class _Builder:
    """SQL whose conditions have their parameters after ``parameters``."""

    def __init__(self, *parameters: object) -> None:
        self.parameters = list(parameters)

    def filled(self, template: str, condition: Condition, alias: str) -> str:
        one = len(condition.values) == 1
        self.parameters += [condition.field, condition.values[0] if one else list(condition.values)]
        field, values = len(self.parameters) - 1, len(self.parameters)
        value = (queries.VALUE_IS if one else queries.VALUE_IN).format(alias=alias, values=values)
        return template.format(distinct="" if one else "DISTINCT", field=field, value=value)


def samples(kind: str, conditions: Sequence[Condition]) -> Statement:
    """How many entries each condition has, up to SAMPLE_MAX: one row."""
    builder = _Builder(kind, SAMPLE_MAX)
    parts = [builder.filled(queries.ENTRIES_SAMPLE, each, "e") for each in conditions]
    return "SELECT " + ", ".join(parts), builder.parameters


def ids(search: Search, conditions: Sequence[Condition], after: str, limit: int | None) -> Statement:
    """The matching ids above ``after``, in order. The first of the conditions drives."""
    builder = _Builder(search.kind, after, limit)
    drive, *others = conditions
    sql = builder.filled(queries.ENTRIES_DRIVE, drive, "e")
    for condition in others:
        probe = len(condition.values) <= PROBE_VALUES_MAX
        sql += builder.filled(queries.ENTRIES_PROBE if probe else queries.ENTRIES_JOIN, condition, "p")
    return sql + queries.ENTRIES_ORDER, builder.parameters


def count(search: Search, conditions: Sequence[Condition]) -> Statement:
    sql, parameters = ids(search, conditions, "", None)
    return queries.ENTRIES_COUNT.format(drive=sql), parameters
