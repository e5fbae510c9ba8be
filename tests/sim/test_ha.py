"""Seeded runs of clouds whose hosts are lost; the stories that must come out so, and how long they take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control.hosts import Hosts
from gureum.control.recovery import CRASHES_MAX
from gureum.hostspec import MachineState
from gureum.hypervisors.fake import FakeMachines
from gureum.resources import Event, Host, HostState, Instance, Recovery, RecoveryPolicy
from gureum.sim import invariants
from gureum.sim.guests import Guests
from gureum.sim.loop import run
from gureum.sim.run import Outcome, simulate
from gureum.sim.world import SimHost, World
from gureum.store.base import Transaction

from .test_shared_pool import Story

SEEDS = 40
STEPS = 100
BATCH = 5
LOOK_SECONDS = 0.05
RUNS_AGAIN_SECONDS = 10.0
"""From a host's death until its instance runs elsewhere."""


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return []


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_calls_under_random_faults_come_to_rest(first: int, outcomes: list[Outcome]) -> None:
    seeds = range(first, first + BATCH)
    outcomes += [simulate(seed, STEPS, 3 + seed % 2, shared=True, ha=True) for seed in seeds]


def test_the_runs_met_every_kind_of_fault(outcomes: list[Outcome]) -> None:
    """The dice must fall on every kind of fault, or the runs prove nothing."""
    if len(outcomes) < SEEDS:
        pytest.skip("only with all runs")
    faults = {fault for outcome in outcomes for fault in outcome.faults}
    assert faults >= {"off", "hold", "cut", "cut manager", "cut both", "no agent", "warden", "manager", "san"}
    assert sum(outcome.writes for outcome in outcomes) > 2000


class Losses(Story):
    """A cloud of three hosts that recovers what is lost."""

    def __init__(self, hosts: int = 3) -> None:
        self.world = World(5, hosts, shared=True, ha=True)
        self.guests = Guests(self.world)

    async def until(self, what: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while not await what():
                await asyncio.sleep(LOOK_SECONDS)
                await self.look()

    async def watch(self, seconds: float) -> None:
        """Nothing may go wrong for so long."""
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def written(self) -> tuple[Instance, SimHost]:
        """An instance whose guest wrote something, and its host."""
        instance = await self.running()
        await self.watch(2)
        assert self.guests.writes(instance.devices[0].volume)
        return instance, self.host(instance.host)

    async def recovered(self, before: Instance, seconds: float = RUNS_AGAIN_SECONDS) -> float:
        """Wait until it runs elsewhere; how long that took."""
        began = asyncio.get_running_loop().time()

        async def is_so() -> bool:
            now = await self.get(Instance, before.id)
            return bool(now.state == "running" and now.generation > before.generation)

        await self.until(is_so, seconds)
        assert (await self.get(Instance, before.id)).host != before.host
        return asyncio.get_running_loop().time() - began

    async def host_state(self, name: str, state: str, seconds: float = 60) -> None:
        async def is_so() -> bool:
            return bool((await self.get(Host, name)).state == state)

        await self.until(is_so, seconds)

    async def change(self, instance: Instance, **values: Any) -> None:
        async def work(tx: Transaction) -> None:
            now = await tx.get(Instance, instance.id)
            assert now is not None
            await tx.put(replace(now, **values))

        await self.world.store.transact(work)

    async def events(self) -> list[Event]:
        async with self.world.store.read() as reader:
            return await reader.find(Event)

    async def rest(self) -> None:
        async def rests() -> bool:
            return not await invariants.at_rest(self.world)

        await self.until(rests, 120)
        assert not list(self.guests.at_rest())


def told(story: Callable[[Losses], Awaitable[None]], hosts: int = 3) -> None:
    async def main() -> None:
        one = Losses(hosts)
        await one.world.start()
        await asyncio.sleep(6)
        try:
            await story(one)
            await one.rest()
        finally:
            await one.world.stop()

    run(main())


def test_a_host_loses_its_power() -> None:
    async def story(one: Losses) -> None:
        before, host = await one.written()
        one.world.go_dark(host, 60)
        await one.recovered(before)
        await one.host_state(host.name, "fenced")
        await one.watch(5)
        await one.host_state(host.name, "up", 90)
        names = [event.name for event in await one.events()]
        wanted = [
            "HostDown",
            "HostFencing",
            "HostFenced",
            "InstanceRestarting",
            "InstanceRecovered",
            "HostUp",
        ]
        assert [name for name in names if name in wanted] == wanted
        assert (await one.get(Host, host.name)).lifted > 0

    told(story)


async def cut_off(one: Losses, seconds: float) -> tuple[Instance, SimHost]:
    """From the manager and the storage, for so long."""
    before, host = await one.written()
    one.world.cut_san([host], True)
    one.world.cut_manager(host, True, True)
    asyncio.get_running_loop().call_later(seconds, one.world.cut_san, [host], False)
    asyncio.get_running_loop().call_later(seconds, one.world.cut_manager, host, False, False)
    return before, host


def test_a_host_is_cut_off_for_a_moment() -> None:
    async def story(one: Losses) -> None:
        before, _ = await cut_off(one, 3)
        await one.watch(30)
        assert (await one.get(Instance, before.id)).generation == before.generation

    told(story)


async def cut_off_for_long(one: Losses) -> None:
    before, host = await cut_off(one, 30)
    await one.recovered(before)
    assert host.machines.machines[before.id].frozen
    await one.host_state(host.name, "up")
    assert not host.machines.running()


def test_a_host_is_cut_off_from_everything() -> None:
    """Its machines have stopped before they start elsewhere, and are ended when it is back."""
    told(cut_off_for_long)


def test_machines_that_are_not_stopped_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault put in on purpose: the other copy runs before it may."""
    monkeypatch.setattr(FakeMachines, "freeze", lambda self: None)
    with pytest.raises(AssertionError, match=r"store gives to|runs on|runs, and is|looks after"):
        told(cut_off_for_long)


def test_an_uplink_is_down() -> None:
    """The host works, and its guests reach nobody: they are ended there, and run elsewhere."""

    async def story(one: Losses) -> None:
        before, host = await one.written()
        host.uplink_down = True
        await one.recovered(before, 15)
        assert (await one.get(Host, host.name)).state is HostState.up
        other = await one.running()
        assert other.host != host.name
        host.uplink_down = False
        await one.watch(5)
        assert (await one.get(Host, host.name)).schedulable

    told(story)


def test_an_uplink_is_down_for_a_moment_or_with_most_others() -> None:
    async def story(one: Losses) -> None:
        before, host = await one.written()
        host.uplink_down = True
        await one.watch(2.4)
        host.uplink_down = False
        await one.watch(10)
        for each in one.world.hosts[:2]:
            each.uplink_down = True
        await one.watch(20)
        for each in one.world.hosts:
            each.uplink_down = False
        await one.watch(5)
        after = await one.get(Instance, before.id)
        assert (after.host, after.generation) == (host.name, before.generation)

    told(story)


async def manager_first(one: Losses) -> None:
    """A host that was cut off is heard again by the manager long before it reaches the storage."""
    before, host = await one.written()
    one.world.cut_san([host], True)
    one.world.cut_manager(host, True, True)
    await one.recovered(before)
    one.world.cut_manager(host, False, False)
    await one.watch(20)
    assert (await one.get(Host, host.name)).state is HostState.fenced
    one.world.cut_san([host], False)
    await one.host_state(host.name, "up")


def test_the_manager_is_back_before_the_storage() -> None:
    told(manager_first)


def test_a_word_to_a_host_that_was_given_up_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault put in on purpose: its machines would go on."""
    monkeypatch.setattr(Hosts, "is_up", lambda self, id: True)
    with pytest.raises(AssertionError, match=r"store gives to|runs on|runs, and is|looks after"):
        told(manager_first)


def test_a_host_is_held_and_goes_on_later() -> None:
    async def story(one: Losses) -> None:
        before, host = await one.written()
        one.world.pause(host, 40)
        await one.recovered(before)
        await one.watch(40)
        assert before.id not in host.machines.running()
        await one.host_state(host.name, "up")

    told(story)


def test_an_agent_is_away_for_a_while_and_nobody_minds() -> None:
    async def story(one: Losses) -> None:
        before, host = await one.written()
        one.world.unseat(host, 20)
        await one.watch(40)
        after = await one.get(Instance, before.id)
        assert (after.host, after.generation) == (before.host, before.generation)

    told(story)


def test_an_agent_is_away_for_good() -> None:
    """Its machines live, and are ended by their warden before they start elsewhere."""

    async def story(one: Losses) -> None:
        before, host = await one.written()
        one.world.unseat(host, 90)
        await one.recovered(before, 45)
        assert before.id not in host.machines.running()
        await one.watch(60)
        await one.host_state(host.name, "up")

    told(story)


def test_the_manager_is_away_and_nobody_minds() -> None:
    async def story(one: Losses) -> None:
        before, host = await one.written()
        process = one.world.manager_process
        assert process is not None
        process.freeze(60)
        end = asyncio.get_running_loop().time() + 60
        while asyncio.get_running_loop().time() < end:
            await one.look()
            assert not host.machines.machines[before.id].frozen
            await asyncio.sleep(LOOK_SECONDS)
        await one.watch(20)
        after = await one.get(Instance, before.id)
        assert (after.host, after.generation) == (before.host, before.generation)

    told(story)


@pytest.mark.parametrize("manager_away", [False, True])
def test_the_storage_is_away_for_a_minute(manager_away: bool) -> None:
    """No machine is ended; if the manager is away, too, they are stopped, and go on."""

    async def story(one: Losses) -> None:
        before, host = await one.written()
        if manager_away:
            process = one.world.manager_process
            assert process is not None
            process.freeze(60)
        one.world.cut_san(one.world.hosts, True)
        await one.watch(30)
        machine = host.machines.machines[before.id]
        assert machine.frozen is manager_away
        await one.watch(30)
        one.world.cut_san(one.world.hosts, False)
        await one.watch(30)
        after = await one.get(Instance, before.id)
        assert (after.host, after.generation) == (before.host, before.generation)
        assert machine.state is MachineState.running
        assert not machine.frozen

    told(story)


def test_most_hosts_are_silent_at_once() -> None:
    """Nothing is restarted, until somebody says so."""

    async def story(one: Losses) -> None:
        before, host = await one.written()
        other = next(each for each in one.world.hosts if each is not host)
        for each in (host, other):
            one.world.go_dark(each, 120)
        await one.watch(40)
        assert (await one.get(Instance, before.id)).generation == before.generation
        assert (await one.get(Host, host.name)).state is HostState.down
        assert [event.name for event in await one.events()].count("MostHostsSilent") >= 1
        await one.call("FenceHost", "fleet", HostId=host.name)
        await one.recovered(before)

    told(story)


@pytest.mark.parametrize(
    ("policy", "state", "moves"),
    [(RecoveryPolicy.stop, "stopped", True), (RecoveryPolicy.none, "running", False)],
)
def test_what_is_not_to_be_started_again(policy: RecoveryPolicy, state: str, moves: bool) -> None:
    async def story(one: Losses) -> None:
        before, host = await one.written()
        await one.change(before, recovery=Recovery(policy=policy))
        one.world.go_dark(host, 40)
        await one.watch(30)
        after = await one.get(Instance, before.id)
        assert (after.state, after.generation) == (state, before.generation)
        assert (after.host is None) is moves
        await one.host_state(host.name, "up")
        await one.watch(10)
        if not moves:
            assert before.id in host.machines.running()

    told(story)


def test_a_machine_that_dies_is_started_again_but_not_for_ever() -> None:
    async def story(one: Losses) -> None:
        before, host = await one.written()
        for count in range(CRASHES_MAX):
            host.machines.crash(before.id)

            async def again(generation: int = before.generation + count + 1) -> bool:
                now = await one.get(Instance, before.id)
                return bool(now.state == "running" and now.generation == generation)

            await one.until(again, 40)
            assert (await one.get(Instance, before.id)).host == before.host
        host.machines.crash(before.id)
        stopped = await one.state(before.id, "stopped")
        assert stopped.state_reason is not None
        assert "InstanceGivenUp" in [event.name for event in await one.events()]

    told(story)
