"""Stores to run the contract against: one parameter each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gureum.store.base import Store
from gureum.store.sqlite import SqliteStore

OPENERS: dict[str, Callable[[Path], Store]] = {
    "sqlite-memory": lambda directory: SqliteStore.open(":memory:", threaded=False),
    "sqlite-inline": lambda directory: SqliteStore.open(directory / "store.db", threaded=False),
    "sqlite-threaded": lambda directory: SqliteStore.open(directory / "store.db", threaded=True),
}


@pytest.fixture(params=OPENERS)
def open_store(request: pytest.FixtureRequest) -> Callable[[Path], Store]:
    """Opens the store of a directory."""
    return OPENERS[request.param]


@pytest.fixture
async def store(open_store: Callable[[Path], Store], tmp_path: Path) -> AsyncIterator[Store]:
    store = open_store(tmp_path)
    yield store
    await store.close()
