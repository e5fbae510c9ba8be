"""How much the OSDs of a cloud's own cluster hold, and could."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from gureum.san.ceph.cluster import COPIES, Cluster, Disk

KIB = 1024
BLOCK_BYTES = 512
FULL_SHARE = 0.85
"""From here on nothing new is made (Ceph's nearfull ratio)."""


def taken(cluster: Cluster, disk: Disk) -> int:
    """Bytes that an OSD's file takes of the machine's disk; 0 where it is gone."""
    try:
        return os.stat(cluster.daemon_dir(disk.name) / "block").st_blocks * BLOCK_BYTES
    except FileNotFoundError:
        return 0


def device_bytes(device: str) -> int:
    """Raises OSError."""
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def lacking(df: dict[str, Any], usage: dict[str, Any], numbers: Collection[int]) -> int:
    """Bytes that these OSDs lack to hold all copies, none fuller than it may be; 0 or less if they suffice.

    From `ceph df` and `ceph osd df`. No OSD holds two copies of the same, so what it can take counts only up
    to the size of one copy of everything.
    """
    nodes = usage["nodes"]
    stored: int = sum(pool["stats"]["stored"] for pool in df["pools"])
    copy: int = max(stored, sum(each["kb_used_data"] for each in nodes) * KIB // COPIES)
    chosen = [each for each in nodes if each["id"] in numbers]
    room = [
        KIB * (int(each["kb"] * FULL_SHARE) - (each["kb_used"] - each["kb_used_data"])) for each in chosen
    ]
    held: int = sum(min(copy, max(0, each)) for each in room)
    return COPIES * copy - held


def gib(bytes: int) -> str:
    return f"{bytes / (1 << 30):.1f} GiB"
