"""What is not encrypted is copied into encrypted volumes by the real qemu-img, also by an agent that dies."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import msgspec
import pytest

from gureum.agent.copies import Copies
from gureum.env import Env
from gureum.hostspec import VolumeReport, VolumeSpec, source_clone
from gureum.san import qemu_img
from gureum.san.base import FileDisk
from gureum.san.local import LocalPool
from gureum.san.luks import LUKS_HEADER_BYTES, passphrase
from gureum.san.pool import LayeredPool

MIB = 1 << 20
SIZE = 16 * MIB
KEY = random.Random(5).randbytes(64)
SOURCE, SNAPSHOT, TARGET = "vol-00000001", "snap-00000001", "vol-00000002"
SPEC = VolumeSpec(id=TARGET, size_bytes=SIZE, source=SNAPSHOT, key=KEY, encrypts=True)
DATA = random.Random(6).randbytes(3 * MIB)
"""At 1 MiB; around it are zeros."""


class Died(Exception):
    pass


async def prepared(directory: Path, env: Env) -> LayeredPool:
    """A pool with a snapshot, and the volume that it is to be copied into."""
    pool = LocalPool(env, directory)
    await pool.create_volume(SOURCE, SIZE)
    await pool.write_volume(SOURCE, MIB, DATA)
    await pool.create_snapshot(SNAPSHOT, SOURCE)
    await pool.create_volume(TARGET, SIZE + LUKS_HEADER_BYTES)
    return pool


async def copied(pool: LayeredPool, env: Env, spec: VolumeSpec = SPEC) -> None:
    ended = asyncio.Event()
    copies = Copies(env, lambda volume: ended.set())
    assert not await copies.step(pool, spec)
    await ended.wait()
    assert await copies.step(pool, spec)
    await copies.close()


async def plain(pool: LayeredPool, directory: Path) -> bytes:
    """What a machine with the key would see."""
    disk = await pool.open_volume(TARGET)
    assert isinstance(disk, FileDisk)
    [layer] = disk.layers
    secret = directory / "secret"
    secret.write_text(passphrase(KEY))
    options = (
        f"driver=luks,key-secret=key,file.driver={layer.format},"
        f"file.file.driver=file,file.file.filename={layer.path}"
    )
    object = f"secret,id=key,format=raw,file={secret}"
    raw = directory / "plain.raw"
    await qemu_img.run(["convert", "--object", object, "--image-opts", options, "-O", "raw", str(raw)], 60.0)
    return raw.read_bytes()


def assert_hidden(directory: Path) -> None:
    """No file of the volume has the data as it is. The source has."""
    paths = [path for path in (directory / "pool/layers").iterdir() if TARGET in path.name]
    assert paths
    for path in paths:
        assert DATA[: 1 << 12] not in path.read_bytes()


@pytest.mark.parametrize("point", ["", "agent.copy.begun", "agent.copy.done"])
async def test_copy(tmp_path: Path, point: str) -> None:
    def die(name: str) -> None:
        if name == point:
            raise Died

    pool = await prepared(tmp_path / "pool", Env())
    if point:
        with pytest.raises(Died):
            await copied(pool, Env(crashpoint=die))
        await pool.close()
        pool = LocalPool(Env(), tmp_path / "pool")
    await copied(pool, Env())
    assert await plain(pool, tmp_path) == bytes(MIB) + DATA + bytes(SIZE - MIB - len(DATA))
    assert_hidden(tmp_path)
    assert source_clone(TARGET) not in (await pool.inventory()).volumes
    await pool.close()
    assert os.listdir(tmp_path / "pool")


async def test_how_far_it_is_is_told(tmp_path: Path) -> None:
    pool = await prepared(tmp_path / "pool", Env())
    copies, told, ended = Copies(Env(), lambda volume: ended.set()), set(), asyncio.Event()
    assert not await copies.step(pool, SPEC)
    while not ended.is_set():
        report = copies.told(SPEC, VolumeReport(id=TARGET))
        told.add((report.done_bytes, report.total_bytes))
        await asyncio.sleep(0)
    assert (SIZE, SIZE) in told
    assert copies.told(SPEC, VolumeReport(id=TARGET)) == VolumeReport(id=TARGET)
    await copies.close()
    await pool.close()


async def test_of_a_larger_volume_no_more_is_written_than_its_source_has(tmp_path: Path) -> None:
    pool = await prepared(tmp_path / "pool", Env())
    await pool.resize_volume(TARGET, 8 * SIZE + LUKS_HEADER_BYTES)
    await copied(pool, Env(), msgspec.structs.replace(SPEC, size_bytes=8 * SIZE, source_bytes=SIZE))
    assert (await plain(pool, tmp_path))[:SIZE] == bytes(MIB) + DATA + bytes(SIZE - MIB - len(DATA))
    disk = await pool.open_volume(TARGET)
    assert isinstance(disk, FileDisk)
    assert os.stat(disk.layers[0].path).st_blocks * 512 < 2 * SIZE
    await pool.close()


async def test_a_copy_that_is_ended_leaves_nothing_open(tmp_path: Path) -> None:
    pool = await prepared(tmp_path / "pool", Env())
    copies = Copies(Env(), lambda volume: None)
    assert not await copies.step(pool, SPEC)
    await asyncio.sleep(0.05)
    await copies.stop(TARGET)
    for volume in (source_clone(TARGET), TARGET):
        await pool.delete_volume(volume)
    assert set((await pool.inventory()).volumes) == {SOURCE}
    await pool.close()
