"""Tallies where a store has forgotten what was deleted."""

from __future__ import annotations

from pathlib import Path

from gureum.store.base import Transaction
from gureum.store.sqlite import SqliteStore

from ..test_tally import Sizes, same, volume


async def test_deletions_that_are_not_kept_are_no_harm(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "store.db", threaded=False, tombstones_kept=4)

    async def put(tx: Transaction) -> None:
        for number in range(20):
            await tx.put(volume(f"vol-{number:02}"))

    async def delete(tx: Transaction, number: int) -> None:
        for record in await tx.find(type(volume("")), after=None, limit=1):
            await tx.delete(record)

    await store.transact(put)
    async with store.read() as reader:
        await reader.tally(Sizes)
    for number in range(15):
        await store.transact(lambda tx, number=number: delete(tx, number))  # type: ignore[misc]
    async with store.read() as reader:
        assert (await reader.tally(Sizes)).zones == {"a": 5}
        await same(reader)
    await store.close()
