"""Hosts that are parked and woken under all faults, while their switches and starts fail now and then."""

from __future__ import annotations

import pytest

from gureum.control import parking, power, resting
from gureum.resources import Host
from gureum.sim.run import Outcome, simulate
from gureum.sim.violation import Violation

from .planted import in_modes, some

STEPS = 50
SEEDS = 12
PACE_SECONDS = 25.0
"""So that hosts are empty for long enough to be parked."""


def run(seed: int) -> Outcome:
    return simulate(seed, STEPS, 2 + seed % 3, shared=True, ha=seed % 2 == 0, pace=PACE_SECONDS, parking=True)


def runs() -> list[Outcome]:
    return [run(seed) for seed in range(SEEDS)]


def test_random_calls_under_random_faults_come_to_rest_and_hosts_are_switched() -> None:
    outcomes = runs()
    assert sum(outcome.reached["power.switch"] for outcome in outcomes) > SEEDS
    answered = {name for outcome in outcomes for name in outcome.answers}
    assert answered >= {"ParkHost", "WakeHost", "ModifyHostPower", "TestHostPower", "ModifyFleetSettings"}


def test_a_fenced_host_that_is_switched_off_while_it_says_that_it_is_back_stays_off() -> None:
    simulate(779534, hosts=3, shared=True, ha=True, parking=True)


def test_what_waits_for_a_fenced_host_that_was_switched_off_late_has_it_when_somebody_wakes_it() -> None:
    simulate(880026, 80, 3, shared=True, ha=True, operated=True, parking=True)


def test_what_waits_for_a_fenced_host_does_not_go_on_there_while_it_is_woken() -> None:
    """Which may begin with switching it off."""
    simulate(2855, 40, 4, shared=True, ha=True, operated=True, pace=PACE_SECONDS, parking=True)


async def nothing(*_: object, **__: object) -> str:
    return ""


def test_it_is_found_if_a_host_is_parked_that_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resting, "in_use", lambda fleet, host, left: parking.unready(host))
    monkeypatch.setattr(resting, "remains", nothing)
    with pytest.raises(Violation, match=r"is switched off, and|on a host that is parked"):
        runs()


def test_it_is_found_if_data_is_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resting, "remains", nothing)
    some("is on the own disk of", in_modes("parked"))


def test_it_is_found_if_none_stays_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "why_awake", lambda *_: "")
    some("all hosts are parked", in_modes("parked"))


def test_it_is_found_if_a_host_is_never_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    right = power.Power._settle

    async def settle(self: power.Power, host: Host, park: object, *of: object, **named: object) -> None:
        if park is not None:
            await right(self, host, park, *of, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(power.Power, "_settle", settle)
    some("is waking", in_modes("parked"))
