"""A directory with images, one subdirectory for each, named `<name>-<hash of its inputs>`.

An image is made under another name, written to the disk, and renamed into place: it is there as a whole or
not at all, whenever the maker is killed. What a killed maker leaves behind is removed by the next one.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from gureum.files import make_directories, sync
from gureum.images.errors import ImageError, ManifestError
from gureum.images.manifest import ImageManifest, load_manifest

_UNFINISHED = ".making-"
_LOCK_S = 900.0
_LOCK_POLL_S = 0.2


def image_directory(library: Path, name: str, input_hash: str) -> Path:
    return library / f"{name}-{input_hash[:16]}"


def images(library: Path) -> list[ImageManifest]:
    """All whole images in `library`, the newest first."""
    found = []
    for directory in library.glob("*-*"):
        with contextlib.suppress(ManifestError, OSError):
            found.append((directory.stat().st_mtime, directory.name, load_manifest(directory)))
    return [manifest for _, _, manifest in sorted(found, key=lambda entry: entry[:2], reverse=True)]


def newest(library: Path, accept: Callable[[ImageManifest], bool]) -> ImageManifest | None:
    """The newest whole image that `accept` says yes to."""
    return next((manifest for manifest in images(library) if accept(manifest)), None)


@contextlib.asynccontextmanager
async def workspace(library: Path) -> AsyncIterator[Path]:
    """An empty directory on the library's file system to make an image in; it is removed at the end.

    One maker at a time in a library, across processes; the kernel frees the lock of a killed one.
    """
    await asyncio.to_thread(make_directories, library)
    async with _locked(library):
        # An image that is found may be from a maker that was killed before it flushed the name.
        await asyncio.to_thread(sync, library)
        for stale in library.glob(f"{_UNFINISHED}*"):
            await asyncio.to_thread(shutil.rmtree, stale, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=library))
        try:
            yield work
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)


async def publish(image: Path, final: Path) -> ImageManifest:
    """Renames a finished image from the workspace into place, after all of it is on the disk."""
    await asyncio.to_thread(_publish, image, final)
    return await asyncio.to_thread(load_manifest, final)


def _publish(image: Path, final: Path) -> None:
    image.chmod(0o755)
    for file in image.iterdir():
        sync(file)
    sync(image)
    if final.exists():
        # It is broken, otherwise it would have been used.
        final.rename(image.parent / "broken")
    image.rename(final)
    sync(final.parent)


@contextlib.asynccontextmanager
async def _locked(library: Path) -> AsyncIterator[None]:
    descriptor = os.open(library / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        await _lock(descriptor, library)
        yield
    finally:
        os.close(descriptor)


async def _lock(descriptor: int, library: Path) -> None:
    for _ in range(int(_LOCK_S / _LOCK_POLL_S)):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        await asyncio.sleep(_LOCK_POLL_S)
    raise ImageError(f"another process has been making an image in {library} for {_LOCK_S:g} s")
