"""Images on a host: fetched from the manager when they are needed, unless they were built there.

A spec names files of images by their paths on the machine where they were built. A disk is only needed until
the pool has it; kernels and initial RAM disks stay, since every start needs them.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec.structs import replace

from gureum.env import Env
from gureum.hypervisors.base import MachineConfig
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.images.fetched import Fetched
from gureum.san.local import LocalPool
from gureum.san.records import ImageRecord


class FetchingPool(LocalPool):
    """A local pool that fetches the disks of images it does not have yet."""

    def __init__(self, env: Env, root: Path, images: Fetched) -> None:
        super().__init__(env, root)
        self._images = images

    async def add_image(self, id: str, disk: str, format: str, size_bytes: int) -> None:
        await self._catalogue.load()
        if self._catalogue.get(id, ImageRecord) is not None:
            return
        async with self._images.borrowed(disk) as file:
            await super().add_image(id, str(file), format, size_bytes)


class FetchingHypervisor(QemuHypervisor):
    """Boots machines with kernels that it fetches."""

    def __init__(
        self, env: Env, run: Path, accelerator: str, images: Fetched, shared_disks: bool = False
    ) -> None:
        super().__init__(env, run, accelerator, shared_disks=shared_disks)
        self._images = images

    async def start(self, config: MachineConfig) -> None:
        try:
            kernel, initrd = await self._local(config.kernel), await self._local(config.initrd)
        except BaseException:
            for nic in config.nics:
                os.close(nic.fd)
            raise
        await super().start(replace(config, kernel=kernel, initrd=initrd))

    async def _local(self, path: str) -> str:
        return str(await self._images.kept(path)) if path else ""
