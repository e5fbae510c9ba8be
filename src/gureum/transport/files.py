"""Files over a link: only what is not a hole, checked at the end."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from gureum.errors import TransportError
from gureum.transport.link import Link
from gureum.transport.messages import Chunk, Fetch, FileEnd, FileStart, Refused

CHUNK_BYTES = 1 << 20
CHUNK_SECONDS_MAX = 30.0
MODE = 0o600


class Digest:
    """Over all chunks, in their order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, chunk: Chunk) -> None:
        self._hash.update(chunk.offset.to_bytes(8, "big"))
        self._hash.update(chunk.data)

    @property
    def value(self) -> bytes:
        return self._hash.digest()


async def send_file(link: Link, path: Path) -> None:
    """Raises TransportError, also where the file cannot be read."""
    try:
        file = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        await link.send(Refused(f"the file cannot be read: {error.strerror}"))
        return
    try:
        await link.send(FileStart(os.fstat(file).st_size))
        digest, chunks = Digest(), _chunks(file)
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            await asyncio.to_thread(digest.add, chunk)
            await link.send(chunk)
        await link.send(FileEnd(digest.value))
    except OSError as error:
        raise TransportError(f"{path}: {error.strerror}") from error
    finally:
        os.close(file)


def _chunks(file: int) -> Iterator[Chunk]:
    position, end = 0, os.fstat(file).st_size
    while position < end:
        try:
            position = os.lseek(file, position, os.SEEK_DATA)
        except OSError:  # nothing but a hole from here on
            return
        hole = os.lseek(file, position, os.SEEK_HOLE)
        while position < hole:
            data = os.pread(file, min(CHUNK_BYTES, hole - position), position)
            if not data:
                return
            yield Chunk(position, data)
            position += len(data)


async def receive_file(link: Link, path: str, target: Path, bytes_max: int) -> None:
    """Ask for a file and write it to ``target``, a new file, which is on disk and whole when this returns.

    Raises TransportError, OSError.
    """
    await link.send(Fetch(path))
    start = await _next(link)
    if not isinstance(start, FileStart):
        raise TransportError(f"{path}: the manager sent {type(start).__name__}")
    if start.size_bytes > bytes_max:
        raise TransportError(
            f"{path} has {start.size_bytes} bytes, more than the {bytes_max} that there is room for"
        )
    file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    try:
        os.ftruncate(file, start.size_bytes)
        digest, position = Digest(), 0
        while isinstance(message := await _next(link), Chunk):
            if message.offset < position or message.offset + len(message.data) > start.size_bytes:
                raise TransportError(f"{path}: the manager sent a part that does not belong there")
            position = message.offset + len(message.data)
            digest.add(message)
            await asyncio.to_thread(_write, file, message)
        if not isinstance(message, FileEnd) or message.digest != digest.value:
            raise TransportError(f"{path} did not arrive as it was sent")
        await asyncio.to_thread(os.fsync, file)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


async def _next(link: Link) -> object:
    try:
        async with asyncio.timeout(CHUNK_SECONDS_MAX):
            message = await link.receive()
    except TimeoutError as error:
        raise TransportError(f"the manager sent nothing for {CHUNK_SECONDS_MAX:g} s") from error
    if isinstance(message, Refused):
        raise TransportError(f"the manager refuses: {message.reason}")
    return message


def _write(file: int, chunk: Chunk) -> None:
    view, offset = memoryview(chunk.data), chunk.offset
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
