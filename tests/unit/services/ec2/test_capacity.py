"""What does not fit is refused when it is asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from gureum.control.fleet import HOST_MEMORY_BYTES, MACHINE_MEMORY_BYTES
from gureum.errors import ApiError
from gureum.resources import Host, HostState, Instance, InstanceState, Snapshot, SnapshotState
from gureum.services.ec2.instance_types import TYPES

if TYPE_CHECKING:
    from ..conftest import Rig

IMAGE = "ami-00000000000000001"
ONE = {"ImageId": IMAGE, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
FULL = "InsufficientInstanceCapacity"


async def room_for(rig: Rig, count: int, host: str = "host-a", zone: str = "us-east-1a") -> None:
    """A host with room for so many t3.micro."""
    each = TYPES["t3.micro"].memory_bytes + MACHINE_MEMORY_BYTES
    known = await rig.find(Host)
    version = next((each.version for each in known if each.id == host), 0)
    memory = HOST_MEMORY_BYTES + count * each
    await rig.put(Host(id=host, version=version, state=HostState.up, zone=zone, cpus=64, memory_bytes=memory))


async def test_a_launch_that_does_not_fit_is_refused(rig: Rig) -> None:
    await room_for(rig, 2)
    message = await rig.fails(FULL, "RunInstances", **{**ONE, "MinCount": 3, "MaxCount": 3})
    assert "sufficient t3.micro capacity" in message
    assert "us-east-1a" in message
    with pytest.raises(ApiError) as caught:
        await rig.call("RunInstances", **{**ONE, "InstanceType": "t3.large"})
    assert caught.value.status == 500


async def test_what_no_host_could_ever_have_is_told_from_what_has_no_room_now(rig: Rig) -> None:
    await room_for(rig, 2)
    large = {**ONE, "InstanceType": "m5.24xlarge"}
    message = await rig.fails(FULL, "RunInstances", **large)
    large_as = "the largest, host-a, has 1024 vCPUs and 2.25 GiB of memory for instances"
    assert f"no host is that large, also if it is empty: {large_as}" in message
    assert "Choose a smaller instance type, or add a larger host" in message
    assert "Stop or terminate" not in message
    [host] = await rig.find(Host)
    await rig.put(replace(host, draining=True))
    assert "no host is that large" in await rig.fails(FULL, "RunInstances", **large)
    memory = TYPES["m5.24xlarge"].memory_bytes * 2
    await rig.put(Host(id="host-b", state=HostState.down, zone="us-east-1a", cpus=96, memory_bytes=memory))
    assert "that large" not in await rig.fails(FULL, "RunInstances", **large)


async def test_a_start_that_no_host_could_ever_have_says_so(rig: Rig) -> None:
    await room_for(rig, 2)
    id = await rig.stopped(InstanceType="t3.micro")
    await rig.call("ModifyInstanceAttribute", InstanceId=id, InstanceType={"Value": "m5.24xlarge"})
    message = await rig.fails(FULL, "StartInstances", InstanceIds=[id])
    assert f"'{id}': no host is that large" in message


async def test_a_zone_whose_hosts_are_drained_says_so(rig: Rig) -> None:
    await room_for(rig, 2)
    for count, hosts in ((1, "only host, host-a, is"), (2, "host-a, host-b, its only hosts, are")):
        if count == 2:
            await room_for(rig, 2, "host-b")
        for host in await rig.find(Host):
            await rig.put(replace(host, draining=True))
        message = await rig.fails(FULL, "RunInstances", **ONE, Placement={"AvailabilityZone": "us-east-1a"})
        assert f"{hosts} being drained" in message
    await rig.put(replace((await rig.find(Host))[0], draining=False))
    await rig.call("RunInstances", **ONE, Placement={"AvailabilityZone": "us-east-1a"})


async def test_as_many_as_fit_are_launched(rig: Rig) -> None:
    await room_for(rig, 3)
    answer = await rig.call("RunInstances", **{**ONE, "MaxCount": 5})
    assert len(answer["Instances"]) == 3
    await rig.fails(FULL, "RunInstances", **ONE)


async def test_launches_at_once_do_not_share_room(rig: Rig) -> None:
    await room_for(rig, 3)

    launches = [rig.call("RunInstances", **ONE) for _ in range(6)]
    answers = await asyncio.gather(*launches, return_exceptions=True)
    refused = [answer.code for answer in answers if isinstance(answer, ApiError)]
    assert refused == [FULL] * 3


async def test_room_comes_back_when_an_instance_has_ended(rig: Rig) -> None:
    await room_for(rig, 1)
    id = await rig.running(InstanceType="t3.micro")
    await rig.call("TerminateInstances", InstanceIds=[id])
    await rig.fails(FULL, "RunInstances", **ONE)
    await rig.change(Instance, id, state=InstanceState.terminated)
    await rig.call("RunInstances", **ONE)


async def test_vcpus_count_too(rig: Rig) -> None:
    await rig.change(Host, "host-a", cpus=1)
    answer = await rig.call("RunInstances", **{**ONE, "MaxCount": 20})
    assert len(answer["Instances"]) == 8


async def test_one_instance_needs_one_host(rig: Rig) -> None:
    await room_for(rig, 1)
    await room_for(rig, 1, host="host-b")
    await rig.fails(FULL, "RunInstances", **{**ONE, "InstanceType": "t3.small"})
    answer = await rig.call("RunInstances", **{**ONE, "MaxCount": 5})
    assert len(answer["Instances"]) == 2


async def test_only_hosts_of_the_zone_count(rig: Rig) -> None:
    await room_for(rig, 0)
    await room_for(rig, 1, host="host-c", zone="us-east-1c")
    place = {"Placement": {"AvailabilityZone": "us-east-1a"}}
    await rig.fails(FULL, "RunInstances", **ONE, **place)
    shown = await rig.launch(InstanceType="t3.micro")
    assert shown["Placement"]["AvailabilityZone"] == "us-east-1c"


async def test_a_host_of_every_zone_is_shared(rig: Rig) -> None:
    await room_for(rig, 2, zone="")
    for zone in ("us-east-1a", "us-east-1b"):
        await rig.call("RunInstances", **ONE, Placement={"AvailabilityZone": zone})
    await rig.fails(FULL, "RunInstances", **ONE, Placement={"AvailabilityZone": "us-east-1c"})


async def test_before_a_host_is_up_a_launch_waits_for_one(rig: Rig) -> None:
    await room_for(rig, 0)
    await rig.change(Host, "host-a", state=HostState.down)
    await rig.call("RunInstances", **ONE)


async def test_a_snapshot_of_a_local_pool_binds(rig: Rig) -> None:
    await room_for(rig, 0)
    await room_for(rig, 1, host="host-b")
    snapshot = await rig.snapshot(await rig.volume())
    await rig.change(Snapshot, snapshot, state=SnapshotState.completed, host="host-a")
    mapping = {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": snapshot}}
    await rig.fails(FULL, "RunInstances", **ONE, BlockDeviceMappings=[mapping])
    await rig.change(Snapshot, snapshot, host="host-b")
    await rig.call("RunInstances", **ONE, BlockDeviceMappings=[mapping])


async def test_a_start_that_does_not_fit_is_refused(rig: Rig) -> None:
    first, second = [await rig.stopped(InstanceType="t3.micro") for _ in range(2)]
    await room_for(rig, 1)
    await room_for(rig, 5, host="host-b")  # their volumes are not there
    message = await rig.fails(FULL, "StartInstances", InstanceIds=[first, second])
    assert message.startswith("Insufficient capacity")
    await rig.call("StartInstances", InstanceIds=[first])
    await rig.fails(FULL, "StartInstances", InstanceIds=[second])
    await rig.change(Host, "host-a", state=HostState.down)
    await rig.call("StartInstances", InstanceIds=[second])  # and waits for its host
