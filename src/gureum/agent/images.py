"""Images on a host of another machine than the manager's: fetched from there when they are needed.

A spec names files of images by their paths on the manager's machine. A disk is only needed until the pool has
it; kernels and initial RAM disks stay, since every start needs them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import PoolError, TransportError
from gureum.files import make_directories, sync
from gureum.hypervisors.base import MachineConfig
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.san.local import RESERVE_BYTES, LocalPool
from gureum.san.locks import KeyedLocks
from gureum.san.records import ImageRecord
from gureum.transport.files import receive_file
from gureum.transport.link import Link

log = logging.getLogger(__name__)

UNFINISHED = ".part"
ONCE = "-once"
KEPT_MAX = 64
"""Files that stay; beyond, those that were used longest ago go."""


class Fetched:
    """Files of images in ``directory``; ``connect`` opens a link to the manager for one file."""

    def __init__(self, directory: Path, connect: Callable[[], Awaitable[Link]]) -> None:
        self._directory = directory
        self._connect = connect
        self._locks = KeyedLocks()

    def open(self) -> None:
        """Remove what a killed agent had not finished."""
        make_directories(self._directory, 0o700)
        for file in self._directory.iterdir():
            if file.name.endswith((UNFINISHED, ONCE)):
                file.unlink()

    async def kept(self, path: str) -> Path:
        """The file here, whole; it stays. Raises PoolError."""
        file = self._file(path)
        async with self._locks.hold(path):
            if not file.exists():
                await self._fetch(path, file)
                # QEMU, which runs as another user, opens it again by its descriptor.
                file.chmod(0o644)
                self._make_room(file)
            os.utime(file)
            return file

    @contextlib.asynccontextmanager
    async def borrowed(self, path: str) -> AsyncIterator[Path]:
        """The file here, whole, for as long as the block lasts. Raises PoolError."""
        file = self._file(path, ONCE)
        async with self._locks.hold(path):
            try:
                await self._fetch(path, file)
                yield file
            finally:
                file.unlink(missing_ok=True)

    def _file(self, path: str, ending: str = "") -> Path:
        return self._directory / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}{ending}"

    async def _fetch(self, path: str, file: Path) -> None:
        part = file.with_name(f"{file.name}{UNFINISHED}")
        part.unlink(missing_ok=True)
        space = os.statvfs(self._directory)
        room = space.f_bavail * space.f_frsize - RESERVE_BYTES
        log.info("fetching %s", path)
        try:
            link = await self._connect()
            try:
                await receive_file(link, path, part, max(0, room))
            finally:
                await link.close()
            os.rename(part, file)
            sync(self._directory)
        except (TransportError, OSError) as error:
            raise PoolError(f"an image's file could not be fetched: {error}") from error

    def _make_room(self, but: Path) -> None:
        others = [
            file
            for file in self._directory.iterdir()
            if file != but and not file.name.endswith((UNFINISHED, ONCE))
        ]
        others.sort(key=lambda file: file.stat().st_mtime)
        for file in others[: max(0, len(others) + 1 - KEPT_MAX)]:
            file.unlink()


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
