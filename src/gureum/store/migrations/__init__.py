"""Steps of the schema, one numbered SQL file each. A step that has been released is never edited."""

from __future__ import annotations

from importlib.resources import files

LATEST = 2


def step(number: int) -> str:
    """The SQL of one step, for SQLite."""
    return (files(__name__) / f"{number:04}.sqlite.sql").read_text(encoding="utf-8")
