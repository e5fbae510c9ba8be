"""The volumes and snapshots of the host's pool, stepped towards their specs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple, TypeVar

from gureum.agent.settled import Settled
from gureum.agent.workers import Workers
from gureum.env import Env
from gureum.errors import HypervisorError, PoolError, PoolFull
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
from gureum.san.base import FileDisk, Layer, Pool, VolumeInfo
from gureum.san.locks import KeyedLocks

log = logging.getLogger(__name__)

S = TypeVar("S", VolumeSpec, SnapshotSpec)

CONCURRENT_MAX = 8
ATTEMPTS_MAX = 4
"""A pool operation that fails so often is reported as failed for good; a deletion never is."""

HOLDS = (MachineState.starting, MachineState.running, MachineState.paused, MachineState.shutdown)

Key = tuple[str, str]
"""What work is on: "volume", "snapshot" or "compact", and the id."""


class Lost(PoolError):
    """The pool no longer has what it once had."""


class Failure(NamedTuple):
    """``final``: it is not tried again, but reported as failed."""

    attempts: int
    error: PoolError
    final: bool


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

    async def limit(self, iops: int, throughput: int) -> None:
        """Raises PoolError: the volume is not as its spec says."""
        try:
            await self._hypervisor.limit_disk(self._machine, self._volume, iops, throughput)
        except HypervisorError as error:
            raise PoolError(f"{self._volume}: its performance is not changed: {error}") from error


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
        self._locks = KeyedLocks()
        self._held: dict[str, frozenset[str]] = {}
        """The volumes that each machine had when it was last looked at."""
        self._limits: dict[str, tuple[int, int]] = {}
        """The IOPS and throughput that each volume has for certain, in a machine or when one opens it."""
        self._failures: dict[Key, Failure] = {}
        self._untidy = False
        self._volume_specs = Settled[VolumeSpec]()
        self._snapshot_specs = Settled[SnapshotSpec]()
        self._workers = Workers[Key](self._work, CONCURRENT_MAX)

    async def open(self) -> None:
        """Remove what a killed agent left half-made, and learn what the pool has."""
        await self._tidy()
        inventory = await self.pool.inventory()
        self._volumes = dict(inventory.volumes)
        self._snapshots = set(inventory.snapshots)
        self.pool_bytes, self.free_bytes = inventory.size_bytes, inventory.free_bytes

    async def refresh(self) -> None:
        """Remove what failed work left, and see how much room there is.

        What the pool holds is known: nobody else changes it.
        """
        if self._untidy:
            await self._tidy()
        inventory = await self.pool.inventory()
        self.pool_bytes, self.free_bytes = inventory.size_bytes, inventory.free_bytes

    async def _tidy(self) -> None:
        self._untidy = False
        try:
            for problem in await self.pool.check(repair=True):
                log.warning("pool: %s", problem)
        except PoolError:
            self._untidy = True
            raise

    async def close(self) -> None:
        """End the work under way, and let another process have the pool."""
        await self._workers.close()
        await self.pool.close()

    def take(self, spec: HostSpec) -> None:
        self._images = {image.id: image for image in spec.images}
        volumes = {volume.id: volume for volume in spec.volumes}
        snapshots = {snapshot.id: snapshot for snapshot in spec.snapshots}
        for id in self._volume_specs.take(volumes, spec.revision):
            self._asked_anew(("volume", id), id in volumes)
        for id in self._snapshot_specs.take(snapshots, spec.revision):
            self._asked_anew(("snapshot", id), id in snapshots)

    def _asked_anew(self, key: Key, wanted: bool) -> None:
        self._failures.pop(key, None)
        if wanted:
            self._workers.kick(key)
        elif key[0] == "volume":
            self._volume_specs.forget(key[1])
        else:
            self._snapshot_specs.forget(key[1])

    def machine_changed(self, machine: str) -> None:
        """A machine may have let go of volumes: some wait to be deleted, others can have layers merged."""
        status = self.hypervisor.machines().get(machine)
        holds = frozenset(status.disks) if status is not None and status.state in HOLDS else frozenset()
        released = self._held.pop(machine, frozenset()) - holds
        if holds:
            self._held[machine] = holds
        for id, spec in self._volume_specs.specs.items():
            if not spec.present and id in self._volumes:
                self._workers.kick(("volume", id))
            elif id in released:
                self._workers.kick(("compact", id))

    # For machines

    def ready(self, volume: str) -> bool:
        """Whether the volume is there for a machine to have."""
        spec = self._volume_specs.specs.get(volume)
        return spec is not None and spec.present and volume in self._volumes

    def lost(self, volume: str) -> bool:
        """Whether the pool once had the volume, and does not any more."""
        failure = self._failures.get(("volume", volume))
        return failure is not None and isinstance(failure.error, Lost)

    def spec(self, volume: str) -> VolumeSpec:
        return self._volume_specs.specs[volume]

    @asynccontextmanager
    async def opened(self, volumes: Iterable[str]) -> AsyncIterator[dict[str, FileDisk]]:
        """Hold the volumes still (no snapshot, resize or deletion) while a machine opens them."""
        async with AsyncExitStack() as stack:
            disks = {}
            for id in sorted(volumes):
                await stack.enter_async_context(self._locks.hold(id))
                await self._compact(id)
                disks[id] = await self.pool.open_volume(id)
            yield disks

    def _live(self, volume: str) -> MachineDisk | None:
        for machine in self.hypervisor.machines().values():
            if volume in machine.disks and machine.state in HOLDS:
                return MachineDisk(self.hypervisor, machine.id, volume)
        return None

    # The work

    async def _work(self, key: Key) -> None:
        kind, id = key
        if kind == "volume":
            await self._towards(key, self._volume_specs, self._step_volume)
        elif kind == "snapshot":
            await self._towards(key, self._snapshot_specs, self._step_snapshot)
        else:
            async with self._locks.hold(id):
                if self.ready(id):
                    await self._compact(id)

    async def _towards(self, key: Key, specs: Settled[S], step: Callable[[S], Awaitable[bool]]) -> None:
        """Make the volume or snapshot what its spec says, and say so; or say for good that it failed."""
        kind, id = key
        spec, failure = specs.specs.get(id), self._failures.get(key)
        if spec is None or (failure is not None and failure.final):
            return
        try:
            done = await step(spec)
        except PoolError as error:
            self._untidy = True
            if specs.specs.get(id) != spec:
                self._workers.kick(key)
                return
            attempts = failure.attempts + 1 if failure is not None else 1
            final = spec.present and (isinstance(error, PoolFull | Lost) or attempts >= ATTEMPTS_MAX)
            self._failures[key] = Failure(attempts, error, final)
            if not final:
                raise
            log.error("%s %s: %s", kind, id, error)
            specs.settle(id, spec)
            self._kick_dependents(spec)
        else:
            self._failures.pop(key, None)
            if done and not specs.settle(id, spec):
                self._workers.kick(key)
        self._changed(spec.id if isinstance(spec, VolumeSpec) else spec.volume)

    async def _step_volume(self, spec: VolumeSpec) -> bool:
        """Make it so; False if it has to wait for something else, which will kick it."""
        id = spec.id
        if not spec.present:
            async with self._locks.hold(id):
                if self._live(id) is not None or self._awaits_snapshot(id):
                    return False
                await self.pool.delete_volume(id)
            self._volumes.pop(id, None)
            self._limits.pop(id, None)
            self.env.crashpoint("agent.volume.deleted")
            return True
        if id not in self._volumes:
            if spec.made:
                raise Lost(f"{id} is not in the pool any more: its data is lost")
            if not await self._source_ready(spec):
                return False
            async with self._locks.hold(id):
                await self.pool.create_volume(id, spec.size_bytes, spec.source)
            self._volumes[id] = VolumeInfo(id=id, size_bytes=spec.size_bytes)
            self.env.crashpoint("agent.volume.created")
            self._kick_dependents(spec)
        elif self._volumes[id].size_bytes < spec.size_bytes:
            async with self._locks.hold(id):
                await self.pool.resize_volume(id, spec.size_bytes, self._live(id))
            self._volumes[id] = VolumeInfo(id=id, size_bytes=spec.size_bytes)
            self.env.crashpoint("agent.volume.resized")
        await self._limit(spec)
        return True

    async def _limit(self, spec: VolumeSpec) -> None:
        """Let a running machine have the volume's present performance; another start has it by itself."""
        wanted = spec.iops, spec.throughput
        if self._limits.get(spec.id) != wanted:
            async with self._locks.hold(spec.id):
                if (live := self._live(spec.id)) is not None:
                    await live.limit(*wanted)
            self._limits[spec.id] = wanted

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
            if (error := self._final_error("snapshot", spec.source)) is not None:
                raise Lost(str(error))
            return spec.source in self._snapshots
        if spec.source:
            image = self._images.get(spec.source)
            if image is None:
                return False
            if self._added_images.get(image.id) != image:
                await self.pool.add_image(image.id, image.disk, image.format, image.size_bytes)
                self._added_images[image.id] = image
        return True

    async def _step_snapshot(self, spec: SnapshotSpec) -> bool:
        """As ``_step_volume``."""
        id = spec.id
        if not spec.present:
            await self.pool.delete_snapshot(id)
            self._snapshots.discard(id)
            self.env.crashpoint("agent.snapshot.deleted")
        elif id not in self._snapshots:
            if spec.made:
                raise Lost(f"{id} is not in the pool any more: its data is lost")
            async with self._locks.hold(spec.volume):
                if spec.volume not in self._volumes:
                    return False
                await self.pool.create_snapshot(id, spec.volume, self._live(spec.volume))
            self._snapshots.add(id)
            self.env.crashpoint("agent.snapshot.created")
            self._kick_dependents(spec)
        return True

    def _kick_dependents(self, spec: VolumeSpec | SnapshotSpec) -> None:
        """What waited for this volume or snapshot can go on, or fail as it did."""
        if isinstance(spec, SnapshotSpec):
            self._workers.kick(("volume", spec.volume))
        for snapshot in self._snapshot_specs.specs.values():
            if snapshot.volume == spec.id:
                self._workers.kick(("snapshot", snapshot.id))
        for volume in self._volume_specs.specs.values():
            if volume.source == spec.id:
                self._workers.kick(("volume", volume.id))

    async def _compact(self, id: str) -> None:
        """Merge the layers of a volume that no machine has, if there are many. The caller holds its lock."""
        if self._live(id) is not None:
            return
        try:
            if await self.pool.compact(id):
                log.info("the layers of %s were merged", id)
        except PoolError as error:
            self._untidy = True
            log.warning("%s stays in many layers: %s", id, error)

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
        failure = self._failures.get((kind, id))
        return failure.error if failure is not None and failure.final else None

    def problems(self) -> Iterator[str]:
        """For people: what goes wrong, and what the pool has that no spec mentions."""
        for (kind, id), failure in self._failures.items():
            yield f"{kind} {id}: {failure.error} ({failure.attempts} attempts)"
        if self._volume_specs.revision:
            for id in sorted(self._volumes.keys() - self._volume_specs.specs.keys()):
                yield f"volume {id}: in the pool, but unknown to the manager; kept"
