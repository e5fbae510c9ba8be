"""The fake must catch what would be lost data on a real disk."""

from __future__ import annotations

import pytest

from gureum.env import Env
from gureum.errors import PoolError, PoolFull
from gureum.san.fake import FakePool, FakePoolDisk
from gureum.san.fake_parts import BLOCK_BYTES
from gureum.sim.loop import run

GIB = 1 << 30


def test_write_below_a_snapshot_is_caught(host, new_guest):
    async def main():
        pool = host.pool()
        await pool.create_volume("vol-1", GIB)
        opened = await pool.open_volume("vol-1")
        forgotten = new_guest(host.disk, opened)
        guest = new_guest(host.disk, opened)
        await pool.create_snapshot("snap-1", "vol-1", guest)
        guest.write(0, b"x")
        with pytest.raises(AssertionError, match="is frozen"):
            forgotten.write(0, b"y")

    run(main())


def test_write_below_a_layer_in_use_is_caught(host, new_guest, died):
    async def main():
        pool = host.pool()
        await pool.create_volume("vol-1", GIB)
        opened = await pool.open_volume("vol-1")
        forgotten = new_guest(host.disk, opened)
        guest = new_guest(host.disk, opened)
        host.die_at = "pool.snapshot.switched"
        with pytest.raises(died):
            await pool.create_snapshot("snap-1", "vol-1", guest)
        guest.write(0, b"x")
        with pytest.raises(AssertionError, match="is frozen"):
            forgotten.write(0, b"y")

    run(main())


def test_write_into_an_image_or_beyond_the_end_is_caught(host):
    async def main():
        pool = host.pool()
        await pool.add_image("ami-1", "/images/tiny", "raw", GIB)
        await pool.create_volume("vol-1", GIB, "ami-1")
        top, image = (await pool.open_volume("vol-1")).layers
        with pytest.raises(AssertionError, match="is frozen"):
            host.disk.write(image.path, 0, b"x")
        with pytest.raises(AssertionError, match="has no block"):
            host.disk.write(top.path, GIB // BLOCK_BYTES, b"x")

    run(main())


def test_disk_outlives_the_pool(host):
    async def main():
        await host.pool().create_volume("vol-1", GIB)
        pool = host.pool()
        assert (await pool.inventory()).volumes.keys() == host.disk.volumes() == {"vol-1"}

    run(main())


def test_space_is_counted():
    async def main():
        disk = FakePoolDisk(size_bytes=64 * BLOCK_BYTES)
        pool = FakePool(Env(), disk)
        await pool.create_volume("vol-1", GIB)
        assert disk.used_bytes() == 2 * BLOCK_BYTES
        path = (await pool.open_volume("vol-1")).layers[0].path
        for block in range(62):
            disk.write(path, block, b"x")
        with pytest.raises(PoolFull):
            disk.write(path, 62, b"x")
        disk.write(path, 61, b"again")
        inventory = await pool.inventory()
        assert (inventory.free_bytes, inventory.size_bytes) == (0, 64 * BLOCK_BYTES)

    run(main())


def test_failure_comes_once_and_before_any_effect(host):
    async def main():
        pool = host.pool()
        host.disk.fail_next("create_layer", PoolError("broken"))
        with pytest.raises(PoolError, match="broken"):
            await pool.create_volume("vol-1", GIB)
        assert not host.disk.layers
        await pool.create_volume("vol-1", GIB)

    run(main())


def test_leaks_are_seen(host):
    async def main():
        pool = host.pool()
        await pool.create_volume("vol-1", GIB)
        assert host.disk.leaks() == []
        del host.disk.records["vol-1"]
        assert len(host.disk.leaks()) == 1

    run(main())
