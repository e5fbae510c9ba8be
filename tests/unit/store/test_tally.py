"""A tally says what counting everything anew would say, whatever was written in between."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import ClassVar

import pytest
from msgspec.structs import replace

from gureum.resources import KeyPair, Record, Volume
from gureum.store.base import Reader, Store, Transaction
from gureum.store.tally import Tally

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
ROUNDS = 60


class Sizes(Tally):
    """Bytes of volumes by zone; those in zone "none" do not count."""

    kinds: ClassVar[tuple[type[Record], ...]] = (Volume,)
    digested = 0

    def __init__(self) -> None:
        self.zones: dict[str, int] = {}

    def digest(self, record: Record) -> object | None:
        assert isinstance(record, Volume)
        Sizes.digested += 1
        return None if record.zone == "none" else (record.zone, record.size_bytes)

    def add(self, kind: str, id: str, kept: object) -> None:
        self._count(kept, 1)

    def remove(self, kind: str, id: str, kept: object) -> None:
        self._count(kept, -1)

    def _count(self, kept: object, sign: int) -> None:
        assert isinstance(kept, tuple)
        zone, size = kept
        self.zones[zone] = self.zones.get(zone, 0) + sign * size
        if not self.zones[zone]:
            del self.zones[zone]


def volume(id: str, zone: str = "a", size: int = 1) -> Volume:
    return Volume(id=id, account="x", size_bytes=size, zone=zone, created=NOON)


async def counted(reader: Reader) -> dict[str, int]:
    zones: dict[str, int] = {}
    for each in await reader.find(Volume):
        if each.zone != "none":
            zones[each.zone] = zones.get(each.zone, 0) + each.size_bytes
    return zones


async def same(reader: Reader) -> None:
    expected = await counted(reader)
    assert (await reader.tally(Sizes)).zones == expected


async def change(tx: Transaction, rng: random.Random) -> None:
    """One record more, another one, or one less."""
    id = f"vol-{rng.randrange(12)}"
    known = await tx.get(Volume, id)
    zone, size = rng.choice(("a", "b", "none")), rng.randrange(1, 9)
    if known is None:
        await tx.put(volume(id, zone, size))
    elif rng.random() < 0.3:
        await tx.delete(known)
    else:
        await tx.put(replace(known, zone=zone, size_bytes=size))


class Undone(Exception):
    pass


@pytest.mark.parametrize("seed", range(4))
async def test_it_is_what_counting_says(store: Store, seed: int) -> None:
    rng = random.Random(seed)

    async def work(tx: Transaction) -> None:
        await same(tx)
        for _ in range(rng.randrange(4)):
            await change(tx, rng)
            await same(tx)
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        if rng.random() < 0.3:
            raise Undone

    async def look() -> None:
        async with store.read() as reader:
            await reader.tally(Sizes)
            await asyncio.sleep(0)
            await reader.tally(Sizes)

    for _ in range(ROUNDS):
        # Several at once: while a commit is under way the next transaction builds on it.
        several = [store.transact(work) for _ in range(rng.randrange(1, 4))]
        outcomes = await asyncio.gather(*several, look(), return_exceptions=True)
        assert {type(each) for each in outcomes} <= {type(None), Undone}
        async with store.read() as reader:
            await same(reader)


async def test_a_transaction_s_own_writes_count_only_for_it(store: Store) -> None:
    async def work(tx: Transaction) -> None:
        await tx.put(volume("vol-1", size=5))
        assert (await tx.tally(Sizes)).zones == {"a": 5}
        async with store.read() as reader:
            assert (await reader.tally(Sizes)).zones == {}
        assert (await tx.tally(Sizes)).zones == {"a": 5}

    await store.transact(work)
    async with store.read() as reader:
        assert (await reader.tally(Sizes)).zones == {"a": 5}


async def test_asking_costs_what_changed(store: Store) -> None:
    async def work(tx: Transaction) -> None:
        for number in range(200):
            await tx.put(volume(f"vol-{number:03}"))

    await store.transact(work)
    async with store.read() as reader:
        await reader.tally(Sizes)

    async def more(tx: Transaction) -> None:
        await tx.put(volume("vol-900"))
        await tx.put(KeyPair(id="key-1", name="k", type="rsa", public_key="", fingerprint="", created=NOON))

    await store.transact(more)
    before = Sizes.digested
    async with store.read() as reader:
        assert (await reader.tally(Sizes)).zones == {"a": 201}
    assert Sizes.digested - before <= 2
