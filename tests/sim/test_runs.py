"""Seeded runs of a simulated cloud. ``gureum sim run SEED`` shows what happens in one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gureum.sim.run import Outcome, simulate

SEEDS = 60
STEPS = 60
BATCH = 10


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return []


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_calls_under_random_faults_come_to_rest(first: int, outcomes: list[Outcome]) -> None:
    for seed in range(first, first + BATCH):
        outcome = simulate(seed, STEPS)
        assert sum(outcome.answers.values()) > STEPS / 4
        outcomes.append(outcome)


def test_the_runs_met_every_kind_of_fault(outcomes: list[Outcome]) -> None:
    """The dice must fall on every kind of fault, or the runs prove nothing."""
    if len(outcomes) < SEEDS:
        pytest.skip("only with all runs")
    faults = {fault for outcome in outcomes for fault in outcome.faults}
    assert faults >= {"manager", "agent", "power", "freeze agent", "freeze manager", "clock", "network"}
    assert faults >= {
        "input/output",
        "pool full",
        "guests full",
        "start",
        "crash",
        "shutdown",
        "deaf",
        "clingy",
    }
    assert len({name for outcome in outcomes for name in outcome.crashes}) >= 20
    assert sum(outcome.writes for outcome in outcomes) > 1000
    answered = {name for outcome in outcomes for name in outcome.answers}
    assert answered >= {"RunInstances", "StartInstances", "StopInstances", "TerminateInstances"}
    assert answered >= {"AttachVolume", "DetachVolume", "ModifyVolume", "DeleteVolume", "CreateSnapshot"}


def test_a_host_in_each_of_two_zones() -> None:
    for seed in range(BATCH):
        simulate(seed, STEPS, hosts=2)


def test_a_seed_replays_to_the_same_end() -> None:
    first, second = simulate(7, STEPS), simulate(7, STEPS)
    assert first.digest == second.digest
    assert first.answers == second.answers
    assert simulate(8, STEPS).digest != first.digest


def test_a_seed_replays_in_another_process_with_another_hash_seed() -> None:
    program = f"from gureum.sim.run import simulate; print(simulate(7, {STEPS}).digest)"
    digests = set()
    for hash_seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, check=True, timeout=1000
        )
        digests.add(run.stdout.decode().strip())
    assert digests == {simulate(7, STEPS).digest}
