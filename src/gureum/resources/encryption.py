"""Encryption of disks: its keys, and whether an account wants it always."""

from __future__ import annotations

from typing import ClassVar

from gureum.resources.record import Record


class VolumeKey(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The key of a volume, its snapshots, and the volumes made of these. ``wrapped``: by ``control.keys``."""

    wrapped: bytes

    kind: ClassVar[str] = "volume-key"
    indexes: ClassVar[tuple[str, ...]] = ("account",)


class EbsDefaults(Record, frozen=True, kw_only=True, omit_defaults=True):
    """What an account's new volumes are like; the id is the account's."""

    encrypted: bool = False

    kind: ClassVar[str] = "ebs-defaults"
