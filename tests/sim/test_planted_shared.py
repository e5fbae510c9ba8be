"""Faults that are put into the care of shared pools on purpose: the simulation must find each of them."""

from __future__ import annotations

from typing import Any

import pytest

from gureum.agent.holds import Holds
from gureum.agent.pool_volumes import PoolVolumes
from gureum.control import instances, volumes
from gureum.resources import Instance, Volume
from gureum.store.base import Transaction

from .planted import first, violation

SEEDS_MAX = 120
"""How many runs may go by before one finds it."""
STEPS = 60


def found(pattern: str, **options: Any) -> None:
    """The first run that finds anything must find this."""
    first(pattern, (violation(seed, STEPS, 3, shared=True, **options) for seed in range(SEEDS_MAX)))


def test_a_volume_is_let_go_of_while_the_machine_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def let_go(self: Holds, pool: PoolVolumes, id: str) -> None:
        if pool.holds.pop(id, None) is not None:
            await pool.pool.release_volume(id)

    monkeypatch.setattr(Holds, "let_go", let_go)
    found("holds it|held by None")


def test_a_volume_is_given_away_while_its_instance_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def may_change_hands(tx: Transaction, volume: Volume) -> bool:
        return True

    monkeypatch.setattr(volumes, "_may_change_hands", may_change_hands)
    found("looks after it|held and not open|holds it|is attaching")


def test_the_agent_deletes_what_leaves_its_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    right = PoolVolumes.forget

    def forget(self: PoolVolumes, id: str) -> None:
        if id in self.volumes:
            self.pool._san.rbd.pop(id)  # type: ignore[attr-defined]
        right(self, id)

    monkeypatch.setattr(PoolVolumes, "forget", forget)
    found("which the pool has not|in the pool or in the store only|not deleted, and is gone|KeyError")


def test_the_volumes_stay_behind_when_their_instance_starts_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def give(tx: Transaction, volume: Volume, host: str | None) -> Volume:
        return volume

    monkeypatch.setattr(instances.keepers, "give", give)
    found("on one side only|looks after it|is pending|is creating")


def test_an_instance_that_is_not_off_starts_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    right = instances.is_off

    def is_off(instance: Instance, seen: Any) -> bool:
        return seen is None or right(instance, seen)

    monkeypatch.setattr(instances, "is_off", is_off)
    found("runs on|runs, and is|is written by|which the store gives to|looks after it")


def test_what_failed_while_the_pool_was_away_has_failed_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is not able to ask the pool says that the data is lost."""
    right = PoolVolumes.ask_volume

    async def ask_volume(self: PoolVolumes, spec: Any) -> None:
        try:
            await right(self, spec)
        except Exception:
            self._asked.add(spec.id)

    monkeypatch.setattr(PoolVolumes, "ask_volume", ask_volume)
    found("is pending|on one side only|is lost|no reason|for no reason|not at rest")
