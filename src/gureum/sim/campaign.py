"""Very many runs, of all modes: each seed has its own."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from types import FrameType

import msgspec

from gureum.sim.modes import MODES, mode

BATCH = 4
"""Runs that a process is given at once."""
BATCHES_OF_ONE_PROCESS_MAX = 100
RUN_CPU_SECONDS_MAX = 300
"""A run that takes longer goes round in circles at one moment of its time."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one run. ``violation``: what was as it must not be, "" for nothing."""

    seed: int
    mode: str
    seconds: float
    cpu_seconds: float
    virtual_seconds: float = 0.0
    calls: int = 0
    faults: int = 0
    writes: int = 0
    violation: str = ""


class Stuck(AssertionError):
    """A run does not come to its end."""


def _stuck(number: int, frame: FrameType | None) -> None:
    raise Stuck(f"not at its end after {RUN_CPU_SECONDS_MAX} s of processor time")


def one(seed: int) -> Done:
    from gureum.sim.run import simulate

    name = mode(seed)
    began, cpu = time.monotonic(), time.process_time()
    signal.signal(signal.SIGPROF, _stuck)
    signal.setitimer(signal.ITIMER_PROF, RUN_CPU_SECONDS_MAX)
    violation, outcome = "", None
    try:
        outcome = simulate(seed, **MODES[name])
    except Exception as error:
        said = str(error)
        violation = said if isinstance(error, AssertionError) and said else repr(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    done = Done(
        seed=seed,
        mode=name,
        seconds=time.monotonic() - began,
        cpu_seconds=time.process_time() - cpu,
        violation=violation,
    )
    if outcome is None:
        return done
    return msgspec.structs.replace(
        done,
        virtual_seconds=outcome.virtual_seconds,
        calls=outcome.answers.total(),
        faults=outcome.faults.total() + outcome.crashes.total(),
        writes=outcome.writes,
    )


def batch(seeds: range) -> list[Done]:
    """The runs of a process, up to the first that finds something."""
    found = []
    for seed in seeds:
        found.append(one(seed))
        if found[-1].violation:
            break
    return found


def _prepare() -> None:
    """Ctrl-C is for the process that began it all, and what is logged for nobody."""
    from gureum.sim.run import hurry

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("gureum").propagate = False
    hurry()


class Campaign:
    """The runs of ``seeds`` on so many processes. Ends at the first violation."""

    def __init__(self, seeds: range, jobs: int) -> None:
        self._seeds = seeds
        self._jobs = jobs
        self._open: dict[Future[list[Done]], range] = {}
        self._next = seeds.start

    @property
    def next(self) -> int:
        """All seeds below are done: where to go on."""
        return min((seeds.start for seeds in self._open.values()), default=self._next)

    def run(self) -> Iterator[Done]:
        """What came of the runs, as they end."""
        pool = ProcessPoolExecutor(
            self._jobs,
            multiprocessing.get_context("spawn"),
            _prepare,
            max_tasks_per_child=BATCHES_OF_ONE_PROCESS_MAX,
        )
        try:
            while self._next < self._seeds.stop or self._open:
                while self._next < self._seeds.stop and len(self._open) < 2 * self._jobs:
                    seeds = range(self._next, min(self._next + BATCH, self._seeds.stop))
                    self._open[pool.submit(batch, seeds)] = seeds
                    self._next = seeds.stop
                for future in wait(self._open, return_when=FIRST_COMPLETED).done:
                    found = future.result()
                    if not found[-1].violation:
                        del self._open[future]
                    yield from found
                    if found[-1].violation:
                        return
        finally:
            pool.shutdown(cancel_futures=True)
