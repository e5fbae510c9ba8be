"""What only the SQLite store does, or only one of its modes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.errors import Conflict, StoreError, StoreFull
from gureum.resources import Vpc
from gureum.store import turns as turns_module
from gureum.store.base import Transaction
from gureum.store.sqlite import SqliteStore, committer
from gureum.store.sqlite import store as store_module
from gureum.store.sqlite.writer import Writer
from gureum.store.view import Writes


def vpc(id: str, number: int = 1) -> Vpc:
    return Vpc(id=id, account="a", cidr="c", network_id=number)


async def put(store: SqliteStore, *records: Vpc) -> list[Vpc]:
    async def work(tx: Transaction) -> list[Vpc]:
        return [await tx.put(record) for record in records]

    return await store.transact(work)


async def delete(store: SqliteStore, *records: Vpc) -> None:
    async def work(tx: Transaction) -> None:
        for record in records:
            await tx.delete(record)

    await store.transact(work)


async def ids(store: SqliteStore) -> list[str]:
    async with store.read() as reader:
        return [record.id for record in await reader.find(Vpc)]


@pytest.fixture
async def threaded(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "store.db")
    yield store
    await store.close()


class Gate:
    """Stands in for ``Writer.commit``: each commit waits in its thread until it is let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Semaphore(0)
        self.proceed = threading.Semaphore(0)
        self.error: Exception | None = None
        self.commits = 0
        commit = Writer.commit

        def gated(writer: Writer) -> None:
            self.entered.release()
            assert self.proceed.acquire(timeout=60)
            error, self.error = self.error, None
            if error is not None:
                writer.rollback()
                raise error
            self.commits += 1
            commit(writer)

        monkeypatch.setattr(Writer, "commit", gated)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=60)

    def open(self, commits: int = 1) -> None:
        self.proceed.release(commits)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class TestInline:
    @pytest.mark.parametrize("name", [":memory:", "store.db"])
    async def test_nothing_waits_and_no_thread_is_used(self, tmp_path: Path, name: str) -> None:
        path = name if name == ":memory:" else str(tmp_path / name)
        store = SqliteStore.open(path, threaded=False)
        before = threading.active_count()
        task = asyncio.ensure_future(put(store, vpc("v")))
        await asyncio.sleep(0)
        assert task.done()
        read = asyncio.ensure_future(ids(store))
        await asyncio.sleep(0)
        assert read.result() == ["v"]
        assert threading.active_count() == before
        await store.close()


class TestGroupCommit:
    async def test_transactions_that_wait_share_a_commit(
        self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate(monkeypatch)
        first = asyncio.create_task(put(threaded, vpc("0")))
        await gate.reached()
        rest = [asyncio.create_task(put(threaded, vpc(f"{number}"))) for number in range(1, 9)]
        await turns()
        assert not first.done()
        assert await ids(threaded) == []
        assert threaded.revision == 0
        gate.open(2)
        await asyncio.gather(first, *rest)
        assert gate.commits == 2
        assert await ids(threaded) == [str(number) for number in range(9)]
        assert {change.revision for change in await threaded.changes(0)} == set(range(1, 10))
        assert threaded.revision == 9

    async def test_a_transaction_sees_what_is_being_committed(
        self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (record,) = await put(threaded, vpc("v", 0))
        gate = Gate(monkeypatch)

        async def add() -> None:
            async def work(tx: Transaction) -> None:
                current = await tx.get(Vpc, "v")
                assert current is not None
                await tx.put(replace(current, network_id=current.network_id + 1))

            await threaded.transact(work)

        tasks = [asyncio.create_task(add()) for _ in range(5)]
        await gate.reached()
        await turns()
        gate.open(2)
        await asyncio.gather(*tasks)
        async with threaded.read() as reader:
            assert await reader.get(Vpc, "v") == replace(record, network_id=5, version=record.version + 5)
        assert [change.id for change in await threaded.changes(1)] == ["v"]

    async def test_one_that_only_reads_waits_for_what_it_saw(
        self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate(monkeypatch)

        async def count(tx: Transaction) -> int:
            return await tx.count(Vpc)

        writing = asyncio.create_task(put(threaded, vpc("v")))
        await gate.reached()
        reading = asyncio.create_task(threaded.transact(count))
        await turns()
        assert not reading.done()
        gate.error = StoreFull("full")
        gate.open()
        with pytest.raises(StoreFull):
            await writing
        assert await reading == 0

    async def test_a_failed_commit_takes_nothing_else_with_it(
        self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await put(threaded, vpc("before"))
        gate = Gate(monkeypatch)
        proceed = asyncio.Event()
        seen: list[list[str]] = []

        async def look_and_put(tx: Transaction) -> None:
            seen.append([record.id for record in await tx.find(Vpc)])
            await tx.put(vpc("later"))

        async def look_slowly(tx: Transaction) -> int:
            number = await tx.count(Vpc)
            await proceed.wait()
            await tx.put(vpc("last"))
            return number

        doomed = asyncio.create_task(put(threaded, vpc("doomed")))
        await gate.reached()
        later = asyncio.create_task(threaded.transact(look_and_put))
        last = asyncio.create_task(threaded.transact(look_slowly))
        await turns()
        gate.error = StoreFull("nothing was committed")
        gate.open(3)
        with pytest.raises(StoreFull, match="nothing was committed"):
            await doomed
        proceed.set()
        await later
        assert await last == 2
        assert seen == [["before", "doomed"], ["before"]]
        assert await ids(threaded) == ["before", "last", "later"]
        async with threaded.read() as reader:
            assert await reader.get(Vpc, "doomed") is None
        assert "doomed" not in [change.id for change in await threaded.changes(0)]

    async def test_an_endless_failure_is_told(
        self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def commit(writer: Writer) -> None:
            writer.rollback()
            raise StoreFull("full")

        monkeypatch.setattr(Writer, "commit", commit)
        outcomes = await asyncio.gather(
            *(put(threaded, vpc(f"{number}")) for number in range(30)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {StoreFull}
        monkeypatch.undo()
        await put(threaded, vpc("v"))
        assert await ids(threaded) == ["v"]

    async def test_a_cancelled_caller_does_not_stop_the_commit(
        self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate(monkeypatch)
        caller = asyncio.create_task(put(threaded, vpc("v")))
        await gate.reached()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        gate.open(2)
        await put(threaded, vpc("w"))
        assert await ids(threaded) == ["v", "w"]

    async def test_closing_waits_for_the_commit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = SqliteStore.open(tmp_path / "store.db")
        gate = Gate(monkeypatch)
        writing = asyncio.create_task(put(store, vpc("v")))
        await gate.reached()
        closing = asyncio.create_task(store.close())
        await turns()
        assert not closing.done()
        gate.open()
        await closing
        await writing
        store = SqliteStore.open(tmp_path / "store.db")
        assert await ids(store) == ["v"]
        await store.close()

    async def test_large_transactions_leave_room_for_others(
        self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(committer, "APPLIED_AT_ONCE_MAX", 10)
        applied = []
        apply = Writer.apply

        def counted(writer: Writer, writes: Writes) -> None:
            applied.append(len(writes))
            apply(writer, writes)

        monkeypatch.setattr(Writer, "apply", counted)
        writing = asyncio.create_task(put(threaded, *(vpc(f"v{number:02}") for number in range(35))))
        await asyncio.sleep(0)
        assert applied == [10]
        assert await ids(threaded) == []
        await asyncio.sleep(0)
        assert applied == [10, 10]
        await writing
        assert applied == [10, 10, 10, 5]
        assert len(await ids(threaded)) == 35

    async def test_a_failure_in_the_middle_of_a_large_one(
        self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await put(threaded, vpc("before"))
        monkeypatch.setattr(committer, "APPLIED_AT_ONCE_MAX", 10)
        apply = Writer._apply

        def failing(writer: Writer, writes: Writes) -> None:
            apply(writer, writes)
            if len(writes) < 10:
                raise RuntimeError("a bug")

        monkeypatch.setattr(Writer, "_apply", failing)
        with pytest.raises(StoreError, match="a bug"):
            await put(threaded, *(vpc(f"v{number:02}") for number in range(25)))
        monkeypatch.undo()
        await put(threaded, vpc("after"))
        assert await ids(threaded) == ["after", "before"]

    async def test_the_revision_a_transaction_sees(
        self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate(monkeypatch)

        async def revision(tx: Transaction) -> int:
            return tx.revision

        writing = asyncio.create_task(put(threaded, vpc("v"), vpc("w")))
        await gate.reached()
        reading = asyncio.create_task(threaded.transact(revision))
        await turns()
        gate.open()
        await writing
        assert await reading == threaded.revision == 1


class TestBounds:
    async def test_waiting_for_a_turn(self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(turns_module, "WAIT_SECONDS_MAX", 0.01)
        proceed = asyncio.Event()

        async def slow(tx: Transaction) -> None:
            await proceed.wait()

        first = asyncio.create_task(threaded.transact(slow))
        await asyncio.sleep(0)
        with pytest.raises(StoreError, match="a turn to write"):
            await put(threaded, vpc("v"))
        proceed.set()
        await first
        await put(threaded, vpc("v"))

    async def test_the_work(self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(turns_module, "WORK_SECONDS_MAX", 0.01)

        async def endless(tx: Transaction) -> None:
            await tx.put(vpc("v"))
            await asyncio.Event().wait()

        with pytest.raises(StoreError, match="work took more than"):
            await threaded.transact(endless)
        assert await ids(threaded) == []

    async def test_a_timeout_of_the_works_own_is_passed_on(self, threaded: SqliteStore) -> None:
        async def impatient(tx: Transaction) -> None:
            raise TimeoutError("mine")

        with pytest.raises(TimeoutError, match="mine"):
            await threaded.transact(impatient)

    async def test_writers(self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(turns_module, "WRITERS_MAX", 3)
        outcomes = await asyncio.gather(
            *(put(threaded, vpc(f"{number}")) for number in range(5)), return_exceptions=True
        )
        assert [isinstance(outcome, StoreError) for outcome in outcomes] == [False] * 3 + [True] * 2
        await put(threaded, vpc("v"))

    async def test_readers(self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(turns_module, "WAIT_SECONDS_MAX", 0.01)
        open_reads = [threaded.read() for _ in range(store_module.READERS_MAX)]
        for read in open_reads:
            await read.__aenter__()
        with pytest.raises(StoreError, match="a snapshot to read"):
            await ids(threaded)
        await put(threaded, vpc("v"))  # writers are not held up by readers
        for read in open_reads:
            await read.__aexit__(None, None, None)
        assert await ids(threaded) == ["v"]


class TestTombstones:
    @pytest.mark.parametrize("threaded", [True, False])
    async def test_old_deletions_are_forgotten(self, tmp_path: Path, threaded: bool) -> None:
        store = SqliteStore.open(tmp_path / "store.db", threaded=threaded, tombstones_kept=20)
        records = await put(store, *(vpc(f"v{number:02}") for number in range(40)))
        for record in records:
            await delete(store, record)
        changes = await store.changes(21)
        assert 20 <= len(changes) <= 25
        with pytest.raises(StoreError, match="read everything anew"):
            await store.changes(1)
        with pytest.raises(StoreError, match="read everything anew"):
            await anext(store.watch(0))
        await store.close()
        store = SqliteStore.open(tmp_path / "store.db", threaded=threaded, tombstones_kept=20)
        assert await store.changes(21) == changes
        with pytest.raises(StoreError):
            await store.changes(1)
        await store.close()


class TestBackup:
    @pytest.mark.parametrize("name", [":memory:", "store.db"])
    @pytest.mark.parametrize("threaded", [True, False])
    async def test_it_is_a_store(self, tmp_path: Path, name: str, threaded: bool) -> None:
        path = name if name == ":memory:" else str(tmp_path / name)
        store = SqliteStore.open(path, threaded=threaded)
        await put(store, vpc("v"))
        target = tmp_path / "backup 1.db"
        async with store.read():
            await store.backup(target)
        await put(store, vpc("w"))
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        copy = SqliteStore.open(target)
        assert copy.revision == 1
        assert await ids(copy) == ["v"]
        await put(copy, vpc("x"))
        await copy.close()
        with pytest.raises(StoreError, match="exists already"):
            await store.backup(target)
        await store.close()
        assert not list(tmp_path.glob("*.part"))

    async def test_a_failed_one_leaves_nothing(self, threaded: SqliteStore, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="No such file"):
            await threaded.backup(tmp_path / "missing" / "backup.db")
        await put(threaded, vpc("v"))


class TestReadOnly:
    async def test_beside_a_running_one(self, threaded: SqliteStore, tmp_path: Path) -> None:
        await put(threaded, vpc("v"))
        tool = SqliteStore.open(tmp_path / "store.db", readonly=True)
        assert await ids(tool) == ["v"]
        (record,) = await put(threaded, vpc("w"))
        await put(threaded, replace(record, network_id=7))
        assert await ids(tool) == ["v", "w"]
        assert len(await tool.changes(1)) == 1
        with pytest.raises(StoreError, match="reading only"):
            await put(tool, vpc("x"))
        with pytest.raises(StoreError, match="reading only"):
            await anext(tool.watch(0))
        await tool.close()

    async def test_of_a_stopped_one(self, tmp_path: Path) -> None:
        store = SqliteStore.open(tmp_path / "store.db")
        await put(store, vpc("v"))
        await store.close()
        tool = SqliteStore.open(tmp_path / "store.db", readonly=True)
        assert await ids(tool) == ["v"]
        await tool.close()

    def test_of_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"unable to open.*check that its directory exists"):
            SqliteStore.open(tmp_path / "store.db", readonly=True)


async def test_commits_are_durable_and_private(threaded: SqliteStore, tmp_path: Path) -> None:
    await put(threaded, vpc("v"))
    writer = threaded._writer
    assert writer is not None
    assert writer.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert writer.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert {stat.S_IMODE(os.stat(path).st_mode) for path in tmp_path.iterdir()} == {0o600}


async def test_another_programs_write_lock_is_waited_for(threaded: SqliteStore, tmp_path: Path) -> None:
    shell = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(put(threaded, vpc("v")))
    await asyncio.sleep(0.05)
    assert not writing.done()
    shell.execute("COMMIT")
    shell.close()
    await writing
    assert await ids(threaded) == ["v"]


async def test_another_programs_writes_are_noticed(threaded: SqliteStore, tmp_path: Path) -> None:
    """Not supported, but it must not end in a lost update."""
    (record,) = await put(threaded, vpc("v"))
    shell = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    shell.execute("UPDATE records SET revision = 9 WHERE id = 'v'")
    shell.close()
    with pytest.raises(StoreError, match="changed by another program") as caught:
        await put(threaded, replace(record, network_id=2))
    assert not isinstance(caught.value, Conflict)


class TestLead:
    async def test_it_goes_on_by_the_clock(self, tmp_path: Path) -> None:
        store = SqliteStore.open(tmp_path / "store.db")
        await put(store, vpc("before"))
        await store.lead(1_700_000_000.25)
        assert store.revision == 1_700_000_000_250_000
        await put(store, vpc("after"))
        await store.close()
        store = SqliteStore.open(tmp_path / "store.db")
        assert store.revision == 1_700_000_000_250_001
        assert await ids(store) == ["after", "before"]
        changes = await store.changes(1_700_000_000_250_000)
        assert [(change.id, change.revision) for change in changes] == [("after", store.revision)]
        await store.close()

    async def test_it_never_goes_back(self, tmp_path: Path) -> None:
        store = SqliteStore.open(tmp_path / "store.db")
        await store.lead(1_700_000_000)
        await store.lead(5)
        assert store.revision == 1_700_000_001_000_000
        await store.close()
        store = SqliteStore.open(tmp_path / "store.db", readonly=True)
        assert store.revision == 1_700_000_001_000_000, "durable, also without a transaction"
        with pytest.raises(StoreError, match="reading only"):
            await store.lead(1_800_000_000)
        await store.close()

    async def test_commits_under_way_come_first(
        self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate(monkeypatch)
        writing = asyncio.create_task(put(threaded, vpc("v")))
        await gate.reached()
        leading = asyncio.create_task(threaded.lead(1_700_000_000))
        await asyncio.sleep(0)
        assert threaded.revision == 0
        gate.open(2)
        await asyncio.gather(writing, leading)
        assert threaded.revision == 1_700_000_000_000_000
        assert await ids(threaded) == ["v"]

    async def test_the_reserve_makes_room_for_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = SqliteStore.open(tmp_path / "store.db", reserve_bytes=1 << 20)
        tries, commit = [0], Writer.commit

        def full(writer: Writer) -> None:
            tries[0] += 1
            if tries[0] < 3:
                writer.rollback()
                raise StoreFull("full")
            commit(writer)

        monkeypatch.setattr(Writer, "commit", full)
        await store.lead(1_700_000_000)
        assert store.revision == 1_700_000_000_000_000
        await store.close()

    async def test_a_full_disk_keeps_no_manager_from_its_work(
        self, threaded: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(writer: Writer) -> None:
            writer.rollback()
            raise StoreFull("nothing was committed")

        monkeypatch.setattr(Writer, "commit", full)
        await threaded.lead(1_700_000_000)
        assert threaded.revision == 0
        assert "nothing was committed" in caplog.text
        monkeypatch.undo()
        await put(threaded, vpc("v"))
        assert threaded.revision == 1
