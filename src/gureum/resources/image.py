"""Machine images."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

import msgspec

from gureum.resources.record import Record, Transitions, table


class ImageDevice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A volume that instances of the image get. ``snapshot`` "": an empty one.

    ``encrypted``: of the snapshot, or of an empty one that is to be.
    """

    device: str
    snapshot: str = ""
    size_gib: int
    type: str = "gp3"
    iops: int = 0
    throughput: int = 0
    delete_on_termination: bool = True
    encrypted: bool = False


class ImageState(StrEnum):
    pending = "pending"
    available = "available"
    failed = "failed"
    deregistered = "deregistered"


class Image(Record, frozen=True, kw_only=True, omit_defaults=True):
    """An AMI. ``disk``, ``kernel`` and ``initrd`` are files of a built image; no kernel: firmware boots it.

    ``snapshot`` is the snapshot that its root volume shows as; with no ``disk`` it is what that is made from.
    ``devices``: all its volumes, the root too; none for a built image, which has its root only.

    Not ``public``: for its account and ``users`` alone.
    """

    state: ImageState = ImageState.available
    name: str
    description: str = ""
    architecture: str = "x86_64"
    machine: str = "q35"
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    disk: str = ""
    disk_format: str = "raw"
    disk_bytes: int
    root_device: str = "/dev/xvda"
    login: str = "root"
    snapshot: str = ""
    public: bool = False
    users: tuple[str, ...] = ()
    devices: tuple[ImageDevice, ...] = ()
    source_instance: str = ""
    source_image: str = ""
    boot_mode: str = "legacy-bios"
    ena: bool = False
    imds_v2: bool = True
    """Shown as its ImdsSupport."""
    sriov: str = ""
    message: str = ""
    """Why it failed."""
    cancelled: bool = False
    """Deregistered while it was pending: nobody sees it any more, and it goes when nothing waits for it."""
    created: datetime

    @property
    def snapshots(self) -> tuple[str, ...]:
        """The snapshots that it is made of, its root's first."""
        others = (each.snapshot for each in self.devices if each.device != self.root_device)
        return tuple(id for id in (self.snapshot, *others) if id)

    kind: ClassVar[str] = "image"
    indexes: ClassVar[tuple[str, ...]] = ("account", "name", "state", "snapshots")
    transitions: ClassVar[Transitions] = table(
        ImageState, pending="available failed deregistered", available="deregistered", failed="deregistered"
    )
