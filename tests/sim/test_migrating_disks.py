"""Instances that migrate with volumes in their hosts' own pools: under all faults, and with planted ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import disk_copies, migrations
from gureum.hypervisors.base import Outgoing
from gureum.hypervisors.fake import FakeMachines
from gureum.hypervisors.fake_machine import FakeMachine
from gureum.hypervisors.fake_migration import FakeRoads
from gureum.resources import InstanceMigration, Volume
from gureum.sim.run import Outcome, simulate

STEPS = 60
SEEDS = 20
BATCH = 10
SEEDS_MAX = 60
POINTS = (
    "agent.migration.arrived",
    "agent.migration.leave",
    "agent.migration.left",
    "agent.volume.created",
    "agent.volume.deleted",
    "fake.migrate.begun",
    "fake.migrate.went_on",
    "manager.switch",
    "manager.switched",
)

CopyDisks = Callable[[FakeRoads, FakeMachines, FakeMachine, FakeMachines, FakeMachine, Outgoing], str]


def run(seed: int, crash_at: str = "") -> Outcome:
    return simulate(seed, STEPS, 2 + seed % 2, crash_at=crash_at, shared=True, migrating=True, own_disks=True)


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_migrations_under_random_faults_come_to_rest(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: set[str] = set()
    right = disk_copies.owned

    async def owned(reader: object, observed: object, migration: InstanceMigration) -> bool:
        if migration.copies:
            taken.add(migration.id)
        return await right(reader, observed, migration)  # type: ignore[arg-type]

    monkeypatch.setattr(migrations.disk_copies, "owned", owned)
    for seed in range(first, first + BATCH):
        run(seed)
    assert len(taken) > BATCH


@pytest.mark.parametrize("name", POINTS)
def test_a_crash_here_loses_and_leaks_nothing(name: str) -> None:
    for seed in range(SEEDS_MAX):
        outcome = run(seed, crash_at=name)
        if outcome.crashes:
            assert outcome.crashes == {name: 1}
            return
    pytest.fail(f"no workload reached {name}")


def violation(seed: int) -> str:
    """What the simulation finds, "" for nothing."""
    try:
        run(seed)
    except AssertionError as error:
        return str(error)
    return ""


def found(pattern: str) -> None:
    """The first run that finds anything must find this."""
    said = next(filter(None, (violation(seed) for seed in range(SEEDS_MAX))), "nothing")
    assert re.search(pattern, said), said


def test_what_is_written_after_the_first_pass_does_not_go_along(monkeypatch: pytest.MonkeyPatch) -> None:
    right: CopyDisks = FakeRoads._copy_disks

    def copy_disks(
        self: FakeRoads,
        source: FakeMachines,
        machine: FakeMachine,
        target: FakeMachines,
        copy: FakeMachine,
        outgoing: Outgoing,
    ) -> str:
        if machine.migration is not None and machine.migration.disk_done_bytes:
            return ""
        return right(self, source, machine, target, copy, outgoing)

    monkeypatch.setattr(FakeRoads, "_copy_disks", copy_disks)
    found("contains")


def test_what_a_lost_host_has_left_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record says nothing of what is there."""

    async def forget(tx: Any, observed: object, migration: InstanceMigration, host: str) -> None:
        for volume in await tx.get_many(Volume, set(migration.copies)):
            await tx.put(replace(volume, former=tuple(each for each in volume.former if each != host)))

    monkeypatch.setattr(migrations.disk_copies, "forget", forget)
    found("is in host-., and not only|in the pool or in the store only|for a migration that is none")


def test_a_copy_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The migration ends, and nobody waits for the other host to remove what it has."""

    async def removed(reader: object, observed: object, migration: object, host: str) -> bool:
        return True

    monkeypatch.setattr(migrations.disk_copies, "removed", removed)
    found("is in host-., and not only|in the pool or in the store only")
