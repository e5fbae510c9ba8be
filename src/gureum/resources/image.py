"""Machine images."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from gureum.resources.record import Record, Transitions, table


class ImageState(StrEnum):
    pending = "pending"
    available = "available"
    failed = "failed"
    deregistered = "deregistered"


class Image(Record, frozen=True, kw_only=True, omit_defaults=True):
    """An AMI. ``disk``, ``kernel`` and ``initrd`` are files of a built image; no kernel: firmware boots it.

    ``snapshot`` is the snapshot that its root volume shows as. Not ``public``: its account's alone.
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
    created: datetime

    kind: ClassVar[str] = "image"
    indexes: ClassVar[tuple[str, ...]] = ("account", "name")
    transitions: ClassVar[Transitions] = table(
        ImageState, pending="available failed deregistered", available="deregistered", failed="deregistered"
    )
