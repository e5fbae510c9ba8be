"""What one pool has for this host: its volumes, snapshots and images, as far as they are known here.

Of the host's own pool all is known, since nobody else changes it. A shared one is asked for each volume and
snapshot when a spec first names it; what leaves the spec is forgotten, and another host may change it then.
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from gureum.errors import PoolError
from gureum.hostspec import ImageSpec, PoolReport, VolumeSpec
from gureum.san.base import Pool, VolumeInfo
from gureum.san.luks import LUKS_HEADER_BYTES

log = logging.getLogger(__name__)

FULL_SHARE = 0.05
"""In a shared pool with less than this part of it free nothing new is made: guests need the rest."""


class PoolVolumes:
    """``name`` as in VolumeSpec. The caller sees to it that one thing is done to a volume at a time."""

    def __init__(self, name: str, pool: Pool) -> None:
        self.name = name
        self.pool = pool
        self.shared = pool.shared
        self.size_bytes = 0
        self.free_bytes = 0
        self.error = ""
        """Why a shared pool can't be used now."""
        self.untidy = False
        self.volumes: dict[str, VolumeInfo] = {}
        self.snapshots: set[str] = set()
        self.holds: dict[str, str] = {}
        """Volumes of a shared pool that this host may hold against the others, and for which machine."""
        self._asked: set[str] = set()
        self._images: dict[str, ImageSpec] = {}
        self.full = ""
        """Why nothing new can be made now, as far as is known."""

    async def open(self) -> None:
        """Remove what a killed agent left half-made, and learn what the pool has. Not of a shared one."""
        await self._tidy()
        inventory = await self.pool.inventory()
        self.volumes = dict(inventory.volumes)
        self.snapshots = set(inventory.snapshots)
        self.size_bytes, self.free_bytes = inventory.size_bytes, inventory.free_bytes

    async def refresh(self) -> None:
        """Remove what failed work left, and see how much room there is. Raises PoolError."""
        if self.untidy and not self.shared:
            await self._tidy()
        try:
            inventory = await self.pool.inventory()
        except PoolError as error:
            self.error = str(error)
            raise
        self.error = ""
        self.size_bytes, self.free_bytes = inventory.size_bytes, inventory.free_bytes
        self.full = inventory.full
        if not self.full and self.free_bytes < FULL_SHARE * self.size_bytes:
            free, size = self.free_bytes / 2**30, self.size_bytes / 2**30
            self.full = f"the pool {self.name} is nearly full: {free:.1f} of {size:.1f} GiB are free"

    async def _tidy(self) -> None:
        self.untidy = False
        try:
            for problem in await self.pool.check(repair=True):
                log.warning("pool: %s", problem)
        except PoolError:
            self.untidy = True
            raise

    @property
    def usable(self) -> bool:
        """Whether guests can write."""
        return not self.error if self.shared else self.free_bytes > 0

    def report(self) -> PoolReport:
        return PoolReport(
            name=self.name,
            size_bytes=self.size_bytes,
            free_bytes=self.free_bytes,
            full=bool(self.full),
            message=self.full,
            error=self.error,
        )

    # What a shared pool has

    def knows(self, id: str) -> bool:
        """Whether it is known if the pool has this volume or snapshot."""
        return not self.shared or id in self._asked

    async def ask_volume(self, spec: VolumeSpec) -> None:
        self.holds.setdefault(spec.id, spec.machine)
        info = await self.pool.find_volume(spec.id)
        if info is not None:
            self.volumes[spec.id] = info
        self._asked.add(spec.id)

    async def ask_snapshot(self, id: str, volume: str) -> None:
        if await self.pool.has_snapshot(id, volume):
            self.snapshots.add(id)
        self._asked.add(id)

    def forget(self, id: str) -> None:
        """Another host may change it from now on."""
        self._asked.discard(id)
        self.volumes.pop(id, None)
        self.snapshots.discard(id)

    # What is made

    async def create(self, spec: VolumeSpec) -> None:
        try:
            size = stored_bytes(spec)
            source = "" if spec.encrypts else spec.source
            await self.pool.create_volume(spec.id, size, source, spec.source_volume if source else "")
        except PoolError:
            # The image may have left the pool meanwhile.
            self._images.pop(spec.source, None)
            raise
        self.volumes[spec.id] = VolumeInfo(id=spec.id, size_bytes=size)

    async def create_copy(self, spec: VolumeSpec) -> None:
        """An empty one of the same size, which says that it is not complete."""
        await self.pool.create_volume(spec.id, stored_bytes(spec), partial=True)
        self.volumes[spec.id] = VolumeInfo(id=spec.id, size_bytes=stored_bytes(spec), partial=True)

    async def mark(self, id: str, partial: bool) -> None:
        """See ``Pool.mark_partial``."""
        info = self.volumes[id]
        if info.partial != partial:
            await self.pool.mark_partial(id, partial)
            self.volumes[id] = replace(info, partial=partial)

    async def delete(self, id: str) -> None:
        await self.pool.delete_volume(id)
        self.volumes.pop(id, None)

    async def add_image(self, image: ImageSpec) -> None:
        if self._images.get(image.id) != image:
            await self.pool.add_image(image.id, image.disk, image.format, image.size_bytes)
            self._images[image.id] = image

    async def remove_image(self, image: ImageSpec) -> None:
        if self._images.get(image.id) != image:
            await self.pool.remove_image(image.id)
            self._images[image.id] = image


def header_bytes(spec: VolumeSpec) -> int:
    """What an encrypted volume has before the machine's data."""
    return LUKS_HEADER_BYTES if spec.key else 0


def stored_bytes(spec: VolumeSpec) -> int:
    """The size that the volume has in the pool."""
    return spec.size_bytes + header_bytes(spec)


class Lost(PoolError):
    """The pool no longer has what it once had."""
