"""Snapshots whose blocks are being written (the EBS direct APIs): what this process knows of them.

When a block was last written, and the checksums of all that were. Neither is worth a transaction for each
block. A manager that started meanwhile does not know the blocks that came before it: it lets the client have
its time once more, and cannot check their number. The checksum of each block was checked when it came.
"""

from __future__ import annotations

import hashlib

from gureum.resources import Snapshot

UPLOADS_MAX = 1000


class Upload:
    """``whole``: all blocks are known, since it began in this process."""

    def __init__(self, now: float, whole: bool) -> None:
        self.last = now
        self.whole = whole
        self.blocks: dict[int, bytes] = {}

    def checksum(self) -> bytes:
        """SHA-256 over the blocks' own checksums, in the order of their indexes (LINEAR)."""
        digest = hashlib.sha256()
        for index in sorted(self.blocks):
            digest.update(self.blocks[index])
        return digest.digest()


class Uploads:
    """By snapshot; at most UPLOADS_MAX, the oldest ones go first. Each is bounded by its blocks."""

    def __init__(self) -> None:
        self._uploads: dict[str, Upload] = {}

    def begin(self, snapshot: str, now: float) -> None:
        self._put(snapshot, Upload(now, whole=True))

    def get(self, snapshot: str, now: float) -> Upload:
        upload = self._uploads.get(snapshot)
        if upload is None:
            upload = self._put(snapshot, Upload(now, whole=False))
        return upload

    def _put(self, snapshot: str, upload: Upload) -> Upload:
        while len(self._uploads) >= UPLOADS_MAX:
            del self._uploads[next(iter(self._uploads))]
        self._uploads[snapshot] = upload
        return upload

    def wrote(self, snapshot: str, now: float, index: int, checksum: bytes) -> None:
        upload = self.get(snapshot, now)
        upload.last = now
        upload.blocks[index] = checksum

    def expired(self, snapshot: Snapshot, now: float) -> bool:
        return now >= self.get(snapshot.id, now).last + snapshot.timeout_seconds

    def forget(self, snapshot: str) -> None:
        self._uploads.pop(snapshot, None)


UPLOADS = Uploads()
"""Of this process: ids are random, so several stores do not mix."""
