"""An operator who drains, fences and upgrades hosts, and guests that hang, under all faults."""

from __future__ import annotations

import pytest

from gureum.sim.run import Outcome, simulate

STEPS = 80
SEEDS = 42
BATCH = 6


def run(seed: int) -> Outcome:
    return simulate(seed, STEPS, 3 + seed % 2, shared=True, ha=True, operated=True)


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return []


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_calls_under_random_faults_come_to_rest(first: int, outcomes: list[Outcome]) -> None:
    outcomes += [run(seed) for seed in range(first, first + BATCH)]


def test_a_snapshot_is_done_only_when_it_is_there() -> None:
    """A host said that it was busy with one it had no more, and had it again when that was read."""
    run(50)


def test_hosts_that_are_all_given_up_come_back() -> None:
    simulate(134, STEPS, 3, shared=True, ha=True, operated=True)


def test_the_runs_met_what_an_operator_does(outcomes: list[Outcome]) -> None:
    """The dice must fall so, or the runs prove nothing."""
    if len(outcomes) < SEEDS:
        pytest.skip("only with all runs")
    answered = {name for outcome in outcomes for name in outcome.answers}
    assert answered >= {"DrainHost", "ActivateHost", "FenceHost", "StartUpgrade", "CancelUpgrade"}
    assert answered >= {"SetInstanceRecovery", "ModifyFleetSettings", "ExplainHostLoss"}
    faults = {fault for outcome in outcomes for fault in outcome.faults}
    assert faults >= {"hang", "hook", "off", "power", "manager"}
