"""What a block pool does for the agent: volumes, clones, snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

THAW_SECONDS = 5.0
BLOCKS_BYTES_MAX = 4 << 20
"""The most that is read or written in one call."""


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a disk: absolute ``path``, ``format`` raw or qcow2."""

    path: str
    format: str


class FileDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk as a chain of files, the written one first, each backed by the next."""

    layers: tuple[Layer, ...]


class RbdDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk as a RADOS block device, which every host of the cloud reaches. ``user`` without "client."."""

    pool: str
    image: str
    conf: str
    user: str
    keyring: str


DiskSource = FileDisk | RbdDisk


class VolumeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """``used_bytes`` is what the volume itself occupies, without what it shares with its source.

    0 where finding that out takes long: in a shared pool. ``partial``: not all of its data is there yet.
    """

    id: str
    size_bytes: int
    used_bytes: int = 0
    partial: bool = False


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """All that the pool holds. ``free_bytes`` of ``size_bytes`` can still be written.

    ``full``: why nothing new can be made now, "" if it can.
    """

    volumes: Mapping[str, VolumeInfo]
    snapshots: frozenset[str]
    size_bytes: int
    free_bytes: int
    full: str = ""


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

    async def freeze(self) -> bool:
        """Let the guest bring its file systems in order and write nothing more; whether it could be asked.

        The pool thaws within THAW_SECONDS, and the machine does so itself after that.
        """

    async def thaw(self) -> None: ...


class Pool(Protocol):
    """A pool of one host, or one that all hosts of the cloud share (``shared``).

    Of a shared pool several agents have each an object like this one at the same time. The manager gives each
    volume to one host at a time, and what an agent does for a volume that it was given once more may meet
    what another has begun: a step that finds its end already done is done.

    Every method is idempotent: done again after it was done, or after a crash in the middle, it completes.

    Sizes are in bytes. All raise PoolError; PoolFull for lack of space, PoolUnavailable while a shared pool
    does not answer. Names are ids from the API ("vol-...", "snap-...", "ami-..."): checked here again before
    they become file names.
    """

    @property
    def shared(self) -> bool: ...

    async def inventory(self) -> Inventory:
        """Of a shared pool ``volumes`` and ``snapshots`` are empty: ask ``find_volume``, ``has_snapshot``."""

    async def find_volume(self, id: str) -> VolumeInfo | None: ...

    async def has_snapshot(self, id: str, volume: str) -> bool: ...

    async def create_volume(
        self, id: str, size_bytes: int, source: str = "", source_volume: str = "", partial: bool = False
    ) -> None:
        """``source``: "" for an empty volume, or the id of an image or snapshot to clone without copying.

        ``source_volume``: the volume that the snapshot is of. ``partial``: it says that it is, from its
        beginning on.
        """

    async def mark_partial(self, id: str, partial: bool) -> None:
        """Let the volume say that data is missing, or no more; also while a machine has it open. Durable.

        PoolUnavailable while another host may have it open: this one's word is an old one.
        """

    async def resize_volume(self, id: str, size_bytes: int, live: LiveDisk | None = None) -> None:
        """Grow. Smaller than now is a PoolError."""

    async def delete_volume(self, id: str) -> None: ...

    async def create_snapshot(self, id: str, volume: str, live: LiveDisk | None = None) -> None:
        """Crash-consistent. ``live`` is given while a machine has the volume open."""

    async def delete_snapshot(self, id: str, volume: str) -> None:
        """The snapshot's data stays as long as a volume cloned from it needs it."""

    async def add_image(self, id: str, disk: str, format: str, size_bytes: int) -> None:
        """Let volumes be cloned from this disk file, which does not change any more."""

    async def remove_image(self, id: str) -> None:
        """Forget an image; volumes cloned from it stay whole."""

    async def check(self, repair: bool = False) -> list[str]:
        """What is not as it should be, a line each. ``repair`` removes what nothing needs, and only that."""

    async def open_volume(self, id: str, revision: int = 0) -> DiskSource:
        """What a hypervisor needs to use the volume. A shared one is this host's from now on, by the word of
        the spec with this revision (see ``evict``).

        Raises PoolUnavailable while it is another host's.
        """

    async def share_volume(self, id: str, revision: int = 0) -> DiskSource:
        """As ``open_volume``, of a volume of a shared pool that machines of other hosts may have open, too.

        Raises PoolUnavailable while it is another host's alone, or another host opens it.
        """

    async def receive_volume(self, id: str, revision: int = 0) -> DiskSource:
        """As ``open_volume``, of a volume of a shared pool that another host has alone: with a machine that
        is on its way from there to here, and does not write before it goes on here.

        The other host keeps it until it releases it, and nobody else can open it. Once the machine is here
        for good, ``open_volume`` makes it this host's (PoolUnavailable until the other has released it, or
        was evicted); ``release_volume`` gives it up instead. Either host can be evicted without the other.
        """

    async def note_opened(self, id: str) -> None:
        """A machine of this host has opened what was shared or is received, or is not going to.

        Who has it open is written down, so that ``evict`` leaves out the machines of other hosts.
        """

    async def release_volume(self, id: str) -> None:
        """No machine of this host has the volume open any more: another host may have it.

        One that comes to pass late takes nothing from another host, nor from this one if that has opened the
        volume anew meanwhile.
        """

    async def evict(self, id: str, host: str, revision: int | None = None) -> None:
        """Take a shared volume from a host that is lost: it can write no more, also should it still run.

        ``revision``: at which it had been lost, None for whatever the host has. What the host opened by the
        word of a later spec it keeps: who hung over an eviction may go on with it when that host is back.
        """

    async def compact(self, id: str) -> bool:
        """Shorten what many snapshots have made long, of a volume that no machine has open; whether it was.

        It may copy data, and take as long as that takes.
        """

    async def snapshot_extents(
        self, id: str, volume: str, since: str = "", offset: int = 0, length: int = 0
    ) -> list[tuple[int, int]]:
        """Where the snapshot may have data, as (offset, length) in order; the rest of it is zeros.

        With ``since``, an earlier snapshot of the same volume: where the two may differ. From ``offset`` on,
        for ``length`` bytes, 0 for all. More than fit into an answer is a PoolError: ask for a part.
        """

    async def read_snapshot(self, id: str, volume: str, offset: int, length: int) -> bytes:
        """At most BLOCKS_BYTES_MAX. Offsets and lengths are multiples of 512."""

    async def volume_extents(self, id: str, offset: int = 0, length: int = 0) -> list[tuple[int, int]]:
        """As ``snapshot_extents``, of a volume that no machine has open."""

    async def read_volume(self, id: str, offset: int, length: int) -> bytes:
        """As ``read_snapshot``, of a volume that no machine has open."""

    async def write_volume(self, id: str, offset: int, data: bytes) -> None:
        """Likewise; durable when it returns."""

    async def close(self) -> None:
        """Let another process have the pool. Nothing may be under way."""
