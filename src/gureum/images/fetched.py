"""Files of images on another machine than the one that has them: fetched from there when they are needed."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from gureum.errors import PoolError, TransportError
from gureum.files import make_directories, sync
from gureum.san.local import RESERVE_BYTES
from gureum.san.locks import KeyedLocks
from gureum.transport.files import receive_file
from gureum.transport.link import Link

log = logging.getLogger(__name__)

IMAGES = "images"
"""Where a machine with managers has the images that were built there, in its state directory."""
UNFINISHED = ".part"
ONCE = "-once"
KEPT_MAX = 64
"""Files that stay; beyond, those that were used longest ago go."""


def built_here(state_dir: Path, path: str) -> Path | None:
    """The file of an image that was built on this machine; None if it is another's, or not there."""
    # Links are root's, and may lead to where there is room; a path that climbs out is somebody else's.
    file = Path(os.path.normpath(path))
    return file if file.is_relative_to(state_dir / IMAGES) and file.exists() else None


class Fetched:
    """Files of images in ``directory``; ``connect`` opens a link to the manager for one file. ``present``:
    the file, if it need not be fetched.
    """

    def __init__(
        self,
        directory: Path,
        connect: Callable[[], Awaitable[Link]],
        present: Callable[[str], Path | None] = lambda path: None,
        kept_max: int = KEPT_MAX,
    ) -> None:
        self._directory = directory
        self._connect = connect
        self._present = present
        self._kept_max = kept_max
        self._locks = KeyedLocks()

    def open(self) -> None:
        """Remove what a killed agent had not finished."""
        make_directories(self._directory, 0o700)
        for file in self._directory.iterdir():
            if file.name.endswith((UNFINISHED, ONCE)):
                file.unlink()

    async def kept(self, path: str) -> Path:
        """The file here, whole; it stays. Raises PoolError."""
        if (present := self._present(path)) is not None:
            return present
        file = self.file(path)
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
        if (present := self._present(path)) is not None:
            yield present
            return
        file = self.file(path, ONCE)
        async with self._locks.hold(path):
            try:
                await self._fetch(path, file)
                yield file
            finally:
                file.unlink(missing_ok=True)

    def file(self, path: str, ending: str = "") -> Path:
        """Where it is kept, if it is."""
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
        for file in others[: max(0, len(others) + 1 - self._kept_max)]:
            file.unlink()
