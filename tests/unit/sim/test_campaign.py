from __future__ import annotations

import signal
import time

import pytest

from gureum.sim import campaign, run
from gureum.sim.campaign import Campaign, batch, one
from gureum.sim.modes import MODES
from gureum.sim.violation import Violation


def test_what_a_run_finds_ends_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(seed: int, **options: object) -> object:
        raise Violation("it runs twice") if seed == 7 else ValueError("odd")

    monkeypatch.setattr(run, "simulate", simulate)
    assert one(7).violation == "it runs twice"
    assert one(8).violation == "ValueError('odd')"
    assert [done.seed for done in batch(range(7, 12))] == [7]


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
        assert "not at its end" in one(1).violation
    finally:
        signal.signal(signal.SIGPROF, before)


def test_where_to_go_on() -> None:
    work = Campaign(range(100, 200), jobs=1)
    assert work.next == 100


def test_a_mode_is_what_the_cli_can_say() -> None:
    from gureum.cli.campaign import again_of

    said = [again_of(seed) for seed in range(len(MODES))]
    assert len({command.partition(" --")[2] for command in said}) == len(MODES)
    assert "gureum sim run 5 --hosts 3 --shared --ha" in said
