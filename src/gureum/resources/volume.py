"""Volumes and snapshots."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

import msgspec

from gureum.hostspec import LOCAL
from gureum.resources.record import Record, Transitions, table

BOOT_TYPES = ("gp3", "gp2", "io1", "io2", "standard")
"""EBS volume types that are meant for root disks, too."""
VOLUME_TYPES = (*BOOT_TYPES, "st1", "sc1")


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
    original_multi_attach: bool = False
    target_multi_attach: bool = False


class Move(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A volume's way from the pool ``source`` to ``target``.

    ``state``: moving, completed, cancelled or failed. ``message`` says why it did not come to its end.
    """

    state: str
    source: str
    target: str
    started: datetime
    ended: datetime | None = None
    message: str = ""


class Volume(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``size_bytes`` is the desired size. ``source`` is "", an image id or a snapshot id.

    ``host`` is where a local pool's volume lives: it is placed with its first instance, or at creation. In a
    shared pool it is the host that looks after the volume now, and the only one that may have it open, unless
    ``multi_attach``: then those of all instances that have it may.
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
    """Hosts that looked after it before, and may still be making it, or may have it open if they are gone; of
    one in a local pool those that may have a copy, since it migrates or did.
    """
    lost: tuple[str, ...] = ()
    """Hosts that were lost with it, perhaps open: it is taken from them first, also if they are back."""
    lost_at: dict[str, int] = msgspec.field(default_factory=dict)
    """Of these, the revision at which one had been lost: what it opens by a later spec it has anew."""
    strays: tuple[str, ...] = ()
    """Hosts that were lost with a copy in their own pool, which is not the volume: they remove it when they
    are back.
    """
    source: str = ""
    encrypted: bool = False
    key: str = ""
    """The id of its key in the key store."""
    encrypts: bool = False
    """Its source is not encrypted: making it is copying that."""
    source_bytes: int = 0
    """How much of it that is, 0 for all."""
    snapshot: str = ""
    """The snapshot id that DescribeVolumes shows, "" if made empty."""
    created: datetime
    attachments: tuple[Attachment, ...] = ()
    """Of one instance at most, unless ``multi_attach``; of each once."""
    multi_attach: bool = False
    modification: Modification | None = None
    move: Move | None = None
    """The latest."""
    leaves: tuple[str, ...] = ()
    """Pools in which a copy of it is to be removed: where it was before it moved, or did not come to."""
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

    @property
    def holders(self) -> tuple[str, ...]:
        """For the index: hosts before its own that may hold it, or a copy of it, since they made that. An
        agent that was started anew knows nothing of it, and is told.
        """
        copies = shared(self.pool) and (self.encrypts or sum(map(shared, self.pools)) > 1)
        return self.former if copies else ()

    @property
    def modifying(self) -> bool:
        return self.modification is not None and self.modification.state == "modifying"

    @property
    def target(self) -> str:
        """The pool that it is on its way to, "" for none: its data is in ``pool`` until that is this one.

        A volume that is not made yet does not go, nor one that other hosts may still be making, or have open.
        """
        stays = self.state in (VolumeState.creating, VolumeState.error) or self.former or self.lost
        return "" if stays else self._goes_to

    @property
    def _goes_to(self) -> str:
        return self.move.target if self.move is not None and self.move.state == "moving" else ""

    @property
    def pools(self) -> tuple[str, ...]:
        """All in which something of it may be."""
        return tuple(filter(None, dict.fromkeys((self.pool, self._goes_to, *self.leaves))))

    @property
    def bound(self) -> bool:
        """Whether only its host can have it: part of it is on the host's own disk, or it is on its way."""
        moves = bool(self.target) and self.state is not VolumeState.deleting
        return moves or not all(map(shared, self.pools))

    @property
    def instances(self) -> tuple[str, ...]:
        """Those that have it, for the index, too."""
        return tuple(each.instance for each in self.attachments)

    def attached_to(self, instance: str) -> Attachment | None:
        return next((each for each in self.attachments if each.instance == instance), None)

    def with_attachment(self, attachment: Attachment) -> Volume:
        """With this one in the place of its instance's, or added."""
        known = attachment.instance in self.instances
        others = tuple(
            attachment if each.instance == attachment.instance else each for each in self.attachments
        )
        return msgspec.structs.replace(self, attachments=others if known else (*others, attachment))

    def without_attachment(self, instance: str) -> Volume:
        left = tuple(each for each in self.attachments if each.instance != instance)
        return msgspec.structs.replace(self, attachments=left)

    kind: ClassVar[str] = "volume"
    indexes: ClassVar[tuple[str, ...]] = (
        *("account", "host", "state", "instances", "source", "keys"),
        *("strays", "holders"),
    )
    transitions: ClassVar[Transitions] = table(
        VolumeState,
        creating="available in_use deleting error",
        available="in_use deleting error",
        in_use="available deleting error",
        error="deleting",
        deleting="deleted",
    )


OF_NO_VOLUME = "vol-ffffffff"
"""What EC2 shows as the volume of a snapshot that was taken of none of the account's: of an image's own, of a
copy, of one that was uploaded."""


class SnapshotState(StrEnum):
    """EC2's states, and ``deleting`` while the pool still has it (not shown)."""

    pending = "pending"
    completed = "completed"
    error = "error"
    deleting = "deleting"


class Snapshot(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``volume`` is the volume it was taken of (or OF_NO_VOLUME).

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
