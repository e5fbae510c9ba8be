"""The volumes and snapshots that this host looks after, stepped towards their specs, in any pool.

A volume of a shared pool may be another host's tomorrow. This host holds it from before a machine opens it
until no machine has it open any more, and says that a machine is off, or without a disk, only after that.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from gureum.agent import disk_reports
from gureum.agent.disk_specs import DiskSpecs
from gureum.agent.failures import Key
from gureum.agent.holds import Holds
from gureum.agent.live import HOLDS, MachineDisks
from gureum.agent.moves import Moves
from gureum.agent.pool_volumes import Lost, PoolVolumes, header_bytes
from gureum.agent.pools import Pools
from gureum.agent.settled import Settled
from gureum.agent.volumes import Volumes
from gureum.agent.workers import Workers
from gureum.env import Env
from gureum.errors import PoolError, PoolUnavailable
from gureum.hostspec import (
    LOCAL,
    HostSpec,
    PoolReport,
    SnapshotReport,
    SnapshotSpec,
    VolumeReport,
    VolumeSpec,
)
from gureum.hypervisors.base import Hypervisor
from gureum.san.base import DiskSource, Pool
from gureum.san.locks import KeyedLocks
from gureum.san.luks import encrypted

log = logging.getLogger(__name__)

S = TypeVar("S", VolumeSpec, SnapshotSpec)

CONCURRENT_MAX = 8


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
        self.pools = Pools(pools)
        self.local = self.pools.local
        self.shared = self.pools.shared
        self._changed = changed
        self._specs = DiskSpecs(self.pools)
        self._live = live = MachineDisks(hypervisor, self._specs.volumes)
        self._locks = locks = KeyedLocks()
        self._held: dict[str, frozenset[str]] = {}
        """The volumes that each machine had when it was last looked at."""
        self._workers = Workers[Key](self._work, CONCURRENT_MAX)
        self._holds = Holds(
            env, self.shared, locks, live.of, released, lambda volume: self._kick(("opened", volume))
        )
        self._moves = Moves(
            env,
            self.pools,
            hypervisor,
            locks,
            live.of,
            changed,
            lambda volume: self._kick(("move", volume)),
        )
        self._volumes = Volumes(
            env, self.pools, self._specs, live, locks, self._holds, self._moves, self._kick
        )

    def _kick(self, *keys: Key) -> None:
        for key in keys:
            self._workers.kick(key)

    async def refresh(self, pool: PoolVolumes) -> None:
        """See how much room there is, and whether a shared pool answers. Raises PoolError."""
        away = pool.error
        await pool.refresh()
        if away:
            log.info("the pool %s answers again", pool.name)
            for key in self._specs.failures.known():
                self._kick(key)
            for id, spec in self._specs.volumes.specs.items():
                if spec.pool == pool.name:
                    self._changed(id)

    async def close(self) -> None:
        """End the work under way, and let other processes have the pools."""
        await self._workers.close()
        await self._volumes.close()
        await self._moves.close()
        for pool in self.pools:
            await pool.pool.close()

    def take(self, spec: HostSpec) -> None:
        self._specs.images = {image.id: image for image in spec.images}
        volumes = {volume.id: volume for volume in spec.volumes}
        snapshots = {snapshot.id: snapshot for snapshot in spec.snapshots}
        for volume in spec.volumes:
            for pool in self.pools.of(volume):
                if not pool.knows(volume.id):
                    # An agent before this one may have opened it.
                    pool.holds.setdefault(volume.id, volume.machine)
        for id in self._specs.volumes.take(volumes, spec.revision):
            self._asked_anew(("volume", id), id in volumes)
        before = self._specs.snapshots.specs
        for id in self._specs.snapshots.take(snapshots, spec.revision):
            self._asked_anew(("snapshot", id), id in snapshots)
            if id not in snapshots and before[id].volume in volumes:
                self._kick(("volume", before[id].volume))  # it may have waited for that to be taken
        for image in spec.images:
            if image.pools:
                self._kick(("image", image.id))

    def _asked_anew(self, key: Key, wanted: bool) -> None:
        self._specs.failures.forget(key)
        if key[0] == "volume":
            self._moves.asked_anew(key[1])
        if not wanted and key[0] == "volume":
            self._specs.volumes.forget(key[1])
        elif not wanted:
            self._specs.snapshots.forget(key[1])
        if wanted or any(pool.knows(key[1]) or key[1] in pool.holds for pool in self.shared):
            self._kick(key)

    def machine_changed(self, machine: str) -> None:
        """A machine may have let go of volumes: some wait to be deleted, others can have layers merged."""
        status = self.hypervisor.machines().get(machine)
        holds = frozenset(status.disks) if status is not None and status.state in HOLDS else frozenset()
        released = self._held.pop(machine, frozenset()) - holds
        if holds:
            self._held[machine] = holds
        for id, spec in self._specs.volumes.specs.items():
            pool = self.pools.find(spec.pool)
            if not spec.present and id not in holds and pool is not None and id in pool.volumes:
                self._kick(("volume", id))
            elif id in released and spec.pool == LOCAL:
                self._kick(("compact", id))
            if (id in holds or id in released) and not self._moves.settled(spec):
                self._kick(("move", id))
        for id in sorted(self._holds.of(machine) - holds):
            self._kick(("release", id))

    # For machines

    def ready(self, volume: str) -> bool:
        """Whether the volume is there for a machine to have."""
        spec = self._specs.volumes.specs.get(volume)
        return spec is not None and spec.present and self._volumes.ready(spec)

    def lost(self, volume: str) -> bool:
        """Whether the pool once had the volume, and does not any more."""
        return isinstance(self._specs.failures.error("volume", volume), Lost)

    def spec(self, volume: str) -> VolumeSpec:
        return self._specs.volumes.specs[volume]

    def holding(self, machine: str) -> set[str]:
        """The shared volumes that are held for the machine: other hosts can't have them."""
        return self._holds.of(machine)

    def stuck(self, volumes: Iterable[str]) -> str:
        """Why a machine with these volumes can't use them now, "" if it can."""
        errors = {pool.name: pool.error for pool in self.pools if pool.error}
        if not errors:
            return ""
        specs = self._specs.volumes.specs
        names = {specs[id].pool for id in volumes if id in specs}
        return errors[min(broken)] if (broken := names & errors.keys()) else ""

    def usable(self, volumes: Iterable[str]) -> bool:
        """Whether a machine with these volumes can write to them, as far as is known."""
        specs = self._specs.volumes.specs
        names = {specs[id].pool for id in volumes if id in specs} or {LOCAL}
        return all(pool.usable for pool in self.pools.named(names))

    @asynccontextmanager
    async def opened(self, machine: str, volumes: Collection[str]) -> AsyncIterator[dict[str, DiskSource]]:
        """Hold the volumes still (no snapshot, resize or deletion) while the machine opens them."""
        shared = []
        try:
            async with AsyncExitStack() as stack:
                disks = {}
                for id in sorted(volumes):
                    await stack.enter_async_context(self._locks.hold(id))
                    # What had the lock before may have been its deletion.
                    spec, revision = self._specs.volumes.specs.get(id), self._specs.volumes.revision
                    if spec is None:
                        raise PoolUnavailable(f"{id} is not to be here any more")
                    if not self._moves.arrived(spec):
                        raise PoolUnavailable(f"{id} is on its way to {spec.pool}")
                    await self._moves.before_open(spec)
                    pool = self.pools.get(spec.pool)
                    if pool.shared:
                        shared.append(id)
                        pool.holds[id] = machine
                    else:
                        await self._volumes.compact(id)
                    disks[id] = await self._holds.open(pool, spec, revision, stack)
                yield disks
        finally:
            for id in shared:
                # It may not have come to it.
                self._kick(("release", id))
            for id in volumes:
                self._kick(("move", id))

    def pool(self, name: str) -> Pool:
        """Raises PoolError if this host has none of this name."""
        return self.pools.get(name).pool

    async def write(self, volume: str, offset: int, data: bytes) -> None:
        """What a machine would write, to a volume that none has open. Raises PoolError."""
        async with self._locks.hold(volume):
            if not self.ready(volume) or self._live.of(volume) is not None:
                raise PoolError(f"{volume} can't be written to: it is not there, or a machine has it")
            spec = self.spec(volume)
            if spec.key:
                offset, data = header_bytes(spec) + offset, encrypted(spec.key, offset, data)
            await self.pool(spec.pool).write_volume(volume, offset, data)

    # The work

    async def _work(self, key: Key) -> None:
        kind, id = key
        if kind == "volume":
            await self._towards(key, self._specs.volumes, self._volumes.step)
            await self._forget(key, self._specs.volumes)
        elif kind == "snapshot":
            await self._towards(key, self._specs.snapshots, self._step_snapshot)
            await self._forget(key, self._specs.snapshots)
        elif kind == "release":
            await self._holds.release(id)
            await self._forget(key, self._specs.volumes)
        elif kind == "opened":
            await self._holds.note_opened(id)
        elif kind == "image":
            await self._bring_image(id)
        elif kind == "move":
            await self._move(id)
        else:
            async with self._locks.hold(id):
                if self.ready(id):
                    await self._volumes.compact(id)

    async def _move(self, id: str) -> None:
        """A volume that is to be, and is, made: one step on its way, if it has one."""
        spec = self._specs.volumes.specs.get(id)
        if spec is None or not (spec.present or self._specs.awaits_snapshot(spec)):
            await self._moves.stop(id)
            return
        if self._moves.settled(spec) or not all(pool.knows(id) for pool in self.pools.of(spec)):
            return
        pool = self.pools.get(spec.pool)
        if id not in pool.volumes or not self._volumes.is_whole(spec):
            return
        if self._moves.arrived(spec) and self._specs.awaits_snapshot(spec):
            return
        try:
            arrived = await self._moves.step(spec)
        except Lost as error:
            self._specs.failures.note(("volume", id), error, True)
            self._changed(id)
            return
        except PoolError:
            self._untidy(spec)
            raise
        if self._specs.volumes.specs.get(id) != spec:
            # What was found is of the spec before.
            self._moves.asked_anew(id)
            self._kick(("move", id))
            if arrived:
                self._kick(("volume", id))
        elif arrived:
            self._kick(("move", id))
            self._kick(("volume", id))
            self._kick(*self._specs.dependents(spec))
            self._changed(id)

    async def _towards(self, key: Key, specs: Settled[S], step: Callable[[S], Awaitable[bool]]) -> None:
        """Make the volume or snapshot what its spec says, and say so; or say for good that it failed."""
        kind, id = key
        spec = specs.specs.get(id)
        if spec is None or self._specs.failures.final(kind, id) is not None:
            return
        try:
            done = await step(spec)
        except PoolError as error:
            self._untidy(spec)
            if specs.specs.get(id) != spec:
                self._kick(key)
                return
            if not self._specs.failures.note(key, error, spec.present).final:
                raise
            log.error("%s %s: %s", kind, id, error)
            specs.settle(id, spec)
            self._kick(*self._specs.dependents(spec))
        else:
            self._specs.failures.forget(key)
            if done and not specs.settle(id, spec):
                self._kick(key)
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

    def _untidy(self, spec: VolumeSpec | SnapshotSpec) -> None:
        """Something failed: there may be something in its pools that nothing needs."""
        for pool in self.pools.of(spec):
            pool.untidy = True

    async def _bring_image(self, id: str) -> None:
        """Into the shared pools, before anybody asks for it; or out of them."""
        image = self._specs.images.get(id)
        for name in image.pools if image is not None else ():
            assert image is not None
            try:
                pool = self.pools.get(name)
                await (pool.add_image(image) if image.present else pool.remove_image(image))
            except PoolError as error:
                self._specs.failures.note(("image", id), error, False)
                raise
        self._specs.failures.forget(("image", id))

    async def _step_snapshot(self, spec: SnapshotSpec) -> bool:
        """As ``Volumes.step``."""
        id, pool = spec.id, self.pools.get(spec.pool)
        if not spec.present:
            await pool.pool.delete_snapshot(id, spec.volume)
            pool.snapshots.discard(id)
            self.env.crashpoint("agent.snapshot.deleted")
            return True
        if not pool.knows(id):
            await pool.ask_snapshot(id, spec.volume)
            if id in pool.snapshots:  # taken by an agent before this one: the volume may have waited for it
                self._kick(*self._specs.dependents(spec))
        if id not in pool.snapshots:
            if spec.made:
                raise Lost(f"{id} is not in the pool any more: its data is lost")
            async with self._locks.hold(spec.volume):
                volume = self._specs.volumes.specs.get(spec.volume)
                if spec.volume not in pool.volumes or (
                    volume is not None and not self._volumes.ready(volume)
                ):
                    return False
                if spec.zeros and volume is not None and volume.key and not volume.source:
                    await self.refresh(pool)
                    if not await self._volumes.fill(pool, volume):
                        self._kick(("snapshot", id))
                        return False
                # One of several guests that write, held still, makes nothing whole.
                several = volume is not None and volume.multi_attach
                live = None if several else self._live.of(spec.volume)
                await pool.pool.create_snapshot(id, spec.volume, live)
            pool.snapshots.add(id)
            self.env.crashpoint("agent.snapshot.created")
            self._kick(*self._specs.dependents(spec))
        return True

    # What is

    def pool_reports(self) -> Iterator[PoolReport]:
        return (pool.report() for pool in self.shared)

    def volume_reports(self) -> Iterator[VolumeReport]:
        volumes, failures = self._specs.volumes, self._specs.failures
        for id, spec in sorted(volumes.specs.items()):
            pool, error = self.pools.find(spec.pool), failures.final("volume", id)
            whole = self._volumes.is_whole(spec)
            report = disk_reports.of_volume(spec, pool, volumes.settled(id), whole, error)
            yield self._moves.told(spec, self._volumes.told(spec, report))
        for id in sorted(self._leaving("volume", volumes)):
            yield VolumeReport(id=id)

    def snapshot_reports(self) -> Iterator[SnapshotReport]:
        for id, spec in sorted(self._specs.snapshots.specs.items()):
            pool, error = self.pools.find(spec.pool), self._specs.failures.final("snapshot", id)
            yield disk_reports.of_snapshot(spec, pool, self._specs.snapshots.settled(id), error)
        for id in sorted(self._leaving("snapshot", self._specs.snapshots)):
            # Not that it is there: it may have been given up before it was taken, and be given here anew.
            yield SnapshotReport(id=id, present=False)

    def _leaving(self, kind: str, specs: Settled[S]) -> set[str]:
        """What no spec names any more, and work here is not done with yet."""
        there = self._holds.all() if kind == "volume" else set()
        if self.shared:
            there.update(id for each, id in self._workers.busy_keys() if each == kind)
        return there - specs.specs.keys()

    def problems(self) -> Iterator[str]:
        """For people: what goes wrong, and what the pool has that no spec mentions."""
        for pool in self.shared:
            if pool.error:
                yield f"pool {pool.name}: {pool.error}"
        yield from self._specs.failures.texts()
        if self._specs.volumes.revision:
            for id in sorted(self.local.volumes.keys() - self._specs.volumes.specs.keys()):
                yield f"volume {id}: in the pool, but unknown to the manager; kept"
