"""Steps of the schema, one numbered SQL file each. A step that has been released is never edited."""

from __future__ import annotations

from importlib.resources import files

LATEST = 2
"""For SQLite."""
LATEST_POSTGRES = 3
"""PostgreSQL's first step makes what SQLite has after its second, and a file has one manager."""


def step(number: int, dialect: str = "sqlite") -> str:
    """The SQL of one step; ``dialect``: sqlite or postgres."""
    return (files(__name__) / f"{number:04}.{dialect}.sql").read_text(encoding="utf-8")
