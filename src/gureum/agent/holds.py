"""The volumes of shared pools that this host may have open: no other host can have them meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from gureum.agent.live import MachineDisk
from gureum.agent.pool_volumes import PoolVolumes
from gureum.env import Env
from gureum.errors import PoolError
from gureum.hostspec import VolumeSpec
from gureum.san.base import DiskSource
from gureum.san.locks import KeyedLocks

log = logging.getLogger(__name__)


class Holds:
    """Each pool knows which volumes are held, and for which machine (``PoolVolumes.holds``).

    ``live``: a volume as a machine has it open. ``released(machine id)`` is called when other hosts can have
    a volume that was held for the machine; ``note_later(volume)`` when ``note_opened`` is to be called again.
    """

    def __init__(
        self,
        env: Env,
        pools: Sequence[PoolVolumes],
        locks: KeyedLocks,
        live: Callable[[str], MachineDisk | None],
        released: Callable[[str], None],
        note_later: Callable[[str], None],
    ) -> None:
        self._env = env
        self._pools = pools
        self._locks = locks
        self._live = live
        self._released = released
        self._note_later = note_later

    def of(self, machine: str) -> set[str]:
        return {id for pool in self._pools for id, owner in pool.holds.items() if owner == machine}

    def all(self) -> set[str]:
        return {id for pool in self._pools for id in pool.holds}

    async def open(
        self, pool: PoolVolumes, spec: VolumeSpec, revision: int, until: AsyncExitStack
    ) -> DiskSource:
        """For a machine that opens the volume before ``until`` ends; ``revision``: of the host's spec. Raises
        PoolError.
        """
        if pool.shared and spec.receives and not spec.multi_attach:
            until.push_async_callback(self.opened, pool, spec.id)
            return await pool.pool.receive_volume(spec.id, revision)
        if not spec.multi_attach:
            return await pool.pool.open_volume(spec.id, revision)
        # Who is lost may still have it open: what it shares with others would not keep this host out.
        await self.evict(pool, spec, revision)
        source = await pool.pool.share_volume(spec.id, revision)
        until.push_async_callback(self.opened, pool, spec.id)
        return source

    async def evict(self, pool: PoolVolumes, spec: VolumeSpec, revision: int) -> None:
        """Take the volume from who was lost with it. ``revision``: of this host's spec."""
        for host in spec.evict:
            await pool.pool.evict(spec.id, host, spec.evict_at.get(host, revision))

    async def opened(self, pool: PoolVolumes, id: str) -> None:
        """Who has a shared volume open here is written down, now or later."""
        try:
            await pool.pool.note_opened(id)
        except PoolError as error:
            log.warning("%s: who has it open is written down later: %s", id, error)
            self._note_later(id)

    async def note_opened(self, id: str) -> None:
        for pool in self._pools:
            if id in pool.holds:
                await pool.pool.note_opened(id)

    async def take(self, pool: PoolVolumes, spec: VolumeSpec, revision: int) -> None:
        """Have a volume alone that a machine here received. Raises PoolUnavailable while its former host has
        it, too.
        """
        async with self._locks.hold(spec.id):
            if self._live(spec.id) is not None:
                await pool.pool.open_volume(spec.id, revision)
        self._env.crashpoint("agent.volume.taken")

    async def release(self, id: str) -> None:
        """Let other hosts have the volume, if no machine here has it open any more."""
        for pool in self._pools:
            if id in pool.holds:
                async with self._locks.hold(id):
                    await self.let_go(pool, id)

    async def let_go(self, pool: PoolVolumes, id: str) -> None:
        """The same; the caller holds the volume's lock."""
        if id not in pool.holds:
            return
        live = self._live(id)
        if live is not None:
            pool.holds[id] = live.machine
            return
        await pool.pool.release_volume(id)
        owner = pool.holds.pop(id)
        self._env.crashpoint("agent.volume.released")
        self._released(owner)
