"""Fencing other hosts, and the end of this host's own fences."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.agent.fencing import Fencing
from gureum.agent.warden.custody import Marks
from gureum.errors import NetworkError
from gureum.fencespec import FenceReport, FenceSpec
from gureum.hostspec import HostSpec, NetworkSpec
from gureum.network.base import PortsMade
from gureum.san.fake_leases import FakeLeases, FakeLeaseStore

LOST, HERE, WARDEN = "host-1", "host-2", "warden/host-1/a"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> FakeLeaseStore:
    return FakeLeaseStore(clock)


def spec(*fences: FenceSpec) -> HostSpec:
    return HostSpec(cloud="c", host=HERE, revision=1, fences=fences)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def the(fencing: Fencing) -> FenceReport | None:
    return next(iter(fencing.reports()), None)


async def test_a_host_is_fenced_when_its_lease_has_expired(store: FakeLeaseStore, clock: Clock) -> None:
    changes: list[None] = []
    fencing = Fencing(FakeLeases(store, HERE), HERE, lambda: changes.append(None))
    store.renew(LOST, WARDEN)
    fencing.take(spec(FenceSpec(host=LOST, number=5)))
    await until(lambda: the(fencing))
    report = the(fencing)
    assert report == FenceReport(host=LOST, number=5, message="its lease has not expired")
    assert store.read(LOST) == Marks(fence=5)
    clock.now += 5.1
    await until(lambda: (found := the(fencing)) is not None and found.done)
    assert not store.renew(LOST, WARDEN)
    assert len(changes) == 2
    fencing.take(spec())
    assert the(fencing) is None
    await fencing.close()


async def test_a_warden_says_that_it_is_done(store: FakeLeaseStore) -> None:
    fencing = Fencing(FakeLeases(store, HERE), HERE, lambda: None)
    store.renew(LOST, WARDEN)
    fencing.take(spec(FenceSpec(host=LOST, number=5)))
    await until(lambda: the(fencing))
    store.write(LOST, Marks(killed=5))
    await until(lambda: (found := the(fencing)) is not None and found.done)
    # A later fence takes more than that.
    store.renew(LOST, WARDEN)
    fencing.take(spec(FenceSpec(host=LOST, number=6)))
    await until(lambda: (found := the(fencing)) is not None and found.number == 6)
    found = the(fencing)
    assert found is not None
    assert not found.done
    await fencing.close()


async def test_a_lease_that_was_taken_for_an_earlier_fence_proves_nothing(
    store: FakeLeaseStore, clock: Clock
) -> None:
    earlier = FakeLeases(store, "host-3")
    await earlier.mark(LOST, 5)
    assert (await earlier.fenced(LOST, 5)).done
    other = FakeLeases(store, HERE)
    assert (await other.fenced(LOST, 5)).done
    await other.lift(LOST, 5)
    await other.mark(LOST, 6)
    assert not (await other.fenced(LOST, 6)).done
    clock.now += 5.1
    assert (await other.fenced(LOST, 6)).done


async def test_a_look_changes_nothing(store: FakeLeaseStore, clock: Clock) -> None:
    fencing = Fencing(FakeLeases(store, HERE), HERE, lambda: None)
    store.renew(LOST, WARDEN)
    fencing.take(spec(FenceSpec(host=LOST, number=0)))
    await until(lambda: the(fencing))
    found = the(fencing)
    assert found is not None
    assert not found.alive
    clock.now += 1
    store.renew(LOST, WARDEN)
    await until(lambda: (found := the(fencing)) is not None and found.alive)
    clock.now += 5.1
    await until(lambda: (found := the(fencing)) is not None and found.done)
    assert store.read(LOST) == Marks()
    assert store.holder(LOST) == ""
    await fencing.close()


async def test_a_pool_that_is_away_is_asked_again(store: FakeLeaseStore) -> None:
    leases = FakeLeases(store, HERE)
    leases.away = True
    fencing = Fencing(leases, HERE, lambda: None)
    fencing.take(spec(FenceSpec(host=LOST, number=5)))
    fencing.lift(3)
    await until(lambda: the(fencing))
    found = the(fencing)
    assert found is not None
    assert (found.done, found.message) == (False, "the storage cluster does not answer")
    leases.away = False
    await until(lambda: (found := the(fencing)) is not None and found.done)
    await until(lambda: store.read(HERE) == Marks(lifted=3))
    await fencing.close()


@pytest.mark.parametrize("next", [(), (FenceSpec(host=HERE, number=7),)])
async def test_one_that_fences_itself_hears_that_this_is_over(
    store: FakeLeaseStore, clock: Clock, next: tuple[FenceSpec, ...]
) -> None:
    fencing = Fencing(FakeLeases(store, HERE), HERE, lambda: None)
    store.renew(HERE, "warden/host-2/a")
    fencing.take(spec(FenceSpec(host=HERE, number=5)))
    await until(lambda: the(fencing))
    # The same spec says that it is not wanted any more, and that it is lifted.
    fencing.take(spec(*next))
    fencing.lift(5)
    clock.now += 5.1
    await until(lambda: store.read(HERE).lifted == 5)
    await fencing.close()


def test_a_hosts_fence_is_lifted_when_its_network_has_nothing_of_before(parts: Any) -> None:
    async def test(lab: Any) -> None:
        store, agent = FakeLeaseStore(lambda: 0.0), lab.agent
        agent._fencing = Fencing(FakeLeases(store, "h"), "h", lambda: None)
        apply, tried = agent.network.apply, []

        async def fails(spec: NetworkSpec, made: PortsMade) -> None:
            tried.append(spec)
            raise NetworkError("the kernel is busy")

        agent.network.apply = fails
        agent.take(replace(lab.spec(), lifted=3))
        await asyncio.sleep(5)
        assert tried
        assert store.read("h") == Marks()
        agent.network.apply = apply
        await asyncio.sleep(30)
        assert store.read("h") == Marks(lifted=3)
        agent.take(replace(lab.spec(), lifted=5))  # of the same network
        await asyncio.sleep(1)
        assert store.read("h") == Marks(lifted=5)

    parts.on_lab(test)
