"""Room that is kept for lost hosts: what is refused for it, and what is said of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from gureum.cli import losses
from gureum.control.fleet import HOST_MEMORY_BYTES, MACHINE_MEMORY_BYTES
from gureum.control.outlook import Outlook
from gureum.errors import ApiError
from gureum.resources import (
    FleetSettings,
    Host,
    HostState,
    Instance,
    InstanceState,
    RecoveryPolicy,
    SnapshotState,
    Volume,
)
from gureum.resources import Snapshot as SnapshotRecord
from gureum.services.ec2.instance_types import TYPES

if TYPE_CHECKING:
    from ..conftest import Rig

FULL = "InsufficientInstanceCapacity"
INVALID = "InvalidParameterValueException"
IMAGE = "ami-00000000000000001"
ONE = {"ImageId": IMAGE, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
HERE = {"Placement": {"AvailabilityZone": "us-east-1a"}}


def host(id: str, room: int, **values: Any) -> Host:
    """With room for so many t3.micro."""
    each = TYPES["t3.micro"].memory_bytes + MACHINE_MEMORY_BYTES
    memory = HOST_MEMORY_BYTES + room * each
    defaults = {"zone": "us-east-1a", "state": HostState.up, "cpus": 64}
    return Host(id=id, memory_bytes=memory, **{**defaults, **values})


class Cloud:
    """Of three hosts with a shared pool, each with room for four t3.micro."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        rig.cloud = replace(rig.cloud, pool="san", recovers=True)

    async def fleet(self, operation: str, **input: Any) -> Any:
        return await self.rig.call(operation, service="fleet", **input)

    async def survive(self, count: int) -> None:
        await self.fleet("ModifyFleetSettings", Survive=count)

    async def zone(self) -> Any:
        [domain] = (await self.fleet("DescribeSurvival"))["Domains"]
        return domain

    async def launched(self, count: int, low: int = 1) -> list[str]:
        input = {**ONE, **HERE, "MinCount": low, "MaxCount": count}
        answer = await self.rig.call("RunInstances", **input)
        return [each["InstanceId"] for each in answer["Instances"]]

    async def on(self, host: str, *ids: str) -> None:
        """They run there."""
        for id in ids:
            await self.rig.settle(id)
            await self.rig.change(Instance, id, host=host)
            for volume in await self.rig.find(Volume, instances=id):
                await self.rig.change(Volume, volume.id, host=host)


@pytest.fixture
async def cloud(rig: Rig) -> Cloud:
    for each in await rig.find(Host):
        await rig.delete(each)
    await rig.put(*(host(f"host-{n}", 4) for n in range(3)))
    [snapshot] = await rig.find(SnapshotRecord)
    await rig.put(replace(snapshot, pool="san", state=SnapshotState.completed))
    return Cloud(rig)


async def test_no_room_is_kept_unless_asked_for(cloud: Cloud) -> None:
    assert (await cloud.fleet("DescribeFleetSettings"))["Settings"]["Survive"] == 0
    assert len(await cloud.launched(20)) == 12
    domain = await cloud.zone()
    assert (domain["Survivable"], domain["Holds"], domain["Hosts"]) == (0, True, 3)


async def test_launches_leave_the_room_of_a_host(cloud: Cloud) -> None:
    await cloud.survive(1)
    assert len(await cloud.launched(20)) == 8
    message = await cloud.rig.fails(FULL, "RunInstances", **ONE, **HERE)
    assert "room is kept so that the loss of a host is survived, and then if host host-" in message
    assert "gureum host survive" in message
    domain = await cloud.zone()
    assert (domain["Survivable"], domain["Holds"], domain["Losses"]) == (1, True, [])
    await cloud.survive(0)
    assert len(await cloud.launched(20)) == 4


async def test_one_host_alone_survives_nothing(cloud: Cloud) -> None:
    for id in ("host-1", "host-2"):
        await cloud.rig.change(Host, id, state=HostState.down)
    await cloud.survive(1)
    message = await cloud.rig.fails(FULL, "RunInstances", **ONE, **HERE)
    assert "if host host-0 was lost, a new one (t3.micro) would find no room" in message


async def test_two_hosts(cloud: Cloud) -> None:
    await cloud.survive(2)
    assert len(await cloud.launched(20)) == 4
    await cloud.rig.fails(FULL, "RunInstances", **ONE, **HERE)
    await cloud.rig.put(host("host-3", 4))
    assert len(await cloud.launched(20)) == 4


async def test_fewer_than_the_least_are_none(cloud: Cloud) -> None:
    await cloud.survive(1)
    await cloud.rig.fails(FULL, "RunInstances", **{**ONE, **HERE, "MinCount": 9, "MaxCount": 20})
    assert len(await cloud.launched(8, low=8)) == 8


async def test_launches_at_once_do_not_share_what_is_left(cloud: Cloud) -> None:
    await cloud.survive(1)
    launches = [cloud.rig.call("RunInstances", **ONE, **HERE) for _ in range(12)]
    answers = await asyncio.gather(*launches, return_exceptions=True)
    refused = [answer.code for answer in answers if isinstance(answer, ApiError)]
    assert refused == [FULL] * 4


async def test_what_does_not_start_elsewhere_may_have_all_but_the_others_room(cloud: Cloud) -> None:
    """Nothing that would be restarted: no room is needed. With one that would, its room."""
    await cloud.survive(1)
    stays = {"MaintenanceOptions": {"AutoRecovery": "disabled"}}
    answer = await cloud.rig.call("RunInstances", **{**ONE, **HERE, **stays, "MaxCount": 20})
    assert len(answer["Instances"]) == 12
    await cloud.rig.call("TerminateInstances", InstanceIds=[answer["Instances"][0]["InstanceId"]])
    await cloud.rig.change(Instance, answer["Instances"][0]["InstanceId"], state=InstanceState.terminated)
    await cloud.rig.fails(FULL, "RunInstances", **ONE, **HERE)


async def test_a_start_leaves_that_room_too(cloud: Cloud) -> None:
    first, *others = await cloud.launched(9)
    for id in (first, *others):
        await cloud.rig.settle(id)
        await cloud.rig.change(Instance, id, host=f"host-{int(id[-1], 16) % 3}")
    await cloud.rig.call("StopInstances", InstanceIds=[first])
    await cloud.rig.change(Instance, first, state=InstanceState.stopped)
    for n, id in enumerate(others):
        await cloud.on(f"host-{n % 3}", id)
    await cloud.survive(1)
    message = await cloud.rig.fails(FULL, "StartInstances", InstanceIds=[first])
    assert message.startswith(f"Insufficient capacity for instance '{first}': room is kept")
    shown = await cloud.fleet("ExplainPlacement", InstanceId=first)
    assert "room is kept" in shown["Message"]
    assert not any(each["Chosen"] for each in shown["Hosts"])
    await cloud.rig.change(Instance, others[0], state=InstanceState.stopped)
    await cloud.rig.call("StartInstances", InstanceIds=[first])


async def test_labels_that_no_host_has_refuse_nobody_else(cloud: Cloud) -> None:
    """No refused launch makes room for it; it is shown all the same."""
    await cloud.survive(1)
    first, second, third = sorted(await cloud.launched(3))
    for n, id in enumerate((first, second, third)):
        await cloud.on(f"host-{n}", id)
    tag = [{"Key": "gureum:host:nowhere", "Value": "1"}]
    await cloud.rig.call("CreateTags", Resources=[first], Tags=tag)
    assert len(await cloud.launched(1)) == 1
    await cloud.rig.call("StopInstances", InstanceIds=[third])
    await cloud.rig.change(Instance, third, state=InstanceState.stopped)
    await cloud.rig.call("StartInstances", InstanceIds=[third])
    domain = await cloud.zone()
    assert domain["Holds"] is False
    assert f"if host host-0 was lost, {first} (t3.micro) would find no room" in domain["Message"]
    [explained] = (await cloud.fleet("ExplainHostLoss", HostId="host-0"))["Instances"]
    assert explained["Outcome"] == "no-room"
    # Of the room that the others need, all is kept still.
    assert len(await cloud.launched(20)) == 4
    message = await cloud.rig.fails(FULL, "RunInstances", **ONE, **HERE)
    assert first not in message


async def test_labels_of_one_that_waits_and_of_one_host_alone(cloud: Cloud) -> None:
    await cloud.survive(1)
    await cloud.rig.change(Host, "host-1", labels={"gpu": "1"})
    waits, bound = sorted(await cloud.launched(2))
    await cloud.on("host-0", waits)
    await cloud.on("host-1", bound)
    await cloud.rig.change(Instance, waits, host=None, recovers=1.0, tags={"gureum:host:gone": "1"})
    await cloud.rig.change(Instance, bound, tags={"gureum:host:gpu": "1"})
    assert len(await cloud.launched(1)) == 1
    # What is launched itself may be refused: that leaves nobody without room.
    own = [{"ResourceType": "instance", "Tags": [{"Key": "gureum:host:gpu", "Value": "1"}]}]
    message = await cloud.rig.fails(FULL, "RunInstances", **ONE, **HERE, TagSpecifications=own)
    assert "if host host-1 was lost, a new one (t3.micro) would find no room" in message
    # And where more hosts have the label, room is kept as ever.
    await cloud.rig.put(host("host-3", 0, labels={"gpu": "1"}))
    message = await cloud.rig.fails(FULL, "RunInstances", **ONE, **HERE)
    assert f"if host host-1 was lost, {bound} (t3.micro) would find no room" in message


async def test_a_zone_with_room_is_chosen(cloud: Cloud) -> None:
    await cloud.survive(1)
    await cloud.launched(8)
    await cloud.rig.put(*(host(f"host-b{n}", 4, zone="us-east-1b") for n in range(2)))
    shown = await cloud.rig.launch(InstanceType="t3.micro")
    assert shown["Placement"]["AvailabilityZone"] == "us-east-1b"
    assert [each["Zone"] for each in (await cloud.fleet("DescribeSurvival"))["Domains"]] == [
        "us-east-1a",
        "us-east-1b",
    ]


async def test_a_lost_host_s_room_is_kept_until_all_has_started(cloud: Cloud) -> None:
    await cloud.survive(1)
    ids = await cloud.launched(4)
    for n, id in enumerate(ids):
        await cloud.on(f"host-{n % 2}", id)
    await cloud.rig.change(Host, "host-0", state=HostState.down)
    # Two have to come over, and two more if another host is lost: all four have room on the third.
    await cloud.rig.fails(FULL, "RunInstances", **ONE, **HERE)
    assert (await cloud.zone())["Survivable"] == 1
    await cloud.rig.call("TerminateInstances", InstanceIds=[ids[0]])
    await cloud.rig.change(Instance, ids[0], state=InstanceState.terminated)
    await cloud.launched(1)


async def test_what_can_not_be_kept(cloud: Cloud) -> None:
    for wrong in (-1, 17):
        await cloud.rig.fails(INVALID, "ModifyFleetSettings", service="fleet", Survive=wrong)
    cloud.rig.cloud = replace(cloud.rig.cloud, recovers=False)
    message = await cloud.rig.fails(INVALID, "ModifyFleetSettings", service="fleet", Survive=1)
    assert "storage cluster" in message
    await cloud.survive(0)
    shown = await cloud.fleet("DescribeSurvival")
    assert shown == {"Survive": 0, "Recovers": False, "Domains": []}


async def test_what_would_find_no_room_is_named(cloud: Cloud) -> None:
    ids = await cloud.launched(12)
    for n, id in enumerate(sorted(ids)):
        await cloud.on(f"host-{n % 3}", id)
    domain = await cloud.zone()
    assert [loss["HostId"] for loss in domain["Losses"]] == ["host-0", "host-1", "host-2"]
    assert [loss["Count"] for loss in domain["Losses"]] == [4, 4, 4]
    assert domain["Losses"][0]["Homeless"][0]["InstanceType"] == "t3.micro"
    assert domain["LossCount"] == 3
    await cloud.survive(1)
    assert (await cloud.zone())["Holds"] is False
    assert "would find no room" in (await cloud.zone())["Message"]


async def test_the_loss_of_a_host_is_explained(cloud: Cloud) -> None:
    ids = sorted(await cloud.launched(8))
    await cloud.on("host-0", *ids[:4])
    await cloud.on("host-1", *ids[4:7])
    await cloud.on("host-2", ids[7])
    await cloud.rig.call("TerminateInstances", InstanceIds=[ids[7]])
    await cloud.rig.change(Instance, ids[7], state=InstanceState.terminated)
    stop = (await cloud.rig.get(Instance, ids[1])).recovery
    await cloud.rig.change(Instance, ids[1], recovery=replace(stop, policy=RecoveryPolicy.stop))
    [disk] = await cloud.rig.find(Volume, instances=ids[2])
    await cloud.rig.change(Volume, disk.id, pool="local")
    await cloud.rig.change(Instance, ids[3], recovery=replace(stop, priority=90))
    await cloud.rig.change(Host, "host-2", draining=True)
    shown = (await cloud.fleet("ExplainHostLoss", HostId="host-0"))["Instances"]
    assert [(each["InstanceId"], each["Outcome"], each.get("HostId")) for each in shown] == [
        (ids[3], "restarts", "host-1"),
        (ids[0], "no-room", None),
        (ids[1], "stops", None),
        (ids[2], "waits", None),
    ]
    assert shown[3]["Message"].endswith("on that host's own disk")
    for protected, outcome in ((False, "terminates"), (True, "stops")):
        terminate = replace(stop, policy=RecoveryPolicy.terminate)
        await cloud.rig.change(Instance, ids[1], recovery=terminate, disable_api_termination=protected)
        shown = (await cloud.fleet("ExplainHostLoss", HostId="host-0"))["Instances"]
        assert shown[2]["Outcome"] == outcome
    await cloud.rig.fails("ResourceNotFoundException", "ExplainHostLoss", service="fleet", HostId="host-9")
    cloud.rig.cloud = replace(cloud.rig.cloud, recovers=False)
    await cloud.rig.fails("InvalidHostStateException", "ExplainHostLoss", service="fleet", HostId="host-0")


async def test_a_drain_that_takes_the_room_says_so(cloud: Cloud) -> None:
    ids = sorted(await cloud.launched(8))
    for n, id in enumerate(ids):
        await cloud.on(f"host-{n % 3}", id)
    answer = await cloud.fleet("DrainHost", HostId="host-2")
    assert "Message" not in answer
    await cloud.fleet("ActivateHost", HostId="host-2")
    await cloud.survive(1)
    answer = await cloud.fleet("DrainHost", HostId="host-2")
    assert answer["Message"].startswith("This takes room that is kept for lost hosts: if host host-")
    assert (await cloud.zone())["Holds"] is False


async def test_other_settings_are_kept(cloud: Cloud) -> None:
    await cloud.survive(2)
    shown = (await cloud.fleet("ModifyFleetSettings", CpuOvercommit=4))["Settings"]
    assert (shown["CpuOvercommit"], shown["Survive"]) == (4.0, 2)
    assert (await cloud.rig.find(FleetSettings))[0].survive == 2


async def test_how_many_more_there_is_room_for(cloud: Cloud) -> None:
    async def counts(**input: Any) -> list[tuple[str, str, int]]:
        types = ["t3.micro", "t3.small"]
        found = (await cloud.fleet("DescribeLaunchCapacity", InstanceTypes=types, **input))["Capacities"]
        for each in found:
            never = (each["Zone"], each["InstanceType"]) == (b, "t3.small")
            assert ("no host is that large" if never else "sufficient") in each["Message"]
        return [(each["Zone"], each["InstanceType"], each["Count"]) for each in found]

    a, b = "us-east-1a", "us-east-1b"
    await cloud.rig.put(host("host-b", 1, zone="us-east-1b"))
    assert await counts() == [(a, "t3.micro", 12), (a, "t3.small", 6), (b, "t3.micro", 1), (b, "t3.small", 0)]
    await cloud.survive(1)
    assert await counts(Zone=a) == [(a, "t3.micro", 8), (a, "t3.small", 4)]
    assert len(await cloud.launched(20)) == 8
    assert await counts(Zone=a) == [(a, "t3.micro", 0), (a, "t3.small", 0)]
    for wrong in ([], ["x9.huge"], [f"t{n}.nano" for n in range(21)]):
        await cloud.rig.fails(INVALID, "DescribeLaunchCapacity", service="fleet", InstanceTypes=wrong)


@pytest.mark.parametrize(
    ("operation", "asked", "input"),
    [
        ("DescribeLaunchCapacity", "avoidable", {"InstanceTypes": ["t3.micro", "t3.nano"]}),
        ("DescribeSurvival", "homeless", {}),
    ],
)
async def test_others_have_their_turn_meanwhile(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, operation: str, asked: str, input: Any
) -> None:
    """Where sums leave it in doubt, each answer takes long in a large cloud."""
    await cloud.survive(1)
    for n, id in enumerate(await cloud.launched(6)):
        await cloud.on(f"host-{n % 3}", id)
    turns, at = 0, []
    right = getattr(Outlook, asked)

    def slow(self: Outlook, *args: Any) -> Any:
        at.append(turns)
        return right(self, *args)

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(Outlook, "_fits", lambda *_: False)
    monkeypatch.setattr(Outlook, "_never_short", lambda *_: False)
    monkeypatch.setattr(Outlook, asked, slow)
    task = asyncio.create_task(others())
    await cloud.fleet(operation, **input)
    task.cancel()
    assert len(at) > 3
    assert len(set(at)) == len(at)


async def test_a_zone_that_takes_nothing_says_so(cloud: Cloud) -> None:
    """Nothing is there that could be lost, and nothing that could take it."""
    for number in range(3):
        await cloud.rig.change(Host, f"host-{number}", draining=True)
    shown = await cloud.zone()
    assert (shown["Survivable"], shown["Losses"]) == (0, [])
    assert shown["Message"] == "No host of zone us-east-1a takes instances now."
    assert losses.line(shown, 0).endswith("not be survived: No host of zone us-east-1a takes instances now")
