"""Hosts that are emptied to be parked, under all faults, while their switches fail now and then."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import balancer, emptying, loads, resting, setbacks
from gureum.control.hosts import Hosts
from gureum.resources import Host, HostState, Park, ParkState
from gureum.sim.run import Outcome, simulate
from gureum.sim.violation import Violation
from gureum.store.base import Transaction

STEPS = 50
SEEDS = (2, 3, 15, 19, 24)
PACE_SECONDS = 25.0


@pytest.fixture(autouse=True)
def _restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that hosts are emptied often, nothing rests for long after a fault."""
    monkeypatch.setattr(balancer, "CALM_SECONDS", 10.0)
    monkeypatch.setattr(emptying, "FAILED_SECONDS", 60.0)
    monkeypatch.setattr(loads, "KNOWN_SECONDS", 20.0)
    monkeypatch.setattr(setbacks, "REST_SECONDS", 20.0)
    monkeypatch.setattr(resting, "RETRY_SECONDS", 20.0)


def runs() -> list[Outcome]:
    options: dict[str, Any] = {"shared": True, "pace": PACE_SECONDS, "parking": True}
    return [simulate(seed, STEPS, 3 + seed % 2, ha=seed % 2 == 0, **options) for seed in SEEDS]


def test_hosts_are_emptied_under_random_faults() -> None:
    assert sum(outcome.reached["power.leave"] for outcome in runs()) > 2


def test_it_is_found_if_one_that_is_lost_goes_on_being_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host that falls silent is said to be emptied."""

    async def lost(self: Hosts, tx: Transaction, host: Host) -> None:
        park = Park(state=ParkState.emptying, reason="a test", since=0.0)
        await tx.put(replace(host, state=HostState.down, park=park))

    monkeypatch.setattr(Hosts, "lost", lost)
    with pytest.raises(Violation, match="goes on being emptied"):
        runs()
