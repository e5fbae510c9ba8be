"""Seeded runs of clouds with a shared pool, and the stories that chance would seldom tell."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control.shares import Shares
from gureum.errors import ApiError
from gureum.resources import Host, Image, Instance, Snapshot, Volume
from gureum.resources.record import Record
from gureum.services.ec2 import keepers
from gureum.sim import invariants
from gureum.sim.guests import Guests
from gureum.sim.loop import run
from gureum.sim.run import Outcome, simulate
from gureum.sim.world import CLOUD, SAN, SimHost, World

SEEDS = 40
STEPS = 60
BATCH = 10


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return []


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_random_calls_under_random_faults_come_to_rest(first: int, outcomes: list[Outcome]) -> None:
    outcomes += [simulate(seed, STEPS, 2 + seed % 2, shared=True) for seed in range(first, first + BATCH)]


def test_the_runs_met_every_kind_of_fault(outcomes: list[Outcome]) -> None:
    """The dice must fall on every kind of fault, or the runs prove nothing."""
    if len(outcomes) < SEEDS:
        pytest.skip("only with all runs")
    faults = {fault for outcome in outcomes for fault in outcome.faults}
    assert faults >= {"san", "san cut", "san error", "san full", "dark", "drain", "power", "agent", "manager"}
    answered = {name for outcome in outcomes for name in outcome.answers}
    assert answered >= {"AttachVolume", "DetachVolume", "DeleteVolume", "CreateSnapshot", "StartInstances"}
    assert any("agent.volume.released" in outcome.reached for outcome in outcomes)
    assert sum(outcome.writes for outcome in outcomes) > 1000


def test_an_agent_that_dies_after_it_let_go_leaves_nothing_held() -> None:
    for seed in range(12):
        outcome = simulate(
            seed, 40, 2, crash_at="agent.volume.released", crash_at_count=1 + seed % 3, shared=True
        )
        if outcome.crashes:
            return
    pytest.fail("no workload reached it")


class Story:
    """A cloud of three hosts with a shared pool, all of which stand for one zone at least."""

    def __init__(self) -> None:
        self.world = World(5, 3, shared=True)
        self.guests = Guests(self.world)

    async def call(self, operation: str, service: str = "ec2", **input: Any) -> Any:
        answer = await self.world.call(operation, input, service)
        assert answer is not None
        return answer

    async def get(self, kind: type[Record], id: str) -> Any:
        async with self.world.store.read() as reader:
            return await reader.get(kind, id)

    async def until(self, what: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while not await what():
                await asyncio.sleep(0.2)
                await self.look()

    async def look(self) -> None:
        await invariants.always(self.world)
        assert not list(self.guests.step())

    async def state(self, instance: str, state: str, seconds: float = 60) -> Instance:
        async def is_so() -> bool:
            return (await self.get(Instance, instance)).state == state

        await self.until(is_so, seconds)
        found: Instance = await self.get(Instance, instance)
        return found

    async def running(self) -> Instance:
        async with self.world.store.read() as reader:
            image = (await reader.find(Image))[0]
        answer = await self.call(
            "RunInstances", ImageId=image.id, InstanceType="t3.nano", MinCount=1, MaxCount=1
        )
        return await self.state(answer["Instances"][0]["InstanceId"], "running")

    def host(self, name: str | None) -> SimHost:
        return next(host for host in self.world.hosts if host.name == name)

    async def rest(self) -> None:
        async def rests() -> bool:
            return not await invariants.at_rest(self.world)

        await self.until(rests, 120)
        assert not list(self.guests.at_rest())


def told(story: Callable[[Story], Awaitable[None]]) -> None:
    async def main() -> None:
        one = Story()
        await one.world.start()
        await asyncio.sleep(3)
        try:
            await story(one)
            await one.rest()
        finally:
            await one.world.stop()

    run(main())


def test_a_stopped_instance_starts_on_another_host_with_its_data() -> None:
    async def story(one: Story) -> None:
        before = await one.running()
        for _ in range(20):
            await one.look()
        assert one.guests.count
        await one.call("StopInstances", InstanceIds=[before.id])
        await one.state(before.id, "stopped")
        await one.call("DrainHost", "fleet", HostId=before.host)
        await one.call("StartInstances", InstanceIds=[before.id])
        after = await one.state(before.id, "running")
        assert after.host != before.host
        await one.look()

    told(story)


def test_a_volume_goes_from_an_instance_to_one_on_another_host() -> None:
    async def story(one: Story) -> None:
        first = await one.running()
        second = await one.running()
        assert first.host != second.host
        volume = (await one.call("CreateVolume", AvailabilityZone=first.zone, Size=1))["VolumeId"]

        async def attached() -> bool:
            found = await one.get(Volume, volume)
            return [each.state for each in found.attachments] == ["attached"]

        async def free() -> bool:
            return (await one.get(Volume, volume)).state == "available"

        await one.until(free)
        for instance in (first, second, first):
            await one.call("AttachVolume", VolumeId=volume, InstanceId=instance.id, Device="/dev/sdf")
            await one.until(attached)
            assert (await one.get(Volume, volume)).host == instance.host
            await one.call("DetachVolume", VolumeId=volume)
            await one.until(free)

    told(story)


def test_a_host_is_lost_for_good_and_its_instance_goes_on_elsewhere() -> None:
    async def story(one: Story) -> None:
        before = await one.running()
        for _ in range(20):
            await one.look()
        written = one.guests.count
        assert written
        volume = before.devices[0].volume
        # Its agent is gone, and its machine may still run: nobody knows.
        lost = one.host(before.host)
        one.world.go_dark(lost, 10_000)

        async def is_down() -> bool:
            return (await one.get(Host, lost.name)).state == "down"

        await one.until(is_down)
        assert one.world.san is not None
        assert one.world.san.rbd[volume].holder == lost.name
        snapshot = (await one.call("CreateSnapshot", VolumeId=volume))["SnapshotId"]
        await one.call("DrainHost", "fleet", HostId=lost.name)
        await one.call("RemoveHost", "fleet", HostId=lost.name, Force=True)
        stopped = await one.state(before.id, "stopped")
        assert stopped.state_reason is not None
        assert "is lost" in stopped.state_reason.message

        async def taken() -> bool:
            return (await one.get(Snapshot, snapshot)).state == "completed"

        await one.until(taken)
        await one.call("StartInstances", InstanceIds=[before.id])
        after = await one.state(before.id, "running")
        assert after.host != lost.name
        assert lost.name in one.world.san.rbd[volume].evicted
        await one.look()
        one.guests.asked_for_snapshot(snapshot, 0)

    told(story)


def test_the_whole_disk_of_a_host_is_lost_and_nothing_with_it() -> None:
    async def story(one: Story) -> None:
        instance = await one.running()
        host = one.host(instance.host)
        await one.call("StopInstances", InstanceIds=[instance.id])
        await one.state(instance.id, "stopped")
        kept = dict(host.disk.layers), dict(host.disk.records)
        host.disk.layers.clear()
        host.disk.records.clear()
        one.world.lose_power(host)
        await one.call("StartInstances", InstanceIds=[instance.id])
        await one.state(instance.id, "running")
        await one.look()
        # For the judgement: the volume there that nobody knows.
        host.disk.layers.update(kept[0])
        host.disk.records.update(kept[1])

    told(story)


def test_guests_wait_while_the_san_is_away_and_the_reason_is_told() -> None:
    async def story(one: Story) -> None:
        instance = await one.running()
        one.world.cut_san(one.world.hosts, True)

        async def impaired() -> bool:
            statuses = await one.call("DescribeInstanceStatus", InstanceIds=[instance.id])
            return bool(statuses["InstanceStatuses"][0]["InstanceStatus"]["Status"] == "impaired")

        await one.until(impaired)
        statuses = await one.call("DescribeInstanceStatus", InstanceIds=[instance.id])
        assert "can't be reached" in statuses["InstanceStatuses"][0]["Events"][0]["Description"]
        volume = instance.devices[0].volume

        async def told_of_volume() -> bool:
            answer = await one.call("DescribeVolumeStatus", VolumeIds=[volume])
            return bool(answer["VolumeStatuses"][0]["VolumeStatus"]["Status"] == "impaired")

        await one.until(told_of_volume)
        made = (await one.call("CreateVolume", AvailabilityZone=CLOUD.zones[0], Size=1))["VolumeId"]
        await asyncio.sleep(120)
        assert (await one.get(Volume, made)).state == "creating"
        one.world.cut_san(one.world.hosts, False)

        async def well() -> bool:
            return not await impaired() and not await told_of_volume()

        await one.until(well, 90)
        assert (await one.get(Instance, instance.id)).generation == 1

    told(story)


def test_a_pool_that_is_nearly_full_refuses_new_volumes() -> None:
    async def story(one: Story) -> None:
        san = one.world.san
        assert san is not None
        size, san.size_bytes = san.size_bytes, san.used_bytes() + 1
        await asyncio.sleep(15)
        with pytest.raises(ApiError) as error:
            await one.call("CreateVolume", AvailabilityZone=CLOUD.zones[0], Size=1)
        assert error.value.code == "InsufficientVolumeCapacity"
        assert f"{SAN} is nearly full" in str(error.value)
        await one.call("CreateVolume", AvailabilityZone=CLOUD.zones[0], Size=1, VolumeType="standard")
        san.size_bytes = size
        await asyncio.sleep(15)
        await one.call("CreateVolume", AvailabilityZone=CLOUD.zones[0], Size=1)

    told(story)


async def late_making(one: Story) -> None:
    """A host is held while it makes a volume; meanwhile another one made and deleted it."""
    assert one.world.san is not None
    one.world.san.delay_next("create_volume", 60)
    volume = (await one.call("CreateVolume", AvailabilityZone=CLOUD.zones[0], Size=1))["VolumeId"]
    await asyncio.sleep(1)
    keeper = (await one.get(Volume, volume)).host
    process = one.host(keeper).process
    assert process is not None
    process.freeze(90)

    async def made() -> bool:
        return (await one.get(Volume, volume)).state == "available"

    await one.until(made)
    assert (await one.get(Volume, volume)).host != keeper
    await one.call("DeleteVolume", VolumeId=volume)
    await asyncio.sleep(100)

    async def gone() -> bool:
        return await one.get(Volume, volume) is None

    await one.until(gone)


def test_what_a_held_host_makes_late_does_not_stay() -> None:
    told(late_making)


@pytest.mark.parametrize("fault", ["forgets who may make it", "deletes before they are done"])
def test_what_a_held_host_makes_late_would_stay(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Faults put in on purpose: the story above must find each."""
    right = keepers.given
    if fault == "forgets who may make it":
        monkeypatch.setattr(keepers, "given", lambda volume, host: replace(right(volume, host), former=()))
    else:
        monkeypatch.setattr(Shares, "awaited", lambda self, thing: False)
    with pytest.raises(TimeoutError):
        told(late_making)
