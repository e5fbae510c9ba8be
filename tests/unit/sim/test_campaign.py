from __future__ import annotations

import os
import signal
import time

import pytest

from gureum.sim import campaign, run
from gureum.sim.campaign import Campaign, Done, Worker, one
from gureum.sim.modes import Seeded, runs
from gureum.sim.violation import Violation

RUN = Seeded("one host", 7)


def test_what_a_run_finds_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(seed: int, **options: object) -> object:
        raise Violation("it runs twice") if seed == 7 else ValueError("odd")

    monkeypatch.setattr(run, "simulate", simulate)
    assert one(RUN).violation == "it runs twice"
    assert one(RUN._replace(seed=8)).violation == "ValueError('odd')"


def test_a_run_that_never_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(seed: int, **options: object) -> object:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            pass
        raise AssertionError("nobody ended it")

    monkeypatch.setattr(run, "simulate", simulate)
    monkeypatch.setattr(campaign, "RUN_CPU_SECONDS_MAX", 0.1)
    before = signal.getsignal(signal.SIGPROF)
    try:
        assert "not at its end" in one(RUN).violation
    finally:
        signal.signal(signal.SIGPROF, before)


def test_processes_do_the_runs_with_the_niceness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "RUNS_OF_ONE_PROCESS_MAX", 2)
    made: list[Worker] = []
    right = Worker.begin

    def begin(self: Worker, run: Seeded) -> None:
        if self not in made:
            made.append(self)
        right(self, run)
        pid = self.process.pid
        assert pid is not None
        if len(made) == 1 and self.spent:  # it has had its first run
            assert os.getpriority(os.PRIO_PROCESS, pid) == 19

    monkeypatch.setattr(Worker, "begin", begin)
    done = list(Campaign([Seeded("one host", seed) for seed in range(5)], jobs=1, nice=19).run())
    assert [(each.seed, each.violation) for each in done] == [(seed, "") for seed in range(5)]
    assert len(made) == 3
    assert [worker.process.exitcode for worker in made] == [0, 0, 0]


def test_a_process_that_is_killed_loses_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Seeded] = []
    right = Worker.begin

    def begin(self: Worker, run: Seeded) -> None:
        if run.seed == 3 or (run.seed == 1 and run not in killed):
            killed.append(run)
            self.process.kill()
            self.process.join()
        right(self, run)

    monkeypatch.setattr(Worker, "begin", begin)
    done = {each.seed: each.violation for each in Campaign(runs_of_one_mode(4), jobs=2).run()}
    assert killed.count(Seeded("one host", 3)) == campaign.TRIES_MAX
    assert done == {0: "", 1: "", 2: "", 3: "its process died 2 times, the last time with exit code -9"}


def runs_of_one_mode(count: int) -> list[Seeded]:
    return [Seeded("one host", seed) for seed in range(count)]


def test_one_that_is_to_stop_ends_what_is_under_way() -> None:
    work = Campaign(runs(0, 1000), jobs=2)
    found: list[Done] = []
    for done in work.run():
        if not found:
            work.stop()
        found.append(done)
    assert 1 <= len(found) <= 2
    assert all(not done.violation for done in found)


def test_one_that_is_to_stop_at_once_gives_runs_up() -> None:
    work = Campaign(runs(0, 1000), jobs=2)
    found: list[Done] = []
    for done in work.run():
        work.stop()
        work.stop()
        found.append(done)
    assert len(found) <= 2
    assert all(not worker.process.is_alive() for worker in work._workers)


def test_signals_are_not_for_the_processes() -> None:
    worker = Worker(nice=0)
    try:
        worker.begin(RUN)
        done = worker.end()
        assert worker.process.pid is not None
        os.kill(worker.process.pid, signal.SIGTERM)
        os.kill(worker.process.pid, signal.SIGINT)
        worker.begin(RUN)
        again = worker.end()
        assert done is not None
        assert again is not None
        assert (done.calls, done.virtual_seconds) == (again.calls, again.virtual_seconds)
    finally:
        worker.close()
