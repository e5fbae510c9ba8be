"""What a pool writes down: one record for every volume, snapshot and image.

Each record names its whole chain of layers, the written one first. Nothing is counted: a layer is needed
while some record names it, and what no record names is garbage. The backing names inside qcow2 files are
for people with qemu-img only; they are checked against these records, never followed on their own.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from gureum.errors import PoolError

SIZE_MAX = 64 << 40
"""EBS's largest volume, in bytes."""

_ID = re.compile(r"(vol|snap|ami)-[0-9a-z]{1,40}")
_LAYER = re.compile(r"(vol|ami)-[0-9a-z]{1,40}\.[0-9a-f]{8}\.(qcow2|raw)")


class SwitchIntent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The volume's top layer is about to be frozen below ``overlay``, or is already.

    ``snapshot`` will own the frozen layers; it is "" if it was deleted before it was complete. ``size_bytes``
    is the volume's size at that moment.
    """

    snapshot: str
    overlay: str
    size_bytes: int


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``source`` is "", an image or a snapshot. ``pending`` must be finished before anything else is done."""

    id: str
    size_bytes: int
    chain: tuple[str, ...]
    source: str = ""
    pending: SwitchIntent | None = None
    partial: bool = False
    """It is a copy that is not complete."""


class SnapshotRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    size_bytes: int
    chain: tuple[str, ...]
    volume: str


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    size_bytes: int
    chain: tuple[str, ...]


PoolRecord = VolumeRecord | SnapshotRecord | ImageRecord
KINDS: dict[str, type[PoolRecord]] = {"vol": VolumeRecord, "snap": SnapshotRecord, "ami": ImageRecord}

R = TypeVar("R", VolumeRecord, SnapshotRecord, ImageRecord)


def require_id(id: str, *kinds: str) -> None:
    """Raise PoolError unless ``id`` is a well-formed id of one of the ``kinds`` ("vol", "snap", "ami")."""
    found = _ID.fullmatch(id)
    if found is None or found[1] not in kinds:
        raise PoolError(f"{id[:80]!r} is no id of the form {' or '.join(kind + '-...' for kind in kinds)}")


def require_size(id: str, size_bytes: int) -> None:
    """Raise PoolError unless a disk can have this size: whole sectors, at most ``SIZE_MAX``."""
    if not 0 < size_bytes <= SIZE_MAX or size_bytes % 512:
        raise PoolError(f"{id}: {size_bytes} bytes is no size of a disk")


def require_format(id: str, format: str) -> None:
    """Raise PoolError unless an image can come in this format: "raw" or "qcow2"."""
    if format not in ("raw", "qcow2"):
        raise PoolError(f"{id}: disk format {format[:80]!r} is neither raw nor qcow2")


def is_id(id: str) -> bool:
    return _ID.fullmatch(id) is not None


def is_layer_name(name: str) -> bool:
    """Whether this can be the name of a layer: ``<owner>.<8 hexadecimal digits>.<format>``."""
    return _LAYER.fullmatch(name) is not None


def layer_format(name: str) -> str:
    """``qcow2`` or ``raw``: the format is part of the name, and is never found out by looking inside."""
    return name.rpartition(".")[2]


def layers_of(record: PoolRecord) -> tuple[str, ...]:
    """All layers that the record keeps alive."""
    if isinstance(record, VolumeRecord) and record.pending is not None:
        return (record.pending.overlay, *record.chain)
    return record.chain


def encode(record: PoolRecord) -> bytes:
    return msgspec.json.encode(record)


def decode(id: str, data: bytes) -> PoolRecord:
    """The record ``id``. PoolError if the data is none, is another's, or names layers that cannot exist."""
    require_id(id, *KINDS)
    kind = KINDS[id.partition("-")[0]]
    try:
        record = msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise PoolError(f"the record of {id} is damaged: {error}") from error
    if record.id != id or not record.chain or not all(map(is_layer_name, layers_of(record))):
        raise PoolError(f"the record of {id} is damaged: it names {record.id[:80]!r} or impossible layers")
    return record
