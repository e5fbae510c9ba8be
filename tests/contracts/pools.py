"""What every pool must do, whatever its disks are: a class of tests for those of each implementation."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from gureum.errors import PoolError
from gureum.san.base import BLOCKS_BYTES_MAX, Pool

MIB = 1 << 20
GIB = 1 << 30
BLOCK = 512 << 10
"""EBS's."""
IMAGE_BYTES = 64 * MIB


def block(text: str) -> bytes:
    """A block that says ``text``."""
    return text.encode().ljust(BLOCK, b".")


BOOT = block("boot")
"""What an image's disk begins with; the rest of it is zeros."""


class Ids:
    """Names that no other test has."""

    def __init__(self) -> None:
        self._token = f"{random.getrandbits(40):010x}"

    def __call__(self, name: str) -> str:
        return f"{name}{self._token}"


class PoolContract:
    """A subclass has fixtures ``pool``, and ``image_disk``: the path and format of an image's disk file."""

    @pytest.fixture
    def ids(self) -> Ids:
        return Ids()

    @pytest.fixture
    async def image(self, pool: Pool, image_disk: tuple[str, str], ids: Ids) -> str:
        await pool.add_image(ids("ami-1"), *image_disk, IMAGE_BYTES)
        return ids("ami-1")

    async def look(self, pool: Pool, volume: str, at: int = 0) -> bytes:
        """One block of a volume, by way of a snapshot."""
        snapshot = volume.replace("vol-", "snap-look")
        await pool.create_snapshot(snapshot, volume)
        try:
            return await pool.read_snapshot(snapshot, volume, at, BLOCK)
        finally:
            await pool.delete_snapshot(snapshot, volume)

    async def test_a_copy_says_that_it_is_not_complete(self, pool: Pool, ids: Ids) -> None:
        volume = ids("vol-1")
        await pool.create_volume(volume, GIB, partial=True)
        for partial in (True, True, False, False, True):
            await pool.mark_partial(volume, partial)
            found = await pool.find_volume(volume)
            assert found is not None
            assert found.partial is partial
        await pool.delete_volume(volume)
        with pytest.raises(PoolError):
            await pool.mark_partial(volume, False)

    async def test_an_empty_volume_is_zeros(self, pool, ids):
        vol, snap = ids("vol-1"), ids("snap-1")
        assert await pool.find_volume(vol) is None
        await pool.create_volume(vol, GIB)
        found = await pool.find_volume(vol)
        assert found is not None
        assert (found.id, found.size_bytes) == (vol, GIB)
        assert not await pool.has_snapshot(snap, vol)
        await pool.create_snapshot(snap, vol)
        assert await pool.has_snapshot(snap, vol)
        assert await pool.snapshot_extents(snap, vol) == []
        assert await pool.read_snapshot(snap, vol, GIB - BLOCK, BLOCK) == bytes(BLOCK)
        await pool.delete_snapshot(snap, vol)
        assert not await pool.has_snapshot(snap, vol)
        await pool.delete_volume(vol)
        assert await pool.find_volume(vol) is None

    async def test_a_clone_has_the_images_data_and_changes_alone(self, pool, ids, image):
        one, two = ids("vol-1"), ids("vol-2")
        await pool.create_volume(one, 2 * IMAGE_BYTES, image)
        await pool.create_volume(two, IMAGE_BYTES, image)
        await pool.write_volume(one, 0, block("mine"))
        await pool.write_volume(one, 2 * IMAGE_BYTES - BLOCK, block("end"))
        assert await self.look(pool, one) == block("mine")
        assert await self.look(pool, one, 2 * IMAGE_BYTES - BLOCK) == block("end")
        assert await self.look(pool, one, IMAGE_BYTES) == bytes(BLOCK)
        assert await self.look(pool, two) == BOOT

    async def test_a_snapshot_keeps_the_moment_and_outlives_its_volume(self, pool, ids):
        vol, copy, snap = ids("vol-1"), ids("vol-2"), ids("snap-1")
        await pool.create_volume(vol, GIB)
        await pool.write_volume(vol, 0, block("old"))
        await pool.create_snapshot(snap, vol)
        await pool.write_volume(vol, 0, block("new"))
        assert await self.look(pool, vol) == block("new")
        await pool.delete_volume(vol)
        assert await pool.find_volume(vol) is None
        assert await pool.has_snapshot(snap, vol)
        assert await pool.read_snapshot(snap, vol, 0, BLOCK) == block("old")
        await pool.create_volume(copy, 2 * GIB, snap, vol)
        await pool.delete_snapshot(snap, vol)
        assert not await pool.has_snapshot(snap, vol)
        assert await self.look(pool, copy) == block("old")
        assert await self.look(pool, copy, 2 * GIB - BLOCK) == bytes(BLOCK)

    async def test_clones_outlive_their_image(self, pool, ids, image):
        vol, late = ids("vol-1"), ids("vol-2")
        await pool.create_volume(vol, IMAGE_BYTES, image)
        await pool.remove_image(image)
        assert await self.look(pool, vol) == BOOT
        with pytest.raises(PoolError, match=f"there is no {image}"):
            await pool.create_volume(late, IMAGE_BYTES, image)
        assert await pool.find_volume(late) is None

    async def test_an_image_comes_back_after_it_was_removed(self, pool, ids, image, image_disk):
        first, again = ids("vol-1"), ids("vol-2")
        await pool.create_volume(first, IMAGE_BYTES, image)
        await pool.remove_image(image)
        await pool.add_image(image, *image_disk, IMAGE_BYTES)
        await pool.create_volume(again, IMAGE_BYTES, image)
        assert await self.look(pool, first) == await self.look(pool, again) == BOOT

    async def test_everything_may_be_done_again(self, pool, ids, image, image_disk):
        vol, copy, snap = ids("vol-1"), ids("vol-2"), ids("snap-1")
        for _ in range(2):
            await pool.add_image(image, *image_disk, IMAGE_BYTES)
            await pool.create_volume(vol, IMAGE_BYTES, image)
            await pool.create_snapshot(snap, vol)
            await pool.create_volume(copy, IMAGE_BYTES, snap, vol)
            await pool.resize_volume(vol, 2 * IMAGE_BYTES)
            await pool.open_volume(vol)
            await pool.release_volume(vol)
            await pool.compact(vol)
        assert await self.look(pool, vol) == await self.look(pool, copy) == BOOT
        for _ in range(2):
            await pool.delete_volume(vol)
            await pool.delete_snapshot(snap, vol)
            await pool.delete_volume(copy)
            await pool.remove_image(image)
        await pool.release_volume(vol)

    async def test_a_volume_grows_and_never_shrinks(self, pool, ids, image):
        vol = ids("vol-1")
        await pool.create_volume(vol, IMAGE_BYTES, image)
        await pool.write_volume(vol, IMAGE_BYTES - BLOCK, block("end"))
        await pool.resize_volume(vol, 2 * IMAGE_BYTES)
        with pytest.raises(PoolError, match="cannot shrink"):
            await pool.resize_volume(vol, IMAGE_BYTES)
        assert (await pool.find_volume(vol)).size_bytes == 2 * IMAGE_BYTES
        assert await self.look(pool, vol) == BOOT
        assert await self.look(pool, vol, IMAGE_BYTES - BLOCK) == block("end")
        assert await self.look(pool, vol, IMAGE_BYTES) == bytes(BLOCK)

    async def test_what_changed_between_snapshots_is_known(self, pool, ids, image):
        vol, first, second = ids("vol-1"), ids("snap-1"), ids("snap-2")
        await pool.create_volume(vol, IMAGE_BYTES, image)
        await pool.write_volume(vol, 16 * MIB, block("one"))
        await pool.create_snapshot(first, vol)
        await pool.write_volume(vol, 32 * MIB, block("two"))
        await pool.write_volume(vol, 33 * MIB, block("three"))
        await pool.create_snapshot(second, vol)
        full = covered(await pool.snapshot_extents(second, vol))
        assert {0, 16 * MIB, 32 * MIB, 33 * MIB} <= full
        assert 48 * MIB not in full
        changed = covered(await pool.snapshot_extents(second, vol, first))
        assert {32 * MIB, 33 * MIB} <= changed
        assert not {0, 16 * MIB, 48 * MIB} & changed
        part = covered(await pool.snapshot_extents(second, vol, "", 8 * MIB, 16 * MIB))
        assert 16 * MIB in part
        assert not {0, 32 * MIB} & part
        assert await pool.read_snapshot(first, vol, 32 * MIB, BLOCK) == bytes(BLOCK)
        assert await pool.read_snapshot(second, vol, 32 * MIB, BLOCK) == block("two")

    async def test_a_volume_that_nobody_has_is_read(self, pool, ids, image):
        vol = ids("vol-1")
        await pool.create_volume(vol, IMAGE_BYTES, image)
        await pool.write_volume(vol, 16 * MIB, block("one"))
        full = covered(await pool.volume_extents(vol))
        assert {0, 16 * MIB} <= full
        assert 48 * MIB not in full
        assert await pool.volume_extents(vol, 48 * MIB, 8 * MIB) == []
        assert await pool.read_volume(vol, 16 * MIB, BLOCK) == block("one")
        assert await pool.read_volume(vol, 0, BLOCK) == BOOT
        assert await pool.read_volume(vol, 48 * MIB, BLOCK) == bytes(BLOCK)
        with pytest.raises(PoolError, match="or are too many"):
            await pool.read_volume(vol, IMAGE_BYTES - 512, 1024)
        for look in (pool.volume_extents(ids("vol-9")), pool.read_volume(ids("vol-9"), 0, 512)):
            with pytest.raises(PoolError, match="there is no"):
                await look

    async def test_blocks_have_bounds(self, pool, ids):
        vol, snap = ids("vol-1"), ids("snap-1")
        await pool.create_volume(vol, 8 * MIB)
        await pool.create_snapshot(snap, vol)
        for offset, length in ((8 * MIB, 512), (8 * MIB - 512, 1024), (0, BLOCKS_BYTES_MAX + 512), (0, 0)):
            with pytest.raises(PoolError, match="or are too many"):
                await pool.read_snapshot(snap, vol, offset, length)
        with pytest.raises(PoolError, match="are not within its"):
            await pool.write_volume(vol, 8 * MIB, bytes(512))
        with pytest.raises(PoolError):
            await pool.read_snapshot(ids("snap-9"), vol, 0, 512)
        with pytest.raises(PoolError, match="there is no"):
            await pool.write_volume(ids("vol-9"), 0, bytes(512))

    @pytest.mark.parametrize(
        ("operation", "message"),
        [
            (lambda p, i: p.create_volume("vol-../x", GIB), "is no id"),
            (lambda p, i: p.find_volume("ami-1"), "is no id"),
            (lambda p, i: p.create_volume(i("vol-9"), 0), "no size of a disk"),
            (lambda p, i: p.create_volume(i("vol-9"), 1000), "no size of a disk"),
            (lambda p, i: p.create_volume(i("vol-9"), GIB, i("ami-9")), "there is no ami-9"),
            (lambda p, i: p.create_volume(i("vol-9"), GIB, i("snap-9"), i("vol-1")), "there is no snap-9"),
            (lambda p, i: p.create_volume(i("vol-1"), GIB, i("ami-9")), "exists already, made from nothing"),
            (lambda p, i: p.create_volume(i("vol-9"), MIB, i("snap-1"), i("vol-1")), "are less than the"),
            (lambda p, i: p.resize_volume(i("vol-9"), GIB), "there is no volume vol-9"),
            (lambda p, i: p.create_snapshot(i("snap-9"), i("vol-9")), "there is no volume vol-9"),
            (lambda p, i: p.open_volume(i("vol-9")), "there is no volume vol-9"),
            (lambda p, i: p.add_image(i("ami-9"), "/dev/null", "vmdk", GIB), "neither raw nor qcow2"),
            (lambda p, i: p.add_image(i("ami-9"), "/does/not/exist", "raw", 1000), "no size of a disk"),
        ],
    )
    async def test_refusals_leave_nothing_behind(
        self, pool: Pool, ids: Ids, operation: Callable[[Pool, Ids], object], message: str
    ):
        await pool.create_volume(ids("vol-1"), GIB)
        await pool.create_snapshot(ids("snap-1"), ids("vol-1"))
        with pytest.raises(PoolError, match=message):
            await operation(pool, ids)
        assert await pool.find_volume(ids("vol-9")) is None
        assert not await pool.has_snapshot(ids("snap-9"), ids("vol-9"))

    async def test_many_at_once(self, pool, ids, image):
        names = [ids(f"vol-{number}x") for number in range(8)]
        await asyncio.gather(*(pool.create_volume(name, IMAGE_BYTES, image) for name in names))
        await asyncio.gather(
            *(pool.write_volume(name, 0, block(str(n))) for n, name in enumerate(names)),
        )
        for number, name in enumerate(names):
            assert await self.look(pool, name) == block(str(number))
        await asyncio.gather(*map(pool.delete_volume, names))
        assert await asyncio.gather(*map(pool.find_volume, names)) == [None] * len(names)

    async def test_two_of_the_same_at_once_are_one(self, pool, ids, image_disk):
        image, vol, snap = ids("ami-1"), ids("vol-1"), ids("snap-1")
        await asyncio.gather(*(pool.add_image(image, *image_disk, IMAGE_BYTES) for _ in range(2)))
        await asyncio.gather(*(pool.create_volume(vol, IMAGE_BYTES, image) for _ in range(3)))
        await asyncio.gather(*(pool.create_snapshot(snap, vol) for _ in range(3)))
        assert await pool.read_snapshot(snap, vol, 0, BLOCK) == BOOT
        await asyncio.gather(*(pool.delete_snapshot(snap, vol) for _ in range(2)))
        await asyncio.gather(*(pool.delete_volume(vol) for _ in range(2)))
        await asyncio.gather(*(pool.remove_image(image) for _ in range(2)))


def covered(extents: list[tuple[int, int]]) -> set[int]:
    """The blocks, by where they begin, that lie in the extents; which are in order, and apart."""
    assert all(sum(one) < two[0] for one, two in pairwise(extents)), extents
    return {at for offset, length in extents for at in range(offset - offset % BLOCK, offset + length, BLOCK)}
