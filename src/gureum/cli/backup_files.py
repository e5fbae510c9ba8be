"""A backup of one volume in a directory: snapshots of it, the first whole, the others as what changed.

    manifest.json        what there is (``Manifest``)
    SNAPSHOT.index       a record of 40 bytes for each block: its number (8 bytes, big-endian) and the SHA-256
                         of its data; 32 zero bytes for a block that has become zeros
    SNAPSHOT.blocks      the data of those that are not zeros, 512 KiB each, in the order of the index
    *.part               the same, of what is under way

A part is appended to, data before index, each flushed: after a crash at any point what the index names is
there, and the rest is cut off. All files are for their owner only: what they hold is not encrypted.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from gureum.errors import GureumError
from gureum.files import make_directories, write_atomically

BLOCK_BYTES = 512 * 1024
FORMAT, VERSION = "gureum-backup", 1
MANIFEST, LOCK, RESTORE = "manifest.json", "lock", "restore.json"
ZERO = bytes(32)
INDEX_BYTES = 8
ENTRY_BYTES = INDEX_BYTES + len(ZERO)
POINTS_MAX = 10_000


class Damaged(GureumError):
    """Says which file, and what is wrong with it."""


class Entry(NamedTuple):
    """``at``: the number of the block; ``digest``: SHA-256 of the block's data, ZERO for a block of zeros."""

    at: int
    digest: bytes


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot. ``parent``: the one before, "" if it is whole. ``volume_size``: in GiB.

    ``encrypted``: it was, in its cloud. ``made``: for this backup, by the backup.
    """

    snapshot: str
    parent: str = ""
    volume_size: int
    started: str = ""
    description: str = ""
    encrypted: bool = False
    made: bool = False
    entries: int
    data_blocks: int
    index_sha256: str


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """What is under way. ``token``: in a tag of the snapshot if it is made for the backup, else ""."""

    snapshot: str = ""
    token: str = ""
    parent: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    format: str = FORMAT
    version: int = VERSION
    block_bytes: int = BLOCK_BYTES
    volume: str
    points: tuple[Point, ...] = ()
    pending: Pending | None = None


class Directory:
    """Of one process at a time. All methods block; they raise Damaged, OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def __enter__(self) -> Self:
        make_directories(self.path)
        self._lock = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Damaged(f"{self.path} is in use by another backup or restore") from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def manifest(self) -> Manifest | None:
        path = self.path / MANIFEST
        try:
            found = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise Damaged(f"{path} is damaged: {error}") from error
        if found.format != FORMAT or found.version != VERSION or found.block_bytes != BLOCK_BYTES:
            raise Damaged(f"{path} is not of a backup that this gureum understands")
        pending = found.pending.snapshot if found.pending is not None else ""
        if pending and not _is_id(pending):
            raise Damaged(f"{path} is damaged: {pending!r} is no snapshot")
        known = ""
        for point in found.points:
            if point.parent not in ("", known) or not _is_id(point.snapshot):
                raise Damaged(f"{path} is damaged: {point.snapshot!r} does not follow {known!r}")
            known = point.snapshot
        return found

    def save(self, manifest: Manifest) -> None:
        write_atomically(self.path / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        (self.path / MANIFEST).chmod(0o600)

    def entries(self, point: Point) -> list[Entry]:
        """Raises Damaged unless the index and the data's size are as they were when they were written."""
        index, blocks = self._files(point.snapshot)
        try:
            raw = index.read_bytes()
            size = blocks.stat().st_size
        except FileNotFoundError as error:
            raise Damaged(f"{error.filename} is missing") from error
        if hashlib.sha256(raw).hexdigest() != point.index_sha256:
            raise Damaged(f"{index} is damaged: its checksum is another")
        if size != point.data_blocks * BLOCK_BYTES:
            raise Damaged(f"{blocks} is damaged: it has {size} bytes, not {point.data_blocks * BLOCK_BYTES}")
        return decoded(raw)

    def chain(self, manifest: Manifest, snapshot: str) -> list[Point]:
        """The points that are needed for this one, a whole one first."""
        points = {point.snapshot: point for point in manifest.points}
        found: list[Point] = []
        while snapshot:
            if snapshot not in points or len(found) > POINTS_MAX:
                raise Damaged(f"{self.path / MANIFEST} has no {snapshot}")
            found.append(points[snapshot])
            snapshot = points[snapshot].parent
        return found[::-1]

    def where(self, chain: Iterable[Point]) -> dict[int, tuple[str, int, bytes]]:
        """By block: the point that has its data, its position there, and its digest. No zeros."""
        found: dict[int, tuple[str, int, bytes]] = {}
        for point in chain:
            at = 0
            for entry in self.entries(point):
                if entry.digest == ZERO:
                    found.pop(entry.at, None)
                else:
                    found[entry.at] = (point.snapshot, at, entry.digest)
                    at += 1
        return found

    def block(self, snapshot: str, at: int, digest: bytes) -> bytes:
        """The data at this position. Raises Damaged unless it is what was written."""
        path = self._files(snapshot)[1]
        with open(path, "rb") as file:
            file.seek(at * BLOCK_BYTES)
            data = file.read(BLOCK_BYTES)
        if hashlib.sha256(data).digest() != digest:
            raise Damaged(
                f"{path} is damaged: block {at}, at byte {at * BLOCK_BYTES}, is not what was written"
            )
        return data

    def part(self, snapshot: str) -> Part:
        return Part(*self._files(snapshot))

    def discard(self, snapshot: str) -> None:
        """Forget a part; "" is none."""
        for path in self._files(snapshot) if snapshot else ():
            part_of(path).unlink(missing_ok=True)

    def complete(self, manifest: Manifest, point: Point) -> Manifest:
        """The part under way is a point of the backup from now on."""
        for path in self._files(point.snapshot):
            part = part_of(path)
            if part.exists():  # not renamed before a crash already
                part.rename(path)
        changed = msgspec.structs.replace(manifest, points=(*manifest.points, point), pending=None)
        self.save(changed)
        return changed

    def journal(self) -> dict[str, Any]:
        """Of a restore that is under way, else empty."""
        try:
            found: dict[str, Any] = msgspec.json.decode(
                (self.path / RESTORE).read_bytes(), type=dict[str, Any]
            )
        except FileNotFoundError:
            return {}
        except msgspec.MsgspecError as error:
            raise Damaged(
                f"{self.path / RESTORE} is damaged: {error}; without it a restore begins anew"
            ) from error
        return found

    def set_journal(self, state: dict[str, Any] | None) -> None:
        if state is None:
            (self.path / RESTORE).unlink(missing_ok=True)
        else:
            write_atomically(self.path / RESTORE, msgspec.json.encode(state))

    def _files(self, snapshot: str) -> tuple[Path, Path]:
        return self.path / f"{snapshot}.index", self.path / f"{snapshot}.blocks"


class Part:
    """A point that is being written."""

    def __init__(self, index: Path, blocks: Path) -> None:
        for path in (index, blocks):
            if path.exists() and not part_of(path).exists():
                path.rename(part_of(path))  # a crash came between this and the manifest
        self._index = _opened(part_of(index))
        self._blocks = _opened(part_of(blocks))
        raw = os.pread(self._index, os.fstat(self._index).st_size, 0)
        self.entries = list(_kept(decoded(raw), os.fstat(self._blocks).st_size))
        self.data_blocks = sum(entry.digest != ZERO for entry in self.entries)
        os.ftruncate(self._index, len(self.entries) * ENTRY_BYTES)
        os.ftruncate(self._blocks, self.data_blocks * BLOCK_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._index)
        os.close(self._blocks)

    def append(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """Durably. Empty data is a block of zeros."""
        come: list[Entry] = []
        for index, data in blocks:
            zero = not data.strip(b"\0")
            come.append(Entry(index, ZERO if zero else hashlib.sha256(data).digest()))
            if not zero:
                _write(self._blocks, data, self.data_blocks * BLOCK_BYTES)
                self.data_blocks += 1
        os.fdatasync(self._blocks)
        raw = b"".join(entry.at.to_bytes(INDEX_BYTES, "big") + entry.digest for entry in come)
        _write(self._index, raw, len(self.entries) * ENTRY_BYTES)
        os.fdatasync(self._index)
        self.entries += come

    def index_sha256(self) -> str:
        return hashlib.sha256(os.pread(self._index, os.fstat(self._index).st_size, 0)).hexdigest()


def _is_id(text: str) -> bool:
    """Whether it may become a file's name."""
    return text.startswith("snap-") and text.removeprefix("snap-").isalnum()


def part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def decoded(raw: bytes) -> list[Entry]:
    """Without what was written halfway."""
    starts = range(0, len(raw) // ENTRY_BYTES * ENTRY_BYTES, ENTRY_BYTES)
    return [
        Entry(int.from_bytes(raw[at : at + INDEX_BYTES], "big"), raw[at + INDEX_BYTES : at + ENTRY_BYTES])
        for at in starts
    ]


def _kept(entries: Iterable[Entry], data_bytes: int) -> Iterator[Entry]:
    """Those whose data is there."""
    blocks = 0
    for entry in entries:
        blocks += entry.digest != ZERO
        if blocks * BLOCK_BYTES > data_bytes:
            return
        yield entry


def _opened(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
