"""Instances that get another type while they run: a death at each step, and faults put in on purpose.

They are part of the runs with migrations, too (``test_migrations``).
"""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from gureum.agent.machines import Machines
from gureum.control import resizes
from gureum.hostspec import MachineSpec
from gureum.resources import Instance
from gureum.sim.run import Outcome, simulate

STEPS = 60
SEEDS_MAX = 60
POINTS = ("agent.machine.resize", "agent.machine.resized", "fake.resize.asked")


def run(seed: int, crash_at: str = "") -> Outcome:
    return simulate(seed, STEPS, 2 + seed % 2, crash_at=crash_at, shared=True, migrating=True)


@pytest.mark.parametrize("name", POINTS)
def test_a_crash_here_loses_and_leaks_nothing(name: str) -> None:
    crashed = 0
    for seed in range(SEEDS_MAX):
        outcome = run(seed, crash_at=name)
        crashed += bool(outcome.crashes)
        if crashed == 3:
            return
    pytest.fail(f"{crashed} workloads reached {name}")


def found(pattern: str) -> None:
    """The first run that finds anything must find this."""
    said = "nothing"
    for seed in range(4 * SEEDS_MAX):
        try:
            run(seed)
        except AssertionError as error:
            said = str(error)
            break
    assert re.search(pattern, said), said


def test_what_a_machine_still_has_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    right = resizes.resized

    def resized(instance: Instance, type: str, now: float) -> Instance:
        new = right(instance, type, now)
        assert new.resize is not None
        return replace(new, resize=replace(new.resize, vcpus=0, memory_bytes=0))

    monkeypatch.setattr(resizes, "resized", resized)
    found("vCPUs and .* bytes, not")


def test_a_guest_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def resizes_never(self: Machines, spec: MachineSpec) -> bool:
        return False

    monkeypatch.setattr(Machines, "_resizes", resizes_never)
    found("not at rest")
