"""A manager that led, was stopped, and goes on when another leads: nothing that it still says may do harm."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from gureum.control.manager import Manager
from gureum.env import Env
from gureum.errors import PoolUnavailable, StoreError, TransportError
from gureum.hostspec import HostReport
from gureum.resources import HostCertificate, ManagerMachine
from gureum.services.dispatch import Dispatcher
from gureum.sim import wardens
from gureum.sim.loop import run
from gureum.sim.process import Process
from gureum.sim.violation import Violation
from gureum.sim.world import SimHost, World
from gureum.store.base import Transaction
from gureum.store.postgres.connection import Deposed
from gureum.store.postgres.leadership import BEAT_SECONDS, LEASE_SECONDS, STAND_DOWN_SECONDS
from gureum.transport.link import Link

from .test_ha import Losses

T = TypeVar("T")

MACHINES = [
    ManagerMachine(id=id, agents=f"{id}:4567", endpoint=f"https://{id}") for id in ("first", "second")
]
STOPPED_SECONDS = 5.0
"""Longer than until another leads, shorter than until an agent looks for it."""


class Epochs:
    """The store as one leader has it: what PostgreSQL does by its epochs."""

    def __init__(self, world: Led) -> None:
        self._world = world
        self._epoch = world.epoch
        self._proven = asyncio.get_running_loop().time()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.store, name)

    async def transact(self, work: Callable[[Transaction], Awaitable[T]], *, frees: bool = False) -> T:
        self._check()
        return await self._world.store.transact(work, frees=frees)

    async def hold(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self._check()
            self._proven = asyncio.get_running_loop().time()

    def certain(self) -> bool:
        return asyncio.get_running_loop().time() < self._proven + STAND_DOWN_SECONDS

    def _check(self) -> None:
        if not self.current:
            raise Deposed("another manager leads")

    @property
    def current(self) -> bool:
        return self._world.epoch == self._epoch


class Led(World):
    """A cloud with a second manager, which can be made to lead. ``goes_on``: who led before does not care,
    and says what it remembers, as if it were so.
    """

    def __init__(self, goes_on: bool) -> None:
        super().__init__(5, 3, shared=True, ha=True)
        self.goes_on = goes_on
        self.epoch = 1
        self.apart: SimHost | None = None
        """It reaches the first leader only."""

    async def _run_manager(self, env: Env) -> None:
        if self.epoch > 1 and self.manager_process is not None and self.manager_process.name == "manager":
            await asyncio.Event().wait()  # it stands by
        epochs: Any = Epochs(self)
        manager = self.manager = Manager(env, self.cloud, epochs)
        self.dispatcher = Dispatcher(env, self.cloud, epochs, manager)
        if self.goes_on and self.epoch == 1:
            note, read = manager.hosts.note, manager._neighbours.read

            def of_old() -> Any:
                if not epochs.current:
                    raise StoreError("there are no newer specs")
                return read()

            async def remembered(report: HostReport, certificate: HostCertificate | None = None) -> bool:
                return await note(report, certificate) if epochs.current else False

            manager.hosts.note = remembered  # type: ignore[method-assign]
            manager._neighbours.read = of_old  # type: ignore[method-assign]
            await manager.run()
        manager.leads = epochs.certain
        async with asyncio.TaskGroup() as group:
            group.create_task(manager.run())
            group.create_task(epochs.hold())

    def _seat_manager(self, process: Process | None) -> None:
        if self.epoch == 1:  # what becomes of the former leader later concerns no seat
            super()._seat_manager(process)

    def take_over(self) -> None:
        self.epoch += 1
        self.manager_process = Process("manager-1", self._run_manager, self.now, self.points)

    async def connect(self, host: SimHost) -> Link:
        if host is self.apart and self.epoch > 1:
            raise TransportError("the manager is not reached")
        return await super().connect(host)


def stopped_and_goes_on(monkeypatch: pytest.MonkeyPatch, goes_on: bool) -> None:
    async def main() -> None:
        one = Losses()
        world = one.world = one.guests.world = Led(goes_on)

        async def reach(host: SimHost) -> None:
            if host is world.apart:
                raise PoolUnavailable("leases are out of reach, though disks are not")

        monkeypatch.setattr(wardens, "reach", reach)
        await world.start()
        try:
            await story(one, world)
        finally:
            await world.stop()

    run(main())


async def story(one: Losses, world: Led) -> None:
    async def enter(tx: Transaction) -> None:
        for machine in MACHINES:
            await tx.put(machine)

    await world.store.transact(enter)
    await asyncio.sleep(6)
    before, host = await one.written()
    former, sessions = world.manager_process, world.manager.sessions if world.manager else {}
    assert former is not None
    world.apart = host
    await one.watch(8)  # it runs on the manager's word alone
    former.freezer.freeze()
    asyncio.get_running_loop().call_later(STOPPED_SECONDS, former.freezer.thaw)
    await asyncio.sleep(LEASE_SECONDS)
    world.take_over()
    for name, session in list(sessions.items()):
        if name != host.name:
            await session.link.close()
    await one.recovered(before, 120)
    await one.watch(20)
    world.apart = None
    await one.rest()


def test_it_says_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_and_goes_on(monkeypatch, goes_on=False)


def test_planted_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Violation):
        stopped_and_goes_on(monkeypatch, goes_on=True)
