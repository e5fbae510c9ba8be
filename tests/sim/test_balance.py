"""Hosts that are balanced while guests are busy now and then, under all faults."""

from __future__ import annotations

import pytest

from gureum.sim.run import Outcome, simulate

STEPS = 60
SEEDS = 12
BATCH = 4
PACE_SECONDS = 40.0
"""So that loads last for long enough to be worth a move."""


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return []


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_loads_under_random_faults_come_to_rest(first: int, outcomes: list[Outcome]) -> None:
    outcomes += [
        simulate(seed, STEPS, 2 + seed % 3, shared=True, ha=seed % 4 == 0, pace=PACE_SECONDS, balancing=True)
        for seed in range(first, first + BATCH)
    ]


def test_the_runs_moved_something(outcomes: list[Outcome]) -> None:
    if len(outcomes) < SEEDS:
        pytest.skip("only with all runs")
    assert sum(outcome.reached["manager.switched"] for outcome in outcomes) > 4
    assert sum(bool(outcome.reached["manager.switched"]) for outcome in outcomes) > 2


def test_a_death_at_the_decision_loses_nothing() -> None:
    for seed in range(SEEDS):
        outcome = simulate(
            seed,
            STEPS,
            3,
            crash_at="manager.switched",
            shared=True,
            pace=PACE_SECONDS,
            balancing=True,
        )
        if outcome.crashes:
            return
    pytest.fail("nothing was moved")
