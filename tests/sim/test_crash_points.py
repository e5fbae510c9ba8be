"""At each named crash point a process is killed once; the cloud must come to rest as if nothing had been."""

from __future__ import annotations

import pytest

from gureum.sim.run import simulate

STEPS = 50
SEEDS_MAX = 16
"""How many workloads are tried until one reaches the crash point."""

NAMES = (
    "agent.disk.attach",
    "agent.disk.attached",
    "agent.disk.detached",
    "agent.machine.off",
    "agent.machine.removed",
    "agent.machine.start",
    "agent.machine.started",
    "agent.network.applied",
    "agent.snapshot.created",
    "agent.snapshot.deleted",
    "agent.spec.taken",
    "agent.volume.created",
    "agent.volume.deleted",
    "agent.volume.resized",
    "fake.reset.done",
    "fake.start.recorded",
    "fake.start.spawned",
    "fake.switch.done",
    "manager.spec",
    "manager.step",
    "manager.stepped",
    "network.port.created",
    "network.port.removed",
    "network.rules.applied",
    "pool.compact.flattened",
    "pool.compact.layer",
    "pool.compact.recorded",
    "pool.delete.dropped",
    "pool.image.layer",
    "pool.resize.grown",
    "pool.snapshot.dropped",
    "pool.snapshot.intent",
    "pool.snapshot.layer",
    "pool.snapshot.recorded",
    "pool.snapshot.settled",
    "pool.snapshot.switched",
    "pool.volume.layer",
    "pool.volume.recorded",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_crash_here_loses_and_leaks_nothing(name: str) -> None:
    for seed in range(SEEDS_MAX):
        outcome = simulate(seed, STEPS, crash_at=name, crash_at_count=1 + seed % 2)
        if outcome.crashes:
            assert outcome.crashes == {name: 1}
            return
    pytest.fail(f"no workload reached {name}")


def test_there_is_a_run_for_every_crash_point_that_is_reached() -> None:
    reached = {name for seed in range(SEEDS_MAX) for name in simulate(seed, STEPS, crash_at="none").reached}
    assert reached == set(NAMES)
