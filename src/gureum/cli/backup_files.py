"""A backup of one volume in a directory: snapshots of it, the first whole, the others as what changed.

    manifest.json        what there is (``Manifest``)
    SNAPSHOT.index       a record of 40 bytes for each block: its number (8 bytes, big-endian) and the SHA-256
                         of its data; 32 zero bytes for a block that has become zeros
    SNAPSHOT.blocks      the data of those that are not zeros, 512 KiB each, in the order of the index
    *.part               the same, of what is under way

A part is appended to, data before index, each flushed: after a crash at any point what the index names is
there, and the rest is cut off. All files are for their owner only.

In an encrypted backup (``Manifest.key``) each block of data is sealed (``backup_keys``), and somewhat longer.
The index has the SHA-256 of that: whether all is there can be seen without the key. What the manifest says of
a point is proved with it: else who can write to the directory could have blocks left out, or what was
encrypted restored in clear.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from gureum.cli.backup_keys import OVERHEAD_BYTES, Seal
from gureum.errors import GureumError
from gureum.files import make_directories, write_atomically

BLOCK_BYTES = 512 * 1024
FORMAT, VERSION, SEALED_VERSION = "gureum-backup", 1, 2
"""A version of their own for encrypted ones: who does not know of them takes them for damaged."""
MANIFEST, LOCK, RESTORE = "manifest.json", "lock", "restore.json"
ZERO = bytes(32)
INDEX_BYTES = 8
ENTRY_BYTES = INDEX_BYTES + len(ZERO)
POINTS_MAX = 10_000


class Damaged(GureumError):
    """Says which file, and what is wrong with it."""


class Entry(NamedTuple):
    """``at``: the number of the block; ``digest``: SHA-256 of what is kept of it, ZERO for zeros."""

    at: int
    digest: bytes


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot. ``parent``: the one before, "" if it is whole. ``volume_size``: in GiB.

    ``encrypted``: it was, in its cloud. ``noise``: blocks that are in no index are noise to a machine, since
    they were never written; else they are zeros. ``made``: for this backup, by the backup. ``proof``: in an
    encrypted backup, that who has its key says all this.
    """

    snapshot: str
    parent: str = ""
    volume_size: int
    started: str = ""
    description: str = ""
    encrypted: bool = False
    noise: bool = False
    made: bool = False
    entries: int
    data_blocks: int
    index_sha256: str
    proof: bytes = b""


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """What is under way. ``token``: in a tag of the snapshot if it is made for the backup, else ""."""

    snapshot: str = ""
    token: str = ""
    parent: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``key``: of an encrypted backup, wrapped (``backup_keys.Seal``); b"" of one that is not."""

    format: str = FORMAT
    version: int = VERSION
    block_bytes: int = BLOCK_BYTES
    volume: str
    key: bytes = b""
    points: tuple[Point, ...] = ()
    pending: Pending | None = None


class Place(NamedTuple):
    """Where a block is: in the file of the point ``snapshot``, as number ``position``. ZERO is nowhere."""

    snapshot: str
    position: int
    digest: bytes


class Directory:
    """Of one process at a time. All methods block; they raise Damaged, OSError.

    ``seal``: to be set before the blocks of an encrypted backup are written, or read in clear.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seal: Seal | None = None
        self._stored_bytes = BLOCK_BYTES
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
        version = SEALED_VERSION if found.key else VERSION
        if found.format != FORMAT or found.version != version or found.block_bytes != BLOCK_BYTES:
            raise Damaged(f"{path} is not of a backup that this gureum understands")
        self._stored_bytes = stored_bytes(found)
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
        self._stored_bytes = stored_bytes(manifest)
        write_atomically(self.path / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        (self.path / MANIFEST).chmod(0o600)

    def require_proved(self, manifest: Manifest, seal: Seal) -> None:
        """Raises Damaged unless all points were written by who has the key of this encrypted backup."""
        for point in manifest.points:
            if not seal.proves(point.proof, _statement(manifest, point)):
                raise Damaged(
                    f"{self.path / MANIFEST} is damaged: what it says of {point.snapshot} was not written "
                    "with the backup's key"
                )

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
        if size != point.data_blocks * self._stored_bytes:
            raise Damaged(
                f"{blocks} is damaged: it has {size} bytes, not {point.data_blocks * self._stored_bytes}"
            )
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

    def where(self, chain: Iterable[Point], zeros: bool = False) -> dict[int, Place]:
        """By block. With ``zeros`` also those that are, and that somebody once wrote."""
        found: dict[int, Place] = {}
        for point in chain:
            at = 0
            for entry in self.entries(point):
                if entry.digest != ZERO:
                    found[entry.at] = Place(point.snapshot, at, entry.digest)
                    at += 1
                elif zeros:
                    found[entry.at] = Place(point.snapshot, -1, ZERO)
                else:
                    found.pop(entry.at, None)
        return found

    def kept(self, place: Place) -> bytes:
        """What is kept at this place, which may be sealed. Raises Damaged unless it is what was written."""
        if place.digest == ZERO:
            return b""
        path, begin = self._files(place.snapshot)[1], place.position * self._stored_bytes
        with open(path, "rb") as file:
            file.seek(begin)
            data = file.read(self._stored_bytes)
        if hashlib.sha256(data).digest() != place.digest:
            raise Damaged(
                f"{path} is damaged: block {place.position}, at byte {begin}, is not what was written"
            )
        return data

    def block(self, index: int, place: Place) -> bytes:
        """The data of a block. Raises Damaged likewise."""
        data = self.kept(place)
        if self.seal is None or not data:
            return data or bytes(BLOCK_BYTES)
        clear = self.seal.unsealed(data, place.snapshot, index)
        if clear is None:
            path = self._files(place.snapshot)[1]
            raise Damaged(f"{path} is damaged: block {place.position} is not block {index} of the volume")
        return clear

    def part(self, snapshot: str) -> Part:
        """Goes on with what a crash has left of it."""
        index, blocks = self._files(snapshot)
        for path in (index, blocks):
            if path.exists() and not part_of(path).exists():
                path.rename(part_of(path))  # a crash came between this and the manifest
        if self.seal is not None:
            _forget_zeros(part_of(index))
        return Part(part_of(index), part_of(blocks), self._stored_bytes, self._sealed(snapshot))

    def _sealed(self, snapshot: str) -> Callable[[int, bytes], bytes]:
        """What is kept of a block's data."""
        seal = self.seal
        if seal is None:
            return lambda _, data: data
        return lambda index, data: seal.sealed(data, snapshot, index)

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
        if self.seal is not None:
            proof = self.seal.proof(_statement(manifest, point))
            point = msgspec.structs.replace(point, proof=proof)
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
    """A point that is being written. ``sealed``: what is kept of a block, ``stored_bytes`` long."""

    def __init__(
        self, index: Path, blocks: Path, stored_bytes: int, sealed: Callable[[int, bytes], bytes]
    ) -> None:
        self._stored_bytes = stored_bytes
        self._sealed = sealed
        self._index = _opened(index)
        self._blocks = _opened(blocks)
        raw = os.pread(self._index, os.fstat(self._index).st_size, 0)
        self.entries = list(_kept(decoded(raw), os.fstat(self._blocks).st_size // stored_bytes))
        self.data_blocks = sum(entry.digest != ZERO for entry in self.entries)
        os.ftruncate(self._index, len(self.entries) * ENTRY_BYTES)
        os.ftruncate(self._blocks, self.data_blocks * stored_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._index)
        os.close(self._blocks)

    def append(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """Durably. Empty data is a block of zeros."""
        come: list[Entry] = []
        for index, data in blocks:
            if not data.strip(b"\0"):
                come.append(Entry(index, ZERO))
                continue
            kept = self._sealed(index, data)
            come.append(Entry(index, hashlib.sha256(kept).digest()))
            _write(self._blocks, kept, self.data_blocks * self._stored_bytes)
            self.data_blocks += 1
        os.fdatasync(self._blocks)
        _write(self._index, encoded(come), len(self.entries) * ENTRY_BYTES)
        os.fdatasync(self._index)
        self.entries += come

    def index_sha256(self) -> str:
        return hashlib.sha256(os.pread(self._index, os.fstat(self._index).st_size, 0)).hexdigest()


def _statement(manifest: Manifest, point: Point) -> bytes:
    """What a point's proof is about: never another, since it would void the proofs of older backups."""
    return msgspec.json.encode(
        (
            *(manifest.volume, point.snapshot, point.parent, point.volume_size, point.started),
            *(point.description, point.encrypted, point.noise, point.made),
            *(point.entries, point.data_blocks, point.index_sha256),
        )
    )


def _is_id(text: str) -> bool:
    """Whether it may become a file's name."""
    return text.startswith("snap-") and text.removeprefix("snap-").isalnum()


def stored_bytes(manifest: Manifest) -> int:
    """Of a block that is not zeros."""
    return BLOCK_BYTES + (OVERHEAD_BYTES if manifest.key else 0)


def part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def decoded(raw: bytes) -> list[Entry]:
    """Without what was written halfway."""
    starts = range(0, len(raw) // ENTRY_BYTES * ENTRY_BYTES, ENTRY_BYTES)
    return [
        Entry(int.from_bytes(raw[at : at + INDEX_BYTES], "big"), raw[at + INDEX_BYTES : at + ENTRY_BYTES])
        for at in starts
    ]


def encoded(entries: Iterable[Entry]) -> bytes:
    return b"".join(entry.at.to_bytes(INDEX_BYTES, "big") + entry.digest for entry in entries)


def _forget_zeros(index: Path) -> None:
    """Of an encrypted part: nothing shows that we wrote that a block is zeros. So it is read again."""
    if index.exists():
        entries = decoded(index.read_bytes())
        write_atomically(index, encoded(entry for entry in entries if entry.digest != ZERO))


def _kept(entries: Iterable[Entry], data_blocks: int) -> Iterator[Entry]:
    """Those whose data is there."""
    blocks = 0
    for entry in entries:
        blocks += entry.digest != ZERO
        if blocks > data_blocks:
            return
        yield entry


def _opened(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
