"""The store in one SQLite file, for one manager."""

from gureum.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
