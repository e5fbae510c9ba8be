"""Files that must be whole or not there at all: blocking calls, raising OSError."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

from gureum.errors import PoolError
from gureum.san import qcow2

COPY_BYTES = 1 << 20
MODE = 0o600

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock on 64-bit Linux: type, whence, start, length, process."""
_QEMU_LOCK_FIRST = 100
_QEMU_LOCK_END = 300
"""QEMU locks single bytes of an image from 100 (what it does) and from 200 (what others must not do)."""


def write_durably(path: Path, parts: Mapping[int, bytes], length: int) -> None:
    """Make the new file ``path`` of ``length`` bytes, with ``parts`` at their offsets and holes elsewhere.

    It is flushed; its directory still has to be. FileExistsError if it is there already.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    try:
        os.ftruncate(file, length)
        for offset, data in parts.items():
            _write_at(file, offset, data)
        os.fsync(file)
    finally:
        os.close(file)


def read_start(path: Path, length: int, whole: bool = True) -> bytes:
    """The first ``length`` bytes. ``whole``: PoolError if the file has more."""
    with open(path, "rb") as file:
        data = file.read(length + 1)
    if whole and len(data) > length:
        raise PoolError(f"{path} has more than {length} bytes")
    return data[:length]


def copy_sparse(source: Path, target: Path) -> None:
    """Copy what is not a hole, and flush it."""
    with open(source, "rb") as reader, open(target, "xb", opener=_private) as writer:
        end = os.fstat(reader.fileno()).st_size
        os.ftruncate(writer.fileno(), end)
        position = 0
        while position < end:
            try:
                start = os.lseek(reader.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole from here on
                    break
                raise
            position = os.lseek(reader.fileno(), start, os.SEEK_HOLE)
            _copy_range(reader.fileno(), writer.fileno(), start, position)
        os.fsync(writer.fileno())


def _copy_range(reader: int, writer: int, start: int, end: int) -> None:
    while start < end:
        data = os.pread(reader, min(COPY_BYTES, end - start), start)
        if not data:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        _write_at(writer, start, data)
        start += len(data)


def _write_at(file: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        offset += written
        view = view[written:]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, MODE)


def import_check(disk: Path, format: str, size_bytes: int) -> None:
    """PoolError unless the file is a disk of that format and size that needs no other file."""
    try:
        status = os.stat(disk)
    except OSError as error:
        raise PoolError(f"the disk {disk} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise PoolError(f"the disk {disk} is no regular file")
    if format == "raw":
        found = -(-status.st_size // 512) * 512
    else:
        header = qcow2.parse(read_start(disk, qcow2.HEADER_READ, whole=False))
        qcow2.refuse_foreign(header, qcow2.INCOMPATIBLE_COMPRESSION | qcow2.INCOMPATIBLE_EXTENDED_L2)
        if header.backing:
            raise PoolError(f"the disk {disk} needs another file: {header.backing[:80]!r}")
        found = header.size_bytes
    if found != size_bytes:
        raise PoolError(f"the disk {disk} has {found} bytes, not {size_bytes}")


def is_locked(path: Path) -> bool:
    """Whether a QEMU has the image open for writing; False too for a missing file."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        length = _QEMU_LOCK_END - _QEMU_LOCK_FIRST
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _QEMU_LOCK_FIRST, length, 0)
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, question)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(file)
