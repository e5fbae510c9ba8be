"""One seeded run of a simulated cloud: random calls under random faults, then rest, then judgement."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import msgspec

from gureum.sim import invariants
from gureum.sim.invariants import Violation
from gureum.sim.loop import run as run_virtual
from gureum.sim.workload import Faults, Workload
from gureum.sim.world import World

REST_SECONDS_MAX = 600.0
"""When faults have ended, everything must have come to rest within this virtual time."""


class Outcome(msgspec.Struct, kw_only=True):
    """``digest`` sums up the whole run: the same seed gives the same."""

    seed: int
    virtual_seconds: float
    rest_seconds: float
    answers: Counter[str]
    faults: Counter[str]
    crashes: Counter[str]
    digest: str


class ErrorLog(logging.Handler):
    """Keeps what was logged as an unexpected failure: in a simulation that is a finding."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.unexpected: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[0] is not None:
            self.unexpected.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


async def _simulate(seed: int, steps: int, hosts: int, crash_at: str, crash_at_count: int) -> Outcome:
    world = World(seed, hosts)
    world.crash_at, world.crash_at_count = crash_at, crash_at_count
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: None)
    workload, faults = Workload(world), Faults(world)
    await world.start()
    await asyncio.sleep(1)
    faults.begin()
    for _ in range(steps):
        await workload.step()
        if not crash_at:
            await faults.step()
        await invariants.always(world)
        await asyncio.sleep(world.random.expovariate(1 / 0.7))
    faults.end()
    began = loop.time()
    while problems := await invariants.at_rest(world):
        if loop.time() > began + REST_SECONDS_MAX:
            raise Violation(f"seed {seed}: not at rest after {REST_SECONDS_MAX:g} s: {'; '.join(problems)}")
        await invariants.always(world)
        await asyncio.sleep(1)
    outcome = Outcome(
        seed=seed,
        virtual_seconds=loop.time(),
        rest_seconds=loop.time() - began,
        answers=workload.answers,
        faults=faults.seen,
        crashes=world.crashes,
        digest=f"{loop.time():.9f}/{world.store.revision}/{world.random.getrandbits(64):016x}",
    )
    await world.stop()
    return outcome


def simulate(
    seed: int, steps: int = 60, hosts: int = 1, crash_at: str = "", crash_at_count: int = 1
) -> Outcome:
    """Run a cloud for ``steps`` calls. Raises Violation, or whatever else went wrong.

    ``crash_at``: the only fault is that the process which reaches this crash point for the
    ``crash_at_count``-th time dies there.
    """
    errors = ErrorLog()
    root = logging.getLogger("gureum")
    root.addHandler(errors)
    propagate, root.propagate = root.propagate, root.getEffectiveLevel() < logging.ERROR
    try:
        outcome = run_virtual(_simulate(seed, steps, hosts, crash_at, crash_at_count))
    finally:
        root.removeHandler(errors)
        root.propagate = propagate
    if errors.unexpected:
        raise Violation(f"seed {seed}: unexpected: {errors.unexpected[0]}")
    return outcome
