"""Simulated wardens: the real one's decisions (``agent.warden.custody``) over fake machines and leases."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from gureum.agent.warden.custody import RENEW_SECONDS, Custody, Decision, Marks, reaches_storage
from gureum.bell import Bell
from gureum.env import Env
from gureum.errors import PoolUnavailable
from gureum.fencespec import WardenReport
from gureum.san.fake_leases import FakeLeases, FakeLeaseStore

if TYPE_CHECKING:
    from gureum.sim.world import SimHost

LOOK_SECONDS = 1.0
HELD_SECONDS = 0.25
STEP_SECONDS = (0.001, 0.05)
AWAY_SECONDS = 2.0
"""After which a cluster that does not answer is given up for now."""


class Notes:
    """What a host's wardens leave each other, and they and its agents tell each other, until it boots."""

    def __init__(self) -> None:
        self.lease_until = 0.0
        self.held = False
        self.until = 0.0
        self.silent = False
        """The host's kernel answers for no instance's address."""
        self.marks = Marks()
        self.killed = 0
        self.why = ""
        self.sent: float | None = None
        """When the last report was sent that the manager has."""


class SimWarden:
    """One warden's process, on ``host``."""

    def __init__(self, env: Env, host: SimHost, store: FakeLeaseStore) -> None:
        self._env = env
        self._host = host
        self._store = store
        self._notes = host.notes
        self._machines = host.machines
        self._who = f"{host.name}/{host.boot}/{env.token(8)}"
        self._custody = Custody(self._notes.lease_until)
        self._custody.marked(self._notes.marks)
        self._wanted = True
        self._stopped = False
        self._breaks = False
        self._killed = 0
        self._now = asyncio.get_running_loop().time
        self._wake = Bell()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_forever())
            group.create_task(self._look_forever())

    # The lease

    async def _renew_forever(self) -> None:
        while True:
            began = self._now()
            with contextlib.suppress(PoolUnavailable):
                await self._turn(began)
            self._wake.set()
            await asyncio.sleep(max(0.01, began + RENEW_SECONDS - self._now()))

    async def _turn(self, began: float) -> None:
        """As the real one: the marks are read after the lease was renewed."""
        store, name = self._store, self._host.name
        await self._reached()
        if self._killed:
            self._custody.marked(store.write(name, Marks(killed=self._killed)))
            self._notes.killed = self._killed
            self._killed = 0
            store.give_up(name, self._who)
            return
        renewed = self._wanted and store.renew(name, self._who)
        holder = store.holder(name)
        if self._wanted and not renewed and self._breaks and holder.startswith(f"{name}/"):
            store.give_up(name, holder)
            renewed = store.renew(name, self._who)
        await self._reached()
        marks = store.read(name)
        self._notes.killed = max(self._notes.killed, marks.killed)
        await self._reached()
        if renewed:
            self._breaks = False
            self._custody.renewed(began, marks)
        else:
            self._custody.marked(marks)
            foreign = self._wanted and holder != ""
            if foreign and not self._breaks and self._custody.may_take_over(self._now(), self._stopped):
                self._custody.lost_lease()
                self._breaks = True

    async def _reached(self) -> None:
        await asyncio.sleep(self._env.random.uniform(*STEP_SECONDS))
        await reach(self._host)

    # The machines

    async def _look_forever(self) -> None:
        while True:
            seconds = self._look()
            self._wake.clear()
            await self._wake.wait(seconds)

    def _look(self) -> float:
        custody, notes, now = self._custody, self._notes, self._now()
        if notes.sent is not None:
            custody.heard(notes.sent, now)
        decision = custody.decide(now)
        self._wanted = decision is not Decision.kill
        match decision:
            case Decision.run:
                self._stopped = False
                if notes.held:
                    self._machines.thaw()
                    notes.silent = False
                    notes.held, notes.why = False, ""
            case Decision.freeze:
                notes.held, notes.why = True, "neither the manager nor the storage cluster is reached"
                self._machines.freeze()
                self._keep_silent()
                self._stopped = True
            case Decision.kill:
                notes.held, notes.why = True, f"this host was given up (fence {custody.marks.fence})"
                self._kill()
        notes.lease_until = custody.lease_until
        if notes.marks != custody.marks or notes.killed != custody.marks.killed:
            notes.marks = custody.marks._replace(killed=notes.killed)
        until = custody.until
        notes.until = 0.0 if notes.held else until
        left = until - now
        return max(0.001, min(LOOK_SECONDS, left)) if decision is Decision.run else HELD_SECONDS

    def _kill(self) -> None:
        self._machines.kill()
        self._keep_silent()
        self._stopped = True
        marks = self._custody.marks
        if marks.killed < marks.fence:
            self._custody.marked(Marks(killed=marks.fence))
            self._killed = marks.fence

    def _keep_silent(self) -> None:
        self._notes.silent = True


class SimWatched:
    """``agent.watched.Watched``: what the agent knows of its host's warden."""

    def __init__(self, host: SimHost) -> None:
        self._host = host

    def now(self) -> float:
        return _now()

    def heard(self, sent: float) -> None:
        self._host.notes.sent = sent

    def report(self) -> WardenReport:
        notes, now = self._host.notes, _now()
        away = not reaches_storage(notes.lease_until, now)
        return WardenReport(permitted=notes.until > now, fence=notes.killed, away=away, message=notes.why)


def leases(host: SimHost, store: FakeLeaseStore) -> FakeLeases:
    """What the host's agent has of them."""
    return FakeLeases(store, host.name, lambda: reach(host))


async def reach(host: SimHost) -> None:
    """Raises PoolUnavailable."""
    san = host.world.san
    assert san is not None
    if not san.reaches(host.name):
        await asyncio.sleep(AWAY_SECONDS)
    if not san.reaches(host.name):
        raise PoolUnavailable(f"the storage cluster can't be reached from {host.name}")


def _now() -> float:
    return asyncio.get_running_loop().time()
