"""The SQLite store against what happens to processes and disks."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.errors import StoreError, StoreFull
from gureum.resources import Vpc
from gureum.store.base import Transaction
from gureum.store.sqlite import SqliteStore
from gureum.store.sqlite.reserve import Reserve
from gureum.store.sqlite.writer import Writer

ROUNDS = 8
FILLER_BYTES = 64 << 10

WRITER = """
import asyncio, sys
from gureum.resources import Vpc
from gureum.store.sqlite import SqliteStore

async def main(path, round):
    store = SqliteStore.open(path)
    print("open", flush=True)

    async def writer(number):
        step = 0
        while True:
            step += 1
            id = f"vpc-{round}-{number}-{step}"

            async def work(tx):
                counter = await tx.get(Vpc, "counter") or Vpc(id="counter", cidr="", network_id=0)
                await tx.put(Vpc(id=id, account="a", cidr="x" * 500, network_id=step))
                await tx.put(Vpc(id=f"{id}-twin", account="b", cidr="", network_id=step))
                return (await tx.put(Vpc(
                    id="counter", cidr="", network_id=counter.network_id + 1, version=counter.version
                ))).network_id

            print(await store.transact(work), id, flush=True)

    await asyncio.gather(*map(writer, range(4)))

asyncio.run(main(*sys.argv[1:]))
"""


def vpc(id: str, cidr: str = "c") -> Vpc:
    return Vpc(id=id, account="a", cidr=cidr, network_id=1)


async def put(store: SqliteStore, *records: Vpc) -> list[Vpc]:
    async def work(tx: Transaction) -> list[Vpc]:
        return [await tx.put(record) for record in records]

    return await store.transact(work)


async def ids(store: SqliteStore, account: str = "a") -> list[str]:
    async with store.read() as reader:
        return [record.id for record in await reader.find(Vpc, account=account)]


def start_writer(path: Path, round: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(round)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


async def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    """And of what was not, each transaction is there as a whole or not at all."""
    path = tmp_path / "store.db"
    rng = random.Random(4)
    acknowledged: set[str] = set()
    highest = 0
    for round in range(ROUNDS):
        process = start_writer(path, round)
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
            killer = threading.Timer(rng.uniform(0.005, 0.4), process.send_signal, [signal.SIGKILL])
            killer.start()
            lines = process.stdout.read().splitlines(keepends=True)
            killer.join()
        finally:
            process.kill()
            process.wait(60)
            process.stdout.close()
        for line in lines:
            if line.endswith("\n"):
                counter, id = line.split()
                highest = max(highest, int(counter))
                acknowledged.add(id)
        store = SqliteStore.open(path)
        present = set(await ids(store))
        assert acknowledged <= present
        assert {id + "-twin" for id in present} == set(await ids(store, "b"))
        async with store.read() as reader:
            count = await reader.get(Vpc, "counter")
            assert await reader.count(Vpc) == 2 * len(present) + (count is not None)
        assert (count.network_id if count else 0) == len(present) >= highest
        await store.close()
    assert len(acknowledged) > ROUNDS


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    process = start_writer(path, 0)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=f"in use by another gureum \\(process {process.pid}\\)"):
            SqliteStore.open(path)

        async def inspect() -> int:
            store = SqliteStore.open(path, readonly=True)
            try:
                async with store.read() as reader:
                    return await reader.count(Vpc, account="a") - await reader.count(Vpc, account="b")
            finally:
                await store.close()

        assert asyncio.run(inspect()) == 0
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    mountpoint = tmp_path / "disk"
    mountpoint.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "gureum-store-test", mountpoint], check=True, timeout=10
    )
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", "-l", mountpoint], check=True, timeout=10)


async def fill_disk(store: SqliteStore) -> list[str]:
    """Put large records until there is no room; the ids that were committed."""
    committed: list[str] = []

    async def fill() -> None:
        for number in range(200):
            await put(store, vpc(f"v{number:03}", cidr="x" * FILLER_BYTES))
            committed.append(f"v{number:03}")

    with pytest.raises(StoreFull, match="free some space"):
        await fill()
    return committed


@pytest.mark.root
@pytest.mark.parametrize("threaded", [True, False])
async def test_a_full_disk(small_disk: Path, threaded: bool) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    store = SqliteStore.open(small_disk / "store.db", threaded=threaded)
    committed = await fill_disk(store)
    revision = store.revision
    assert committed

    # Still full: what is there can be read, watched and nothing half-written shows.
    with pytest.raises(StoreFull):
        await put(store, vpc("w1"), vpc("w2", cidr="x" * FILLER_BYTES * 4))
    assert await ids(store) == committed
    assert store.revision == revision
    assert [change.id for change in await store.changes(0)] == committed

    # Nor does a restart need room.
    await store.close()
    store = SqliteStore.open(small_disk / "store.db", threaded=threaded)
    assert await ids(store) == committed

    ballast.unlink()
    (record,) = await put(store, vpc("w1"))
    await put(store, replace(record, cidr="x" * FILLER_BYTES))
    assert await ids(store) == [*committed, "w1"]
    assert store.revision == revision + 2
    await store.close()
    store = SqliteStore.open(small_disk / "store.db", threaded=threaded)
    assert await ids(store) == [*committed, "w1"]
    assert store.revision == revision + 2
    await store.close()


@pytest.mark.root
async def test_a_full_disk_under_many_writers(small_disk: Path) -> None:
    store = SqliteStore.open(small_disk / "store.db")
    outcomes = await asyncio.gather(
        *(put(store, vpc(f"v{number:03}", cidr="x" * FILLER_BYTES)) for number in range(100)),
        return_exceptions=True,
    )
    committed = [outcome[0].id for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert {type(outcome) for outcome in outcomes if isinstance(outcome, BaseException)} == {StoreFull}
    assert await ids(store) == committed
    await store.close()
    store = SqliteStore.open(small_disk / "store.db")
    assert await ids(store) == committed
    await store.close()


@pytest.mark.root
async def test_a_backup_to_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "store.db")
    await put(store, *(vpc(f"v{number}", cidr="x" * FILLER_BYTES) for number in range(50)))
    with pytest.raises(StoreFull):
        await store.backup(small_disk / "backup.db")
    assert list(small_disk.iterdir()) == []
    await store.close()


@pytest.mark.root
def test_opening_on_a_full_disk(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(2 << 20))
    with pytest.raises(StoreError, match="space"):
        SqliteStore.open(small_disk / "store.db")


def fill_up(path: Path) -> None:
    """Take what is left of the disk."""
    with suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.root
def test_a_reserve_on_a_full_disk(small_disk: Path) -> None:
    ballast, path = small_disk / "ballast", small_disk / "reserve"
    fill_up(ballast)
    reserve = Reserve(str(path), 1 << 20)
    assert not reserve.whole
    assert not reserve.release()
    ballast.unlink()
    assert reserve.fill()
    fill_up(ballast)
    assert reserve.release()
    (small_disk / "small").write_bytes(bytes(100 << 10))
    left = path.stat().st_size
    assert left == (1 << 20) * 7 // 8
    fill_up(ballast)
    reserve.close()

    reserve = Reserve(str(path), 1 << 20)  # the next one goes on with what is left
    assert not reserve.whole
    assert path.stat().st_size == left
    assert [reserve.release() for _ in range(8)] == [True] * 7 + [False]
    reserve.close()


@pytest.mark.root
@pytest.mark.parametrize("threaded", [True, False])
async def test_what_frees_space_is_committed_on_a_full_disk(small_disk: Path, threaded: bool) -> None:
    path, reserve = small_disk / "store.db", small_disk / "store.db.reserve"
    store = SqliteStore.open(path, threaded=threaded, reserve_bytes=1 << 20)
    assert reserve.stat().st_blocks * 512 == 1 << 20
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(512 << 10))
    committed = await fill_disk(store)
    fill_up(ballast)

    async def delete(id: str) -> None:
        async def work(tx: Transaction) -> None:
            record = await tx.get(Vpc, id)
            assert record is not None
            await tx.delete(record)

        await store.transact(work, frees=True)

    for id in committed[:2]:
        await delete(id)
    assert await ids(store) == committed[2:]
    assert 0 < reserve.stat().st_size < 1 << 20
    with pytest.raises(StoreFull, match="only what makes room"):
        await put(store, vpc("w1"))
    await store.transact(lambda tx: tx.get(Vpc, committed[-1]))  # writes nothing

    ballast.unlink()
    await put(store, vpc("w1"))
    assert await ids(store) == [*committed[2:], "w1"]
    assert reserve.stat().st_blocks * 512 == 1 << 20
    await store.close()


async def test_the_loop_goes_on_while_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = threading.Event()
    commit = Writer.commit

    def slow(writer: Writer) -> None:
        assert finished.wait(60)
        commit(writer)

    monkeypatch.setattr(Writer, "commit", slow)
    store = SqliteStore.open(tmp_path / "store.db")
    writing = asyncio.create_task(put(store, vpc("v")))
    for _ in range(100):
        await asyncio.sleep(0.001)
        assert await ids(store) == []
    assert not writing.done()
    finished.set()
    await writing
    assert await ids(store) == ["v"]
    await store.close()
