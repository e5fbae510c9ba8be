"""Images that volumes are cloned from: brought in once, with a snapshot, and read-only from then on."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import rbd

from . import names, volumes
from .session import Refused, Session, explained

CHUNK_BYTES = 4 << 20
"""An object's size: each is written at most once."""
WRITES_AT_ONCE = 4
_ZEROS = bytes(CHUNK_BYTES)

Progress = Callable[[float], None]


def has(session: Session, id: str) -> bool:
    with explained(id):
        try:
            with session.image(id, read_only=True, snapshot=names.BASE):
                pass
        except rbd.ImageNotFound:
            return False
        names.settle(session, id)
        return True


def begin(session: Session, id: str, size: int, token: str) -> str:
    """The name of a new empty image that is to become ``id``."""
    with explained(id):
        session.require_room()
        name = names.temporary(session, token, id)
        session.rbd.create(session.io, name, size, old_format=False, features=names.FEATURES)
        return name


def fill(session: Session, name: str, path: str, progress: Progress) -> dict[str, Any]:
    """Write a raw file into it: neither holes nor zeros. Bytes written, and what the digest is of them."""
    with explained(name), session.image(name) as image, open(path, "rb", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        if length > image.size():
            raise Refused(f"{path} has {length} bytes, more than the image's {image.size()}")
        digest, written = hashlib.sha256(), 0
        with ThreadPoolExecutor(WRITES_AT_ONCE) as threads:
            writes: deque[Future[Any]] = deque()
            for offset, data in _chunks(file.fileno(), length):
                progress(offset / length)
                if data != _ZEROS[: len(data)]:
                    digest.update(offset.to_bytes(8, "big"))
                    digest.update(data)
                    writes.append(threads.submit(image.write, data, offset))
                    written += len(data)
                if len(writes) > WRITES_AT_ONCE:
                    writes.popleft().result()
            for write in writes:
                write.result()
        image.flush()
        names.mark_new(session, image, **{names.DIGEST: digest.hexdigest()})
        return {"written": written, "digest": digest.hexdigest()}


def _chunks(file: int, length: int) -> Iterator[tuple[int, bytes]]:
    """What is not a hole, in pieces that end where objects do."""
    offset = 0
    while offset < length:
        try:
            offset = os.lseek(file, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        offset -= offset % CHUNK_BYTES
        data = os.pread(file, CHUNK_BYTES, offset)
        if not data:
            return
        yield offset, data
        offset += CHUNK_BYTES


def complete(session: Session, id: str, name: str) -> bool:
    """Let volumes be cloned from it; False if another host was quicker, and this work goes."""
    with explained(id):
        with session.image(name) as image:
            if not names.marks(image):
                names.mark_new(session, image)
            if names.BASE not in volumes.user_snapshots(image):
                image.create_snap(names.BASE)
        try:
            session.rbd.rename(session.io, name, id)
        except rbd.ImageExists:
            volumes.discard(session, name)
            return False
        return True


def remove(session: Session, id: str) -> None:
    """To the trash, where it stays as long as clones need it."""
    with explained(id):
        names.settle(session, id)
        volumes.to_trash(session, id)
