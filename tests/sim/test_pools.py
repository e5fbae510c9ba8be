"""Seeded runs of clouds with two shared pools, of which one may be away, and what chance tells seldom."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gureum.control import cuts, ha, recovery
from gureum.control.shares import Shares
from gureum.resources import Volume
from gureum.sim.guests import Guests
from gureum.sim.loop import run
from gureum.sim.run import Outcome, simulate
from gureum.sim.scenario import play, read
from gureum.sim.world import BULK, SAN, World

from .planted import first, violation
from .test_ha import Losses

SEEDS = 20
BATCH = 5
HOSTS = 4
SEEDS_MAX = 120
"""How many runs may go by before one finds what was put in."""


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return []


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_calls_under_random_faults_come_to_rest(first: int, outcomes: list[Outcome]) -> None:
    seeds = range(first, first + BATCH)
    outcomes += [simulate(seed, 80, HOSTS, shared=True, ha=True, pools=True) for seed in seeds]


def test_the_runs_met_every_kind_of_fault(outcomes: list[Outcome]) -> None:
    """The dice must fall on every kind of fault, or the runs prove nothing."""
    if len(outcomes) < SEEDS:
        pytest.skip("only with all runs")
    faults = {fault for outcome in outcomes for fault in outcome.faults}
    assert faults >= {"one pool cut", "one pool most", "one pool away", "san", "off", "cut both", "uplink"}
    answered = {name for outcome in outcomes for name in outcome.answers}
    assert answered >= {"MoveVolume", "CancelVolumeMove", "ModifyVolume"}
    assert sum(outcome.writes for outcome in outcomes) > 1000


@pytest.mark.parametrize("seed", [221, 1302])
def test_a_host_that_was_held_leaves_the_copy_of_another_one_alone(seed: int) -> None:
    simulate(seed, 80, 4, shared=True, ha=True, pools=True)


def test_what_another_host_made_of_a_snapshot_that_failed_is_removed() -> None:
    simulate(4521, 80, HOSTS, shared=True, ha=True, pools=True)


def test_a_machine_goes_over_to_a_pool_that_is_away() -> None:
    simulate(595, 60, 3, shared=True, ha=True, migrating=True, pools=True)


class Pools(Losses):
    def __init__(self, hosts: int = 3) -> None:
        self.world = World(5, hosts, shared=True, ha=True, pools=hosts)
        self.guests = Guests(self.world)

    async def volume(self, type: str) -> Volume:
        """A new one, that is there."""
        made = await self.call("CreateVolume", AvailabilityZone="us-east-1a", Size=1, VolumeType=type)

        async def there() -> bool:
            return bool((await self.get(Volume, made["VolumeId"])).state == "available")

        await self.until(there)
        found: Volume = await self.get(Volume, made["VolumeId"])
        return found


def told(story: Callable[[Pools], Awaitable[None]]) -> None:
    async def main() -> None:
        one = Pools()
        await one.world.start()
        await asyncio.sleep(6)
        try:
            await story(one)
            await one.rest()
        finally:
            await one.world.stop()

    run(main())


async def dies_over_a_move(one: Pools, cancelled: bool) -> None:
    volume = await one.volume("gp2")
    assert (volume.pool, volume.host is not None) == (BULK, True)
    copy = one.world.sans[SAN]
    copy.delay_next("volume_extents", 30)
    await one.call("MoveVolume", "fleet", VolumeId=volume.id, PoolName=SAN)

    async def copied() -> bool:
        return volume.id in copy.rbd and copy.rbd[volume.id].holder == volume.host

    await one.until(copied)
    one.world.go_dark(one.host(volume.host), 20)
    if cancelled:
        await one.call("CancelVolumeMove", "fleet", VolumeId=volume.id)

    async def done() -> bool:
        now = await one.get(Volume, volume.id)
        return not (now.target or now.leaves or now.former)

    await one.until(done, 180)
    now = await one.get(Volume, volume.id)
    assert now.pool == (BULK if cancelled else SAN)
    assert (now.host != volume.host) is cancelled


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_host_dies_over_a_move_between_the_pools(cancelled: bool) -> None:
    """It holds the copy, and the agent that is started when it is back knows nothing of that."""
    told(partial(dies_over_a_move, cancelled=cancelled))


def test_a_host_that_does_not_let_go_of_its_copy_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault put in on purpose: it is not told to."""
    monkeypatch.setattr(Volume, "holders", property(lambda self: ()))
    with pytest.raises(TimeoutError):
        told(partial(dies_over_a_move, cancelled=True))


def test_a_lost_host_is_shut_out_of_the_first_pool_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault put in on purpose."""
    right = Shares.lost

    def lost(self: Shares, volume: Volume, but: str) -> tuple[str, ...]:
        return right(self, volume, but) if volume.pool == SAN else ()

    monkeypatch.setattr(Shares, "lost", lost)
    runs = (violation(seed, 80, HOSTS, shared=True, ha=True, pools=True) for seed in range(SEEDS_MAX))
    first("is pending|is attaching|held and not open", runs)


def played(name: str) -> str:
    """What is not as the scenario says."""
    return play(read(Path(__file__).parent / "scenarios" / name)).failure


def none(*_: Any) -> frozenset[str]:
    return frozenset()


def test_a_pool_that_is_away_everywhere_counts_against_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault put in on purpose, as the next two: then no host could fence the one that died."""
    for module in (cuts, ha):
        monkeypatch.setattr(module, "unreached", none)
    assert "host-2 is " in played("ha-one-pool-away-and-a-host-dies")


def test_hosts_without_the_pool_count_as_reaching_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts.Cuts, "_away", none)
    assert "no machine of a runs" in played("ha-one-pool-away-where-it-is")


def test_all_leaves_a_host_that_lost_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    async def everything(tx: Any, instance: Any, pools: frozenset[str]) -> bool:
        return bool(pools)

    monkeypatch.setattr(recovery, "_has_volume_in", everything)
    assert "other runs on host-" in played("ha-one-pool-away-on-a-host")
