"""Volumes on their way from one pool to another, on the host that moves them.

A volume's spec names the pool where its data is (``pool``), one that it is to be copied to (``target``), and
those where no copy is to be (``leaves``). Copied to the target it is by the hypervisor while a machine has it
open: what the guest writes goes to both from then on. While none has, the agent copies (``transfers``).

A copy says itself whether it is complete (``Pool.mark_partial``), and what is not is never used: it is so
from its beginning until it has all, and again before a machine opens the volume where it was. When the
manager makes the target the volume's pool, a machine that has it open still has the source, and goes over:
the copy is marked complete while the mirror is ready, and then the source is closed. Did the machine end
before that, what the copy lacks is copied once more, before another one opens it.

A volume of another host's own pool that comes to this one's with its machine (``comes``) is such a copy, too:
the hypervisor fills it, and it is complete once the manager says that it is the volume.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from gureum.agent.live import MachineDisk
from gureum.agent.pool_volumes import Lost, PoolVolumes, stored_bytes
from gureum.agent.pools import Pools, names_of
from gureum.agent.transfers import Transfers
from gureum.env import Env
from gureum.errors import HostError, HypervisorError, PoolUnavailable
from gureum.hostspec import LOCAL, VolumeReport, VolumeSpec
from gureum.hypervisors.base import RBD_PREFIX, Hypervisor, Mirror
from gureum.san.locks import KeyedLocks
from gureum.san.luks import luks_header

log = logging.getLogger(__name__)

ATTEMPTS_MAX = 3
"""A copy that failed so often is told to be stuck."""


class Failure(NamedTuple):
    attempts: int
    message: str


def comes(spec: VolumeSpec) -> bool:
    """Whether what it contains comes with its machine, from another host's own pool."""
    return spec.receives and spec.pool == LOCAL


def pool_at(active: str) -> str:
    """The pool of what a machine has open, as ``hypervisors.base.describe`` calls it."""
    return active.removeprefix(RBD_PREFIX).partition("/")[0] if active.startswith(RBD_PREFIX) else LOCAL


class Moves:
    """``live``: the machine that has a volume open. ``changed(volume id)`` is called when what is told of a
    move is different, ``kick(volume id)`` when there is a next step.
    """

    def __init__(
        self,
        env: Env,
        pools: Pools,
        hypervisor: Hypervisor,
        locks: KeyedLocks,
        live: Callable[[str], MachineDisk | None],
        changed: Callable[[str], None],
        kick: Callable[[str], None],
    ) -> None:
        self._env = env
        self._pools = pools
        self._hypervisor = hypervisor
        self._locks = locks
        self._live = live
        self._changed = changed
        self._transfers = Transfers(changed, kick)
        self._arrived: set[str] = set()
        """Volumes that are where their spec says, for certain, machines' too."""
        self._lacking: set[str] = set()
        """Volumes whose pool lacks what a machine wrote where they were, whatever the copy says of itself."""
        self._gone: dict[str, set[str]] = {}
        """By volume, the pools in which there is no copy any more."""
        self._copied: dict[str, str] = {}
        """By volume, the pool that has all of it, too."""
        self._failures: dict[str, Failure] = {}

    async def close(self) -> None:
        await self._transfers.close()

    def asked_anew(self, id: str) -> None:
        """Its spec is another one, or there is none any more."""
        self._arrived.discard(id)
        self._gone.pop(id, None)
        self._copied.pop(id, None)
        self._failures.pop(id, None)

    def arrived(self, spec: VolumeSpec) -> bool:
        """Whether the pool has all of the volume, and no machine has it open elsewhere; or all that it is to
        have before a machine brings the rest.
        """
        pool = self._pools.find(spec.pool)
        info = pool.volumes.get(spec.id) if pool is not None else None
        if info is None or comes(spec):
            return info is not None
        return not info.partial and (not spec.leaves or spec.id in self._arrived)

    def settled(self, spec: VolumeSpec) -> bool:
        """Whether there is nothing to do here."""
        return not spec.target and not spec.leaves and self.arrived(spec)

    # The work. The caller sees to it that there is one step at a time for a volume.

    async def step(self, spec: VolumeSpec) -> bool:
        """One step on; whether the volume arrived with it, so that other work on it can go on."""
        if not self.arrived(spec):
            if not await self._arrive(spec):
                return False
            self._arrived.add(spec.id)
            return True
        for name in spec.leaves:
            await self._leave(spec, name)
        if spec.target:
            await self._depart(spec)
        return False

    async def before_open(self, spec: VolumeSpec) -> None:
        """A machine is about to open the volume; the caller holds its lock. Raises PoolError."""
        await self._transfers.stop(spec.id)
        self._copied.pop(spec.id, None)
        if comes(spec):
            await self._pools.get(spec.pool).mark(spec.id, True)
        if not spec.target:
            return
        target = self._pools.get(spec.target)
        if not target.knows(spec.id):
            await target.ask_volume(spec)
        if spec.id in target.volumes:
            # What the machine writes before it is mirrored is missing there.
            await target.mark(spec.id, True)

    async def delete(self, spec: VolumeSpec) -> None:
        """Remove what there is besides the pool's. The caller holds its lock, and no machine has it."""
        await self._transfers.stop(spec.id)
        for name in names_of(spec):
            if name != spec.pool:
                await self._delete(self._pools.get(name), spec.id)

    async def stop(self, id: str) -> None:
        """The volume is another host's, or no more."""
        self._lacking.discard(id)
        await self._transfers.stop(id)

    # Towards the target

    async def _depart(self, spec: VolumeSpec) -> None:
        if spec.id in self._failures and self._failures[spec.id].attempts >= ATTEMPTS_MAX:
            return
        try:
            await (self._mirror(spec) if self._live(spec.id) is not None else self._transfer(spec))
        except PoolUnavailable:
            raise
        except HostError as error:
            attempts = self._failures[spec.id].attempts + 1 if spec.id in self._failures else 1
            self._failures[spec.id] = Failure(attempts, str(error))
            self._changed(spec.id)
            if attempts < ATTEMPTS_MAX:
                raise
            log.warning("%s is not moved to %s: %s", spec.id, spec.target, error)

    async def _mirror(self, spec: VolumeSpec) -> None:
        """While a machine has it open."""
        target = self._pools.get(spec.target)
        async with self._locks.hold(spec.id):
            await self._transfers.stop(spec.id)
            live = self._live(spec.id)
            if live is None:
                return
            mirror = self._mirrored(live, spec.id)
            if mirror is not None and pool_at(mirror.target) == target.name and not mirror.error:
                self._note_copied(spec, mirror.ready)
                return
            await self._begin(spec, target, live, mirror)

    async def _begin(
        self, spec: VolumeSpec, target: PoolVolumes, live: MachineDisk, mirror: Mirror | None
    ) -> None:
        """Begin to mirror, instead of a mirror that failed. The caller holds the volume's lock."""
        self._note_copied(spec, False)
        await self._have_copy(spec, target)
        if mirror is not None:
            await self._hypervisor.cancel_mirror(live.machine, spec.id)
            if mirror.error:
                raise HypervisorError(f"{spec.id} can't be copied to {target.name}: {mirror.error}")
        if spec.key:
            await target.pool.write_volume(spec.id, 0, luks_header(spec.key))
        if target.shared:
            target.holds[spec.id] = live.machine
        source = await target.pool.open_volume(spec.id)
        await self._hypervisor.mirror_disk(live.machine, spec.id, source, spec.key)
        self._env.crashpoint("agent.move.mirrored")

    async def _have_copy(self, spec: VolumeSpec, target: PoolVolumes) -> None:
        """One that says that it is not complete. The caller holds the volume's lock."""
        if spec.id not in target.volumes:
            await target.create_copy(spec)
            self._env.crashpoint("agent.move.begun")
        await target.mark(spec.id, True)
        self._lacking.discard(spec.id)
        if target.volumes[spec.id].size_bytes < stored_bytes(spec):
            await target.pool.resize_volume(spec.id, stored_bytes(spec))
            target.volumes[spec.id] = replace(target.volumes[spec.id], size_bytes=stored_bytes(spec))

    async def _transfer(self, spec: VolumeSpec) -> None:
        """While no machine has it open."""
        target = self._pools.get(spec.target)
        info = target.volumes.get(spec.id)
        if info is None or info.partial or info.size_bytes < stored_bytes(spec):
            self._note_copied(spec, False)
            async with self._locks.hold(spec.id):
                if self._live(spec.id) is not None:
                    return
                await self._have_copy(spec, target)
            if not await self._transferred(spec, self._pools.get(spec.pool), target):
                return
        self._note_copied(spec, True)

    async def _transferred(self, spec: VolumeSpec, source: PoolVolumes, target: PoolVolumes) -> bool:
        """Whether the copy is complete; begins or awaits it if not."""
        async with self._locks.hold(spec.id):
            # Who is opening the volume has the lock: what is copied before a machine writes does not count.
            if self._live(spec.id) is not None:
                await self._transfers.stop(spec.id)
                return False
            if not await self._transfers.step(spec.id, source.pool, target.pool, stored_bytes(spec)):
                return False
            if not self._transfers.take_done(spec.id):
                return False
            await target.mark(spec.id, False)
        self._env.crashpoint("agent.move.copied")
        return True

    def _note_copied(self, spec: VolumeSpec, copied: bool) -> None:
        before = self._copied.get(spec.id)
        if copied:
            self._copied[spec.id] = spec.target
            self._failures.pop(spec.id, None)
        else:
            self._copied.pop(spec.id, None)
        if before != self._copied.get(spec.id):
            self._changed(spec.id)

    # At the target

    async def _arrive(self, spec: VolumeSpec) -> bool:
        """Whether the volume is where its spec says: all of it, and with the machine that has it open."""
        pool = self._pools.get(spec.pool)
        if spec.id not in pool.volumes:
            return False
        # Who is opening the volume where it was has the lock, until the machine is seen to have it.
        async with self._locks.hold(spec.id):
            live = self._live(spec.id)
            if live is not None:
                return await self._go_over(spec, pool, live)
            if spec.id in self._lacking:
                await pool.mark(spec.id, True)
                self._lacking.discard(spec.id)
            if not pool.volumes[spec.id].partial:
                return True
        sources = self._pools.named(spec.leaves)
        source = next((each for each in sources if _whole(each, spec.id)), None)
        if source is None and spec.leaves:
            raise Lost(f"{spec.id} is not complete in {spec.pool}, and gone from where it was")
        if source is None:
            # Its host is lost, and what it moved from: at its last moment both were the same.
            log.warning("%s is taken as it is in %s: where it was is lost", spec.id, spec.pool)
            await pool.mark(spec.id, False)
            return True
        return await self._transferred(spec, source, pool)

    async def _go_over(self, spec: VolumeSpec, pool: PoolVolumes, live: MachineDisk) -> bool:
        """Let the machine go on with this pool's copy alone. The caller holds the volume's lock."""
        # In this order: it may go over between the two, but never back.
        if self._comes_here(live):
            return False  # it goes on in a moment
        mirror = self._mirrored(live, spec.id)
        if pool_at(await live.active_layer()) == pool.name:
            self._lacking.discard(spec.id)
            await pool.mark(spec.id, False)
            if mirror is not None:
                await self._hypervisor.cancel_mirror(live.machine, spec.id)
                self._env.crashpoint("agent.move.cancelled")
            return True
        if mirror is None or mirror.error or pool_at(mirror.target) != pool.name:
            # A write did not come through to the copy: it is not the same any more.
            self._lacking.add(spec.id)
            await self._begin(spec, pool, live, mirror)
            return False
        if not mirror.ready:
            return False
        await pool.mark(spec.id, False)
        self._env.crashpoint("agent.move.complete")
        await self._hypervisor.finish_mirror(live.machine, spec.id)
        self._env.crashpoint("agent.move.switched")
        return True

    # Away from where it was

    async def _leave(self, spec: VolumeSpec, name: str) -> None:
        gone = self._gone.setdefault(spec.id, set())
        if name in gone or name in (spec.pool, spec.target):
            return
        pool = self._pools.get(name)
        async with self._locks.hold(spec.id):
            await self._transfers.stop(spec.id)
            await self._delete(pool, spec.id)
        self._env.crashpoint("agent.move.left")
        gone.add(name)
        self._changed(spec.id)

    async def _delete(self, pool: PoolVolumes, id: str) -> None:
        await pool.delete(id)
        pool.holds.pop(id, None)

    def _comes_here(self, live: MachineDisk) -> bool:
        status = self._hypervisor.machines().get(live.machine)
        return status is not None and status.migration is not None and status.migration.incoming

    def _mirrored(self, live: MachineDisk, id: str) -> Mirror | None:
        status = self._hypervisor.machines().get(live.machine)
        return status.mirrors.get(id) if status is not None else None

    # What is

    def told(self, spec: VolumeSpec, report: VolumeReport) -> VolumeReport:
        """The report with what there is to tell of the volume's move."""
        if not spec.target and not spec.leaves:
            return report
        live = self._live(spec.id)
        mirror = self._mirrored(live, spec.id) if live is not None else None
        done, total = self._transfers.progress(spec.id)
        if mirror is not None:
            done, total = mirror.done_bytes, mirror.total_bytes
        failure = self._failures.get(spec.id)
        stuck = failure is not None and failure.attempts >= ATTEMPTS_MAX
        gone = self._gone.get(spec.id, set())
        still = [name for name in spec.leaves if name not in gone]
        return replace(
            report,
            copied=self._copied.get(spec.id, "") if mirror is None or mirror.ready else "",
            done_bytes=done,
            total_bytes=total,
            stuck=failure.message if stuck and failure is not None else "",
            leaves=tuple(name for name in still if name not in (spec.pool, spec.target)),
        )


def _whole(pool: PoolVolumes, id: str) -> bool:
    info = pool.volumes.get(id)
    return info is not None and not info.partial
