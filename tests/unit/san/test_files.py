from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gureum.errors import PoolError, PoolFull
from gureum.san.files import FileLayers

MIB = 1 << 20
TOP, MIDDLE, BASE = "vol-1.00000002.qcow2", "vol-1.00000001.qcow2", "ami-1.00000000.raw"


@pytest.fixture
async def store(tmp_path: Path):
    store = FileLayers(tmp_path / "pool")
    await store.load()
    yield store
    await store.close()


async def with_chain(store: FileLayers, tmp_path: Path) -> tuple[str, ...]:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(MIB))
    await store.import_layer(BASE, str(disk), MIB, 0)
    await store.create_layer(MIDDLE, MIB, BASE)
    await store.create_layer(TOP, MIB, MIDDLE)
    return TOP, MIDDLE, BASE


async def test_records_are_kept_and_replaced(store, tmp_path):
    await store.put_record("vol-1", b"one")
    await store.put_record("vol-1", b"two")
    await store.put_record("vol-2", b"three")
    await store.drop_record("vol-2")
    await store.drop_record("vol-2")
    assert await store.load() == {"vol-1": b"two"}
    assert [entry.name for entry in (tmp_path / "pool/records").iterdir()] == ["vol-1.json"]


async def test_record_that_cannot_be_written_leaves_the_old_one(store, tmp_path, monkeypatch):
    await store.put_record("vol-1", b"old")

    def rename(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(PoolFull, match=r"is full: .* are free \(No space left on device\)"):
        await store.put_record("vol-1", b"new")
    assert await store.load() == {"vol-1": b"old"}
    assert (await store.listing()).temporary == ()


async def test_overlong_record(store):
    with pytest.raises(PoolError, match="would have"):
        await store.put_record("vol-1", bytes(65 << 10))


async def test_every_effect_is_flushed_before_it_counts(store, tmp_path, monkeypatch):
    """Content before name, name before return: or a power cut could lose what was acknowledged."""
    events: list[tuple[str, str]] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        events.append(("fsync", Path(os.readlink(f"/proc/self/fd/{fd}")).name))
        real_fsync(fd)

    def rename(source: Path, target: Path) -> None:
        events.append(("rename", target.name))
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    await store.put_record("vol-1", b"one")
    assert [kind for kind, _ in events] == ["fsync", "rename", "fsync"]
    assert events[0][1].endswith(".tmp")
    assert events[1:] == [("rename", "vol-1.json"), ("fsync", "records")]
    events.clear()
    await store.create_layer(TOP, MIB, "")
    assert events == [("fsync", TOP), ("fsync", "layers")]
    events.clear()
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(MIB))
    await store.import_layer(BASE, str(disk), MIB, 0)
    assert events == [("fsync", BASE), ("fsync", "layers")]
    events.clear()
    await store.drop_record("vol-1")
    await store.remove_layers([TOP])
    assert events == [("fsync", "records"), ("fsync", "layers")]


async def test_imported_disk_is_linked_and_outlives_its_name(store, tmp_path):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"x" * 512)
    await store.import_layer(BASE, str(disk), 512, 0)
    assert os.path.samefile(disk, store.path(BASE))
    disk.unlink()
    assert Path(store.path(BASE)).read_bytes() == b"x" * 512


async def test_imported_disk_is_copied_where_it_cannot_be_linked(store, tmp_path, monkeypatch):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"x" * 512)

    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(PoolFull, match="kept in reserve"):
        await store.import_layer(BASE, str(disk), 512, 1 << 60)
    await store.import_layer(BASE, str(disk), 512, 0)
    assert not os.path.samefile(disk, store.path(BASE))
    assert Path(store.path(BASE)).read_bytes() == b"x" * 512


async def test_chain_is_verified(store, tmp_path):
    chain = await with_chain(store, tmp_path)
    await store.verify(chain)
    with pytest.raises(PoolError, match=r"is over 'vol-1\.00000001\.qcow2', not 'ami"):
        await store.verify((TOP, BASE))
    Path(store.path(BASE)).unlink()
    with pytest.raises(PoolError, match=r"ami-1\.00000000\.raw is missing"):
        await store.verify(chain)
    Path(store.path(TOP)).write_bytes(b"QFI\xfb" + bytes(1000))
    with pytest.raises(PoolError, match="is damaged"):
        await store.verify(chain)


async def test_header_that_would_open_another_file_is_refused(store, tmp_path):
    """What an escaped guest could write into the file that it has open."""
    chain = await with_chain(store, tmp_path)
    top = Path(store.path(TOP))
    good = top.read_bytes()
    top.write_bytes(good.replace(MIDDLE.encode(), b"/etc/shadow\0\0\0\0\0\0\0\0\0"))
    with pytest.raises(PoolError, match="/etc/shadow"):
        await store.verify(chain)
    top.write_bytes(good[:79] + b"\4" + good[80:])
    with pytest.raises(PoolError, match="external data file"):
        await store.verify(chain)


async def test_listing_tells_what_is_strange(store, tmp_path):
    await with_chain(store, tmp_path)
    await store.put_record("vol-1", b"x")
    root = tmp_path / "pool"
    (root / "layers/notes.txt").touch()
    (root / "records/vol-1.7.tmp").touch()
    (root / "records/README").touch()
    listing = await store.listing()
    assert listing.layers == {TOP, MIDDLE, BASE}
    assert listing.strange == ("layers/notes.txt", "records/README")
    assert listing.temporary == ("vol-1.7.tmp",)
    await store.discard(listing.temporary)
    assert (await store.listing()).temporary == ()


async def test_what_layers_occupy(store, tmp_path):
    await with_chain(store, tmp_path)
    used = await store.used([TOP, BASE, "vol-9.00000000.qcow2"])
    assert used.keys() == {TOP, BASE}
    assert used[TOP] <= 64 << 10
    assert used[BASE] >= MIB
    space = await store.space()
    assert 0 < space.free_bytes <= space.size_bytes


async def test_one_process_at_a_time(store, tmp_path):
    """A POSIX lock: other processes are kept out, and none is left behind by a process that was killed."""
    code = (
        "import asyncio, pathlib, sys; from gureum.san.files import FileLayers;"
        "asyncio.run(FileLayers(pathlib.Path(sys.argv[1])).load())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pool")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    async def other() -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60
        )

    second = await other()
    assert "is in use by another process" in second.stderr
    await store.close()
    third = await other()
    assert third.returncode == 0, third.stderr


async def test_other_layouts_are_refused(store, tmp_path):
    (tmp_path / "pool/version").write_text("2\n")
    with pytest.raises(PoolError, match="layout version '2', not 1"):
        await FileLayers(tmp_path / "pool").load()


async def test_unreadable_directory(store, tmp_path, monkeypatch):
    def scandir(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PoolError, match="Input/output error"):
        await store.load()
