"""Instances that grow and shrink by what their guests want, under all faults; and faults on purpose."""

from __future__ import annotations

import pytest

from gureum.control import autosize
from gureum.control.autosizer import Autosizer
from gureum.resources import Autosize, Instance
from gureum.services.ec2.instance_types import TYPES, InstanceType
from gureum.sim.run import Outcome, simulate
from gureum.sim.scenario import parse, play

from .planted import in_modes, some

STEPS = 40
SEEDS = 6
BATCH = 3
PACE_SECONDS = 60.0
"""So that there is time to look at what guests use."""


def run(seed: int) -> Outcome:
    return simulate(
        seed,
        STEPS,
        2 + seed % 2,
        shared=True,
        ha=seed % 2 == 0,
        pace=PACE_SECONDS,
        balancing=seed % 3 == 0,
        autosizing=True,
    )


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return []


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_wants_under_random_faults_come_to_rest(first: int, outcomes: list[Outcome]) -> None:
    outcomes += [run(seed) for seed in range(first, first + BATCH)]


def test_the_runs_changed_something(outcomes: list[Outcome]) -> None:
    if len(outcomes) < SEEDS:
        pytest.skip("only with all runs")
    assert sum(outcome.reached["agent.machine.resized"] for outcome in outcomes) > 4


GROWS = """# It grows once, and then again.
+0 hosts 1
+3 launch web type=t3.small
+0 wait-for web running within 30
+0 autosize web automatic min=t3.small max=t3.large cool-down=900
+0 work web 0.1 memory=9000
+600 expect web resized 1
+0 autosize web automatic max=t3.medium
+900 expect web resized 1
"""


def all_of_the_family(policy: Autosize, has: InstanceType) -> list[InstanceType]:
    """The bounds are forgotten."""
    return [type for type in TYPES.values() if type.family == has.family]


noted = Autosizer._note


def restless(self: Autosizer, instance: Instance) -> None:
    """The rest after a change is forgotten."""
    noted(self, instance)
    if (known := self._watched.get(instance.id)) is not None:
        known.rests = 0.0


def played() -> str:
    return play(parse("grows", GROWS)).failure


def test_as_it_is_to_be() -> None:
    assert played() == ""


def test_its_bounds_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autosize, "candidates", all_of_the_family)
    assert "became a t3.large, outside of t3.small to t3.medium" in played()


def test_it_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Autosizer, "_note", restless)
    assert "s after it became a t3.medium" in played()


def test_runs_find_that_bounds_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autosize, "candidates", all_of_the_family)
    some(", outside of ", in_modes("autosized"))


def test_runs_find_that_it_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Autosizer, "_note", restless)
    some(r"became a \S+ \S+ s after it became a", in_modes("autosized"))
