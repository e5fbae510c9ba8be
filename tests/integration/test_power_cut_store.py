"""The SQLite store when the power goes: every commit that was acknowledged is there, and it opens."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.journal import Variant, cases, marks, moments
from faults.medium import Medium, is_possible, left_after, mounted
from gureum.resources import Vpc
from gureum.store.base import Transaction
from gureum.store.sqlite import SqliteStore

pytestmark = [pytest.mark.root, pytest.mark.skipif(not is_possible(), reason="needs root and /dev/fuse")]

CASES = 150


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Medium]:
    with mounted(tmp_path) as made:
        yield made


def vpc(id: str, step: int) -> Vpc:
    return Vpc(id=id, account="a", cidr="x" * 3000, network_id=step)


async def step(store: SqliteStore, number: int) -> int:
    """A record more, another changed, an old one deleted: all or nothing. Returns the version."""

    async def work(tx: Transaction) -> int:
        counter = await tx.get(Vpc, "counter") or vpc("counter", 0)
        await tx.put(vpc(f"vpc-{number}", number))
        if (old := await tx.get(Vpc, f"vpc-{number - 5}")) is not None:
            await tx.delete(old)
        counter = Vpc(id="counter", cidr="", network_id=number, version=counter.version)
        return (await tx.put(counter)).version

    return await store.transact(work)


async def look(path: Path) -> tuple[int, int]:
    """(steps done, revision) of the store after the cut. Fails where it is not whole, or does not work."""
    store = SqliteStore.open(path / "store.db")
    try:
        revision = store.revision
        async with store.read() as reader:
            counter = await reader.get(Vpc, "counter")
            done = counter.network_id if counter is not None else 0
            expected = {f"vpc-{number}" for number in range(max(1, done - 4), done + 1)}
            found = {number for number in range(done + 3) if await reader.get(Vpc, f"vpc-{number}")}
            assert {f"vpc-{number}" for number in found} == expected
        assert await step(store, done + 1) > revision
        return done, revision
    finally:
        await store.close()


async def test_commits_outlive_a_power_cut(medium: Medium) -> None:
    store = SqliteStore.open(medium.root / "store.db")
    for number in range(1, 25):
        version = await step(store, number)
        medium.mark(f"{number} {version}")
    operations = medium.operations()
    await store.close()
    for at, variant, seed in cases(operations, CASES):
        acknowledged = marks(operations[:at])
        number, version = map(int, (acknowledged or ["0 0"])[-1].split())
        with left_after(operations[:at], variant, seed) as root:
            done, revision = await look(root)
        case = f"{at} {variant} {seed}"
        assert number <= done <= number + 1, case
        assert revision >= version, case


async def test_commits_outlive_a_power_cut_around_a_checkpoint(medium: Medium) -> None:
    """SQLite moves what is in the log to the file after a thousand pages, and overwrites the log then."""
    store = SqliteStore.open(medium.root / "store.db")
    number = 0
    wal = medium.root / "store.db-wal"
    size, full = -1, False
    while not full or number % 10:
        number += 1
        version = await step(store, number)
        medium.mark(f"{number} {version}")
        full = full or wal.stat().st_size == size
        size = wal.stat().st_size
    operations = medium.operations()
    await store.close()
    database = next(
        ino for kind, *rest in operations if kind == "link" for ino in (rest[2],) if rest[1] == "store.db"
    )
    moved = [at for at, op in enumerate(operations) if op[0] == "write" and op[1] == database]
    chance = random.Random(2)
    places = [moved[-1] + chance.randint(-len(moved), 30) for _ in range(40)]
    assert full
    for seed, at in enumerate(places):
        acknowledged = marks(operations[:at])
        number, version = map(int, acknowledged[-1].split())
        with left_after(operations[:at], chance.choice((Variant.NONE, Variant.TORN)), seed) as root:
            done, revision = await look(root)
        assert number <= done <= number + 1, at
        assert revision >= version, at


async def test_concurrent_commits_and_a_backup(medium: Medium) -> None:
    store = SqliteStore.open(medium.root / "store.db")

    async def write(number: int) -> None:
        async def work(tx: Transaction) -> None:
            await tx.put(vpc(f"vpc-{number}", number))

        await store.transact(work)
        medium.mark(f"vpc-{number}")

    await asyncio.gather(*map(write, range(1, 20)))
    await store.backup(medium.root / "backup.db")
    medium.mark("backup")
    operations = medium.operations()
    await store.close()
    for at in moments(operations):
        acknowledged = marks(operations[:at])
        with left_after(operations[:at], Variant.NONE) as root:
            names = ["backup.db"] if "backup" in acknowledged else []
            for name in ("store.db", *names):
                opened = SqliteStore.open(root / name)
                async with opened.read() as reader:
                    for id in acknowledged:
                        assert id == "backup" or await reader.get(Vpc, id), (at, name, id)
                await opened.close()


KILLED = """
import asyncio, os, sys
from gureum.resources import Vpc
from gureum.store.sqlite import SqliteStore, queries

queries.WRITER_SETUP = tuple(line.replace("= FULL", "= OFF") for line in queries.WRITER_SETUP)

async def main(path):
    store = SqliteStore.open(path)
    for number in range(1, 4):
        async def work(tx):
            await tx.put(Vpc(id=f"vpc-{number}", account="a", cidr="", network_id=number))
        await store.transact(work)
    os._exit(0)

asyncio.run(main(sys.argv[1]))
"""


async def test_what_is_found_after_a_kill_outlives_a_power_cut(medium: Medium) -> None:
    """A process that is killed after it has written its commits, before it could flush them."""
    path = medium.root / "store.db"
    await SqliteStore.open(path).close()
    await asyncio.to_thread(subprocess.run, (sys.executable, "-c", KILLED, str(path)), check=True, timeout=60)
    store = SqliteStore.open(path)
    async with store.read() as reader:
        assert await reader.get(Vpc, "vpc-3") is not None
    operations = medium.operations()
    await store.close()
    with left_after(operations, Variant.NONE) as root:
        again = SqliteStore.open(root / "store.db")
        async with again.read() as reader:
            assert await reader.get(Vpc, "vpc-3") is not None
        await again.close()
