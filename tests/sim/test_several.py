"""Seeded runs in which several instances have a volume at the same time; a story, and planted faults."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.agent.holds import Holds
from gureum.control import instances, specs
from gureum.hostspec import VolumeSpec
from gureum.resources import Host, Instance, Volume, VolumeState
from gureum.sim import invariants
from gureum.sim.run import Outcome, simulate
from gureum.sim.world import World
from gureum.store.base import Transaction

from .planted import first, violation
from .test_shared_pool import Story, told

SEEDS = 30
STEPS = 60
BATCH = 10
HOSTS = 4
"""Two for each zone."""


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return []


@pytest.fixture(scope="module")
def openings() -> list[str]:
    """Volumes that were open on several hosts, each time that was looked."""
    return []


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_calls_under_random_faults_come_to_rest(
    first: int, outcomes: list[Outcome], openings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = invariants._no_two_writers

    def look(world: World, several: Container[str]) -> None:
        right(world, several)
        hosts: dict[str, set[str]] = defaultdict(set)
        for host in world.hosts:
            for machine in host.machines.machines.values():
                for volume in machine.disks:
                    hosts[volume].add(host.name)
        openings.extend(volume for volume, names in hosts.items() if len(names) > 1)

    monkeypatch.setattr(invariants, "_no_two_writers", look)
    seeds = range(first, first + BATCH)
    outcomes += [simulate(seed, STEPS, HOSTS, shared=True, several=True) for seed in seeds]


def test_a_volume_that_could_not_be_looked_at_is_there_in_the_end() -> None:
    simulate(1315, STEPS, HOSTS, shared=True, several=True)


def test_a_volume_grows_once_the_snapshot_that_it_waited_for_is_deleted() -> None:
    simulate(1636, STEPS, HOSTS, shared=True, several=True)


def test_the_runs_had_volumes_open_on_several_hosts(outcomes: list[Outcome], openings: list[str]) -> None:
    """The dice must fall so, or the runs prove nothing."""
    if len(outcomes) < SEEDS:
        pytest.skip("only with all runs")
    assert len(openings) > 50
    faults = {fault for outcome in outcomes for fault in outcome.faults}
    assert faults >= {"san", "san cut", "dark", "drain", "power", "agent", "manager"}


def found(pattern: str) -> None:
    """The first run that finds anything must find this."""
    first(pattern, (violation(seed, STEPS, HOSTS, shared=True, several=True) for seed in range(SEEDS)))


def test_every_volume_is_opened_as_one_that_several_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    right = specs._volume

    def volume(*of: Any) -> VolumeSpec:
        return replace(right(*of), multi_attach=True)

    monkeypatch.setattr(specs, "_volume", volume)
    found("holds it")


def test_one_that_several_may_have_is_opened_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def open(self: Holds, pool: Any, spec: VolumeSpec, revision: int, until: Any) -> Any:
        return await pool.pool.open_volume(spec.id, revision)

    monkeypatch.setattr(Holds, "open", open)
    found("shared by|is attaching")


def test_hosts_that_do_not_look_after_it_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def opened(*_: Any) -> list[Volume]:
        return []

    monkeypatch.setattr(specs, "_opened", opened)
    found("is attaching|on one side only|is pending|is being migrated")


def test_it_is_deleted_with_one_of_its_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    async def let_go(tx: Transaction, volume: Volume, instance: str) -> None:
        state = VolumeState.deleting if volume.state is not VolumeState.error else volume.state
        await tx.put(replace(volume.without_attachment(instance), state=state))

    monkeypatch.setattr(instances, "_let_go_volume", let_go)
    found("which the pool has not|is deleting|on one side only|shows|was deleted|not deleted, and is gone")


@pytest.mark.parametrize("keeper", [True, False])
def test_a_lost_host_is_shut_out_of_what_others_go_on_with(keeper: bool) -> None:
    """``keeper``: it is the one that looks after the volume."""

    async def story(one: Story) -> None:
        first, second = await one.running(), await one.running()
        assert first.host != second.host
        volume = await shared_by(one, [first, second])
        kept = (await one.get(Volume, volume)).host
        lost, other = (first, second) if (first.host == kept) is keeper else (second, first)
        assert one.world.san is not None
        image = one.world.san.rbd[volume]
        assert set(image.sharers) == {first.host, second.host}
        before = one.guests.writes(volume)
        for _ in range(20):
            await one.look()
        assert one.guests.writes(volume) > before
        one.world.go_dark(one.host(lost.host), 10_000)

        async def is_down() -> bool:
            return (await one.get(Host, str(lost.host))).state == "down"

        await one.until(is_down)
        await one.call("DrainHost", "fleet", HostId=lost.host)
        await one.call("RemoveHost", "fleet", HostId=lost.host, Force=True)
        await one.state(lost.id, "stopped")
        await one.call("StartInstances", InstanceIds=[lost.id])
        again = await one.state(lost.id, "running")
        assert image.evicted == {lost.host}
        assert set(image.sharers) == {again.host, other.host}
        await one.look()

        async def let_go() -> bool:
            return not (await one.get(Volume, volume)).former

        await one.until(let_go)

    told(story)


async def shared_by(one: Story, of: Sequence[Instance]) -> str:
    """The id of a new volume that all of these have."""
    kind = {"VolumeType": "io2", "Iops": 100, "Size": 4, "MultiAttachEnabled": True}
    volume: str = (await one.call("CreateVolume", AvailabilityZone=of[0].zone, **kind))["VolumeId"]

    async def free() -> bool:
        return bool((await one.get(Volume, volume)).state == "available")

    async def attached() -> bool:
        found = (await one.get(Volume, volume)).attachments
        return [str(each.state) for each in found] == ["attached"] * len(of)

    await one.until(free)
    for instance in of:
        await one.call("AttachVolume", VolumeId=volume, InstanceId=instance.id, Device="/dev/sdf")
    await one.until(attached)
    return volume
