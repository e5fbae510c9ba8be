"""What a block pool does for the agent: volumes, clones, snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a disk: absolute ``path``, ``format`` raw or qcow2."""

    path: str
    format: str


class FileDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk as a chain of files, the written one first, each backed by the next."""

    layers: tuple[Layer, ...]


class VolumeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """``used_bytes`` is what the volume itself occupies, without what it shares with its source."""

    id: str
    size_bytes: int
    used_bytes: int = 0


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """All that the pool holds. ``free_bytes`` of ``size_bytes`` can still be written."""

    volumes: Mapping[str, VolumeInfo]
    snapshots: frozenset[str]
    size_bytes: int
    free_bytes: int


class LiveDisk(Protocol):
    """The running machine that has a volume open, as far as the pool needs it."""

    async def active_layer(self) -> str:
        """The path of the file that the guest writes to now."""

    async def switch_layer(self, layer: Layer) -> None:
        """Let the guest write to ``layer``, whose backing file is the present one, from one moment on.

        All writes that the guest has had acknowledged are below. The guest stops for the switch only.
        """

    async def resize(self, size_bytes: int) -> None:
        """Let the guest see ``size_bytes``, growing the file."""


class Pool(Protocol):
    """Every method is idempotent: done again after it was done, or after a crash in the middle, it completes.

    Sizes are in bytes. All raise PoolError; PoolFull for lack of space. Names are ids from the API
    ("vol-...", "snap-...", "ami-..."): checked here again before they become file names.
    """

    async def inventory(self) -> Inventory: ...

    async def create_volume(self, id: str, size_bytes: int, source: str = "") -> None:
        """``source``: "" for an empty volume, or the id of an image or snapshot to clone without copying."""

    async def resize_volume(self, id: str, size_bytes: int, live: LiveDisk | None = None) -> None:
        """Grow. Smaller than now is a PoolError."""

    async def delete_volume(self, id: str) -> None: ...

    async def create_snapshot(self, id: str, volume: str, live: LiveDisk | None = None) -> None:
        """Crash-consistent. ``live`` is given while a machine has the volume open."""

    async def delete_snapshot(self, id: str) -> None:
        """The snapshot's data stays as long as a volume cloned from it needs it."""

    async def add_image(self, id: str, disk: str, format: str, size_bytes: int) -> None:
        """Let volumes be cloned from this disk file, which does not change any more."""

    async def remove_image(self, id: str) -> None:
        """Forget an image; volumes cloned from it stay whole."""

    async def check(self, repair: bool = False) -> list[str]:
        """What is not as it should be, a line each. ``repair`` removes what nothing needs, and only that."""

    async def open_volume(self, id: str) -> FileDisk:
        """What a hypervisor needs to use the volume."""

    async def compact(self, id: str) -> bool:
        """Shorten what many snapshots have made long, of a volume that no machine has open; whether it was.

        It may copy data, and take as long as that takes.
        """

    async def close(self) -> None:
        """Let another process have the pool. Nothing may be under way."""
