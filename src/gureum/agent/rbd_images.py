"""A pool of a storage cluster on a host of another machine than the manager's."""

from __future__ import annotations

from gureum.env import Env
from gureum.images.fetched import Fetched
from gureum.san.ceph.pool import RbdPool
from gureum.san.settings import SanSettings


class FetchingRbdPool(RbdPool):
    """Fetches the disks of images that the pool does not have yet."""

    def __init__(self, env: Env, settings: SanSettings, cloud: str, host: str, images: Fetched) -> None:
        super().__init__(env, settings, cloud, host)
        self._images = images

    async def add_image(self, id: str, disk: str, format: str, size_bytes: int) -> None:
        if await self._client.has_image(id):
            return
        async with self._images.borrowed(disk) as file:
            await super().add_image(id, str(file), format, size_bytes)
