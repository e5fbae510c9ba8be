"""One seeded run of a simulated cloud: random calls under random faults, then rest, then judgement."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter

import msgspec
from msgspec.structs import replace

from gureum.resources import BalanceMode, FleetSettings, Instance, Volume
from gureum.resources.placement import FLEET
from gureum.sim import invariants
from gureum.sim.demands import Moods
from gureum.sim.faults import Faults
from gureum.sim.guests import Guests
from gureum.sim.ledger import Ledger
from gureum.sim.loop import run as run_virtual
from gureum.sim.powers import Switches
from gureum.sim.sizes import Appetites
from gureum.sim.violation import Violation
from gureum.sim.workload import Workload
from gureum.sim.world import World
from gureum.store.base import Transaction

PACE_SECONDS = 0.7
GARBAGE = 1_000_000
"""Things made, and not gone again, before garbage is looked for within a run; a tenth of it is in most."""
BUSY_CPUS = 4
"""Of hosts, in runs in which they are balanced: few, so that a few guests are much to them."""
REST_SECONDS_MAX = 180.0
"""When faults have ended, everything must have come to rest within this virtual time."""


class Outcome(msgspec.Struct, kw_only=True):
    """``digest`` sums up the whole run: the same seed gives the same.

    ``reached`` and ``crashes``: how often each crash point was reached, and killed. ``writes``: the guests'.
    """

    seed: int
    virtual_seconds: float
    rest_seconds: float
    answers: Counter[str]
    faults: Counter[str]
    reached: Counter[str]
    crashes: Counter[str]
    writes: int
    digest: str


class ErrorLog(logging.Handler):
    """Keeps what was logged as an unexpected failure: in a simulation that is a finding."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.unexpected: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[0] is not None:
            self.unexpected.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


class Run:
    """A cloud, who uses it, and what goes wrong in it."""

    def __init__(
        self,
        seed: int,
        hosts: int,
        networks: bool,
        shared: bool,
        several: bool,
        ha: bool,
        crash_at: str,
        crash_at_count: int,
        pace: float,
        migrating: bool = False,
        own_disks: bool = False,
        balancing: bool = False,
        autosizing: bool = False,
        operated: bool = False,
        parking: bool = False,
        pools: bool = False,
    ) -> None:
        self.seed = seed
        self.pace = pace
        self.world = World(seed, hosts, shared, ha, own_disks, hosts if pools else 0)
        self.world.points.at, self.world.points.count = crash_at, crash_at_count
        self.guests = Guests(self.world)
        self.ledger = Ledger()
        self.workload = Workload(
            self.world, self.guests, self.ledger, networks, several, migrating, operated, parking
        )
        self.faults = Faults(self.world, networks, migrating, operated)
        self.random_faults = not crash_at
        self.moods = Moods(seed, self.world.demands) if balancing else None
        self.switches = Switches(seed, self.world) if parking else None
        self.appetites = Appetites(seed, self.world, self.workload.ask) if autosizing else None

    async def __call__(self, steps: int) -> Outcome:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: None)
        if self.moods is not None:
            await self._balance()
        if self.switches is not None:
            await self.switches.begin()
        await self.world.start()
        await asyncio.sleep(1)
        if self.random_faults:
            self.faults.begin()
        for _ in range(steps):
            await self.workload.step()
            if self.random_faults:
                await self.faults.step()
            await self._always()
            if self.switches is not None:
                self.switches.step()
            if self.moods is not None:
                async with self.world.store.read() as reader:
                    self.moods.step([each.id for each in await reader.find(Instance)])
            if self.appetites is not None:
                async with self.world.store.read() as reader:
                    instances = await reader.find(Instance)
                await self.appetites.step(instances)
            await asyncio.sleep(self.world.random.expovariate(1 / self.pace))
        if self.moods is not None:
            self.moods.end()
        if self.switches is not None:
            self.switches.end()
        await self.faults.end()
        rest_seconds = await self._rest()
        world = self.world
        digest = f"{loop.time():.9f}/{world.store.revision}/{world.random.getrandbits(64):016x}"
        await world.stop()
        return Outcome(
            seed=self.seed,
            virtual_seconds=loop.time(),
            rest_seconds=rest_seconds,
            answers=self.workload.answers,
            faults=self.faults.seen,
            reached=world.points.reached,
            crashes=world.points.killed,
            writes=self.guests.count,
            digest=digest,
        )

    async def _balance(self) -> None:
        for host in self.world.hosts:
            host.cpus = BUSY_CPUS

        async def work(tx: Transaction) -> None:
            settings = await tx.get(FleetSettings, FLEET) or FleetSettings(id=FLEET)
            await tx.put(replace(settings, balance=BalanceMode.automatic))

        await self.world.store.transact(work)

    async def _always(self) -> None:
        await invariants.always(self.world)
        if self.world.sans:
            async with self.world.store.read() as reader:
                self.guests.sources |= {each.id: each.source for each in await reader.find(Volume)}
        for problem in self.guests.step():
            raise Violation(f"seed {self.seed}: {problem}")
        if self.world.failure is not None:
            raise Violation(
                f"seed {self.seed}: a process ended: {self.world.failure!r}"
            ) from self.world.failure

    async def _rest(self) -> float:
        """Wait until nothing is under way any more, and judge; returns how long it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while await invariants.restless(self.world):
            if loop.time() > began + REST_SECONDS_MAX:
                text = "; ".join(await invariants.at_rest(self.world))
                raise Violation(f"seed {self.seed}: not at rest after {REST_SECONDS_MAX:g} s: {text}")
            await self._always()
            if self.workload.operator is not None:
                await self.workload.operator.end()
            if self.switches is not None:
                await self.switches.wake()
            await asyncio.sleep(1)
        async with self.world.store.read() as reader:
            broken = await self.ledger.at_rest(reader)
        broken += self.guests.at_rest()
        if broken:
            raise Violation(f"seed {self.seed}: {'; '.join(broken)}")
        return loop.time() - began


def hurry() -> None:
    """For a process that only simulates, and looks for garbage in circles after each run (``gc.collect``).
    That it is not looked for within one takes a tenth less time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)


def simulate(
    seed: int,
    steps: int = 60,
    hosts: int = 1,
    crash_at: str = "",
    crash_at_count: int = 1,
    networks: bool = False,
    shared: bool = False,
    several: bool = False,
    ha: bool = False,
    pace: float = PACE_SECONDS,
    migrating: bool = False,
    own_disks: bool = False,
    balancing: bool = False,
    autosizing: bool = False,
    operated: bool = False,
    parking: bool = False,
    pools: bool = False,
) -> Outcome:
    """Run a cloud for ``steps`` calls. Raises Violation, or whatever else went wrong.

    ``crash_at``: the only fault is that the process which reaches this crash point for the
    ``crash_at_count``-th time dies there. ``networks``: most calls are about VPCs and what
    is in them. ``shared``: there is a shared pool. ``several``: many calls are about volumes in it that more
    than one instance has. ``ha``: hosts are lost, and what ran there runs elsewhere.
    ``pace``: seconds from call to call, in the mean. ``migrating``: many calls are about migrations.
    ``own_disks``: most volumes are in hosts' own pools, though there is a shared one.
    ``balancing``: guests are busy now and then, and hosts are relieved of them.
    ``autosizing``: guests want more and less now and then, and grow and shrink by that.
    ``operated``: with ``ha``; many calls are an operator's, who drains, fences and upgrades hosts.
    ``parking``: empty hosts are parked and woken, and do not always do as they are told.
    ``pools``: there is a second shared pool, and one of the two may be away.
    """
    errors = ErrorLog()
    root = logging.getLogger("gureum")
    root.addHandler(errors)
    propagate, root.propagate = root.propagate, root.getEffectiveLevel() < logging.ERROR

    async def work() -> Outcome:
        run = Run(
            seed,
            hosts,
            networks,
            shared,
            several,
            ha,
            crash_at,
            crash_at_count,
            pace,
            migrating,
            own_disks,
            balancing,
            autosizing,
            operated,
            parking,
            pools,
        )
        return await run(steps)

    try:
        outcome = run_virtual(work())
    finally:
        root.removeHandler(errors)
        root.propagate = propagate
    if errors.unexpected:
        raise Violation(f"seed {seed}: unexpected: {errors.unexpected[0]}")
    return outcome
