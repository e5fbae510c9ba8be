"""Layers and records as files below one directory.

    layers/    <owner>.<8 hexadecimal digits>.qcow2, or .raw for an image's disk
    records/   <id>.json, and <id>.<n>.tmp while one is written
    lock       held by the process that has the pool
    version    of this layout

Every layer that a guest writes to is qcow2. A raw file would hold whatever the guest wants from its first
byte on, a qcow2 header too, and be safe only as long as nobody ever lets QEMU guess. Formats are always named
all the same.

Blocking calls run in threads, at most THREADS at a time. Who waits for one is cancelled only when it is done,
since a thread does not stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from gureum.errors import PoolError, PoolFull
from gureum.files import make_directories, sync, write_atomically
from gureum.san import file_blocks, qcow2, qemu_img
from gureum.san.base import Layer
from gureum.san.diskfile import copy_sparse, import_check, is_locked, read_start, write_durably
from gureum.san.layers import Listing, Space, full, size_text
from gureum.san.locks import uninterrupted
from gureum.san.records import is_id, is_layer_name, layer_format

log = logging.getLogger(__name__)

VERSION = "1"
THREADS = 8
RECORD_BYTES_MAX = 64 << 10
RESIZE_SECONDS = 120.0
FLATTEN_SECONDS = 600.0
FLATTEN_BYTES_PER_SECOND = 4 << 20

T = TypeVar("T")


class FileLayers:
    """A LayerStore in the directory ``root``, which is made if it is missing."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._layers = self._root / "layers"
        self._records = self._root / "records"
        self._threads = asyncio.Semaphore(THREADS)
        self._lock: int | None = None
        self._written = 0
        self._temporary: set[str] = set()

    def path(self, layer: str) -> str:
        return str(self._layers / layer)

    async def load(self) -> Mapping[str, bytes]:
        return await self._thread(self._load)

    async def put_record(self, id: str, data: bytes) -> None:
        await self._thread(lambda: self._put_record(id, data))

    async def drop_record(self, id: str) -> None:
        def drop() -> None:
            (self._records / f"{id}.json").unlink(missing_ok=True)
            sync(self._records)

        await self._thread(drop)

    async def create_layer(self, layer: str, size_bytes: int, backing: str) -> None:
        def create() -> None:
            parts, length = qcow2.empty_image(size_bytes, backing, layer_format(backing))
            with self._removed_on_error(layer):
                write_durably(self._layers / layer, parts, length)
            sync(self._layers)

        await self._thread(create)

    async def import_layer(self, layer: str, disk: str, size_bytes: int, reserve_bytes: int) -> None:
        await self._thread(lambda: self._import_layer(layer, Path(disk), size_bytes, reserve_bytes))

    async def remove_layers(self, layers: Sequence[str]) -> None:
        def remove() -> None:
            for layer in layers:
                (self._layers / layer).unlink(missing_ok=True)
            sync(self._layers)

        if layers:
            await self._thread(remove)

    async def verify(self, chain: Sequence[str]) -> None:
        await self._thread(lambda: self._verify(chain))

    async def layer_size(self, layer: str) -> int:
        return await self._thread(lambda: self._header(layer).size_bytes)

    async def grow_layer(self, layer: str, size_bytes: int) -> None:
        if await self.layer_size(layer) >= size_bytes:
            return
        # Without its backing file: that is never larger, so growing needs nothing of it.
        file = {"driver": "file", "filename": self.path(layer)}
        node = json.dumps({"driver": "qcow2", "backing": None, "file": file})
        await qemu_img.run(("resize", "-q", f"json:{node}", str(size_bytes)), RESIZE_SECONDS)

    async def flatten(self, layer: str, chain: Sequence[str], keep: Sequence[str]) -> None:
        # qemu-img follows the backing names in the headers here; the caller has had them verified.
        await self._thread(lambda: self._verify((layer, *chain)))
        size_bytes = sum((await self.used(chain[: len(chain) - len(keep)])).values())
        base = ("-F", layer_format(keep[0]), "-b", keep[0]) if keep else ("-b", "")
        timeout_seconds = FLATTEN_SECONDS + size_bytes / FLATTEN_BYTES_PER_SECOND
        await qemu_img.run(("rebase", "-q", "-f", "qcow2", *base, self.path(layer)), timeout_seconds)
        await self._thread(lambda: sync(self._layers / layer))
        await self._thread(lambda: self._verify((layer, *keep)))

    async def extents(
        self, layers: Sequence[str], offset: int, length: int, zeros: bool
    ) -> list[tuple[int, int]]:
        await self._thread(lambda: [self._header(name) for name in layers if layer_format(name) == "qcow2"])
        found = [await file_blocks.extents(layer, offset, length, zeros) for layer in self._chain(layers)]
        return [extent for each in found for extent in each]

    async def read(self, chain: Sequence[str], offset: int, length: int) -> bytes:
        await self._thread(lambda: self._verify(chain))
        return await file_blocks.read(self._chain(chain), offset, length)

    async def write(self, chain: Sequence[str], offset: int, data: bytes) -> None:
        await self._thread(lambda: self._verify(chain))
        await file_blocks.write(self._chain(chain), offset, data)

    def _chain(self, names: Sequence[str]) -> list[Layer]:
        return [Layer(path=self.path(name), format=layer_format(name)) for name in names]

    async def in_use(self, layer: str) -> bool:
        return await self._thread(lambda: is_locked(self._layers / layer))

    async def used(self, layers: Sequence[str]) -> Mapping[str, int]:
        def used() -> dict[str, int]:
            found = {}
            for layer in layers:
                with contextlib.suppress(FileNotFoundError):
                    found[layer] = os.stat(self._layers / layer).st_blocks * 512
            return found

        return await self._thread(used)

    async def space(self) -> Space:
        return await self._thread(self._space)

    async def listing(self) -> Listing:
        return await self._thread(self._listing)

    async def discard(self, temporary: Sequence[str]) -> None:
        def discard() -> None:
            for name in temporary:
                (self._records / name).unlink(missing_ok=True)

        await self._thread(discard)

    async def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- in a thread

    async def _thread(self, work: Callable[[], T]) -> T:
        async with self._threads:
            try:
                return await uninterrupted(asyncio.to_thread(work))
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise PoolFull(self._full_text(error)) from error
                raise PoolError(f"pool {self._root}: {error}") from error

    def _full_text(self, error: OSError) -> str:
        with contextlib.suppress(OSError):
            space = self._space()
            return (
                f"pool {self._root} is full: {size_text(space.free_bytes)} of "
                f"{size_text(space.size_bytes)} are free ({error.strerror})"
            )
        return f"pool {self._root} is full: {error.strerror}"

    def _load(self) -> dict[str, bytes]:
        for directory in (self._root, self._layers, self._records):
            make_directories(directory, 0o711)
        self._take_lock()
        version = self._root / "version"
        if not version.exists():
            write_atomically(version, f"{VERSION}\n".encode())
        elif (found := version.read_text().strip()) != VERSION:
            raise PoolError(f"pool {self._root} has layout version {found[:20]!r}, not {VERSION}")
        # What a killed process had not flushed yet is found here, and believed: a power cut must not take it.
        for directory in (self._root, self._layers, self._records):
            sync(directory)
        records = {}
        for entry in os.scandir(self._records):
            id, _, ending = entry.name.partition(".")
            if ending == "json" and is_id(id):
                records[id] = read_start(Path(entry.path), RECORD_BYTES_MAX)
        return records

    def _take_lock(self) -> None:
        """POSIX locks are the process's: it may open its own pool again, as after a fault within it."""
        if self._lock is not None:
            return
        lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise PoolError(f"pool {self._root} is in use by another process") from error
            raise
        self._lock = lock

    def _put_record(self, id: str, data: bytes) -> None:
        if len(data) > RECORD_BYTES_MAX:
            raise PoolError(f"the record of {id} would have {len(data)} bytes")
        self._written += 1
        temporary = f"{id}.{self._written}.tmp"
        self._temporary.add(temporary)
        try:
            write_durably(self._records / temporary, {0: data}, len(data))
            os.rename(self._records / temporary, self._records / f"{id}.json")
        except OSError:
            (self._records / temporary).unlink(missing_ok=True)
            raise
        finally:
            self._temporary.discard(temporary)
        sync(self._records)

    def _import_layer(self, layer: str, disk: Path, size_bytes: int, reserve_bytes: int) -> None:
        import_check(disk, layer_format(layer), size_bytes)
        target = self._layers / layer
        with self._removed_on_error(layer):
            try:
                os.link(disk, target, follow_symlinks=True)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                    raise
                need_bytes = os.stat(disk).st_blocks * 512
                space = self._space()
                if space.free_bytes < need_bytes + reserve_bytes:
                    raise full(f"pool {self._root}", need_bytes, reserve_bytes, space) from error
                log.info("%s is copied into the pool: it cannot be linked (%s)", disk, error.strerror)
                copy_sparse(disk, target)
            sync(target)
        sync(self._layers)

    @contextlib.contextmanager
    def _removed_on_error(self, layer: str) -> Iterator[None]:
        try:
            yield
        except (OSError, PoolError):
            (self._layers / layer).unlink(missing_ok=True)
            raise

    def _header(self, layer: str) -> qcow2.Header:
        try:
            return qcow2.parse(read_start(self._layers / layer, qcow2.HEADER_READ, whole=False))
        except FileNotFoundError as error:
            raise PoolError(f"the layer {layer} is missing in {self._layers}") from error
        except PoolError as error:
            raise PoolError(f"the layer {layer} is damaged: {error}") from error

    def _verify(self, chain: Sequence[str]) -> None:
        """Of a raw layer, which is an image's disk, there is nothing to check but that it is there."""
        for layer, backing in zip(chain, (*chain[1:], ""), strict=True):
            if layer_format(layer) == "raw":
                if not (self._layers / layer).exists():
                    raise PoolError(f"the layer {layer} is missing in {self._layers}")
                continue
            header = self._header(layer)
            try:
                qcow2.refuse_foreign(
                    header,
                    qcow2.INCOMPATIBLE_DIRTY
                    | qcow2.INCOMPATIBLE_COMPRESSION
                    | qcow2.INCOMPATIBLE_EXTENDED_L2,
                )
            except PoolError as error:
                raise PoolError(f"the layer {layer} is damaged: {error}") from error
            if header.backing != backing:
                raise PoolError(
                    f"the layer {layer} is damaged: it is over {header.backing[:80]!r}, not {backing!r}"
                )

    def _space(self) -> Space:
        found = os.statvfs(self._root)
        return Space(size_bytes=found.f_blocks * found.f_frsize, free_bytes=found.f_bavail * found.f_frsize)

    def _listing(self) -> Listing:
        layers = os.listdir(self._layers)
        temporary: list[str] = []
        strange = [f"layers/{name}" for name in layers if not is_layer_name(name)]
        for name in os.listdir(self._records):
            id, _, ending = name.partition(".")
            if is_id(id) and ending.endswith("tmp"):
                if name not in self._temporary:
                    temporary.append(name)
            elif not is_id(id) or ending != "json":
                strange.append(f"records/{name}")
        return Listing(
            layers=frozenset(filter(is_layer_name, layers)),
            temporary=tuple(sorted(temporary)),
            strange=tuple(sorted(strange)),
        )
