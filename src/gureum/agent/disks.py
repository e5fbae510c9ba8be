"""The volumes and snapshots of the host's pool, stepped towards their specs."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from gureum.agent.settled import Settled
from gureum.agent.workers import Workers
from gureum.env import Env
from gureum.errors import PoolError, PoolFull
from gureum.hostspec import (
    HostSpec,
    ImageSpec,
    MachineState,
    SnapshotReport,
    SnapshotSpec,
    VolumeReport,
    VolumeSpec,
)
from gureum.hypervisors.base import Hypervisor
from gureum.san.base import FileDisk, Layer, LiveDisk, Pool, VolumeInfo

log = logging.getLogger(__name__)

CONCURRENT_MAX = 8
ATTEMPTS_MAX = 4
"""A pool operation that fails so often is reported as failed for good."""

HOLDS = (MachineState.starting, MachineState.running, MachineState.paused, MachineState.shutdown)

Key = tuple[str, str]


class MachineDisk:
    """A volume as the running machine has it (``san.base.LiveDisk``)."""

    def __init__(self, hypervisor: Hypervisor, machine: str, volume: str) -> None:
        self._hypervisor = hypervisor
        self._machine = machine
        self._volume = volume

    async def active_layer(self) -> str:
        return await self._hypervisor.active_layer(self._machine, self._volume)

    async def switch_layer(self, layer: Layer) -> None:
        await self._hypervisor.switch_layer(self._machine, self._volume, layer)

    async def resize(self, size_bytes: int) -> None:
        await self._hypervisor.resize_disk(self._machine, self._volume, size_bytes)


class Disks:
    """``changed(volume id)`` is called when a volume came, went, grew or failed."""

    def __init__(self, env: Env, pool: Pool, hypervisor: Hypervisor, changed: Callable[[str], None]) -> None:
        self.env = env
        self.pool = pool
        self.hypervisor = hypervisor
        self.pool_bytes = 0
        self.free_bytes = 0
        self._changed = changed
        self._volumes: dict[str, VolumeInfo] = {}
        self._snapshots: set[str] = set()
        self._images: dict[str, ImageSpec] = {}
        self._added_images: dict[str, ImageSpec] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._errors: dict[Key, tuple[int, PoolError]] = {}
        self._volume_specs = Settled[VolumeSpec]()
        self._snapshot_specs = Settled[SnapshotSpec]()
        self._workers = Workers[Key](self._work, CONCURRENT_MAX)

    async def open(self) -> None:
        """Remove what a killed agent left half-made, and learn what the pool has."""
        for problem in await self.pool.check(repair=True):
            log.warning("pool: %s", problem)
        await self.refresh()

    async def refresh(self) -> None:
        """Read the pool's inventory anew, unless work that changes it is under way."""
        if any(self._workers.busy(("volume", id)) for id in self._volume_specs.specs):
            return
        inventory = await self.pool.inventory()
        self._volumes = dict(inventory.volumes)
        self._snapshots = set(inventory.snapshots)
        self.pool_bytes, self.free_bytes = inventory.size_bytes, inventory.free_bytes

    async def close(self) -> None:
        await self._workers.close()

    def take(self, spec: HostSpec) -> None:
        self._images = {image.id: image for image in spec.images}
        volumes = {volume.id: volume for volume in spec.volumes}
        snapshots = {snapshot.id: snapshot for snapshot in spec.snapshots}
        for id in self._volume_specs.take(volumes, spec.revision):
            self._kick("volume", id, volumes)
        for id in self._snapshot_specs.take(snapshots, spec.revision):
            self._kick("snapshot", id, snapshots)

    def _kick(self, kind: str, id: str, specs: dict[str, VolumeSpec] | dict[str, SnapshotSpec]) -> None:
        if id in specs:
            self._errors.pop((kind, id), None)
            self._workers.kick((kind, id))
        else:
            self._errors.pop((kind, id), None)
            self._locks.pop(id, None)

    def machine_changed(self, _machine: str) -> None:
        """A machine may have let go of volumes that wait to be deleted."""
        for id, spec in self._volume_specs.specs.items():
            if not spec.present and id in self._volumes:
                self._workers.kick(("volume", id))

    # For machines

    def ready(self, volume: str) -> bool:
        """Whether the volume is there and as large as it should be."""
        spec, info = self._volume_specs.specs.get(volume), self._volumes.get(volume)
        return spec is not None and spec.present and info is not None

    def spec(self, volume: str) -> VolumeSpec:
        return self._volume_specs.specs[volume]

    @asynccontextmanager
    async def opened(self, volumes: Iterable[str]) -> AsyncIterator[dict[str, FileDisk]]:
        """Hold the volumes still (no snapshot, resize or deletion) while a machine opens them."""
        async with AsyncExitStack() as stack:
            disks = {}
            for id in sorted(volumes):
                await stack.enter_async_context(self._locks[id])
                disks[id] = await self.pool.open_volume(id)
            yield disks

    def _live(self, volume: str) -> LiveDisk | None:
        for machine in self.hypervisor.machines().values():
            if volume in machine.disks and machine.state in HOLDS:
                return MachineDisk(self.hypervisor, machine.id, volume)
        return None

    # The work

    async def _work(self, key: Key) -> None:
        kind, id = key
        try:
            if kind == "volume":
                await self._work_volume(id)
            else:
                await self._work_snapshot(id)
        except PoolError as error:
            attempts = self._errors.get(key, (0, error))[0] + 1
            if isinstance(error, PoolFull):
                attempts = ATTEMPTS_MAX
            self._errors[key] = attempts, error
            if attempts < ATTEMPTS_MAX:
                raise
            log.error("%s %s: %s", kind, id, error)
            if kind == "volume":
                self._volume_specs.settle(id, self._volume_specs.specs[id])
            else:
                self._snapshot_specs.settle(id, self._snapshot_specs.specs[id])
            self._changed(id)
        else:
            self._errors.pop(key, None)

    async def _work_volume(self, id: str) -> None:
        spec = self._volume_specs.specs.get(id)
        if spec is None:
            return
        if not spec.present:
            if self._live(id) is not None or self._awaits_snapshot(id):
                return
            async with self._locks[id]:
                await self.pool.delete_volume(id)
            self._volumes.pop(id, None)
            self.env.crashpoint("agent.volume.deleted")
        elif id not in self._volumes:
            if not await self._source_ready(spec):
                return
            async with self._locks[id]:
                await self.pool.create_volume(id, spec.size_bytes, spec.source)
            self._volumes[id] = VolumeInfo(id=id, size_bytes=spec.size_bytes)
            self.env.crashpoint("agent.volume.created")
            self._kick_dependents(id)
        elif self._volumes[id].size_bytes < spec.size_bytes:
            async with self._locks[id]:
                await self.pool.resize_volume(id, spec.size_bytes, self._live(id))
            self._volumes[id] = VolumeInfo(id=id, size_bytes=spec.size_bytes)
            self.env.crashpoint("agent.volume.resized")
        if not self._volume_specs.settle(id, spec):
            self._workers.kick(("volume", id))
        self._changed(id)

    def _awaits_snapshot(self, id: str) -> bool:
        """Whether a snapshot of the volume is still to be taken: until then it is not deleted."""
        return id in self._volumes and any(
            snapshot.volume == id
            and snapshot.present
            and snapshot.id not in self._snapshots
            and self._final_error("snapshot", snapshot.id) is None
            for snapshot in self._snapshot_specs.specs.values()
        )

    async def _source_ready(self, spec: VolumeSpec) -> bool:
        if spec.source.startswith("snap-"):
            return spec.source in self._snapshots
        if spec.source:
            image = self._images.get(spec.source)
            if image is None:
                return False
            if self._added_images.get(image.id) != image:
                await self.pool.add_image(image.id, image.disk, image.format, image.size_bytes)
                self._added_images[image.id] = image
        return True

    def _kick_dependents(self, id: str) -> None:
        """What waited for this volume or snapshot can go on."""
        for snapshot in self._snapshot_specs.specs.values():
            if snapshot.volume == id:
                self._workers.kick(("snapshot", snapshot.id))
        for volume in self._volume_specs.specs.values():
            if volume.source == id:
                self._workers.kick(("volume", volume.id))

    async def _work_snapshot(self, id: str) -> None:
        spec = self._snapshot_specs.specs.get(id)
        if spec is None:
            return
        if not spec.present:
            await self.pool.delete_snapshot(id)
            self._snapshots.discard(id)
            self.env.crashpoint("agent.snapshot.deleted")
        elif id not in self._snapshots:
            if spec.volume not in self._volumes:
                return
            async with self._locks[spec.volume]:
                await self.pool.create_snapshot(id, spec.volume, self._live(spec.volume))
            self._snapshots.add(id)
            self.env.crashpoint("agent.snapshot.created")
            self._kick_dependents(id)
            self._workers.kick(("volume", spec.volume))
        if not self._snapshot_specs.settle(id, spec):
            self._workers.kick(("snapshot", id))
        self._changed(spec.volume)

    # What is

    def volume_reports(self) -> Iterator[VolumeReport]:
        for id in sorted(self._volume_specs.specs):
            info, error = self._volumes.get(id), self._final_error("volume", id)
            yield VolumeReport(
                id=id,
                revision=self._volume_specs.settled(id),
                size_bytes=info.size_bytes if info else 0,
                present=info is not None,
                error=str(error or ""),
                full=isinstance(error, PoolFull),
            )

    def snapshot_reports(self) -> Iterator[SnapshotReport]:
        for id in sorted(self._snapshot_specs.specs):
            yield SnapshotReport(
                id=id,
                revision=self._snapshot_specs.settled(id),
                present=id in self._snapshots,
                error=str(self._final_error("snapshot", id) or ""),
            )

    def _final_error(self, kind: str, id: str) -> PoolError | None:
        attempts, error = self._errors.get((kind, id), (0, None))
        return error if attempts >= ATTEMPTS_MAX else None

    def problems(self) -> Iterator[str]:
        """For people: what goes wrong, and what the pool has that no spec mentions."""
        for (kind, id), (attempts, error) in self._errors.items():
            yield f"{kind} {id}: {error} ({attempts} attempts)"
        if self._volume_specs.revision:
            for id in sorted(self._volumes.keys() - self._volume_specs.specs.keys()):
                yield f"volume {id}: in the pool, but unknown to the manager; kept"
