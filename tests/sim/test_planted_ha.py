"""Faults that are put into how lost hosts are fenced on purpose: the simulation must find each of them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gureum.agent.warden.custody import Custody, Decision
from gureum.control.ha import Ha
from gureum.control.shares import Shares
from gureum.resources import Volume
from gureum.san.fake_leases import FakeLeases
from gureum.san.leases import FenceState
from gureum.sim.run import simulate
from gureum.sim.wardens import SimWarden

SEEDS_MAX = 100
"""How many runs may go by before one finds it."""
STEPS = 100
TWICE = (
    "runs on|runs, and is|is written by|holds it|fenced off|looks after it|held by|store gives to|answers for"
)
"""That something ran where it should not any more."""


def violation(seed: int) -> str:
    """What the simulation finds, "" for nothing."""
    try:
        simulate(seed, STEPS, 3 + seed % 2, shared=True, ha=True)
    except AssertionError as error:
        return str(error) or "AssertionError"
    return ""


def found(pattern: str, besides: str = "nothing") -> None:
    """The first run that finds anything must find this; or the first that finds more than ``besides``."""
    runs = (said for said in map(violation, range(SEEDS_MAX)) if said)
    said = next(
        (said for said in runs if re.search(pattern, said) or not re.search(besides, said)), "nothing"
    )
    assert re.search(pattern, said), said


def test_the_fence_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: FakeLeases, host: str, number: int) -> None:
        pass

    async def done(self: FakeLeases, host: str, number: int) -> FenceState:
        return FenceState(done=True)

    monkeypatch.setattr(FakeLeases, "mark", nothing)
    monkeypatch.setattr(FakeLeases, "fenced", done)
    found(TWICE, besides="not at rest.* is fenced")


def test_the_lease_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def done(self: FakeLeases, host: str, number: int) -> FenceState:
        return FenceState(done=True)

    monkeypatch.setattr(FakeLeases, "fenced", done)
    found(TWICE)


def test_permission_is_compared_the_wrong_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def decide(self: Custody, now: float) -> Decision:
        if self._must_kill:
            return Decision.kill
        return Decision.run if now > self.until else Decision.freeze

    monkeypatch.setattr(Custody, "decide", decide)
    found(f"{TWICE}|not at rest")


def test_the_mark_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Custody, "_must_kill", property(lambda self: False))
    found(f"{TWICE}|is fenced|is fencing")


def test_a_fenced_host_goes_on_answering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimWarden, "_keep_silent", lambda self: None)
    found("is fenced and answers for")


def test_a_lost_host_is_not_shut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: Shares, volume: Volume, but: str) -> tuple[str, ...]:
        return tuple(host for host in volume.former if host not in self.hosts)

    monkeypatch.setattr(Shares, "lost", lost)
    found("is pending|is attaching|held and not open")


def test_a_silent_host_is_taken_for_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fence(self: Ha, host: Any) -> None:
        await self._store.transact(lambda tx: self._fenced(tx, host, ""), frees=True)
        await self._leave(host)

    monkeypatch.setattr(Ha, "_fence", fence)
    monkeypatch.setattr(Ha, "_is_over", lambda self, host: True)
    found(TWICE, besides="not at rest.* is fenced")
