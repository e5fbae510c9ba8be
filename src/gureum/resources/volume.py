"""Volumes and snapshots."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

import msgspec

from gureum.resources.record import Record, Transitions, table


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

    ``host`` is where a local pool's volume lives: it is placed with its first instance, or at creation.
    ``instance`` repeats ``attachment.instance``, for the index.
    """

    state: VolumeState = VolumeState.creating
    message: str = ""
    size_bytes: int
    type: str = "gp3"
    iops: int = 0
    throughput: int = 0
    zone: str
    pool: str = "local"
    host: str | None = None
    source: str = ""
    snapshot: str = ""
    """The snapshot id that DescribeVolumes shows, "" if made empty."""
    created: datetime
    attachment: Attachment | None = None
    instance: str | None = None
    modification: Modification | None = None
    purge_at: float = 0.0

    kind: ClassVar[str] = "volume"
    indexes: ClassVar[tuple[str, ...]] = ("account", "host", "state", "instance", "source")
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
    """``volume`` is the volume it was taken of ("vol-ffffffff" for an image's own)."""

    state: SnapshotState = SnapshotState.pending
    message: str = ""
    volume: str
    size_bytes: int
    description: str = ""
    pool: str = "local"
    host: str | None = None
    started: datetime
    image: str = ""
    """Set on the snapshot that stands for an image's disk: it needs no copy in the pool."""

    kind: ClassVar[str] = "snapshot"
    indexes: ClassVar[tuple[str, ...]] = ("account", "host", "state", "volume")
    transitions: ClassVar[Transitions] = table(
        SnapshotState, pending="completed error deleting", completed="deleting", error="deleting"
    )
