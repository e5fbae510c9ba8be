"""A cluster as a whole: its room, its copies, its disks, its health."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gureum.errors import PoolError
from gureum.resources.volume import VOLUME_TYPES
from gureum.san.ceph import health
from gureum.san.ceph.commands import Access, Answer, ask
from gureum.san.settings import SanSettings

KIB = 1024


class Room(msgspec.Struct, frozen=True):
    """In bytes. ``raw`` counts every copy, ``usable`` and ``used`` one: what fits, and what is stored."""

    raw: int
    raw_used: int
    usable: int
    used: int
    copies: int
    copies_min: int


class Osd(msgspec.Struct, frozen=True):
    """``device``: what its bytes are on; "" where the cluster does not say. ``size``: 0 where it does not."""

    name: str
    is_up: bool
    is_in: bool
    size: int
    used: int
    host: str = ""
    device: str = ""
    pid: int | None = None


class PoolRoom(msgspec.Struct, frozen=True):
    """One of the cloud's pools; ``types``: EBS volume types whose volumes are made there.

    What is free, all pools share as far as the same OSDs hold them.
    """

    name: str
    room: Room
    types: tuple[str, ...] = ()


class Status(msgspec.Struct, frozen=True):
    """``osds`` is empty where the user has no right to see them. ``room``: of the first of ``pools``."""

    fsid: str
    version: str
    pool: str
    health: health.Health
    room: Room
    osds: tuple[Osd, ...] = ()
    pools: tuple[PoolRoom, ...] = ()


QUESTIONS: tuple[dict[str, Any], ...] = (
    {"prefix": "status"},
    {"prefix": "health", "detail": "detail"},
    {"prefix": "df"},
    {"prefix": "osd dump"},
    {"prefix": "versions"},
    {"prefix": "osd metadata"},
    {"prefix": "osd df", "to manager": True},
)


def look(access: Access, settings: SanSettings, timeout_s: float = 10.0) -> Status:
    """Blocks. Raises PoolUnavailable where no monitor answers, PoolError where there is no such pool."""
    return read(ask(access, QUESTIONS, timeout_s), settings)


def read(answers: Sequence[Answer], settings: SanSettings) -> Status:
    """From the answers to QUESTIONS. The last two may be refused to a user of a pool."""
    status, detail, df, dump, versions = (answer.document() for answer in answers[:5])
    metadata, usage = (answer.document() if answer.code == 0 else None for answer in answers[5:])
    pools = tuple(PoolRoom(name, room(df, dump, name), types_of(settings, name)) for name in settings.pools)
    return Status(
        fsid=status["fsid"],
        version=read_version(versions),
        pool=settings.pool,
        health=health.read(status, detail),
        room=pools[0].room,
        osds=osds(dump, metadata or [], usage or {}),
        pools=pools,
    )


def types_of(settings: SanSettings, pool: str) -> tuple[str, ...]:
    """The EBS volume types whose volumes are made in the pool."""
    return tuple(type for type in VOLUME_TYPES if dict(settings.types).get(type, settings.pool) == pool)


def read_version(versions: dict[str, Any]) -> str:
    """The oldest of the daemons': "16.2.15"."""
    found = {_short(text) for text in versions.get("overall", {})}
    return min(found, key=numbers, default="unknown")


def _short(text: str) -> str:
    words = text.split()
    return words[2] if len(words) > 2 else text


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split("-")[0].split("."))


def room(df: dict[str, Any], dump: dict[str, Any], pool: str) -> Room:
    shape = next((each for each in dump["pools"] if each["pool_name"] == pool), None)
    if shape is None:
        raise PoolError(f"the cluster has no pool {pool!r}")
    # For some seconds after a start nobody has counted yet.
    uncounted = {"stored": 0, "max_avail": 0}
    stats = next((each["stats"] for each in df["pools"] if each["name"] == pool), uncounted)
    return Room(
        raw=df["stats"]["total_bytes"],
        raw_used=df["stats"]["total_used_raw_bytes"],
        usable=stats["stored"] + stats["max_avail"],
        used=stats["stored"],
        copies=shape["size"],
        copies_min=shape["min_size"],
    )


def osds(dump: dict[str, Any], metadata: list[dict[str, Any]], usage: dict[str, Any]) -> tuple[Osd, ...]:
    known = {each["id"]: each for each in metadata}
    used = {each["id"]: each for each in usage.get("nodes", [])}
    return tuple(
        Osd(
            name=f"osd.{each['osd']}",
            is_up=bool(each["up"]),
            is_in=bool(each["in"]),
            size=used.get(each["osd"], {}).get("kb", 0) * KIB,
            used=used.get(each["osd"], {}).get("kb_used", 0) * KIB,
            host=known.get(each["osd"], {}).get("hostname", ""),
            device=_device(known.get(each["osd"], {})),
        )
        for each in dump["osds"]
    )


def _device(metadata: dict[str, Any]) -> str:
    names = ("bluestore_bdev_dev_node", "bluestore_bdev_partition_path", "bluestore_bdev_path", "devices")
    return str(next((metadata[name] for name in names if metadata.get(name)), ""))
