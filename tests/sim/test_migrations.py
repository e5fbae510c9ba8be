"""Instances that migrate: under all faults, with a death at each step, and with faults put in on purpose."""

from __future__ import annotations

import asyncio
import re

import pytest
from msgspec.structs import replace

from gureum.agent.machines import Machines
from gureum.agent.passages import Passages
from gureum.control import migrations
from gureum.hostspec import HostSpec
from gureum.hypervisors.base import MachineStatus
from gureum.migrationspec import MigrationPhase, OutgoingSpec
from gureum.sim.run import Outcome, simulate

STEPS = 60
SEEDS = 50
BATCH = 10
SEEDS_MAX = 60
"""How many workloads are tried until one reaches a crash point, or finds a fault."""
POINTS = (
    "agent.migration.arrived",
    "agent.migration.cancelled",
    "agent.migration.leave",
    "agent.migration.left",
    "agent.volume.taken",
    "fake.migrate.begun",
    "fake.migrate.went_on",
    "manager.switch",
    "manager.switched",
)


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return []


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_migrations_under_random_faults_come_to_rest(first: int, outcomes: list[Outcome]) -> None:
    outcomes += [
        simulate(seed, STEPS, 2 + seed % 2, shared=True, migrating=True)
        for seed in range(first, first + BATCH)
    ]


def test_hosts_are_lost_meanwhile() -> None:
    arrived = 0
    for seed in range(BATCH):
        outcome = simulate(seed, STEPS, 3 + seed % 2, shared=True, ha=True, migrating=True)
        arrived += outcome.reached["agent.migration.arrived"]
    assert arrived > 5


def test_what_a_lost_host_gets_back_is_taken_from_it_if_it_is_gone_again() -> None:
    simulate(4105, 100, 4, shared=True, ha=True, migrating=True)


def test_a_destination_whose_agent_dies_before_it_listens_ends_it_whatever_the_clock_says() -> None:
    simulate(3334, hosts=3, shared=True, migrating=True)


def test_the_runs_met_every_kind_of_fault(outcomes: list[Outcome]) -> None:
    if len(outcomes) < SEEDS:
        pytest.skip("only with all runs")
    faults = {fault for outcome in outcomes for fault in outcome.faults}
    assert faults >= {"road", "road lost", "road cut", "dark", "drain", "power", "agent", "manager", "san"}
    reached = {name for outcome in outcomes for name in outcome.reached}
    assert reached >= {*POINTS, "agent.migration.stayed"}
    assert sum(outcome.reached["agent.migration.arrived"] for outcome in outcomes) > 30


@pytest.mark.parametrize("name", POINTS)
def test_a_crash_here_loses_and_leaks_nothing(name: str) -> None:
    for seed in range(SEEDS_MAX):
        outcome = simulate(seed, STEPS, 2 + seed % 2, crash_at=name, shared=True, migrating=True)
        if outcome.crashes:
            assert outcome.crashes == {name: 1}
            return
    pytest.fail(f"no workload reached {name}")


def violation(seed: int) -> str:
    """What the simulation finds, "" for nothing."""
    try:
        simulate(seed, STEPS, 2 + seed % 2, shared=True, migrating=True)
    except AssertionError as error:
        return str(error)
    return ""


def found(pattern: str) -> None:
    """The first run that finds anything must find this."""
    said = next(filter(None, (violation(seed) for seed in range(4 * SEEDS_MAX))), "nothing")
    assert re.search(pattern, said), said


def test_the_source_goes_on_when_all_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the guest were not held for the manager's decision."""
    right = Passages.leave

    async def leave(self: Passages, id: str, spec: OutgoingSpec, status: MachineStatus) -> None:
        await right(self, id, spec, status)
        if status.migration is not None and status.migration.phase is MigrationPhase.completed:
            await asyncio.sleep(0.5)
            await self._hypervisor.go_on(id)

    monkeypatch.setattr(Passages, "leave", leave)
    found("runs on|is written by|and .* looks after it")


def test_the_destination_goes_on_before_the_manager_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Machines.take

    def take(self: Machines, spec: HostSpec) -> None:
        right(self, replace(spec, machines=tuple(replace(each, incoming=None) for each in spec.machines)))

    monkeypatch.setattr(Machines, "take", take)
    found("runs on|is written by|and .* looks after it|not at rest")


def test_the_store_says_it_before_the_memory_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager takes the source's word alone."""
    begun = property(lambda self: self.said(self.source).phase is MigrationPhase.copying)
    for what in ("sent", "done"):
        monkeypatch.setattr(migrations._Ends, what, begun)
    found("runs on|is written by|and .* looks after it|not at rest|contains|generation")
