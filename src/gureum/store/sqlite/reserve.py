"""Disk space that is kept for what makes room: so a cloud on a full disk can be cleared by its own means."""

from __future__ import annotations

import errno
import logging
import os

from gureum.errors import StoreError

log = logging.getLogger(__name__)

RESERVE_BYTES = 16 << 20
PARTS = 8
"""It is given back in so many parts: others write to the disk, too, and would take all of it at once."""

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """A file beside the store whose blocks are allocated. ``whole`` is whether it has all of them."""

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self._size = size
        self._held = 0
        self._descriptor: int | None = None
        if not self.fill():
            log.warning("%s: its disk is full: only what makes room there is committed", path)

    @property
    def whole(self) -> bool:
        return self._held == self._size

    def fill(self) -> bool:
        """Whether it has all of its space, taking what is missing if the disk has it again."""
        if self._descriptor is not None and self.whole:
            return True
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                there = os.fstat(self._descriptor)
                self._held = min(there.st_size, there.st_blocks * 512, self._size)
            os.posix_fallocate(self._descriptor, 0, self._size)
            os.ftruncate(self._descriptor, self._size)  # that of an earlier gureum may have been larger
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise StoreError(f"{self._path}: {error.strerror}; check the state directory") from error
            self._shrink(self._held)
            return False
        self._held = self._size
        return True

    def release(self) -> bool:
        """Give a part of it back to the disk. False: there is nothing left to give."""
        if self._held == 0:
            return False
        self._shrink(max(0, self._held - self._size // PARTS))
        log.warning("%s: its disk is full: %d bytes of the reserve are left", self._path, self._held)
        return True

    def _shrink(self, size: int) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, size)
        self._held = size

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
