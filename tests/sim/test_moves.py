"""Volumes that move between pools: at each step a process dies once, and faults put in are found."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.agent.moves import Moves
from gureum.control import volume_moves
from gureum.hostspec import VolumeSpec
from gureum.sim.run import simulate

from .planted import first, violation

STEPS = 60
SEEDS_MAX = 60
"""How many workloads are tried until one reaches a crash point, or finds a fault."""
POINTS = (
    "agent.move.begun",
    "agent.move.cancelled",
    "agent.move.complete",
    "agent.move.copied",
    "agent.move.left",
    "agent.move.mirrored",
    "agent.move.switched",
    "fake.mirror.finished",
    "fake.mirror.started",
)


@pytest.mark.parametrize("name", POINTS)
def test_a_crash_here_loses_and_leaks_nothing(name: str) -> None:
    for seed in range(SEEDS_MAX):
        outcome = simulate(seed, STEPS, 2 + seed % 2, crash_at=name, shared=True)
        if outcome.crashes:
            assert outcome.crashes == {name: 1}
            return
    pytest.fail(f"no workload reached {name}")


def found(pattern: str) -> None:
    """The first run that finds anything must find this."""
    first(pattern, (violation(seed, STEPS, 2 + seed % 2, shared=True) for seed in range(4 * SEEDS_MAX)))


def test_a_volume_has_moved_before_its_data_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager takes what a host does not say for a yes, and no copy says that it is not complete."""
    right = volume_moves.step

    async def step(tx: Any, env: Any, volume: Any, seen: Any) -> Any:
        early = seen is not None and volume.target and not seen.stuck
        return await right(tx, env, volume, replace(seen, copied=volume.target) if early else seen)

    monkeypatch.setattr(volume_moves, "step", step)
    monkeypatch.setattr("gureum.agent.pool_volumes.PoolVolumes.mark", _mark_nothing)
    found("contains|which the pool has not|lost|is not complete|not at rest")


async def _mark_nothing(self: Any, id: str, partial: bool) -> None:
    self.volumes[id] = replace(self.volumes[id], partial=False)


def test_the_source_is_never_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def leave(self: Moves, spec: VolumeSpec, name: str) -> None:
        self._gone.setdefault(spec.id, set()).add(name)

    monkeypatch.setattr(Moves, "_leave", leave)
    found("and not only in|held and not open")
