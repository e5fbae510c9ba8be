"""Files that are whole or not there, also after a power cut.

What fsync of a file keeps is its contents; its name is its directory's, and the directory's name is that of
the directory above. Each needs an fsync of its own.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace ``path`` by ``data``; ``durable``: on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def make_directories(path: Path, mode: int = 0o777) -> None:
    """Make ``path`` and what is missing above it, all with ``mode`` less the umask, their names on disk.

    One that is there may be from a process that was killed before it flushed the name, so that is done again;
    not where its parent may not be read.
    """
    if not path.parent.is_dir():
        make_directories(path.parent, mode)
    path.mkdir(mode, exist_ok=True)
    with contextlib.suppress(PermissionError):
        sync(path.parent)


def sync(path: Path) -> None:
    """Put on disk what is in a file, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
