"""The volumes that this host looks after: made, grown, given their performance and deleted, in any pool."""

from __future__ import annotations

import logging
from typing import Protocol

from msgspec.structs import replace

from gureum.agent.copies import Copies
from gureum.agent.disk_specs import DiskSpecs
from gureum.agent.failures import Key, needed
from gureum.agent.holds import Holds
from gureum.agent.live import MachineDisks
from gureum.agent.moves import Moves, comes
from gureum.agent.pool_volumes import Lost, PoolVolumes, stored_bytes
from gureum.agent.pools import Pools
from gureum.agent.zeros import Zeros
from gureum.env import Env
from gureum.errors import PoolError
from gureum.hostspec import VolumeReport, VolumeSpec, source_clone
from gureum.san.locks import KeyedLocks
from gureum.san.luks import luks_header

log = logging.getLogger(__name__)


class Kick(Protocol):
    def __call__(self, *keys: Key) -> None:
        """There is work on these."""


class Volumes:
    def __init__(
        self,
        env: Env,
        pools: Pools,
        specs: DiskSpecs,
        live: MachineDisks,
        locks: KeyedLocks,
        holds: Holds,
        moves: Moves,
        kick: Kick,
    ) -> None:
        self._env = env
        self._pools = pools
        self._specs = specs
        self._live = live
        self._locks = locks
        self._holds = holds
        self._moves = moves
        self._kick = kick
        self._copies = Copies(env, lambda volume: kick(("volume", volume)))
        self._zeros = Zeros()
        self._limits: dict[str, tuple[int, int]] = {}
        """The IOPS and throughput that each volume has for certain, in a machine or when one opens it."""
        self._sealed: set[str] = set()
        """New encrypted volumes that have their header for certain."""

    async def close(self) -> None:
        await self._copies.close()

    def ready(self, spec: VolumeSpec) -> bool:
        """Whether its pool has all of it."""
        pool = self._pools.find(spec.pool)
        made = pool is not None and spec.id in pool.volumes and self.is_whole(spec)
        return made and self._moves.arrived(spec)

    def is_whole(self, spec: VolumeSpec) -> bool:
        """Whether a volume that the pool has is all made: encrypted ones have their header, or a clone's."""
        cloned = bool(spec.source) and not spec.encrypts
        return not spec.key or spec.made or cloned or spec.id in self._sealed

    async def step(self, spec: VolumeSpec) -> bool:
        """Make it so; False if it has to wait for something else, which will kick it."""
        id, pool = spec.id, self._pools.get(spec.pool)
        revision = self._specs.volumes.revision  # while ``spec`` is sure to be of it
        with needed(spec.made or bool(spec.releases)):
            if spec.releases:
                return await self._release(spec)
            for each in self._pools.of(spec):
                if each.shared:
                    await self._ask(each, spec, revision)
        if not spec.present:
            return await self._delete(pool, spec)
        if id not in pool.volumes:
            if spec.made:
                raise Lost(f"{id} is not in the pool any more: its data is lost")
            if not comes(spec) and not (spec.keeper and await self._source_ready(pool, spec)):
                return False
            async with self._locks.hold(id):
                await (pool.create_copy(spec) if comes(spec) else pool.create(spec))
            self._env.crashpoint("agent.volume.created")
            if self.is_whole(spec):
                self._kick(*self._specs.dependents(spec))
        elif not self._moves.arrived(spec):
            self._kick(("move", id))
            return False
        elif spec.keeper and pool.volumes[id].size_bytes < stored_bytes(spec):
            async with self._locks.hold(id):
                await pool.pool.resize_volume(id, stored_bytes(spec), self._live.of(id))
            if id in pool.volumes:  # it may have left the spec meanwhile
                pool.volumes[id] = replace(pool.volumes[id], size_bytes=stored_bytes(spec))
            self._env.crashpoint("agent.volume.resized")
        if not self.is_whole(spec):
            if not await self._seal(pool, spec):
                return False
            self._kick(*self._specs.dependents(spec))
        if spec.takes and pool.shared:
            with needed(spec.made):
                await self._holds.take(pool, spec, revision)
        if not spec.receives:
            await self._limit(spec)
        if spec.target or spec.leaves:
            self._kick(("move", id))
        return True

    async def _ask(self, pool: PoolVolumes, spec: VolumeSpec, revision: int) -> None:
        """See what the shared pool has of the volume; let go of it if an agent before this one did not."""
        async with self._locks.hold(spec.id):
            await self._holds.evict(pool, spec, revision)
            if pool.knows(spec.id):
                return
            await pool.ask_volume(spec)
            if spec.id in pool.volumes:
                await self._holds.let_go(pool, spec.id)
                if spec.multi_attach and spec.id in pool.holds:
                    await self._holds.opened(pool, spec.id)
            else:
                pool.holds.pop(spec.id, None)
        self._kick(*self._specs.dependents(spec))

    async def _release(self, spec: VolumeSpec) -> bool:
        """Another host looks after it, and this one did: what is held of it for a copy, by an agent before
        this one perhaps, is let go of.
        """
        await self._moves.stop(spec.id)
        await self._copies.stop(spec.id)
        async with self._locks.hold(spec.id):
            if self._live.of(spec.id) is not None:
                return False
            for pool in self._pools.of(spec):
                for id in (source_clone(spec.id), spec.id) if spec.encrypts else (spec.id,):
                    await pool.pool.release_volume(id)
                pool.holds.pop(spec.id, None)
                pool.forget(spec.id)
        self._env.crashpoint("agent.volume.let_go")
        return True

    async def _delete(self, pool: PoolVolumes, spec: VolumeSpec) -> bool:
        id = spec.id
        await self._copies.stop(id)
        async with self._locks.hold(id):
            if self._specs.awaits_snapshot(spec):
                self._kick(("move", id))
                return False
            if self._live.of(id) is not None:
                return False
            await self._moves.delete(spec)
            await self._holds.let_go(pool, id)
            if spec.encrypts:
                await pool.delete(source_clone(id))
            await pool.delete(id)
        self._limits.pop(id, None)
        self._sealed.discard(id)
        self._zeros.forget(id)
        self._env.crashpoint("agent.volume.deleted")
        return True

    async def _source_ready(self, pool: PoolVolumes, spec: VolumeSpec) -> bool:
        if spec.source.startswith("snap-"):
            if (error := self._specs.failures.final("snapshot", spec.source)) is not None:
                raise Lost(str(error))
            return pool.shared or spec.source in pool.snapshots
        if spec.source:
            image = self._specs.images.get(spec.source)
            if image is None:
                return False
            await pool.add_image(image)
        return True

    async def _seal(self, pool: PoolVolumes, spec: VolumeSpec) -> bool:
        """Give a new encrypted volume its header, and what is to be copied into it; whether that is done.

        Done once more, it changes nothing (see ``san.luks``).
        """
        async with self._locks.hold(spec.id):
            # A machine had it only after it was done.
            if self._live.of(spec.id) is None:
                if not spec.encrypts:
                    await pool.pool.write_volume(spec.id, 0, luks_header(spec.key))
                elif not await self._copies.step(pool.pool, spec):
                    return False
                pool.volumes.pop(source_clone(spec.id), None)
        self._sealed.add(spec.id)
        self._env.crashpoint("agent.volume.sealed")
        return True

    def told(self, spec: VolumeSpec, report: VolumeReport) -> VolumeReport:
        """The report with what there is to tell of how the volume is made."""
        return self._copies.told(spec, report) if spec.encrypts else report

    async def fill(self, pool: PoolVolumes, spec: VolumeSpec) -> bool:
        """See ``Zeros.step``. The caller holds the volume's lock."""
        return await self._zeros.step(pool, spec)

    async def _limit(self, spec: VolumeSpec) -> None:
        """Let a running machine have the volume's present performance; another start has it by itself."""
        wanted = spec.iops, spec.throughput
        if self._limits.get(spec.id) != wanted:
            async with self._locks.hold(spec.id):
                for live in list(self._live.all_of(spec.id)):
                    await live.limit(*wanted)
            self._limits[spec.id] = wanted

    async def compact(self, id: str) -> None:
        """Merge the layers of a volume that no machine has, if there are many. The caller holds its lock."""
        if self._live.of(id) is not None or self._specs.volumes.specs[id].target:
            return
        local = self._pools.local
        try:
            if await local.pool.compact(id):
                log.info("the layers of %s were merged", id)
        except PoolError as error:
            local.untidy = True
            log.warning("%s stays in many layers: %s", id, error)
