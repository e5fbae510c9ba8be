"""The pool that a storage cluster of Ceph's is: volumes are RBD images, snapshots are snapshots of them.

What the worker does in one call is complete or not there: an image is made under a name of its own and
renamed when it is whole, and deletion begins with taking the name away. So nothing is recorded here, and any
agent of the cloud can go on where another stopped.
"""

from __future__ import annotations

import asyncio
import logging

from gureum.env import Env
from gureum.errors import PoolUnavailable
from gureum.san.base import THAW_SECONDS, DiskSource, Inventory, LiveDisk, RbdDisk, VolumeInfo
from gureum.san.ceph import audit
from gureum.san.ceph import client as workers
from gureum.san.ceph.client import Client
from gureum.san.ceph.imports import Importer
from gureum.san.ceph.process import Worker
from gureum.san.ceph.upkeep import Making, Upkeep
from gureum.san.leases import FenceState
from gureum.san.live import answered
from gureum.san.locks import KeyedLocks
from gureum.san.records import require_format, require_id, require_size
from gureum.san.settings import SanSettings

log = logging.getLogger(__name__)

FROZEN_SECONDS = THAW_SECONDS - 1.0
"""How long a guest waits for its snapshot: one that takes longer is whole too, but not of a quiet disk."""

DEPTH_MAX = 8
"""A volume over more parents than that gets their data, and none of them, in the background."""


class RbdPool:
    """``cloud`` and ``host`` name who holds a volume; no other agent has the same."""

    def __init__(self, env: Env, settings: SanSettings, cloud: str, host: str) -> None:
        self._env = env
        self._settings = settings
        self._cloud = cloud
        self._client = Client(Worker(workers.command(settings, cloud, host)))
        self._making = Making()
        self._importer = Importer(env, settings, cloud, host, self._making)
        self._upkeep = Upkeep(settings, cloud, host, self._making)
        self._locks = KeyedLocks()

    @property
    def shared(self) -> bool:
        return True

    async def close(self) -> None:
        await self._upkeep.close()
        await self._client.close()

    # --- what there is

    async def inventory(self) -> Inventory:
        status = await self._client.status()
        self._upkeep.begin()
        return Inventory(
            volumes={},
            snapshots=frozenset(),
            size_bytes=status.size,
            free_bytes=status.free,
            full=status.message if status.full else "",
        )

    async def find_volume(self, id: str) -> VolumeInfo | None:
        require_id(id, "vol")
        found = await self._client.find_volume(id)
        if found is None:
            return None
        return VolumeInfo(id=id, size_bytes=found.size, partial=found.partial)

    async def has_snapshot(self, id: str, volume: str) -> bool:
        require_id(id, "snap")
        require_id(volume, "vol")
        return await self._client.has_snapshot(id, volume)

    async def check(self, repair: bool = False) -> list[str]:
        return await self._upkeep.check(repair)

    async def look(self, after: str, count: int) -> audit.Listing:
        """What is in the pool, at most ``count`` images with names above ``after``."""
        return await audit.look(self._client, after, count, self._making.tokens)

    async def mend(self, finding: audit.Finding) -> None:
        """Repair what was found. It may be done again."""
        async with self._locks.hold(finding.volume or finding.id):
            await audit.repair(self._client, finding, self._making.tokens)
        self._upkeep.kick()

    # --- volumes

    async def create_volume(
        self, id: str, size_bytes: int, source: str = "", source_volume: str = "", partial: bool = False
    ) -> None:
        require_id(id, "vol")
        require_size(id, size_bytes)
        if source:
            require_id(source, "snap", "ami")
        if source.startswith("snap-"):
            require_id(source_volume, "vol")
        async with self._locks.hold(id):
            with self._making.token(self._env) as token:
                await self._client.create_volume(id, size_bytes, source, source_volume, token, partial)

    async def mark_partial(self, id: str, partial: bool) -> None:
        require_id(id, "vol")
        async with self._locks.hold(id):
            await self._client.mark_partial(id, partial)

    async def resize_volume(self, id: str, size_bytes: int, live: LiveDisk | None = None) -> None:
        require_id(id, "vol")
        require_size(id, size_bytes)
        async with self._locks.hold(id):
            await self._client.resize_volume(id, size_bytes)
            if live is not None:
                await answered(id, live.resize(size_bytes), silent=PoolUnavailable)

    async def delete_volume(self, id: str) -> None:
        require_id(id, "vol")
        async with self._locks.hold(id):
            if killed := await self._upkeep.leave(id):
                await self._client.fence(killed)
            await self._client.delete_volume(id)
        self._upkeep.kick()

    async def open_volume(self, id: str, revision: int = 0) -> DiskSource:
        require_id(id, "vol")
        async with self._locks.hold(id):
            if await self._client.open_volume(id, revision) > DEPTH_MAX:
                self._upkeep.shorten(id)
        return self._disk(id)

    def _disk(self, id: str) -> RbdDisk:
        return RbdDisk(
            pool=self._settings.pool,
            image=id,
            conf=str(self._settings.conf or ""),
            user=self._settings.user,
            keyring=str(self._settings.keyring or ""),
        )

    async def share_volume(self, id: str, revision: int = 0) -> DiskSource:
        require_id(id, "vol")
        async with self._locks.hold(id):
            await self._client.share_volume(id, revision)
        return self._disk(id)

    async def receive_volume(self, id: str, revision: int = 0) -> DiskSource:
        require_id(id, "vol")
        async with self._locks.hold(id):
            await self._client.receive_volume(id, revision)
        return self._disk(id)

    async def note_opened(self, id: str) -> None:
        require_id(id, "vol")
        async with self._locks.hold(id):
            await self._client.note_opened(id)

    async def release_volume(self, id: str) -> None:
        require_id(id, "vol")
        async with self._locks.hold(id):
            await self._client.release_volume(id)

    async def evict(self, id: str, host: str, revision: int | None = None) -> None:
        require_id(id, "vol")
        async with self._locks.hold(id):
            await self._client.evict_volume(id, f"{self._cloud}/{host}", revision)

    async def compact(self, id: str) -> bool:
        """What is above many parents is copied in the background, also while a machine has it open."""
        require_id(id, "vol")
        found = await self._client.find_volume(id)
        if found is not None and found.depth > DEPTH_MAX:
            self._upkeep.shorten(id)
        return False

    # --- hosts

    async def mark(self, host: str, number: int) -> None:
        await self._client.mark_host(host, number)

    async def fenced(self, host: str, number: int) -> FenceState:
        return await self._client.fence_state(host, number)

    async def lift(self, host: str, number: int) -> None:
        await self._client.lift_fences(host, number)

    # --- snapshots

    async def create_snapshot(self, id: str, volume: str, live: LiveDisk | None = None) -> None:
        require_id(id, "snap")
        require_id(volume, "vol")
        async with self._locks.hold(volume):
            if live is None:
                await self._client.create_snapshot(id, volume)
            elif not await self._client.has_snapshot(id, volume):
                await self._snapshot_live(id, volume, live)

    async def _snapshot_live(self, id: str, volume: str, live: LiveDisk) -> None:
        """Without a guest that can be asked, or one that takes too long, it is as after a power cut."""
        if not await answered(volume, live.freeze(), silent=PoolUnavailable):
            await self._client.create_snapshot(id, volume)
            return
        taking = asyncio.ensure_future(self._client.create_snapshot(id, volume))
        try:
            done, _ = await asyncio.wait((taking,), timeout=FROZEN_SECONDS)
            if not done:
                log.warning("%s: %s is thawed before the snapshot is taken", id, volume)
            await answered(volume, live.thaw(), silent=PoolUnavailable)
            await taking
        finally:
            taking.cancel()

    async def delete_snapshot(self, id: str, volume: str) -> None:
        require_id(id, "snap")
        require_id(volume, "vol")
        async with self._locks.hold(volume):
            await self._client.delete_snapshot(id, volume)
        self._upkeep.kick()

    # --- blocks

    async def snapshot_extents(
        self, id: str, volume: str, since: str = "", offset: int = 0, length: int = 0
    ) -> list[tuple[int, int]]:
        require_id(id, "snap")
        require_id(volume, "vol")
        if since:
            require_id(since, "snap")
        return await self._client.extents(id, volume, since, offset, length)

    async def read_snapshot(self, id: str, volume: str, offset: int, length: int) -> bytes:
        require_id(id, "snap")
        require_id(volume, "vol")
        return await self._client.read(id, volume, offset, length)

    async def volume_extents(self, id: str, offset: int = 0, length: int = 0) -> list[tuple[int, int]]:
        require_id(id, "vol")
        async with self._locks.hold(id):
            return await self._client.extents("", id, "", offset, length)

    async def read_volume(self, id: str, offset: int, length: int) -> bytes:
        require_id(id, "vol")
        async with self._locks.hold(id):
            return await self._client.read("", id, offset, length)

    async def write_volume(self, id: str, offset: int, data: bytes) -> None:
        require_id(id, "vol")
        async with self._locks.hold(id):
            await self._client.write(id, offset, data)

    # --- images

    async def add_image(self, id: str, disk: str, format: str, size_bytes: int) -> None:
        require_id(id, "ami")
        require_format(id, format)
        require_size(id, size_bytes)
        async with self._locks.hold(id):
            if not await self._client.has_image(id):
                try:
                    await self._importer.add(id, disk, format, size_bytes)
                finally:
                    # Another host may have brought it in meanwhile: what was made twice, or in part, goes.
                    self._upkeep.kick()

    async def remove_image(self, id: str) -> None:
        require_id(id, "ami")
        async with self._locks.hold(id):
            await self._client.remove_image(id)
        self._upkeep.kick()
