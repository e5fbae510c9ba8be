"""A shared pool in memory, with the manners of RBD, for the simulation and for tests.

``FakeSan`` is the cluster: it keeps everything while agents come and go, knows who holds what, and takes
orders about what goes wrong. ``FakeSharedPool`` is what one agent process holds. What was asked of the
cluster comes to pass also if who asked does not run any more: at once if it died, late if it was held.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TypeVar

from gureum.env import Env
from gureum.errors import PoolError, PoolFull, PoolUnavailable
from gureum.san import fake_parts
from gureum.san.base import Inventory, LiveDisk, RbdDisk, VolumeInfo
from gureum.san.blocks import merged, require_inside
from gureum.san.fake_parts import BLOCK_BYTES, Blocks, Failing
from gureum.san.records import require_format, require_id, require_size

STEP_SECONDS = (0.001, 0.05)
SLOW_SECONDS = (0.5, 30.0)
QUICK = ("open_volume", "receive_volume", "share_volume", "note_opened", "release_volume", "evict")
"""What is never slow: a hold that comes to pass long after its agent died would stay."""
AWAY_SECONDS = 5.0
"""After which a cluster that does not answer is given up for now."""
PREFIX = "rbd:"

T = TypeVar("T")


class FakeImage:
    """``husk``: deleted, but for what its snapshots need. ``holder``: the host that may open it, None for
    any.
    """

    def __init__(self, size_bytes: int, source: str, blocks: Blocks) -> None:
        self.size_bytes = size_bytes
        self.source = source
        self.blocks = blocks
        self.snapshots: dict[str, Blocks] = {}
        self.sizes: dict[str, int] = {}
        """In bytes, of the snapshots."""
        self.husk = False
        self.holder: str | None = None
        self.sharers: dict[str, int] = {}
        """Hosts that may open it besides each other, and what ``holds`` was then."""
        self.receivers: dict[str, int] = {}
        """Hosts that may open it besides the holder, to have it after it; and what ``holds`` was then."""
        self.taken = 0
        """What ``holds`` was when the holder became it."""
        self.holds = 0
        """Counts how often it was taken: a release of an earlier time has no effect."""
        self.evicted: set[str] = set()
        """Hosts whose writes are refused."""
        self.revisions: dict[str, int] = {}
        """By host, by the word of which spec it has opened it last."""
        self.partial = False


class FakeSan(Failing):
    """The cluster, of ``size_bytes``. Images to bring in are named by their disk's path in ``disks``.

    Steps are those of Pool.
    """

    def __init__(self, name: str = "san", size_bytes: int = 1 << 40) -> None:
        super().__init__()
        self.name = name
        self.size_bytes = size_bytes
        self.disks: dict[str, Blocks] = {}
        self.images: dict[str, Blocks] = {}
        self.rbd: dict[str, FakeImage] = {}
        self.made: dict[str, str] = {}
        """By volume that ever was, what it was made from."""
        self.slow_chance = 0.0
        """That what is asked takes SLOW_SECONDS."""
        self.down = False
        self.cut_off: set[str] = set()
        """Hosts that do not reach it."""
        self._delays: dict[str, float] = {}

    # What can be told to happen.

    def delay_next(self, step: str, seconds: float) -> None:
        """Let the next step of this name take so long."""
        self._delays[step] = seconds

    def reaches(self, host: str) -> bool:
        return not self.down and host not in self.cut_off

    def write(self, path: str, block: int, data: bytes, host: str) -> None:
        """What a guest on ``host`` does. AssertionError if the volume is not the host's."""
        image = self.rbd[self.id(path)]
        assert self.reaches(host), f"{host} does not reach {path}"
        assert host not in image.evicted, f"{host} was fenced off {path}"
        holders = {image.holder, *image.sharers, *image.receivers}
        assert host in holders, f"{path} is written on {host}, and held by {holders}"
        if block not in image.blocks and self.free_bytes() < BLOCK_BYTES:
            raise PoolFull("the fake SAN is full")
        image.blocks[block] = data

    # What there is: for checking.

    def id(self, path: str) -> str:
        assert path.startswith(PREFIX), path
        return path.rpartition("/")[2]

    def image_of(self, path: str) -> FakeImage:
        return self.rbd[self.id(path)]

    def contents(self, path: str) -> Blocks:
        return dict(self.rbd[self.id(path)].blocks)

    def contents_of(self, id: str) -> Blocks:
        if id.startswith("snap-"):
            return dict(self.rbd[self.volume_of(id)].snapshots[id])
        return dict(self.rbd[id].blocks)

    def source_of(self, volume: str) -> str:
        return self.made[volume]

    def volume_of(self, snapshot: str) -> str:
        return next(id for id, image in self.rbd.items() if snapshot in image.snapshots)

    def volumes(self) -> frozenset[str]:
        return frozenset(id for id, image in self.rbd.items() if not image.husk)

    def snapshots(self) -> frozenset[str]:
        return frozenset(id for image in self.rbd.values() for id in image.snapshots)

    def leaks(self) -> list[str]:
        """Husks that no snapshot needs."""
        return [f"the husk of {id}" for id, image in self.rbd.items() if image.husk and not image.snapshots]

    def used_bytes(self) -> int:
        blocks = sum(
            len(image.blocks) + sum(map(len, image.snapshots.values())) for image in self.rbd.values()
        )
        return (blocks + len(self.rbd)) * BLOCK_BYTES

    def free_bytes(self) -> int:
        return max(0, self.size_bytes - self.used_bytes())

    # For FakeSharedPool.

    def take_delay(self, step: str) -> float:
        return self._delays.pop(step, 0.0)

    def image(self, id: str) -> FakeImage:
        image = self.rbd.get(id)
        if image is None or image.husk:
            raise PoolError(f"there is no volume {id}")
        return image

    def require(self, need_bytes: int) -> None:
        if self.free_bytes() < need_bytes:
            raise PoolFull(f"the pool {self.name} has no room for {need_bytes} bytes")

    def drop_empty(self, id: str) -> None:
        image = self.rbd.get(id)
        if image is not None and image.husk and not image.snapshots:
            del self.rbd[id]


class FakeSharedPool:
    """A Pool of one ``host`` over a FakeSan."""

    def __init__(self, env: Env, san: FakeSan, host: str) -> None:
        self._env = env
        self._san = san
        self._host = host

    @property
    def shared(self) -> bool:
        return True

    async def inventory(self) -> Inventory:
        return await self._do("inventory", self._inventory)

    def _inventory(self) -> Inventory:
        return Inventory(
            volumes={},
            snapshots=frozenset(),
            size_bytes=self._san.size_bytes,
            free_bytes=self._san.free_bytes(),
        )

    async def find_volume(self, id: str) -> VolumeInfo | None:
        require_id(id, "vol")

        def find() -> VolumeInfo | None:
            if id not in self._san.volumes():
                return None
            image = self._san.rbd[id]
            return VolumeInfo(id=id, size_bytes=image.size_bytes, partial=image.partial)

        return await self._do("find_volume", find)

    async def has_snapshot(self, id: str, volume: str) -> bool:
        def has() -> bool:
            return volume in self._san.rbd and id in self._san.rbd[volume].snapshots

        return await self._do("has_snapshot", has)

    async def create_volume(
        self, id: str, size_bytes: int, source: str = "", source_volume: str = "", partial: bool = False
    ) -> None:
        require_id(id, "vol")
        require_size(id, size_bytes)

        def create() -> None:
            san = self._san
            if id in san.volumes():
                if san.made[id] != source:
                    raise PoolError(f"{id} exists already, made from {san.made[id] or 'nothing'}")
                return
            origin: FakeImage | None = None
            if source.startswith("ami-"):
                blocks = san.images.get(source)
            elif source:
                origin = san.rbd.get(source_volume)
                blocks = origin.snapshots.get(source) if origin is not None else None
            else:
                blocks = {}
            if blocks is None:
                raise PoolError(f"{id}: there is no {source} to make it from")
            if origin is not None and size_bytes < origin.sizes[source]:
                raise PoolError(
                    f"{id}: {size_bytes} bytes are less than the {origin.sizes[source]} of {source}"
                )
            again = id in san.made and san.made[id] != source
            assert partial or not again, f"{id} is made once more, of something else"
            if id in san.rbd:
                raise PoolError(f"{id} was deleted, and only its snapshots are left")
            san.require((1 + len(blocks)) * BLOCK_BYTES)
            san.rbd[id] = FakeImage(size_bytes, source, dict(blocks))
            san.rbd[id].partial = partial
            san.made[id] = source

        await self._do("create_volume", create)

    async def mark_partial(self, id: str, partial: bool) -> None:
        def mark() -> None:
            image = self._san.image(id)
            if image.holder not in (None, self._host):
                raise PoolUnavailable(f"{id} is held by host {image.holder}")
            image.partial = partial

        await self._do("mark_partial", mark)

    async def resize_volume(self, id: str, size_bytes: int, live: LiveDisk | None = None) -> None:
        def resize() -> None:
            image = self._san.image(id)
            if image.size_bytes > size_bytes:
                raise PoolError(f"{id} has {image.size_bytes} bytes, and cannot shrink to {size_bytes}")
            image.size_bytes = size_bytes

        await self._do("resize_volume", resize)
        if live is not None:
            await live.resize(size_bytes)

    async def delete_volume(self, id: str) -> None:
        def delete() -> None:
            image = self._san.rbd.get(id)
            if image is None:
                return
            if not image.husk:
                _require_alone(id, image, self._host)
            image.husk, image.blocks, image.holder = True, {}, None
            self._san.drop_empty(id)

        await self._do("delete_volume", delete)

    async def create_snapshot(self, id: str, volume: str, live: LiveDisk | None = None) -> None:
        def create() -> None:
            image = self._san.image(volume)
            self._san.require(BLOCK_BYTES)
            if id not in image.snapshots:
                image.snapshots[id], image.sizes[id] = dict(image.blocks), image.size_bytes

        frozen = live is not None and await live.freeze()
        try:
            await self._do("create_snapshot", create)
        finally:
            if frozen and live is not None:
                await live.thaw()

    async def delete_snapshot(self, id: str, volume: str) -> None:
        def delete() -> None:
            image = self._san.rbd.get(volume)
            if image is not None:
                image.snapshots.pop(id, None)
                self._san.drop_empty(volume)

        await self._do("delete_snapshot", delete)

    async def add_image(self, id: str, disk: str, format: str, size_bytes: int) -> None:
        require_format(id, format)
        require_size(id, size_bytes)

        def add() -> None:
            self._san.images.setdefault(id, dict(self._san.disks.get(disk, {})))

        await self._do("add_image", add)

    async def remove_image(self, id: str) -> None:
        await self._do("remove_image", lambda: self._san.images.pop(id, None))

    async def check(self, repair: bool = False) -> list[str]:
        return self._san.leaks()

    async def open_volume(self, id: str, revision: int = 0) -> RbdDisk:
        def hold() -> None:
            image = self._san.image(id)
            _require_alone(id, image, self._host)
            image.holds += 1
            image.taken = image.holds
            image.holder, image.sharers = self._host, {}
            image.receivers.pop(self._host, None)
            image.evicted.discard(self._host)
            image.revisions[self._host] = revision

        await self._do("open_volume", hold)
        return self._disk(id)

    async def receive_volume(self, id: str, revision: int = 0) -> RbdDisk:
        def receive() -> None:
            image = self._san.image(id)
            if others := {*image.sharers, *image.receivers} - {self._host}:
                raise PoolUnavailable(f"{id} is held by host {', '.join(sorted(others))}")
            image.evicted.discard(self._host)
            image.holds += 1
            image.receivers[self._host] = image.holds
            image.revisions[self._host] = revision

        await self._do("receive_volume", receive)
        return self._disk(id)

    def _disk(self, id: str) -> RbdDisk:
        return RbdDisk(
            pool=self._san.name, image=id, conf="/fake/ceph.conf", user="fake", keyring="/fake/keyring"
        )

    async def share_volume(self, id: str, revision: int = 0) -> RbdDisk:
        def share() -> None:
            image = self._san.image(id)
            if image.holder not in (None, self._host):
                raise PoolUnavailable(f"{id} is held by host {image.holder}")
            image.holder = None
            image.evicted.discard(self._host)
            image.holds += 1
            image.sharers[self._host] = image.holds
            image.revisions[self._host] = revision

        await self._do("share_volume", share)
        return self._disk(id)

    async def note_opened(self, id: str) -> None:
        await self._do("note_opened", lambda: None)

    async def release_volume(self, id: str) -> None:
        before = self._san.rbd.get(id)
        taken = before.taken if before is not None else 0
        shared = before.sharers.get(self._host) if before is not None else None
        received = before.receivers.get(self._host) if before is not None else None

        def release() -> None:
            image = self._san.rbd.get(id)
            if image is None:
                return
            if image.holder == self._host and image.taken == taken:
                image.holder = None
            if image.sharers.get(self._host) == shared:
                image.sharers.pop(self._host, None)
            if image.receivers.get(self._host) == received:
                image.receivers.pop(self._host, None)

        await self._do("release_volume", release)

    async def evict(self, id: str, host: str, revision: int | None = None) -> None:
        def evict() -> None:
            image = self._san.rbd.get(id)
            if image is None or (revision is not None and image.revisions.get(host, 0) > revision):
                return
            if host in (image.holder, *image.sharers, *image.receivers):
                image.evicted.add(host)
                image.holder = None if image.holder == host else image.holder
                image.sharers.pop(host, None)
                image.receivers.pop(host, None)

        await self._do("evict", evict)

    async def compact(self, id: str) -> bool:
        return False

    async def snapshot_extents(
        self, id: str, volume: str, since: str = "", offset: int = 0, length: int = 0
    ) -> list[tuple[int, int]]:
        def extents() -> list[tuple[int, int]]:
            image = self._taken(id, volume)
            blocks, before = image.snapshots[id], image.snapshots.get(since, {})
            differing = (at for at in blocks.keys() | before.keys() if blocks.get(at) != before.get(at))
            end = offset + length if length else image.size_bytes
            return merged([(at * BLOCK_BYTES, BLOCK_BYTES) for at in differing], offset, end)

        return await self._do("snapshot_extents", extents)

    async def read_snapshot(self, id: str, volume: str, offset: int, length: int) -> bytes:
        def read() -> bytes:
            image = self._taken(id, volume)
            require_inside(id, image.sizes[id], offset, length)
            return fake_parts.read(image.snapshots[id], offset, length)

        return await self._do("read_snapshot", read)

    async def volume_extents(self, id: str, offset: int = 0, length: int = 0) -> list[tuple[int, int]]:
        def extents() -> list[tuple[int, int]]:
            image = self._san.image(id)
            end = offset + length if length else image.size_bytes
            return merged([(at * BLOCK_BYTES, BLOCK_BYTES) for at in image.blocks], offset, end)

        return await self._do("volume_extents", extents)

    async def read_volume(self, id: str, offset: int, length: int) -> bytes:
        def read() -> bytes:
            image = self._san.image(id)
            require_inside(id, image.size_bytes, offset, length)
            return fake_parts.read(image.blocks, offset, length)

        return await self._do("read_volume", read)

    async def write_volume(self, id: str, offset: int, data: bytes) -> None:
        def write() -> None:
            image = self._san.image(id)
            require_inside(id, image.size_bytes, offset, len(data))
            image.blocks.update(fake_parts.changed(image.blocks, offset, data))

        await self._do("write_volume", write)

    def _taken(self, id: str, volume: str) -> FakeImage:
        image = self._san.rbd.get(volume)
        if image is None or id not in image.snapshots:
            raise PoolError(f"there is no snapshot {id}")
        return image

    async def close(self) -> None:
        pass

    async def _do(self, step: str, act: Callable[[], T]) -> T:
        """Let the cluster do it after a moment, whatever becomes of who asked."""
        if not self._san.reaches(self._host):
            await asyncio.sleep(AWAY_SECONDS)
        if not self._san.reaches(self._host):
            raise PoolUnavailable(f"the pool {self._san.name} can't be reached from {self._host}")
        self._env.crashpoint("fake.san.asked")
        self._san.take_failure(step)
        rng = self._env.random
        slow = step not in QUICK and rng.random() < self._san.slow_chance
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def happen() -> None:
            if slow and done.cancelled():
                return  # what takes long ends with who asked for it
            try:
                result = act()
            except PoolError as error:
                if not done.done():
                    done.set_exception(error)
            else:
                if not done.done():
                    done.set_result(result)

        seconds = rng.uniform(*(SLOW_SECONDS if slow else STEP_SECONDS)) + self._san.take_delay(step)
        asyncio.get_running_loop().call_later(seconds, happen, context=contextvars.Context())
        return await done


def _require_alone(id: str, image: FakeImage, host: str) -> None:
    if others := {image.holder, *image.sharers, *image.receivers} - {None, host}:
        raise PoolUnavailable(f"{id} is held by host {', '.join(sorted(filter(None, others)))}")
