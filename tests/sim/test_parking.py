"""Hosts that are parked and woken under all faults, while their switches and starts fail now and then."""

from __future__ import annotations

import pytest

from gureum.control import parking, resting
from gureum.sim.run import Outcome, simulate
from gureum.sim.violation import Violation

STEPS = 50
SEEDS = 12
PACE_SECONDS = 25.0
"""So that hosts are empty for long enough to be parked."""


def run(seed: int) -> Outcome:
    return simulate(seed, STEPS, 2 + seed % 3, shared=True, ha=seed % 2 == 0, pace=PACE_SECONDS, parking=True)


def runs() -> list[Outcome]:
    return [run(seed) for seed in range(SEEDS)]


def test_random_calls_under_random_faults_come_to_rest_and_hosts_are_switched() -> None:
    assert sum(outcome.reached["power.switch"] for outcome in runs()) > SEEDS


def test_it_is_found_if_a_host_is_parked_that_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object, **__: object) -> str:
        return ""

    monkeypatch.setattr(resting, "in_use", lambda fleet, host, left: parking.unready(host))
    monkeypatch.setattr(resting, "remains", nothing)
    with pytest.raises(Violation, match=r"is switched off, and|on a host that is parked"):
        runs()
