"""The PostgreSQL store against what happens to processes, servers and connections; and several managers."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from itertools import count

import pytest
from msgspec.structs import replace

from gureum.errors import StoreError
from gureum.resources import Vpc
from gureum.store.base import Transaction
from gureum.store.postgres import Address, PostgresStore
from gureum.store.postgres.connection import Deposed
from gureum.store.postgres.examine import examine
from gureum.store.postgres.leadership import Leader, Leadership
from gureum.store.postgres.writer import Writer
from support.postgres import Server

pytestmark = pytest.mark.postgres

WRITER = """
import asyncio, sys
from gureum.resources import Vpc
from gureum.store.postgres import Address, PostgresStore
from gureum.store.postgres.connection import Deposed
from gureum.store.postgres.examine import examine
from gureum.store.postgres.leadership import Leadership

async def main(url, name):
    address = Address.parse(url)
    leadership = Leadership(address, "cloud", name, "http://" + name)
    epoch = await leadership.acquire()
    print("leads", epoch, flush=True)
    store = await PostgresStore.open(address, fence=epoch)

    async def writer(number):
        step = 0
        while True:
            step += 1
            id = f"vpc-{epoch:04}-{number}-{step}"

            async def work(tx):
                counter = await tx.get(Vpc, "counter") or Vpc(id="counter", cidr="", network_id=0)
                await tx.put(Vpc(id=id, account="a", cidr="x" * 500, network_id=counter.network_id))
                await tx.put(Vpc(id=f"{id}-twin", account="b", cidr="", network_id=step))
                return (await tx.put(Vpc(
                    id="counter", cidr="", network_id=counter.network_id + 1, version=counter.version
                ))).network_id

            print("done", await store.transact(work), id, flush=True)

    async with asyncio.TaskGroup() as group:
        group.create_task(leadership.hold())
        for number in range(4):
            group.create_task(writer(number))

try:
    asyncio.run(main(*sys.argv[1:]))
except* Deposed:
    print("deposed", flush=True)
"""

numbers = count()


def vpc(id: str, cidr: str = "c") -> Vpc:
    return Vpc(id=id, account="a", cidr=cidr, network_id=1)


async def put(store: PostgresStore, *records: Vpc) -> list[Vpc]:
    async def work(tx: Transaction) -> list[Vpc]:
        return [await tx.put(record) for record in records]

    return await store.transact(work)


async def get(store: PostgresStore, id: str) -> Vpc | None:
    async with store.read() as reader:
        return await reader.get(Vpc, id)


async def found(store: PostgresStore, account: str) -> list[Vpc]:
    async with store.read() as reader:
        return await reader.find(Vpc, account=account)


@pytest.fixture
def address(postgres_server: Server) -> Address:
    return Address.parse(postgres_server.create_database(f"d{os.getpid()}n{next(numbers)}"))


@pytest.fixture
async def open_store(address: Address) -> AsyncIterator[Callable[..., object]]:
    stores: list[PostgresStore] = []

    async def opened(**options: int) -> PostgresStore:
        stores.append(await PostgresStore.open(address, **options))
        return stores[-1]

    yield opened
    for store in stores:
        await store.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - what is waited for is outside of this process, or counted
            await asyncio.sleep(0.01)


class Process:
    """A manager as far as the store is concerned. ``lines`` are what it said."""

    def __init__(self, address: Address, name: str) -> None:
        self.lines: list[str] = []
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, address.url, name],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):
                self.lines.append(line.rstrip("\n"))

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def leads(self) -> int:
        await until(lambda: any(line.startswith("leads") for line in self.lines))
        return int(self.lines[0].split()[1])

    async def works(self) -> None:
        done = len(self.lines)
        await until(lambda: len(self.lines) > done + 20)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(60)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def ended(self) -> None:
        """It has to end by itself."""
        self._process.wait(30)
        self._reader.join(10)

    @property
    def acknowledged(self) -> set[str]:
        return {line.split()[2] for line in self.lines if line.startswith("done")}


@pytest.fixture
def start(address: Address) -> Iterator[Callable[[str], Process]]:
    processes: list[Process] = []

    def begin(name: str) -> Process:
        processes.append(Process(address, name))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()


async def check(store: PostgresStore, acknowledged: set[str]) -> None:
    """Nothing acknowledged is missing, nothing is there in part, and no number was given out twice."""
    async with store.read() as reader:  # the server may still be at what a killed process asked for
        records = await reader.find(Vpc, account="a")
        twins = await reader.find(Vpc, account="b")
        counter = await reader.get(Vpc, "counter")
    present = {record.id for record in records}
    assert acknowledged <= present
    assert {id + "-twin" for id in present} == {record.id for record in twins}
    assert sorted(record.network_id for record in records) == list(
        range(counter.network_id if counter else 0)
    )
    in_order = sorted(records, key=lambda record: record.version)
    epochs = [record.id[:8] for record in in_order]
    assert epochs == sorted(epochs)


async def test_nothing_acknowledged_is_lost_by_kill_9(
    open_store: Callable[..., object], start: Callable[[str], Process]
) -> None:
    rng = random.Random(4)
    acknowledged: set[str] = set()
    store: PostgresStore = await open_store()  # type: ignore[misc]
    for round in range(4):
        process = start("same")  # of the same name: so the next one need not wait
        assert await process.leads() == round + 1
        await process.works()
        await asyncio.sleep(rng.uniform(0.005, 0.4))
        process.kill()
        acknowledged |= process.acknowledged
        await check(store, acknowledged)
    assert len(acknowledged) > 40


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_another_takes_over(
    how: signal.Signals,
    address: Address,
    open_store: Callable[..., object],
    start: Callable[[str], Process],
) -> None:
    """And nothing is decided twice: also not by a leader that was stopped and goes on."""
    store: PostgresStore = await open_store()  # type: ignore[misc]
    first = start("one")
    assert await first.leads() == 1
    second = start("two")
    await first.works()
    assert (await examine(address)).leader.name == "one"
    assert second.lines == []
    first.send(how)
    assert await second.leads() == 2
    assert (await examine(address)).leader[2:] == ("cloud", "two", "http://two")
    await second.works()
    if how is signal.SIGSTOP:
        first.send(signal.SIGCONT)
        first.ended()
        assert first.lines[-1] == "deposed"
    await second.works()
    second.kill()
    await check(store, first.acknowledged | second.acknowledged)
    assert [record.id for record in await found(store, "a") if record.id.startswith("vpc-0002")]


async def test_a_leader_that_resigns_is_followed_at_once(address: Address) -> None:
    one, two = Leadership(address, "cloud", "one"), Leadership(address, "cloud", "two")
    seen: list[str] = []

    async def note(leader: Leader) -> None:
        seen.append(leader.name)

    assert await one.acquire() == 1
    holding = asyncio.create_task(one.hold())
    waiting = asyncio.create_task(two.acquire(note))
    await until(lambda: bool(seen))
    assert not waiting.done()
    holding.cancel()
    await one.resign()
    async with asyncio.timeout(2):  # less than a lease
        assert await waiting == 2
    assert seen == ["one"]
    await two.close()


async def test_the_store_of_another_cloud_is_refused(address: Address) -> None:
    one, two = Leadership(address, "cloud", "one"), Leadership(address, "other", "one")
    await one.acquire()
    await one.resign()
    with pytest.raises(StoreError, match="the store of another cloud, cloud"):
        await two.acquire()
    await two.close()


async def test_the_deposed_commit_nothing(address: Address, open_store: Callable[..., object]) -> None:
    one, two = Leadership(address, "cloud", "one"), Leadership(address, "cloud", "one")
    old: PostgresStore = await open_store(fence=await one.acquire())  # type: ignore[misc]
    (record,) = await put(old, vpc("v"))

    async def work(tx: Transaction) -> None:
        await tx.put(replace(record, cidr="old"))
        new: PostgresStore = await open_store(fence=await two.acquire())  # type: ignore[misc]
        await put(new, replace(record, cidr="new"))

    with pytest.raises(Deposed, match="another manager leads"):
        await old.transact(work)
    with pytest.raises(Deposed):
        await put(old, vpc("w"))
    with pytest.raises(Deposed):
        await one.hold()
    unfenced: PostgresStore = await open_store()  # type: ignore[misc]
    with pytest.raises(Deposed):
        await put(unfenced, vpc("x"))
    assert [(each.id, each.cidr) for each in await found(unfenced, "a")] == [("v", "new")]
    await one.close()
    await two.close()


async def test_each_sees_what_others_commit(open_store: Callable[..., object]) -> None:
    one: PostgresStore = await open_store()  # type: ignore[misc]
    two: PostgresStore = await open_store()  # type: ignore[misc]
    (record, gone) = await put(one, vpc("v"), vpc("gone"))
    assert await get(two, "v") == record
    assert await get(two, "gone") == gone

    async with asyncio.timeout(60):
        watch = two.watch(0)
        assert [change.id for change in await anext(watch)] == ["gone", "v"]
        for number in range(20):
            (record,) = await put(one, replace(record, cidr=str(number)))
            assert await get(two, "v") == record
            assert (await anext(watch))[-1].record == record
        await one.transact(lambda tx: tx.delete(gone))
        assert (await anext(watch))[-1].record is None
        assert await get(two, "gone") is None
        # Whoever watches may have seen it in the database before the store heard of it.
        while two.revision < one.revision:
            await get(two, "v")
        await put(two, replace(record, cidr="two"))
        assert (await get(one, "v")).cidr == "two"  # type: ignore[union-attr]


async def test_stores_that_contend_lose_nothing(open_store: Callable[..., object]) -> None:
    stores: list[PostgresStore] = [await open_store() for _ in range(3)]  # type: ignore[misc]
    await put(stores[0], Vpc(id="counter", cidr="", network_id=0))
    done = 0

    async def add(store: PostgresStore) -> None:
        nonlocal done

        async def work(tx: Transaction) -> None:
            record = await tx.get(Vpc, "counter")
            assert record is not None
            await tx.put(replace(record, network_id=record.network_id + 1))

        for _ in range(20):
            with suppress(StoreError):
                await store.transact(work)
                done += 1

    await asyncio.gather(*(add(store) for store in stores for _ in range(2)))

    async def counted(store: PostgresStore) -> int:
        return (await get(store, "counter")).network_id  # type: ignore[union-attr]

    with suppress(TimeoutError):
        async with asyncio.timeout(10):
            # A store hears of what another one has committed a moment later.
            while [await counted(store) for store in stores] != [done] * 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert [await counted(store) for store in stores] == [done] * 3
    assert done >= 40


async def test_the_server_crashes_under_load_and_comes_back(
    postgres_server: Server, address: Address, open_store: Callable[..., object]
) -> None:
    store: PostgresStore = await open_store()  # type: ignore[misc]
    acknowledged: set[str] = set()
    failed = 0
    ending = False

    async def writer(number: int) -> None:
        nonlocal failed
        step = 0
        while not ending:
            step += 1
            id = f"vpc-0000-{number}-{step}"

            async def work(tx: Transaction, id: str = id, step: int = step) -> None:
                counter = await tx.get(Vpc, "counter") or Vpc(id="counter", cidr="", network_id=0)
                await tx.put(Vpc(id=id, account="a", cidr="", network_id=counter.network_id))
                await tx.put(Vpc(id=f"{id}-twin", account="b", cidr="", network_id=step))
                await tx.put(replace(counter, network_id=counter.network_id + 1))

            try:
                await store.transact(work)
                acknowledged.add(id)
            except StoreError:
                failed += 1
                await asyncio.sleep(0.05)

    async def some_more() -> None:
        enough = len(acknowledged) + 30
        await until(lambda: len(acknowledged) >= enough)

    watched: set[str] = set()

    async def follow() -> None:
        async for changes in store.watch(0):
            watched.update(change.id for change in changes)

    following = asyncio.create_task(follow())
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(writer(number))
        for _ in range(3):
            await some_more()
            await asyncio.to_thread(postgres_server.stop, signal.SIGQUIT)
            postgres_server.start()  # here: it ends with the thread that started it
        await some_more()
        ending = True
    assert failed
    await check(store, acknowledged)
    (last,) = await put(store, vpc("last"))
    await until(lambda: "last" in watched)
    assert acknowledged <= watched
    assert store.revision >= last.version
    following.cancel()


@pytest.mark.parametrize("arrived", [True, False])
async def test_an_answer_that_was_lost(
    arrived: bool, open_store: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the commit happened is found out; if it did not, it cannot happen later."""
    store: PostgresStore = await open_store()  # type: ignore[misc]
    await put(store, vpc("v"))
    writer: Writer = store._writer
    right = writer._connection

    class Broken:
        def is_closed(self) -> bool:
            return False

        async def execute(self, *arguments: object) -> None:
            if arrived:
                await right.execute(*arguments)
            raise ConnectionResetError

        def terminate(self) -> None:
            right.terminate()

    writer._connection = Broken()
    if arrived:
        await put(store, vpc("w"))
    else:
        with pytest.raises(StoreError):
            await put(store, vpc("w"))
    assert [each.id for each in await found(store, "a")] == (["v", "w"] if arrived else ["v"])
    await put(store, vpc("x"))
    assert (await get(store, "x")).version == store.revision  # type: ignore[union-attr]


async def test_without_the_server_nobody_leads(postgres_server: Server, address: Address) -> None:
    """A leader that cannot say that it leads ends, since another might; the next one waits for the server."""
    one, two = Leadership(address, "cloud", "one"), Leadership(address, "cloud", "two")
    assert await one.acquire() == 1
    postgres_server.stop(signal.SIGQUIT)
    try:
        async with asyncio.timeout(60):
            with pytest.raises(Deposed, match="could not say that it leads"):
                await one.hold()
        waiting = asyncio.create_task(two.acquire())
        await asyncio.sleep(1)
        assert not waiting.done()
    finally:
        postgres_server.start()
    async with asyncio.timeout(60):
        assert await waiting == 2
        with pytest.raises(Deposed):
            await one.hold()
    await one.close()
    await two.close()
