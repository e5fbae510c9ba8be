"""Where a pool keeps its layers and records. Implementations: ``files`` in a directory, ``fake`` in memory.

A layer is one file of a disk. It is written by one volume, the one that it is the top of, until it is frozen
below another layer; from then on it never changes. Layer names come from the pool and are used once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from gureum.errors import PoolFull

GIB = 1 << 30


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """``temporary`` are unfinished files; ``strange`` is what does not belong here."""

    layers: frozenset[str]
    temporary: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """Of the file system, in bytes. ``free_bytes`` is what may be written, whoever reserves some of it."""

    size_bytes: int
    free_bytes: int


class LayerStore(Protocol):
    """Every method is atomic and durable: when it returns, its effect survives a power cut; when it raises or
    the process dies, there is none, except for files that no record names.

    Raises PoolError; PoolFull for lack of space.
    """

    def path(self, layer: str) -> str:
        """What a hypervisor opens."""

    async def load(self) -> Mapping[str, bytes]:
        """All records by id. Takes the store over: PoolError if another process has it."""

    async def put_record(self, id: str, data: bytes) -> None: ...

    async def drop_record(self, id: str) -> None: ...

    async def create_layer(self, layer: str, size_bytes: int, backing: str) -> None:
        """An empty qcow2 layer over the layer ``backing``, or over nothing."""

    async def import_layer(self, layer: str, disk: str, size_bytes: int, reserve_bytes: int) -> None:
        """Make the disk file a layer of its own right: it stays when ``disk`` is removed.

        Linked, not copied, where that is possible. A copy leaves ``reserve_bytes`` free.
        """

    async def remove_layers(self, layers: Sequence[str]) -> None: ...

    async def verify(self, chain: Sequence[str]) -> None:
        """PoolError if a layer is missing, or its header is not as the pool left it."""

    async def layer_size(self, layer: str) -> int:
        """The size in bytes that the guest sees, of a qcow2 layer."""

    async def grow_layer(self, layer: str, size_bytes: int) -> None:
        """The layer is open nowhere."""

    async def flatten(self, layer: str, chain: Sequence[str], keep: Sequence[str]) -> None:
        """Put ``layer``, empty over ``chain``, over the tail ``keep`` of it, with the same contents."""

    async def extents(
        self, layers: Sequence[str], offset: int, length: int, zeros: bool
    ) -> list[tuple[int, int]]:
        """Where one of the layers itself has data, or ``zeros`` too: (offset, length), in no order."""

    async def read(self, chain: Sequence[str], offset: int, length: int) -> bytes: ...

    async def write(self, chain: Sequence[str], offset: int, data: bytes) -> None:
        """To its top layer, which is open nowhere."""

    async def in_use(self, layer: str) -> bool:
        """Whether a hypervisor has the layer open for writing."""

    async def used(self, layers: Sequence[str]) -> Mapping[str, int]:
        """The bytes that each layer occupies; missing ones are left out."""

    async def space(self) -> Space: ...

    async def listing(self) -> Listing: ...

    async def discard(self, temporary: Sequence[str]) -> None:
        """Remove unfinished files of a listing."""

    async def close(self) -> None: ...


def size_text(size_bytes: int) -> str:
    """For people: "3.2 GiB"."""
    if size_bytes >= GIB:
        return f"{size_bytes / GIB:.1f} GiB"
    return f"{size_bytes / (1 << 20):.1f} MiB"


def full(pool: str, need_bytes: int, reserve_bytes: int, space: Space) -> PoolFull:
    """The error for lack of space, found before anything was done."""
    return PoolFull(
        f"{pool} is full: {size_text(need_bytes)} needed and {size_text(reserve_bytes)} kept in reserve, "
        f"but {size_text(space.free_bytes)} of {size_text(space.size_bytes)} are free"
    )
