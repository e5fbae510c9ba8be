"""Seeded runs of a simulated cloud. A failing seed is replayed by ``python -m gureum.sim SEED --timeline``."""

import pytest

from gureum.sim.run import simulate

SEEDS = 40
STEPS = 60


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_calls_under_random_faults_come_to_rest(seed: int) -> None:
    outcome = simulate(seed, STEPS)
    assert sum(outcome.answers.values()) > STEPS / 4


def test_a_seed_replays_to_the_same_end() -> None:
    first, second = simulate(7, STEPS), simulate(7, STEPS)
    assert first.digest == second.digest
    assert first.answers == second.answers
    assert simulate(8, STEPS).digest != first.digest


def test_runs_meet_faults() -> None:
    """The dice must fall on every kind of fault, or the runs prove nothing."""
    faults: set[str] = set()
    crashes: set[str] = set()
    for seed in range(12):
        outcome = simulate(1000 + seed, STEPS)
        faults |= outcome.faults.keys()
        crashes |= outcome.crashes.keys()
    assert {"manager", "agent", "power", "crash", "shutdown"} <= faults
    assert len(crashes) >= 8
