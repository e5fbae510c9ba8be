from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest

from gureum.errors import PoolError
from gureum.san import diskfile, qcow2

MIB = 1 << 20


def test_written_file_has_holes(tmp_path: Path):
    path = tmp_path / "file"
    diskfile.write_durably(path, {0: b"start", 4 * MIB: b"end"}, 8 * MIB)
    assert path.stat().st_size == 8 * MIB
    assert path.stat().st_blocks * 512 < MIB
    assert path.stat().st_mode & 0o777 == 0o600
    with open(path, "rb") as file:
        assert file.read(5) == b"start"
        file.seek(4 * MIB)
        assert file.read(4) == b"end\0"


def test_nothing_is_overwritten(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(FileExistsError):
        diskfile.write_durably(path, {0: b"new"}, 3)
    with pytest.raises(FileExistsError):
        diskfile.copy_sparse(path, path)
    assert path.read_text() == "old"


@pytest.mark.parametrize("parts", [{}, {0: b"a" * 5000}, {3 * MIB: b"b" * (2 * MIB), 7 * MIB - 1: b"c"}])
def test_copy_is_the_same_and_as_sparse(tmp_path: Path, parts):
    source, target = tmp_path / "source", tmp_path / "target"
    diskfile.write_durably(source, parts, 7 * MIB)
    diskfile.copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks + 16


def test_start_of_a_file(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert diskfile.read_start(path, 5) == b"12345"
    assert diskfile.read_start(path, 2, whole=False) == b"12"
    with pytest.raises(PoolError, match="more than 4 bytes"):
        diskfile.read_start(path, 4)


def test_good_disks_may_come_in(tmp_path: Path):
    raw, image = tmp_path / "a.raw", tmp_path / "a.qcow2"
    raw.write_bytes(bytes(1000))
    parts, length = qcow2.empty_image(MIB, "", "")
    diskfile.write_durably(image, parts, length)
    diskfile.import_check(raw, "raw", 1024)
    diskfile.import_check(image, "qcow2", MIB)


def test_bad_disks_may_not(tmp_path: Path):
    raw, image, overlay = tmp_path / "a.raw", tmp_path / "a.qcow2", tmp_path / "b.qcow2"
    raw.write_bytes(bytes(1024))
    for path, backing in ((image, ""), (overlay, "/etc/shadow")):
        parts, length = qcow2.empty_image(MIB, backing, "raw")
        diskfile.write_durably(path, parts, length)
    for path, format, size_bytes, message in (
        (tmp_path / "none", "raw", 512, "cannot be read"),
        (tmp_path, "raw", 512, "no regular file"),
        (raw, "raw", 512, "has 1024 bytes, not 512"),
        (raw, "qcow2", 1024, "no qcow2 file"),
        (image, "qcow2", 1024, "not 1024"),
        (overlay, "qcow2", MIB, "needs another file: '/etc/shadow'"),
    ):
        with pytest.raises(PoolError, match=message):
            diskfile.import_check(path, format, size_bytes)
    with open(image, "r+b") as file:
        file.seek(72)
        file.write(struct.pack(">Q", qcow2.INCOMPATIBLE_DATA_FILE))
    with pytest.raises(PoolError, match="external data file"):
        diskfile.import_check(image, "qcow2", MIB)


def test_lock_of_another_open_file_is_seen(tmp_path: Path):
    path = tmp_path / "file"
    path.touch()
    assert not diskfile.is_locked(path)
    holder = os.open(path, os.O_RDWR)
    try:
        # A writer's "I write", as QEMU says it.
        fcntl.fcntl(holder, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0))
        assert diskfile.is_locked(path)
    finally:
        os.close(holder)
    assert not diskfile.is_locked(path)
    assert not diskfile.is_locked(tmp_path / "none")
