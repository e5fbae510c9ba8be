"""The volumes of shared pools that this host may have open: no other host can have them meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gureum.agent.live import MachineDisk
from gureum.agent.pool_volumes import PoolVolumes
from gureum.env import Env
from gureum.san.locks import KeyedLocks


class Holds:
    """Each pool knows which volumes are held, and for which machine (``PoolVolumes.holds``).

    ``live``: a volume as a machine has it open. ``released(machine id)`` is called when other hosts can have
    a volume that was held for the machine.
    """

    def __init__(
        self,
        env: Env,
        pools: Sequence[PoolVolumes],
        locks: KeyedLocks,
        live: Callable[[str], MachineDisk | None],
        released: Callable[[str], None],
    ) -> None:
        self._env = env
        self._pools = pools
        self._locks = locks
        self._live = live
        self._released = released

    def of(self, machine: str) -> set[str]:
        return {id for pool in self._pools for id, owner in pool.holds.items() if owner == machine}

    def all(self) -> set[str]:
        return {id for pool in self._pools for id in pool.holds}

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
