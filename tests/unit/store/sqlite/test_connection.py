from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import msgspec
import pytest

from gureum.errors import StoreError, StoreFull
from gureum.resources import Volume, Vpc
from gureum.store import migrations
from gureum.store.base import Change, Transaction
from gureum.store.sqlite import SqliteStore, connection


async def fill(path: Path) -> None:
    store = SqliteStore.open(path, threaded=False)

    async def work(tx: Transaction) -> None:
        for number in range(50):
            await tx.put(Vpc(id=f"v{number}", account="a", cidr="c", network_id=number))

    await store.transact(work)
    await store.close()


def sql(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as shell:
        for statement in statements:
            shell.execute(statement)
    shell.close()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    lock = connection.FileLock(str(tmp_path / "store.db"))
    with pytest.raises(StoreError, match=r"in use by another gureum \(process \d+\): stop it"):
        SqliteStore.open(tmp_path / "store.db")
    lock.release()


async def test_a_failed_start_frees_the_lock(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="not a gureum store: move the file away"):
        SqliteStore.open(tmp_path / "store.db")
    (tmp_path / "store.db").unlink()
    store = SqliteStore.open(tmp_path / "store.db")
    await store.close()


def test_a_foreign_database_is_left_alone(tmp_path: Path) -> None:
    sql(tmp_path / "store.db", "CREATE TABLE photos (name TEXT)")
    before = (tmp_path / "store.db").read_bytes()
    for readonly in (False, True):
        with pytest.raises(StoreError, match="not a gureum store"):
            SqliteStore.open(tmp_path / "store.db", readonly=readonly)
    assert (tmp_path / "store.db").read_bytes() == before


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    await fill(tmp_path / "store.db")
    sql(tmp_path / "store.db", f"PRAGMA user_version = {migrations.LATEST + 1}")
    for readonly in (False, True):
        with pytest.raises(StoreError, match=r"newer gureum .* install that version again"):
            SqliteStore.open(tmp_path / "store.db", readonly=readonly)


async def test_an_older_schema_is_not_inspected(tmp_path: Path) -> None:
    await fill(tmp_path / "store.db")
    sql(tmp_path / "store.db", "PRAGMA user_version = 0")
    with pytest.raises(StoreError, match="older schema"):
        SqliteStore.open(tmp_path / "store.db", readonly=True)


async def test_a_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(tmp_path / "store.db")
    last = migrations.LATEST + 1
    steps = {last: "CREATE TABLE added (x);\nINSERT INTO nowhere VALUES (1);"}
    monkeypatch.setattr(migrations, "LATEST", last)
    monkeypatch.setattr(migrations, "step", steps.__getitem__)
    with pytest.raises(StoreError, match="no such table: nowhere"):
        SqliteStore.open(tmp_path / "store.db")
    steps[last] = "CREATE TABLE added (x);"
    store = SqliteStore.open(tmp_path / "store.db")
    assert store.revision == 1
    await store.close()


async def test_a_volumes_one_attachment_becomes_the_first_of_several(tmp_path: Path) -> None:
    await fill(tmp_path / "store.db")
    attachment = {
        "instance": "i-1",
        "device": "/dev/sdf",
        "state": "attached",
        "attached": "2026-01-02T03:04:05Z",
    }
    common = {
        "account": "a",
        "size_bytes": 1,
        "zone": "z",
        "created": "2026-01-02T03:04:05.25Z",
        "purge_at": 0.1,
    }
    bodies = {
        "vol-1": {**common, "id": "vol-1", "state": "in-use", "attachment": attachment, "instance": "i-1"},
        "vol-2": {**common, "id": "vol-2", "state": "available"},
    }
    sql(
        tmp_path / "store.db",
        "PRAGMA user_version = 1",
        "UPDATE indexed SET fields = 'account,host,state,instance,source,keys' WHERE kind = 'volume'",
        "INSERT INTO entries VALUES ('volume', 'instance', 'i-1', 'vol-1')",
        *(
            f"INSERT INTO records VALUES ('volume', '{id}', 1, '{json.dumps({**body, 'version': 1})}')"
            for id, body in bodies.items()
        ),
    )
    store = SqliteStore.open(tmp_path / "store.db", threaded=False)
    async with store.read() as reader:
        [volume] = await reader.find(Volume, instances="i-1")
        [other] = await reader.find(Volume, state="available")
    await store.close()
    [after] = volume.attachments
    assert msgspec.to_builtins(after) == attachment
    assert (volume.id, volume.version, volume.purge_at, str(volume.state)) == ("vol-1", 1, 0.1, "in-use")
    assert volume.created.microsecond == 250_000
    assert (other.id, other.attachments) == ("vol-2", ())


async def test_a_changed_index_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(tmp_path / "store.db")
    monkeypatch.setattr(Vpc, "indexes", ("account", "cidr"))
    store = SqliteStore.open(tmp_path / "store.db", threaded=False)
    async with store.read() as reader:
        assert await reader.count(Vpc, cidr="c", account="a") == 50
    await store.close()
    monkeypatch.undo()
    store = SqliteStore.open(tmp_path / "store.db", threaded=False)
    async with store.read() as reader:
        assert await reader.count(Vpc, account="a") == 50
    await store.close()
    with sqlite3.connect(tmp_path / "store.db") as shell:
        assert shell.execute("SELECT DISTINCT field FROM entries").fetchall() == [
            ("account",),
            ("dhcp_options",),
        ]
    shell.close()


async def test_records_of_unknown_kinds_are_kept_and_passed_over(tmp_path: Path) -> None:
    """An older gureum may meet what a newer one of the same schema has stored."""
    await fill(tmp_path / "store.db")
    sql(
        tmp_path / "store.db",
        "INSERT INTO records SELECT 'future', 'f' || id, revision, '{}' FROM records",
        "UPDATE records SET revision = 2, body = json_set(body, '$.version', 2) WHERE kind = 'vpc'",
        "UPDATE counters SET value = 2 WHERE name = 'revision'",
    )
    store = SqliteStore.open(tmp_path / "store.db", threaded=False)
    seen: list[Change] = []
    while changes := await store.changes(seen[-1].revision if seen else 0, 20):
        seen += changes
    assert [change.kind for change in seen] == ["vpc"] * 50
    await store.close()
    with sqlite3.connect(tmp_path / "store.db") as shell:
        assert shell.execute("SELECT count(*) FROM records WHERE kind = 'future'").fetchone() == (50,)
    shell.close()


async def test_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await fill(path)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="put a backup here"):
        SqliteStore.open(path)


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file or directory; check the state directory"):
        SqliteStore.open(tmp_path / "missing" / "store.db")


@pytest.mark.parametrize("name", ["a?b.db", "a b%20c#.db", "ünï.db"])
async def test_odd_names(tmp_path: Path, name: str) -> None:
    await fill(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {name, name + ".lock"}


@pytest.mark.parametrize(
    ("code", "writing", "kind"),
    [
        (sqlite3.SQLITE_FULL, True, StoreFull),
        (sqlite3.SQLITE_IOERR_WRITE, True, StoreFull),
        (sqlite3.SQLITE_IOERR_FSYNC, True, StoreFull),
        (sqlite3.SQLITE_IOERR_READ, False, StoreError),
        (sqlite3.SQLITE_BUSY, True, StoreError),
        (sqlite3.SQLITE_CORRUPT, True, StoreError),
        (sqlite3.SQLITE_MISUSE, False, StoreError),
    ],
)
def test_errors_are_explained(code: int, writing: bool, kind: type[StoreError]) -> None:
    error = sqlite3.OperationalError("oh")
    error.sqlite_errorcode = code
    explained = connection.explain(error, "store.db", writing=writing)
    assert type(explained) is kind
    assert str(explained).startswith("store.db: ")
