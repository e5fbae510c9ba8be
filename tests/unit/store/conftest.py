"""Stores to run the contract against: one parameter each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gureum.store.base import Store
from gureum.store.postgres import Address, PostgresStore
from gureum.store.sqlite import SqliteStore

Opener = Callable[[Path], Awaitable[Store]]


def sqlite(name: str, *, threaded: bool) -> Opener:
    async def open_store(directory: Path) -> Store:
        return SqliteStore.open(name if name == ":memory:" else directory / name, threaded=threaded)

    return open_store


SQLITE: dict[str, Opener] = {
    "sqlite-memory": sqlite(":memory:", threaded=False),
    "sqlite-inline": sqlite("store.db", threaded=False),
    "sqlite-threaded": sqlite("store.db", threaded=True),
}


@pytest.fixture(params=[*SQLITE, pytest.param("postgres", marks=pytest.mark.postgres)])
def open_store(request: pytest.FixtureRequest) -> Opener:
    """Opens the store of a directory."""
    if request.param in SQLITE:
        return SQLITE[request.param]
    url: Callable[[Path], str] = request.getfixturevalue("postgres_url")

    async def open_postgres(directory: Path) -> Store:
        return await PostgresStore.open(Address.parse(url(directory)))

    return open_postgres


@pytest.fixture
async def store(open_store: Opener, tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(tmp_path)
    yield store
    await store.close()
