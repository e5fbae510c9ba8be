"""The volumes and snapshots that this host looks after, stepped towards their specs, in any pool.

A volume of a shared pool may be another host's tomorrow. This host holds it from before a machine opens it
until no machine has it open any more, and says that a machine is off, or without a disk, only after that.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from msgspec.structs import replace

from gureum.agent import disk_reports
from gureum.agent.copies import Copies, source_volume
from gureum.agent.failures import Failures, Key
from gureum.agent.holds import Holds
from gureum.agent.live import MachineDisk
from gureum.agent.moves import Moves, pools_of
from gureum.agent.pool_volumes import Lost, PoolVolumes, header_bytes, stored_bytes
from gureum.agent.settled import Settled
from gureum.agent.workers import Workers
from gureum.agent.zeros import Zeros
from gureum.env import Env
from gureum.errors import PoolError, PoolUnavailable
from gureum.hostspec import (
    LOCAL,
    HostSpec,
    ImageSpec,
    MachineState,
    PoolReport,
    SnapshotReport,
    SnapshotSpec,
    VolumeReport,
    VolumeSpec,
)
from gureum.hypervisors.base import Hypervisor
from gureum.san.base import DiskSource, Pool
from gureum.san.locks import KeyedLocks
from gureum.san.luks import encrypted, luks_header

log = logging.getLogger(__name__)

S = TypeVar("S", VolumeSpec, SnapshotSpec)

CONCURRENT_MAX = 8
HOLDS = (MachineState.starting, MachineState.running, MachineState.paused, MachineState.shutdown)


class Disks:
    """``pools`` by name, with the host's own. ``changed(volume id)`` is called when a volume came, went,
    grew or failed, ``released(machine id)`` when other hosts can have one that was held for the machine.
    """

    def __init__(
        self,
        env: Env,
        pools: Mapping[str, Pool],
        hypervisor: Hypervisor,
        changed: Callable[[str], None],
        released: Callable[[str], None],
    ) -> None:
        self.env = env
        self.hypervisor = hypervisor
        self.pools = {name: PoolVolumes(name, pool) for name, pool in pools.items()}
        self.local = self.pools[LOCAL]
        self.shared = [pool for pool in self.pools.values() if pool.shared]
        self._changed = changed
        self._images: dict[str, ImageSpec] = {}
        self._locks = KeyedLocks()
        self._holds = Holds(
            env, self.shared, self._locks, self._live, released, lambda id: self._workers.kick(("opened", id))
        )
        self._held: dict[str, frozenset[str]] = {}
        """The volumes that each machine had when it was last looked at."""
        self._limits: dict[str, tuple[int, int]] = {}
        """The IOPS and throughput that each volume has for certain, in a machine or when one opens it."""
        self._sealed: set[str] = set()
        """New encrypted volumes that have their header for certain."""
        self._failures = Failures()
        self._volume_specs = Settled[VolumeSpec]()
        self._snapshot_specs = Settled[SnapshotSpec]()
        self._workers = Workers[Key](self._work, CONCURRENT_MAX)
        self._zeros = Zeros()
        self._copies = Copies(env, lambda volume: self._workers.kick(("volume", volume)))
        self._moves = Moves(
            env,
            self.pools,
            hypervisor,
            self._locks,
            self._live,
            changed,
            lambda volume: self._workers.kick(("move", volume)),
        )

    async def refresh(self, pool: PoolVolumes) -> None:
        """See how much room there is, and whether a shared pool answers. Raises PoolError."""
        away = pool.error
        await pool.refresh()
        if away:
            log.info("the pool %s answers again", pool.name)
            for key in self._failures.known():
                self._workers.kick(key)
            for id, spec in self._volume_specs.specs.items():
                if spec.pool == pool.name:
                    self._changed(id)

    async def close(self) -> None:
        """End the work under way, and let other processes have the pools."""
        await self._workers.close()
        await self._copies.close()
        await self._moves.close()
        for pool in self.pools.values():
            await pool.pool.close()

    def take(self, spec: HostSpec) -> None:
        self._images = {image.id: image for image in spec.images}
        volumes = {volume.id: volume for volume in spec.volumes}
        snapshots = {snapshot.id: snapshot for snapshot in spec.snapshots}
        for volume in spec.volumes:
            for pool in self._pools_of(volume):
                if not pool.knows(volume.id):
                    # An agent before this one may have opened it.
                    pool.holds.setdefault(volume.id, volume.machine)
        for id in self._volume_specs.take(volumes, spec.revision):
            self._asked_anew(("volume", id), id in volumes)
        for id in self._snapshot_specs.take(snapshots, spec.revision):
            self._asked_anew(("snapshot", id), id in snapshots)
        for image in spec.images:
            if image.pools:
                self._workers.kick(("image", image.id))

    def _asked_anew(self, key: Key, wanted: bool) -> None:
        self._failures.forget(key)
        if key[0] == "volume":
            self._moves.asked_anew(key[1])
        if not wanted and key[0] == "volume":
            self._volume_specs.forget(key[1])
        elif not wanted:
            self._snapshot_specs.forget(key[1])
        if wanted or any(pool.knows(key[1]) or key[1] in pool.holds for pool in self.shared):
            self._workers.kick(key)

    def machine_changed(self, machine: str) -> None:
        """A machine may have let go of volumes: some wait to be deleted, others can have layers merged."""
        status = self.hypervisor.machines().get(machine)
        holds = frozenset(status.disks) if status is not None and status.state in HOLDS else frozenset()
        released = self._held.pop(machine, frozenset()) - holds
        if holds:
            self._held[machine] = holds
        for id, spec in self._volume_specs.specs.items():
            pool = self.pools.get(spec.pool)
            if not spec.present and pool is not None and id in pool.volumes:
                self._workers.kick(("volume", id))
            elif id in released and spec.pool == LOCAL:
                self._workers.kick(("compact", id))
            if (spec.target or spec.leaves) and (id in holds or id in released):
                self._workers.kick(("move", id))
        for id in sorted(self._holds.of(machine) - holds):
            self._workers.kick(("release", id))

    # For machines

    def ready(self, volume: str) -> bool:
        """Whether the volume is there for a machine to have."""
        spec = self._volume_specs.specs.get(volume)
        return spec is not None and spec.present and self._has(spec)

    def _has(self, spec: VolumeSpec) -> bool:
        pool = self.pools.get(spec.pool)
        made = pool is not None and spec.id in pool.volumes and self._is_whole(spec)
        return made and self._moves.arrived(spec)

    def lost(self, volume: str) -> bool:
        """Whether the pool once had the volume, and does not any more."""
        return isinstance(self._failures.error("volume", volume), Lost)

    def spec(self, volume: str) -> VolumeSpec:
        return self._volume_specs.specs[volume]

    def holding(self, machine: str) -> set[str]:
        """The shared volumes that are held for the machine: other hosts can't have them."""
        return self._holds.of(machine)

    def stuck(self, volumes: Iterable[str]) -> str:
        """Why a machine with these volumes can't use them now, "" if it can."""
        specs = self._volume_specs.specs
        names = {specs[id].pool for id in volumes if id in specs}
        errors = (self.pools[name].error for name in sorted(names & self.pools.keys()))
        return next((error for error in errors if error), "")

    def usable(self, volumes: Iterable[str]) -> bool:
        """Whether a machine with these volumes can write to them, as far as is known."""
        specs = self._volume_specs.specs
        names = {specs[id].pool for id in volumes if id in specs} or {LOCAL}
        return all(self.pools[name].usable for name in names if name in self.pools)

    @asynccontextmanager
    async def opened(self, machine: str, volumes: Collection[str]) -> AsyncIterator[dict[str, DiskSource]]:
        """Hold the volumes still (no snapshot, resize or deletion) while the machine opens them."""
        shared = []
        try:
            async with AsyncExitStack() as stack:
                disks = {}
                for id in sorted(volumes):
                    await stack.enter_async_context(self._locks.hold(id))
                    spec = self._volume_specs.specs[id]
                    if not self._moves.arrived(spec):
                        raise PoolUnavailable(f"{id} is on its way to {spec.pool}")
                    await self._moves.before_open(spec)
                    pool = self._pool(spec.pool)
                    if pool.shared:
                        shared.append(id)
                        pool.holds[id] = machine
                    else:
                        await self._compact(id)
                    disks[id] = await self._holds.open(pool, spec, stack)
                yield disks
        finally:
            for id in shared:
                # It may not have come to it.
                self._workers.kick(("release", id))
            for id in volumes:
                self._workers.kick(("move", id))

    def pool(self, name: str) -> Pool:
        """Raises PoolError if this host has none of this name."""
        return self._pool(name).pool

    def pool_volumes(self, name: str) -> PoolVolumes:
        """Likewise, with what is known of it."""
        return self._pool(name)

    async def write(self, volume: str, offset: int, data: bytes) -> None:
        """What a machine would write, to a volume that none has open. Raises PoolError."""
        async with self._locks.hold(volume):
            if not self.ready(volume) or self._live(volume) is not None:
                raise PoolError(f"{volume} can't be written to: it is not there, or a machine has it")
            spec = self.spec(volume)
            if spec.key:
                offset, data = header_bytes(spec) + offset, encrypted(spec.key, offset, data)
            await self.pool(spec.pool).write_volume(volume, offset, data)

    def _live(self, volume: str) -> MachineDisk | None:
        return next(self._lives(volume), None)

    def _lives(self, volume: str) -> Iterator[MachineDisk]:
        """As each machine has it: several may only of one that is to be shared."""
        for machine in self.hypervisor.machines().values():
            if volume in machine.disks and machine.state in HOLDS:
                spec = self._volume_specs.specs.get(volume)
                header = header_bytes(spec) if spec is not None else 0
                yield MachineDisk(self.hypervisor, machine.id, volume, header)

    def _pool(self, name: str) -> PoolVolumes:
        try:
            return self.pools[name]
        except KeyError:
            raise PoolError(f"this host has no pool {name}") from None

    # The work

    async def _work(self, key: Key) -> None:
        kind, id = key
        if kind == "volume":
            await self._towards(key, self._volume_specs, self._step_volume)
            await self._forget(key, self._volume_specs)
        elif kind == "snapshot":
            await self._towards(key, self._snapshot_specs, self._step_snapshot)
            await self._forget(key, self._snapshot_specs)
        elif kind == "release":
            await self._holds.release(id)
            await self._forget(key, self._volume_specs)
        elif kind == "opened":
            await self._holds.note_opened(id)
        elif kind == "image":
            await self._bring_image(id)
        elif kind == "move":
            await self._move(id)
        else:
            async with self._locks.hold(id):
                if self.ready(id):
                    await self._compact(id)

    async def _move(self, id: str) -> None:
        """A volume that is to be, and is, made: one step on its way, if it has one."""
        spec = self._volume_specs.specs.get(id)
        if spec is None or not (spec.present or self._awaits_snapshot(spec)):
            await self._moves.stop(id)
            return
        if not (spec.target or spec.leaves) or not all(pool.knows(id) for pool in self._pools_of(spec)):
            return
        pool = self._pool(spec.pool)
        if id not in pool.volumes or not self._is_whole(spec):
            return
        if self._moves.arrived(spec) and self._awaits_snapshot(spec):
            return
        try:
            arrived = await self._moves.step(spec)
        except Lost as error:
            self._failures.note(("volume", id), error, True)
            self._changed(id)
            return
        except PoolError:
            self._untidy(spec)
            raise
        if self._volume_specs.specs.get(id) != spec:
            # What was found is of the spec before.
            self._moves.asked_anew(id)
            self._workers.kick(("move", id))
        elif arrived:
            self._workers.kick(("move", id))
            self._workers.kick(("volume", id))
            self._kick_dependents(spec)
            self._changed(id)

    async def _towards(self, key: Key, specs: Settled[S], step: Callable[[S], Awaitable[bool]]) -> None:
        """Make the volume or snapshot what its spec says, and say so; or say for good that it failed."""
        kind, id = key
        spec = specs.specs.get(id)
        if spec is None or self._failures.final(kind, id) is not None:
            return
        try:
            done = await step(spec)
        except PoolError as error:
            self._untidy(spec)
            if specs.specs.get(id) != spec:
                self._workers.kick(key)
                return
            if not self._failures.note(key, error, spec.present).final:
                raise
            log.error("%s %s: %s", kind, id, error)
            specs.settle(id, spec)
            self._kick_dependents(spec)
        else:
            self._failures.forget(key)
            if done and not specs.settle(id, spec):
                self._workers.kick(key)
        self._changed(spec.id if isinstance(spec, VolumeSpec) else spec.volume)

    async def _forget(self, key: Key, specs: Settled[S]) -> None:
        """Let go of what another host looks after now."""
        id = key[1]
        if id not in specs.specs and self.shared:
            if key[0] != "snapshot":
                await self._moves.stop(id)
                await self._holds.release(id)
            for pool in self.shared:
                if id not in specs.specs and id not in pool.holds:
                    pool.forget(id)

    async def _step_volume(self, spec: VolumeSpec) -> bool:
        """Make it so; False if it has to wait for something else, which will kick it."""
        id, pool = spec.id, self._pool(spec.pool)
        for each in self._pools_of(spec):
            if each.shared:
                await self._ask(each, spec)
        if not spec.present:
            await self._copies.stop(id)
            async with self._locks.hold(id):
                if self._awaits_snapshot(spec):
                    self._workers.kick(("move", id))
                    return False
                if self._live(id) is not None:
                    return False
                await self._moves.delete(spec)
                await self._holds.let_go(pool, id)
                if spec.encrypts:
                    await pool.pool.delete_volume(source_volume(id))
                    pool.volumes.pop(source_volume(id), None)
                await pool.pool.delete_volume(id)
            pool.volumes.pop(id, None)
            self._limits.pop(id, None)
            self._sealed.discard(id)
            self._zeros.forget(id)
            self.env.crashpoint("agent.volume.deleted")
            return True
        if id not in pool.volumes:
            if spec.made:
                raise Lost(f"{id} is not in the pool any more: its data is lost")
            if not spec.keeper or not await self._source_ready(pool, spec):
                return False
            async with self._locks.hold(id):
                await pool.create(spec)
            self.env.crashpoint("agent.volume.created")
            if self._is_whole(spec):
                self._kick_dependents(spec)
        elif not self._moves.arrived(spec):
            self._workers.kick(("move", id))
            return False
        elif spec.keeper and pool.volumes[id].size_bytes < stored_bytes(spec):
            async with self._locks.hold(id):
                await pool.pool.resize_volume(id, stored_bytes(spec), self._live(id))
            pool.volumes[id] = replace(pool.volumes[id], size_bytes=stored_bytes(spec))
            self.env.crashpoint("agent.volume.resized")
        if not self._is_whole(spec):
            if not await self._seal(pool, spec):
                return False
            self._kick_dependents(spec)
        if spec.takes and pool.shared:
            await self._holds.take(pool, spec)
        if not spec.receives:
            await self._limit(spec)
        if spec.target or spec.leaves:
            self._workers.kick(("move", id))
        return True

    async def _seal(self, pool: PoolVolumes, spec: VolumeSpec) -> bool:
        """Give a new encrypted volume its header, and what is to be copied into it; whether that is done.

        Done once more, it changes nothing (see ``san.luks``).
        """
        async with self._locks.hold(spec.id):
            # A machine had it only after it was done.
            if self._live(spec.id) is None:
                if not spec.encrypts:
                    await pool.pool.write_volume(spec.id, 0, luks_header(spec.key))
                elif not await self._copies.step(pool.pool, spec):
                    return False
                pool.volumes.pop(source_volume(spec.id), None)
        self._sealed.add(spec.id)
        self.env.crashpoint("agent.volume.sealed")
        return True

    def _is_whole(self, spec: VolumeSpec) -> bool:
        """Whether a volume that the pool has is all made: encrypted ones have their header, or a clone's."""
        cloned = bool(spec.source) and not spec.encrypts
        return not spec.key or spec.made or cloned or spec.id in self._sealed

    async def _ask(self, pool: PoolVolumes, spec: VolumeSpec) -> None:
        """See what the shared pool has of the volume; let go of it if an agent before this one did not."""
        async with self._locks.hold(spec.id):
            for host in spec.evict:
                await pool.pool.evict(spec.id, host)
            if pool.knows(spec.id):
                return
            await pool.ask_volume(spec)
            if spec.id in pool.volumes:
                await self._holds.let_go(pool, spec.id)
                if spec.multi_attach and spec.id in pool.holds:
                    await self._holds.opened(pool, spec.id)
            else:
                pool.holds.pop(spec.id, None)
        self._kick_dependents(spec)

    async def _limit(self, spec: VolumeSpec) -> None:
        """Let a running machine have the volume's present performance; another start has it by itself."""
        wanted = spec.iops, spec.throughput
        if self._limits.get(spec.id) != wanted:
            async with self._locks.hold(spec.id):
                for live in list(self._lives(spec.id)):
                    await live.limit(*wanted)
            self._limits[spec.id] = wanted

    def _awaits_snapshot(self, spec: VolumeSpec) -> bool:
        """Whether a snapshot of the volume is still to be taken: until then it is deleted nowhere."""
        return any(
            spec.id in pool.volumes
            and snapshot.volume == spec.id
            and snapshot.present
            and snapshot.id not in pool.snapshots
            and self._failures.final("snapshot", snapshot.id) is None
            for snapshot in self._snapshot_specs.specs.values()
            if (pool := self.pools.get(snapshot.pool)) is not None
        )

    def _untidy(self, spec: VolumeSpec | SnapshotSpec) -> None:
        """Something failed: there may be something in its pools that nothing needs."""
        for name in pools_of(spec) if isinstance(spec, VolumeSpec) else (spec.pool,):
            if name in self.pools:
                self.pools[name].untidy = True

    def _pools_of(self, spec: VolumeSpec) -> list[PoolVolumes]:
        """Those of this host in which there may be something of the volume."""
        return [self.pools[name] for name in pools_of(spec) if name in self.pools]

    async def _source_ready(self, pool: PoolVolumes, spec: VolumeSpec) -> bool:
        if spec.source.startswith("snap-"):
            if (error := self._failures.final("snapshot", spec.source)) is not None:
                raise Lost(str(error))
            return pool.shared or spec.source in pool.snapshots
        if spec.source:
            image = self._images.get(spec.source)
            if image is None:
                return False
            await pool.add_image(image)
        return True

    async def _bring_image(self, id: str) -> None:
        """Into the shared pools, before anybody asks for it; or out of them."""
        image = self._images.get(id)
        for name in image.pools if image is not None else ():
            assert image is not None
            try:
                pool = self._pool(name)
                await (pool.add_image(image) if image.present else pool.remove_image(image))
            except PoolError as error:
                self._failures.note(("image", id), error, False)
                raise
        self._failures.forget(("image", id))

    async def _step_snapshot(self, spec: SnapshotSpec) -> bool:
        """As ``_step_volume``."""
        id, pool = spec.id, self._pool(spec.pool)
        if not spec.present:
            await pool.pool.delete_snapshot(id, spec.volume)
            pool.snapshots.discard(id)
            self.env.crashpoint("agent.snapshot.deleted")
            return True
        if not pool.knows(id):
            await pool.ask_snapshot(id, spec.volume)
        if id not in pool.snapshots:
            if spec.made:
                raise Lost(f"{id} is not in the pool any more: its data is lost")
            async with self._locks.hold(spec.volume):
                volume = self._volume_specs.specs.get(spec.volume)
                if spec.volume not in pool.volumes or (volume is not None and not self._has(volume)):
                    return False
                if spec.zeros and volume is not None and volume.key and not volume.source:
                    await self.refresh(pool)
                    if not await self._zeros.step(pool, volume):
                        self._workers.kick(("snapshot", id))
                        return False
                # One of several guests that write, held still, makes nothing whole.
                several = volume is not None and volume.multi_attach
                live = None if several else self._live(spec.volume)
                await pool.pool.create_snapshot(id, spec.volume, live)
            pool.snapshots.add(id)
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
        if self._live(id) is not None or self.spec(id).target:
            return
        try:
            if await self.local.pool.compact(id):
                log.info("the layers of %s were merged", id)
        except PoolError as error:
            self.local.untidy = True
            log.warning("%s stays in many layers: %s", id, error)

    # What is

    def pool_reports(self) -> Iterator[PoolReport]:
        return (pool.report() for pool in self.shared)

    def volume_reports(self) -> Iterator[VolumeReport]:
        for id, spec in sorted(self._volume_specs.specs.items()):
            pool, error = self.pools.get(spec.pool), self._failures.final("volume", id)
            revision = self._volume_specs.settled(id)
            report = disk_reports.of_volume(spec, pool, revision, self._is_whole(spec), error)
            yield self._moves.told(spec, report)
        for id in sorted(self._leaving("volume", self._volume_specs)):
            yield VolumeReport(id=id)

    def snapshot_reports(self) -> Iterator[SnapshotReport]:
        for id, spec in sorted(self._snapshot_specs.specs.items()):
            pool, error = self.pools.get(spec.pool), self._failures.final("snapshot", id)
            yield disk_reports.of_snapshot(spec, pool, self._snapshot_specs.settled(id), error)
        for id in sorted(self._leaving("snapshot", self._snapshot_specs)):
            yield SnapshotReport(id=id)

    def _leaving(self, kind: str, specs: Settled[S]) -> set[str]:
        """What no spec names any more, and work here is not done with yet."""
        held = self._holds.all() if kind == "volume" else set()
        busy = {id for each, id in self._workers.busy_keys() if each == kind} if self.shared else set()
        return (held | busy) - specs.specs.keys()

    def problems(self) -> Iterator[str]:
        """For people: what goes wrong, and what the pool has that no spec mentions."""
        for pool in self.shared:
            if pool.error:
                yield f"pool {pool.name}: {pool.error}"
        yield from self._failures.texts()
        if self._volume_specs.revision:
            for id in sorted(self.local.volumes.keys() - self._volume_specs.specs.keys()):
                yield f"volume {id}: in the pool, but unknown to the manager; kept"
