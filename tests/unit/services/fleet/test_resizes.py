"""Resizes by the Fleet API, and what EC2's operations show of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from gureum.resources import (
    FleetSettings,
    Host,
    HostState,
    Instance,
    InstanceMigration,
    MigrationState,
    Park,
    ParkState,
    PowerMode,
    Volume,
)
from gureum.resources.placement import FLEET
from gureum.sizespec import MachineSize

if TYPE_CHECKING:
    from ..conftest import Rig
    from .conftest import Fleet

GIB = 1 << 30


@pytest.fixture
async def instance(rig: Rig, fleet: Fleet) -> str:
    """A t3.micro on host-a, with room for 4 GiB."""
    await fleet.put(Host(id="host-a", state=HostState.up, zone="", cpus=4, memory_bytes=4 * GIB))
    id = await rig.running(InstanceType="t3.micro")
    rig.hosts.sizes[id] = size(GIB)
    return id


def size(memory_bytes: int) -> MachineSize:
    return MachineSize(
        vcpus=2, memory_bytes=memory_bytes, vcpus_max=4, memory_min_bytes=GIB, memory_max_bytes=4 * GIB
    )


async def sizes(fleet: Fleet, *ids: str) -> list[dict[str, Any]]:
    wanted = {"InstanceIds": list(ids)} if ids else {}
    found: list[dict[str, Any]] = (await fleet.call("DescribeInstanceSizes", **wanted))["InstanceSizes"]
    return found


async def test_resized_and_looked_at(rig: Rig, fleet: Fleet, instance: str) -> None:
    answer = await fleet.call("ResizeInstance", InstanceId=instance, InstanceType="t3.small")
    shown = answer["InstanceSize"]
    assert (shown["State"], shown["InstanceType"], shown["HostId"]) == ("resizing", "t3.small", "host-a")
    assert (shown["MemoryMiB"], shown["TypeMemoryMiB"], shown["MemoryMiBMax"]) == (1024, 2048, 4096)
    [described] = (await rig.call("DescribeInstances"))["Reservations"]
    assert described["Instances"][0]["InstanceType"] == "t3.small"
    rig.hosts.sizes[instance] = size(2 * GIB)
    await rig.change(Instance, instance, resize=None)
    for found in (await sizes(fleet), await sizes(fleet, instance)):
        [shown] = found
        assert (shown["State"], shown["MemoryMiB"], shown["VCpus"]) == ("settled", 2048, 2)
    before = rig.store.revision
    await fleet.call("ResizeInstance", InstanceId=instance, InstanceType="t3.small")
    assert rig.store.revision == before


async def test_refused(rig: Rig, fleet: Fleet, instance: str) -> None:
    async def refused(code: str, type: str, id: str = instance, **wanted: Any) -> str:
        return str(await fleet.refused(code, "ResizeInstance", InstanceId=id, InstanceType=type, **wanted))

    await refused("InvalidParameterValueException", "t9.huge")
    await refused("ResourceNotFoundException", "t3.small", "i-0")
    await fleet.refused("ResourceNotFoundException", "DescribeInstanceSizes", InstanceIds=["i-0"])
    words = await refused("InvalidStateException", "m5.large")
    assert "ModifyInstanceAttribute" in words
    words = await refused("InsufficientInstanceCapacity", "t3.medium")
    assert "host-a has 3 GiB of memory left, and 4.125 GiB are needed" in words
    assert "cannot go to another host" in words
    words = await refused("InsufficientInstanceCapacity", "t3.medium", MoveIfFull=False)
    assert "another host" not in words
    del rig.hosts.sizes[instance]
    assert "keeps its size" in await refused("InvalidStateException", "t3.small")
    [shown] = await sizes(fleet, instance)
    assert "VCpus" not in shown
    id = await rig.stopped(InstanceType="t3.nano")
    assert "ModifyInstanceAttribute sets the type" in await refused("InvalidStateException", "t3.small", id)
    await rig.call("ModifyInstanceAttribute", InstanceId=id, InstanceType={"Value": "t3.micro"})
    [shown] = await sizes(fleet, id)
    assert (shown["State"], shown["InstanceType"]) == ("stopped", "t3.micro")


async def test_it_moves_where_there_is_room(rig: Rig, fleet: Fleet, instance: str) -> None:
    like = {"accelerator": "kvm", "cpu": "x"}
    await rig.change(Host, "host-a", address="192.0.2.1", **like)
    larger = Host(id="host-b", state=HostState.up, zone="", cpus=4, memory_bytes=16 * GIB, **like)
    await fleet.put(replace(larger, address="192.0.2.2"))
    for volume in await rig.find(Volume, instances=instance):
        await rig.change(Volume, volume.id, pool="san")
    answer = await fleet.call("ResizeInstance", InstanceId=instance, InstanceType="t3.medium")
    shown = answer["InstanceSize"]
    assert (shown["State"], shown["InstanceType"]) == ("moving", "t3.micro")
    assert shown["TargetInstanceType"] == "t3.medium"
    migration = await rig.get(InstanceMigration, shown["MigrationId"])
    assert (migration.state, migration.destination) == (MigrationState.preparing, "host-b")
    words = await fleet.refused(
        "InvalidStateException", "ResizeInstance", InstanceId=instance, InstanceType="t3.small"
    )
    assert "is being migrated" in str(words)


async def test_it_waits_for_a_host_that_is_to_be_woken(rig: Rig, fleet: Fleet, instance: str) -> None:
    """Accepted, as a launch would be; the power management has it woken."""
    like = {"accelerator": "kvm", "cpu": "x"}
    await rig.change(Host, "host-a", address="192.0.2.1", **like)
    off = Park(state=ParkState.parked, reason="", since=0.0)
    asleep = Host(id="host-b", state=HostState.down, zone="", cpus=4, memory_bytes=16 * GIB, park=off, **like)
    await fleet.put(replace(asleep, address="192.0.2.2"), FleetSettings(id=FLEET, power=PowerMode.automatic))
    for volume in await rig.find(Volume, instances=instance):
        await rig.change(Volume, volume.id, pool="san")

    async def resize(type: str) -> tuple[str, str, str | None]:
        answer = await fleet.call("ResizeInstance", InstanceId=instance, InstanceType=type)
        [shown] = await sizes(fleet, instance)
        assert shown == answer["InstanceSize"]
        return shown["State"], shown["InstanceType"], shown.get("TargetInstanceType")

    wrong = {"InstanceId": instance, "InstanceType": "t3.medium", "MoveIfFull": False}
    await fleet.refused("InsufficientInstanceCapacity", "ResizeInstance", **wrong)
    await fleet.refused(
        "InvalidStateException", "ResizeInstance", InstanceId=instance, InstanceType="t3.large"
    )
    assert await resize("t3.medium") == ("waiting", "t3.micro", "t3.medium")
    assert "woken" in (await sizes(fleet, instance))[0]["Message"]
    assert await resize("t3.micro") == ("settled", "t3.micro", None), "so it is taken back"
    assert await resize("t3.medium") == ("waiting", "t3.micro", "t3.medium")
    assert await resize("t3.small") == ("resizing", "t3.small", None)
    assert (await rig.get(Instance, instance)).growth is None
