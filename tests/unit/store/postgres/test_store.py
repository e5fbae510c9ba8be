"""What is PostgreSQL's own: its schema, its errors, what is asked of the server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from gureum.errors import Conflict, StoreError, StoreFull
from gureum.resources import Vpc
from gureum.store.base import Transaction
from gureum.store.postgres import Address, PostgresStore
from gureum.store.postgres.connection import Deposed, Overtaken, Unreachable, explain
from gureum.store.postgres.examine import examine
from gureum.store.postgres.view import Snapshot
from support.postgres import Server

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(postgres_url: Callable[[Path], str], tmp_path: Path) -> str:
    return postgres_url(tmp_path)


@pytest.fixture
def address(url: str) -> Address:
    return Address.parse(url)


@pytest.fixture
async def store(address: Address) -> Any:
    store = await PostgresStore.open(address, tombstones_kept=20)
    yield store
    await store.close()


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What snapshots are asked."""
    asked: list[str] = []
    fetch = Snapshot.fetch

    async def noted(self: Snapshot, sql: str, *parameters: object) -> Any:
        asked.append(sql)
        return await fetch(self, sql, *parameters)

    monkeypatch.setattr(Snapshot, "fetch", noted)
    return asked


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(sql)
    await connection.close()


def vpc(id: str, account: str = "a") -> Vpc:
    return Vpc(id=id, account=account, cidr="c", network_id=1)


async def put(store: PostgresStore, *records: Vpc) -> list[Vpc]:
    async def work(tx: Transaction) -> list[Vpc]:
        return [await tx.put(record) for record in records]

    return await store.transact(work)


async def test_old_deletions_are_forgotten(store: PostgresStore) -> None:
    for number in range(40):
        (record,) = await put(store, vpc(f"v{number:02}"))
        await store.transact(lambda tx, record=record: tx.delete(record))  # type: ignore[misc]
    with pytest.raises(StoreError, match="read everything anew"):
        await store.changes(0)
    kept = await store.changes(store.revision - 30)
    assert [change.id for change in kept] == [f"v{number}" for number in range(25, 40)]


async def test_indexes_that_changed_are_made_anew(url: str, address: Address, store: PostgresStore) -> None:
    await put(store, vpc("v"), vpc("w", "b"))
    await execute(url, "DELETE FROM entries; UPDATE indexed SET fields = 'cidr' WHERE kind = 'vpc'")
    again = await PostgresStore.open(address)
    async with again.read() as reader:
        assert [each.id for each in await reader.find(Vpc, account="b")] == ["w"]
    await again.close()


async def test_a_newer_schema_is_left_alone(url: str, address: Address, store: PostgresStore) -> None:
    await execute(url, "UPDATE gureum_schema SET version = 99")
    with pytest.raises(StoreError, match="written by a newer gureum"):
        await PostgresStore.open(address)


async def test_a_database_of_something_else_is_left_alone(url: str, address: Address) -> None:
    await execute(url, "CREATE TABLE photos (name text)")
    with pytest.raises(StoreError, match="not a gureum store"):
        await PostgresStore.open(address)
    with pytest.raises(StoreError, match="not a gureum store"):
        await examine(address)


async def test_no_database(url: str) -> None:
    with pytest.raises(StoreError, match="create the database"):
        await PostgresStore.open(Address.parse(url.replace("?", "-not?")))


async def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="does its server run"):
        await PostgresStore.open(Address.parse(f"postgresql://me@/cloud?host={tmp_path}"))


async def test_an_empty_database_is_led_by_nobody(address: Address) -> None:
    found = await examine(address)
    assert found.leader.name == ""
    assert found.dangers == ("fsync",)  # that of the tests' server


async def test_what_another_program_changed_is_found_out(url: str, store: PostgresStore) -> None:
    (record,) = await put(store, vpc("v"))
    await execute(url, "UPDATE records SET revision = 77")
    with pytest.raises(StoreError, match="changed by another program"):
        await put(store, replace(record, cidr="d"))


async def test_what_is_known_is_not_asked(store: PostgresStore, queries: list[str]) -> None:
    records = await put(store, *(vpc(f"v{number}") for number in range(5)))
    assert len(queries) == 1  # whether they exist
    queries.clear()

    async def work(tx: Transaction) -> None:
        for record in records:
            await tx.put(replace((await tx.get(Vpc, record.id)) or record, cidr="d"))
        await tx.get(Vpc, "new")
        await tx.put(vpc("new"))
        assert await tx.count(Vpc) == 6

    await store.transact(work)
    assert len(queries) == 2  # for the new one, and for the count


async def test_a_new_record_that_exists_is_found_out_at_the_end(store: PostgresStore) -> None:
    await put(store, vpc("v"))
    store._cache.clear()
    store._committer.others_committed()
    with pytest.raises(Conflict, match="there is one"):
        await put(store, vpc("v"))


async def test_what_is_known_of_a_search_is_not_asked_again(store: PostgresStore, queries: list[str]) -> None:
    await put(store, vpc("v"))
    queries.clear()
    async with store.read() as reader:
        for _ in range(3):
            assert len(await reader.find(Vpc, account="a", default_of=[])) == 0
            assert len(await reader.find(Vpc, account="a", default_of="b")) == 0
    assert len(queries) == 2  # how selective the conditions are, and what they find


@pytest.mark.parametrize(
    ("state", "kind", "said"),
    [
        ("GU001", Overtaken, ""),
        ("GU002", Deposed, "another manager leads"),
        ("GU003", StoreError, "another program"),
        ("GU004", StoreError, "another cloud"),
        ("53100", StoreFull, "free some space"),
        ("57P01", Unreachable, "being stopped"),
        ("28P01", StoreError, "pgpass"),
        ("42501", StoreError, "owns the database"),
        ("42601", StoreError, "bug in gureum"),
    ],
)
def test_errors_say_what_to_do(state: str, kind: type[StoreError], said: str) -> None:
    error = asyncpg.PostgresError("text")
    error.sqlstate = state
    explained = explain(error, "database d")
    assert type(explained) is kind
    assert str(explained).startswith("database d")
    assert said in str(explained)


def test_a_manager_on_sqlite_does_not_load_the_driver() -> None:
    program = "import sys, gureum.control.__main__, gureum.cli.store; sys.exit('asyncpg' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, timeout=60).returncode == 0


async def test_connections_that_are_not_used_are_closed(
    store: PostgresStore, postgres_server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gureum.store.postgres.snapshots.IDLE_SECONDS_MAX", 0.1)
    name = url.partition("?")[0].rpartition("/")[2]
    sql = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND state LIKE 'idle in%'"
    async with asyncio.timeout(30):
        async with store.read(), store.read():
            pass
        while postgres_server.query("postgres", sql) != "0":  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.05)
    await put(store, vpc("v"))
