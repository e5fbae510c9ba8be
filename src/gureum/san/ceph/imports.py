"""Bringing an image's disk into the pool, once for all hosts.

It is written to an RBD image with a name of its own, which gets the image's name when it is whole: of two
hosts that bring the same in, the second one's work goes. A worker of its own does it, and ends with it.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from gureum.env import Env
from gureum.errors import PoolError
from gureum.san import qemu_img
from gureum.san.ceph import client as workers
from gureum.san.ceph.client import Client
from gureum.san.ceph.upkeep import Making
from gureum.san.diskfile import import_check
from gureum.san.settings import SanSettings

log = logging.getLogger(__name__)

AT_ONCE = 2
CONVERT_SECONDS = 6 * 3600.0
LOG_STEP = 0.25
NICE = 10


class Importer:
    """``making``: as in Upkeep."""

    def __init__(self, env: Env, settings: SanSettings, cloud: str, host: str, making: Making) -> None:
        self._env = env
        self._making = making
        self._settings = settings
        self._command = workers.command(settings, cloud, host, NICE)
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def add(self, id: str, disk: str, format: str, size_bytes: int) -> None:
        try:
            await asyncio.to_thread(import_check, Path(disk), format, size_bytes)
        except OSError as error:
            raise PoolError(f"{id}: {error}") from error
        async with self._slots, self._making.client(self._command) as client:
            with self._making.token(self._env) as token:
                await self._add(client, token, id, disk, format, size_bytes)

    async def _add(
        self, client: Client, token: str, id: str, disk: str, format: str, size_bytes: int
    ) -> None:
        started = asyncio.get_running_loop().time()
        name = await client.begin_image(id, size_bytes, token)
        try:
            if format == "raw":
                written = await client.fill_image(name, disk, _Reporter(id))
                log.info("%s: %d MiB are brought into the pool", id, written >> 20)
            else:
                await self._convert(disk, name)
            if not await client.complete_image(id, name):
                log.info("%s is in the pool already: another host brought it", id)
        except PoolError:
            await self._discard(client, name)
            raise
        seconds = asyncio.get_running_loop().time() - started
        log.info("%s is in the pool %s after %.1f s", id, self._settings.pool, seconds)

    async def _convert(self, disk: str, name: str) -> None:
        """qemu-img leaves out what is zero, and does nothing to what was never written."""
        options = {"conf": self._settings.conf, "id": self._settings.user, "keyring": self._settings.keyring}
        target = f"rbd:{_escaped(self._settings.pool)}/{_escaped(name)}" + "".join(
            f":{key}={_escaped(str(value))}" for key, value in options.items() if value
        )
        arguments = ("convert", "-n", "--target-is-zero", "-q", "-f", "qcow2", "-O", "raw", disk, target)
        await qemu_img.run(arguments, CONVERT_SECONDS, memory_bytes=qemu_img.RBD_MEMORY_BYTES)

    async def _discard(self, client: Client, name: str) -> None:
        try:
            await client.discard_image(name)
        except PoolError as error:
            log.warning("%s stays until the next check: %s", name, error)


class _Reporter:
    """Logs how far the import of ``id`` is, a few times."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._said = 0.0

    def __call__(self, share: float) -> None:
        if share - self._said >= LOG_STEP:
            self._said = share
            log.info("%s: %.0f%% are brought into the pool", self._id, share * 100)


def _escaped(text: str) -> str:
    """For QEMU's names of RBD images, where these characters have a meaning."""
    for character in "\\:@=":
        text = text.replace(character, f"\\{character}")
    return text
