"""The medium that the other tests cut the power of: what it keeps, and that it shows a missing fsync."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.journal import Variant, moments
from faults.medium import Medium, is_possible, left_after, mounted
from gureum.files import sync, write_atomically

pytestmark = [pytest.mark.root, pytest.mark.skipif(not is_possible(), reason="needs root and /dev/fuse")]


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Medium]:
    with mounted(tmp_path) as made:
        yield made


def left(medium: Medium, variant: Variant) -> dict[str, bytes]:
    with left_after(medium.operations(), variant) as root:
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }


def test_it_is_a_file_system(medium: Medium) -> None:
    root = medium.root
    (root / "d").mkdir()
    (root / "d/f").write_bytes(b"one" * 1_000_000)
    os.link(root / "d/f", root / "hard")
    os.symlink("hard", root / "soft")
    os.rename(root / "d/f", root / "d/g")
    assert sorted(os.listdir(root)) == ["d", "hard", "soft"]
    assert (root / "soft").read_bytes() == b"one" * 1_000_000
    assert (root / "d/g").stat().st_nlink == 2
    with pytest.raises(OSError, match="not empty"):
        (root / "d").rmdir()
    with open(root / "d/g", "r+b") as file, open(root / "hard", "rb") as other:
        os.unlink(root / "d/g")
        file.truncate(10)
        assert other.read() == b"oneoneoneo"
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (root / "d").rmdir()
    os.chmod(root / "hard", 0o640)
    assert (root / "hard").stat().st_mode & 0o777 == 0o640
    os.chown(root / "hard", 7, 8)
    assert (root / "hard").stat().st_uid == 7


def test_what_is_not_flushed_may_be_lost(medium: Medium) -> None:
    (medium.root / "old").write_bytes(b"old")
    sync(medium.root / "old")
    sync(medium.root)
    (medium.root / "new").write_bytes(b"new")
    os.replace(medium.root / "new", medium.root / "old")
    assert left(medium, Variant.NONE) == {"old": b"old"}
    assert left(medium, Variant.NAMES) == {"old": b""}
    assert left(medium, Variant.ALL) == {"old": b"new"}
    sync(medium.root / "old")
    assert left(medium, Variant.NONE) == {"old": b"old"}
    sync(medium.root)
    for variant in Variant:
        assert left(medium, variant) == {"old": b"new"}


def test_a_directory_without_a_name_is_lost_with_all_that_is_in_it(medium: Medium) -> None:
    (medium.root / "d").mkdir()
    write_atomically(medium.root / "d/f", b"x")
    assert left(medium, Variant.NONE) == {}
    sync(medium.root)
    assert left(medium, Variant.NONE) == {"d/f": b"x"}


def test_torn_leaves_are_many_and_each_is_the_same_again(medium: Medium) -> None:
    for number in range(4):
        (medium.root / str(number)).write_bytes(bytes([number + 1]) * 8192)
    operations = medium.operations()
    found = []
    for seed in (*range(20), *range(20)):
        with left_after(operations, Variant.TORN, seed) as root:
            found.append(tuple((path.name, path.read_bytes()) for path in sorted(root.iterdir())))
    assert found[:20] == found[20:]
    assert len(set(found)) > 10


def test_sqlite_without_full_synchronisation_loses_commits_here(medium: Medium) -> None:
    for mode, kept in (("FULL", 5), ("NORMAL", 0)):
        path = medium.root / mode
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {mode}")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("PRAGMA wal_checkpoint")
        sync(medium.root)
        connection.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(5)])
        operations = medium.operations()
        connection.close()
        with left_after(operations, Variant.NONE) as root:
            found = sqlite3.connect(root / mode)
            assert found.execute("SELECT count(*) FROM t").fetchone() == (kept,)
            found.close()


def test_the_power_comes_back(medium: Medium) -> None:
    write_atomically(medium.root / "kept", b"kept")
    (medium.root / "lost").write_bytes(b"lost")
    medium.cut(Variant.NONE)
    assert os.listdir(medium.root) == ["kept"]
    (medium.root / "lost").write_bytes(b"again")
    medium.cut(Variant.NONE)
    assert (medium.root / "kept").read_bytes() == b"kept"
    assert os.listdir(medium.root) == ["kept"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_written_whole_is_the_old_one_or_the_new(medium: Medium, durable: bool) -> None:
    path = medium.root / "file"
    for number in range(4):
        write_atomically(path, str(number).encode() * 5000, durable=durable or number == 0)
        medium.mark(str(number))
    operations = medium.operations()
    texts = {number: str(number).encode() * 5000 for number in range(4)}
    for at in moments(operations):
        acknowledged = sum(operation[0] == "mark" for operation in operations[:at])
        for variant in (*Variant, *[Variant.TORN] * 5):
            with left_after(operations[:at], variant, seed=at) as root:
                found = (root / "file").read_bytes() if (root / "file").exists() else None
            if durable and acknowledged:
                assert found in (texts[acknowledged - 1], texts.get(acknowledged)), (at, variant)
            elif durable:
                assert found in (None, texts[0]), (at, variant)
