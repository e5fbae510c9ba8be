"""What is told of a volume or snapshot on this host."""

from __future__ import annotations

from gureum.agent.pool_volumes import PoolVolumes, header_bytes
from gureum.errors import PoolError, PoolFull
from gureum.hostspec import SnapshotReport, SnapshotSpec, VolumeReport, VolumeSpec


def of_volume(
    spec: VolumeSpec, pool: PoolVolumes | None, revision: int, whole: bool, error: PoolError | None
) -> VolumeReport:
    """``error``: why it failed for good. ``whole``: what the pool has is all made."""
    info = pool.volumes.get(spec.id) if pool is not None else None
    return VolumeReport(
        id=spec.id,
        revision=revision,
        size_bytes=info.size_bytes - header_bytes(spec) if info else 0,
        present=info is not None and (whole or not spec.present),
        error=str(error or ""),
        full=isinstance(error, PoolFull),
    )


def of_snapshot(
    spec: SnapshotSpec, pool: PoolVolumes | None, revision: int, error: PoolError | None
) -> SnapshotReport:
    return SnapshotReport(
        id=spec.id,
        revision=revision,
        present=pool is not None and spec.id in pool.snapshots,
        error=str(error or ""),
    )
