"""The local pool where no tool of QEMU's is needed."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from gureum.env import Env
from gureum.errors import PoolError
from gureum.files import sync
from gureum.san import diskfile
from gureum.san import files as file_layers
from gureum.san.local import LocalPool

GIB = 1 << 30


@pytest.fixture
async def pool(tmp_path: Path):
    pool = LocalPool(Env(), tmp_path / "pool", reserve_bytes=0)
    yield pool
    await pool.close()


def files(tmp_path: Path) -> set[str]:
    return {str(path.relative_to(tmp_path / "pool")) for path in (tmp_path / "pool").rglob("*.*")}


async def test_life_of_a_volume(pool, tmp_path):
    await pool.create_volume("vol-1", GIB)
    await pool.create_snapshot("snap-1", "vol-1")
    await pool.create_volume("vol-2", 2 * GIB, "snap-1")
    opened = await pool.open_volume("vol-2")
    assert [Path(layer.path).parent for layer in opened.layers] == [tmp_path / "pool/layers"] * 2
    assert all(Path(layer.path).is_file() and layer.format == "qcow2" for layer in opened.layers)
    for id in ("vol-1", "vol-2"):
        await pool.delete_volume(id)
    await pool.delete_snapshot("snap-1", "vol-1")
    assert files(tmp_path) == set()


async def test_next_process_finds_everything(pool, tmp_path):
    await pool.create_volume("vol-1", GIB)
    await pool.create_snapshot("snap-1", "vol-1")
    before, opened = await pool.inventory(), await pool.open_volume("vol-1")
    await pool.close()
    later = LocalPool(Env(), tmp_path / "pool")
    assert (await later.inventory()).volumes == before.volumes
    assert (await later.inventory()).snapshots == {"snap-1"}
    assert await later.open_volume("vol-1") == opened
    await later.close()


async def test_what_a_crash_left_is_collected(pool, tmp_path):
    await pool.create_volume("vol-1", GIB)
    before = files(tmp_path)
    (tmp_path / "pool/layers/vol-2.00000000.qcow2").touch()
    (tmp_path / "pool/records/vol-2.1.tmp").touch()
    (tmp_path / "pool/layers/precious.txt").touch()
    assert await pool.check(repair=True) == [
        "layers/precious.txt does not belong to the pool",
        "unfinished file vol-2.1.tmp",
        "nothing needs the layer vol-2.00000000.qcow2",
    ]
    assert files(tmp_path) == before | {"layers/precious.txt"}


async def test_damaged_record_and_header_hurt_their_volume_only(pool, tmp_path):
    for id in ("vol-1", "vol-2", "vol-3"):
        await pool.create_volume(id, GIB)
    Path((await pool.open_volume("vol-2")).layers[0].path).write_bytes(b"nonsense")
    (tmp_path / "pool/records/vol-1.json").write_text("{")
    await pool.close()
    later = LocalPool(Env(), tmp_path / "pool", reserve_bytes=0)
    for id in ("vol-1", "vol-2"):
        with pytest.raises(PoolError, match="damaged"):
            await later.open_volume(id)
    await later.open_volume("vol-3")
    await later.close()


OPERATIONS = {
    "volume": lambda pool: pool.create_volume("vol-2", GIB, "snap-1"),
    "snapshot": lambda pool: pool.create_snapshot("snap-2", "vol-1"),
}


@pytest.mark.parametrize("step", ["layer", "first record", "last record"])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_work_leaves_memory_and_disk_in_step(pool, tmp_path, monkeypatch, name, step):
    """A thread does not stop when who waits for it is cancelled: what it does must be waited for."""
    await pool.create_volume("vol-1", GIB)
    await pool.create_snapshot("snap-1", "vol-1")
    loop, ended = asyncio.get_running_loop(), threading.Event()
    calls = 0

    def slowed(path: Path, parts: dict[int, bytes], length: int) -> None:
        nonlocal calls
        calls += 1
        last = 4 if name == "snapshot" else 2
        if calls == {"layer": 1, "first record": 2, "last record": last}[step]:
            loop.call_soon_threadsafe(task.cancel)
            time.sleep(0.05)
            diskfile.write_durably(path, parts, length)
            ended.set()
        else:
            diskfile.write_durably(path, parts, length)

    monkeypatch.setattr(file_layers, "write_durably", slowed)
    task = asyncio.ensure_future(OPERATIONS[name](pool))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    found = await pool.inventory()
    assert [line for line in await pool.check() if "nothing needs" in line] == []
    fresh = LocalPool(Env(), tmp_path / "pool", reserve_bytes=0)
    assert (await fresh.inventory()).volumes == found.volumes
    assert (await fresh.inventory()).snapshots == found.snapshots
    await fresh.close()
    await OPERATIONS[name](pool)
    assert await pool.check() == []


async def test_cancelled_deletion_leaves_memory_and_disk_in_step(pool, tmp_path, monkeypatch):
    await pool.create_volume("vol-1", GIB)
    loop = asyncio.get_running_loop()

    def slowed(path: Path) -> None:
        loop.call_soon_threadsafe(task.cancel)
        time.sleep(0.05)
        sync(path)

    monkeypatch.setattr(file_layers, "sync", slowed)
    task = asyncio.ensure_future(pool.delete_volume("vol-1"))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await pool.inventory()).volumes == {}
    await pool.delete_volume("vol-1")
    await pool.check(repair=True)
    assert files(tmp_path) == set()
