"""The store of a cloud that does not run: else it is its manager's."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from gureum.store.base import Transaction
from gureum.store.sqlite import SqliteStore

T = TypeVar("T")


def transact(path: Path, work: Callable[[Transaction], Awaitable[T]]) -> T:
    """One transaction. Blocks. Raises what ``work`` raises, StoreError."""

    async def run() -> T:
        store = SqliteStore.open(path)
        try:
            return await store.transact(work)
        finally:
            await store.close()

    return asyncio.run(run())
