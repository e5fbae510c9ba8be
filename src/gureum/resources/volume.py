"""Volumes and snapshots."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

import msgspec

from gureum.hostspec import LOCAL
from gureum.resources.record import Record, Transitions, table


def shared(pool: str) -> bool:
    """Whether every host reaches what is in the pool: it binds nothing to a host."""
    return pool != LOCAL


class VolumeState(StrEnum):
    """EC2's volume states."""

    creating = "creating"
    available = "available"
    in_use = "in-use"
    deleting = "deleting"
    deleted = "deleted"
    error = "error"


class AttachmentState(StrEnum):
    attaching = "attaching"
    attached = "attached"
    detaching = "detaching"


class Attachment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    instance: str
    device: str
    state: AttachmentState
    attached: datetime
    delete_on_termination: bool = False
    force: bool = False


class Modification(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A ModifyVolume request. ``state``: modifying, completed or failed (EC2's names)."""

    state: str
    started: datetime
    ended: datetime | None = None
    message: str = ""
    original_size_bytes: int
    original_type: str
    original_iops: int = 0
    original_throughput: int = 0
    target_size_bytes: int = 0
    target_type: str = ""
    target_iops: int = 0
    target_throughput: int = 0


class Volume(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``size_bytes`` is the desired size. ``source`` is "", an image id or a snapshot id.

    ``host`` is where a local pool's volume lives: it is placed with its first instance, or at creation. In a
    shared pool it is the host that looks after the volume now, and the only one that may have it open.
    ``instance`` repeats ``attachment.instance``, for the index.
    """

    state: VolumeState = VolumeState.creating
    message: str = ""
    size_bytes: int
    type: str = "gp3"
    iops: int = 0
    throughput: int = 0
    zone: str
    pool: str = LOCAL
    host: str | None = None
    former: tuple[str, ...] = ()
    """Hosts that looked after it before, and may still be making it, or may have it open if they are lost."""
    source: str = ""
    encrypted: bool = False
    key: str = ""
    """The id of its key in the key store."""
    encrypts: bool = False
    """Its source is not encrypted: making it is copying that."""
    snapshot: str = ""
    """The snapshot id that DescribeVolumes shows, "" if made empty."""
    created: datetime
    attachment: Attachment | None = None
    instance: str | None = None
    modification: Modification | None = None
    auto_enable_io: bool = False
    origin: str = ""
    """The built image that its data began as, "" for none: its kernel may be needed to boot from it."""
    staged: str = ""
    """The id of the snapshot that it is made for: nobody sees it, and it goes when that one is taken."""
    purge_at: float = 0.0

    @property
    def keys(self) -> tuple[str, ...]:
        """For the index: most volumes have none."""
        return (self.key,) if self.key else ()

    kind: ClassVar[str] = "volume"
    indexes: ClassVar[tuple[str, ...]] = ("account", "host", "state", "instance", "source", "keys")
    transitions: ClassVar[Transitions] = table(
        VolumeState,
        creating="available in_use deleting error",
        available="in_use deleting error",
        in_use="available deleting error",
        error="deleting",
        deleting="deleted",
    )


class SnapshotState(StrEnum):
    """EC2's states, and ``deleting`` while the pool still has it (not shown)."""

    pending = "pending"
    completed = "completed"
    error = "error"
    deleting = "deleting"


class Snapshot(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``volume`` is the volume it was taken of ("vol-ffffffff" for an image's own, and for copies).

    ``staging`` is the volume that it is taken of instead, if that is one that nobody sees (``staged``).
    ``timeout_seconds``: while it is above 0 the blocks are still being written (StartSnapshot), and the
    snapshot is not taken yet; it is given up if nothing is written for so long.
    """

    state: SnapshotState = SnapshotState.pending
    message: str = ""
    volume: str
    size_bytes: int
    description: str = ""
    pool: str = LOCAL
    host: str | None = None
    former: tuple[str, ...] = ()
    """As of a volume."""
    encrypted: bool = False
    key: str = ""
    started: datetime
    completed: datetime | None = None
    image: str = ""
    """Set on the snapshot that stands for an image's disk: it needs no copy in the pool."""
    origin: str = ""
    """As in Volume."""
    staging: str = ""
    after: str = ""
    """The instance whose machine has to be off before it is taken (CreateImage with a reboot)."""
    timeout_seconds: float = 0.0
    public: bool = False
    users: tuple[str, ...] = ()
    """Accounts that may make volumes of it, besides its own."""

    @property
    def keys(self) -> tuple[str, ...]:
        """As of a volume."""
        return (self.key,) if self.key else ()

    @property
    def taken_of(self) -> str:
        """The volume in the pool."""
        return self.staging or self.volume

    @property
    def held(self) -> bool:
        """Whether it is not to be taken yet."""
        return bool(self.after) or self.timeout_seconds > 0

    kind: ClassVar[str] = "snapshot"
    indexes: ClassVar[tuple[str, ...]] = ("account", "host", "state", "volume", "keys")
    transitions: ClassVar[Transitions] = table(
        SnapshotState, pending="completed error deleting", completed="deleting", error="deleting"
    )
