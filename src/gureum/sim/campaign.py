"""Very many runs, of all modes, on several processes."""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from types import FrameType

import msgspec

from gureum.niceness import set_niceness
from gureum.sim.modes import MODES, Seeded

RUNS_OF_ONE_PROCESS_MAX = 400
RUN_CPU_SECONDS_MAX = 300
"""A run that takes longer goes round in circles at one moment of its time."""
LOOK_SECONDS = 0.5
STOP_SECONDS = 20.0
"""In which the runs under way have to end when all is to end; after that they are given up."""
TRIES_MAX = 2
"""Of a run whose process is killed: by whatever was short of memory, or by the run itself."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one run. ``violation``: what was as it must not be, "" for nothing."""

    seed: int
    mode: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    virtual_seconds: float = 0.0
    calls: int = 0
    faults: int = 0
    writes: int = 0
    violation: str = ""


class Stuck(AssertionError):
    """A run does not come to its end."""


def _stuck(number: int, frame: FrameType | None) -> None:
    raise Stuck(f"not at its end after {RUN_CPU_SECONDS_MAX} s of processor time")


def one(run: Seeded) -> Done:
    from gureum.sim.run import simulate

    began, cpu = time.monotonic(), time.process_time()
    signal.signal(signal.SIGPROF, _stuck)
    signal.setitimer(signal.ITIMER_PROF, RUN_CPU_SECONDS_MAX)
    violation, outcome = "", None
    try:
        outcome = simulate(run.seed, **MODES[run.mode])
    except Exception as error:
        said = str(error)
        violation = said if isinstance(error, AssertionError) and said else repr(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    done = Done(
        seed=run.seed,
        mode=run.mode,
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


def _serve(pipe: Connection, nice: int) -> None:
    """A process of a campaign. Signals are for the one that began it, and what is logged for nobody."""
    from gureum.sim.run import hurry

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    os.setsid()
    set_niceness(max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
    log = logging.getLogger("gureum")
    log.propagate = False
    log.setLevel(logging.ERROR)
    hurry()
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(one(pipe.recv()))
            gc.collect()


class Worker:
    """One process, which has at most one run at a time. All come from one server, which has loaded the code
    once: what is changed in a checkout while a campaign goes on is not in it.
    """

    def __init__(self, nice: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "gureum.sim.run"])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, nice), daemon=True)
        self.process.start()
        theirs.close()
        self.run: Seeded | None = None
        self._left = RUNS_OF_ONE_PROCESS_MAX

    @property
    def spent(self) -> bool:
        return self._left <= 0

    def begin(self, run: Seeded) -> None:
        self.run = run
        self._left -= 1
        with contextlib.suppress(OSError):  # it is dead: ``end`` says so
            self.pipe.send(run)

    def end(self) -> Done | None:
        """What came of its run; None if the process died of it."""
        self.run = None
        try:
            found = self.pipe.recv()
        except (EOFError, OSError):
            self.close()
            return None
        assert isinstance(found, Done)
        return found

    def close(self) -> None:
        """Its run, if it has one, is given up."""
        self._left = 0
        self.pipe.close()
        if self.run is not None:
            self.process.kill()
        self.process.join()


class Campaign:
    """Does ``todo`` on so many processes, at most, with this niceness."""

    def __init__(self, todo: Iterable[Seeded], jobs: int, nice: int = 0) -> None:
        self._todo = iter(todo)
        self._jobs = jobs
        self._nice = nice
        self._workers: list[Worker] = []
        self._again: deque[Seeded] = deque()
        self._tries: Counter[Seeded] = Counter()
        self._until = float("inf")

    def stop(self) -> None:
        """Begin no more runs. Asked again: nor wait for those that are under way."""
        waits = STOP_SECONDS if self._until == float("inf") else 0.0
        self._until = time.monotonic() + waits

    def run(self) -> Iterator[Done]:
        """What came of the runs, as they end."""
        try:
            while True:
                self._hand_out()
                busy = {worker.pipe: worker for worker in self._workers if worker.run is not None}
                if not busy or time.monotonic() > self._until:
                    return
                for pipe in wait(list(busy), LOOK_SECONDS):
                    assert isinstance(pipe, Connection)
                    if (done := self._ended(busy[pipe])) is not None:
                        yield done
        finally:
            for worker in self._workers:
                worker.close()

    def _hand_out(self) -> None:
        for worker in [each for each in self._workers if each.run is None and each.spent]:
            worker.close()
            self._workers.remove(worker)
        idle = [worker for worker in self._workers if worker.run is None]
        while self._until == float("inf") and (idle or len(self._workers) < self._jobs):
            run = self._again.popleft() if self._again else next(self._todo, None)
            if run is None:
                return
            if not idle:
                idle = [Worker(self._nice)]
                self._workers += idle
            idle.pop().begin(run)

    def _ended(self, worker: Worker) -> Done | None:
        run = worker.run
        assert run is not None
        if (done := worker.end()) is not None:
            return done
        self._tries[run] += 1
        if self._tries[run] < TRIES_MAX:
            self._again.append(run)
            return None
        died = f"its process died {TRIES_MAX} times, the last time with exit code {worker.process.exitcode}"
        return Done(seed=run.seed, mode=run.mode, violation=died)
