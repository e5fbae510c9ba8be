"""What the host's spec says of volumes, snapshots and images, and which of them wait for which."""

from __future__ import annotations

from collections.abc import Iterator

from gureum.agent.failures import Failures, Key
from gureum.agent.pools import Pools
from gureum.agent.settled import Settled
from gureum.hostspec import ImageSpec, SnapshotSpec, VolumeSpec


class DiskSpecs:
    def __init__(self, pools: Pools) -> None:
        self.volumes = Settled[VolumeSpec]()
        self.snapshots = Settled[SnapshotSpec]()
        self.images: dict[str, ImageSpec] = {}
        self.failures = Failures()
        self._pools = pools

    def awaits_snapshot(self, spec: VolumeSpec) -> bool:
        """Whether a snapshot of the volume is still to be taken: until then it is deleted nowhere."""
        return any(
            spec.id in pool.volumes
            and snapshot.volume == spec.id
            and snapshot.present
            and snapshot.id not in pool.snapshots
            and self.failures.final("snapshot", snapshot.id) is None
            for snapshot in self.snapshots.specs.values()
            if (pool := self._pools.find(snapshot.pool)) is not None
        )

    def dependents(self, spec: VolumeSpec | SnapshotSpec) -> Iterator[Key]:
        """The work that waited for this volume or snapshot, and can go on, or fail as it did."""
        if isinstance(spec, SnapshotSpec):
            yield "volume", spec.volume
        for snapshot in self.snapshots.specs.values():
            if snapshot.volume == spec.id:
                yield "snapshot", snapshot.id
        for volume in self.volumes.specs.values():
            if volume.source == spec.id:
                yield "volume", volume.id
