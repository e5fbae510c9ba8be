"""What a manager that stands by needs for when it leads, and that is in no store: the files of images.

Those that were built on other machines are kept here, too, fetched from the manager that leads.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from gureum.cli.config import AUTHORITY_DIRECTORY
from gureum.control import machines
from gureum.errors import GureumError, PoolError, TransportError
from gureum.images.fetched import Fetched, built_here
from gureum.resources import Image, ImageState, ManagerMachine
from gureum.store.postgres.address import Address
from gureum.store.postgres.glance import glance
from gureum.transport import tls
from gureum.transport.link import StreamLink
from gureum.transport.seeking import first_of

log = logging.getLogger(__name__)

MIRROR = "mirror"
"""In the state directory: the files of images that were built elsewhere."""
LOOK_SECONDS = 10.0
FILES_MAX = 4096


class Mirror:
    """``machine``: this one's name among those with managers."""

    def __init__(self, state_dir: Path, machine: str) -> None:
        self._state_dir = state_dir
        self._machine = machine
        self._managers: tuple[str, ...] = ()
        self._accepted: tuple[str, ...] = ()
        self._files = Fetched(state_dir / MIRROR, self._connect, self._present, kept_max=FILES_MAX)

    def find(self, path: str) -> Path:
        """The file of an image, by the path that the store has. Raises TransportError."""
        file = self._present(path) or self._files.file(path)
        if not file.exists():
            raise TransportError(
                f"{path} was built on another machine, and the manager here had no time to fetch it"
            )
        return file

    async def keep(self, store: Address) -> None:
        """Without end: have all files that there are."""
        self._files.open()
        while True:
            try:
                await self._look(store)
            except (GureumError, OSError) as error:
                log.warning("images of other machines: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, store: Address) -> None:
        known = await glance(store, ManagerMachine)
        self._accepted = machines.accepted(known)
        self._managers = machines.addresses(each for each in known if each.id != self._machine)
        if not self._managers:
            return
        for image in await glance(store, Image):
            # Volumes are not made of it any more, but instances that were boot with its kernel.
            disk = image.disk if image.state is not ImageState.deregistered else ""
            for path in filter(None, (disk, image.kernel, image.initrd)):
                try:
                    await self._files.kept(path)
                except (PoolError, OSError) as error:
                    log.warning("image %s of another machine: %s", image.id, error)

    def _present(self, path: str) -> Path | None:
        return built_here(self._state_dir, path)

    async def _connect(self) -> StreamLink:
        directory = self._state_dir / AUTHORITY_DIRECTORY
        context = tls.host_context(
            directory / tls.AUTHORITY, directory / tls.MANAGER_CERTIFICATE, directory / tls.MANAGER_KEY
        )
        addresses = [tls.Address.parse(each) for each in self._managers]
        return await first_of(addresses, lambda address: tls.connect(address, context, self._accepted))
