"""Migrations by the Fleet API, and what EC2's operations may not do meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from gureum.control import migrations
from gureum.errors import ApiError
from gureum.migrationspec import MigrationPhase, MigrationReport
from gureum.resources import Host, HostState, Instance, InstanceMigration, MigrationState, Volume
from gureum.sizespec import MachineSize

if TYPE_CHECKING:
    from ..conftest import Rig
    from .conftest import Fleet

SAN = "san"
GIB = 1 << 30


@pytest.fixture
async def instance(rig: Rig, fleet: Fleet) -> str:
    """On host-a; there is a host-b like it."""
    rig.cloud = replace(rig.cloud, pool=SAN)
    for name, number in (("host-a", 1), ("host-b", 2)):
        await fleet.put(
            Host(
                id=name,
                state=HostState.up,
                zone="",
                cpus=4,
                memory_bytes=64 * GIB,
                address=f"192.0.2.{number}",
                accelerator="kvm",
                cpu="x",
            )
        )
    id = await rig.running()
    for volume in await rig.find(Volume, instances=id):
        await rig.change(Volume, volume.id, host="host-a")
    return id


async def begun(fleet: Fleet, instance: str, **wanted: Any) -> dict[str, Any]:
    answer = await fleet.call("MigrateInstance", InstanceId=instance, **wanted)
    found: dict[str, Any] = answer["InstanceMigration"]
    return found


async def test_begun_looked_at_and_cancelled(rig: Rig, fleet: Fleet, instance: str) -> None:
    made = await begun(fleet, instance, BytesPerSecond=1000)
    assert (made["State"], made["SourceHostId"], made["TargetHostId"]) == ("preparing", "host-a", "host-b")
    await rig.change(InstanceMigration, made["MigrationId"], state=MigrationState.copying)
    rig.hosts.migrations[instance] = MigrationReport(
        migration=made["MigrationId"],
        phase=MigrationPhase.copying,
        remaining_bytes=1001,
        total_bytes=4000,
        copied_bytes=2999,
        bytes_per_second=500,
        dirty_bytes_per_second=300,
    )
    [shown] = (await fleet.call("DescribeInstanceMigrations"))["InstanceMigrations"]
    assert (shown["RemainingSeconds"], shown["CopiedBytes"], shown["TotalBytes"]) == (6, 2999, 4000)
    seen = replace(rig.hosts.migrations[instance], passed_bytes_per_second=1300)
    rig.hosts.migrations[instance] = seen
    [shown] = (await fleet.call("DescribeInstanceMigrations"))["InstanceMigrations"]
    assert (shown["RemainingSeconds"], shown["RateBytesPerSecond"]) == (2, 500), "what is zero is not sent"
    words = str(await fleet.refused("InvalidStateException", "MigrateInstance", InstanceId=instance))
    assert "is being migrated already" in words
    ended = (await fleet.call("CancelInstanceMigration", InstanceId=instance))["InstanceMigration"]
    assert (ended["State"], "was cancelled" in ended["Message"]) == ("aborting", True)
    again = (await fleet.call("CancelInstanceMigration", InstanceId=instance))["InstanceMigration"]
    assert again == ended


async def test_what_is_there_already_is_not_cancelled(rig: Rig, fleet: Fleet, instance: str) -> None:
    await fleet.refused("InvalidStateException", "CancelInstanceMigration", InstanceId=instance)
    made = await begun(fleet, instance, HostId="host-b")
    for state in (MigrationState.copying, MigrationState.switching):
        await rig.change(InstanceMigration, made["MigrationId"], state=state)
    error = await fleet.refused("InvalidStateException", "CancelInstanceMigration", InstanceId=instance)
    assert "on host host-b already" in str(error)


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"InstanceId": "i-0"}, "ResourceNotFoundException"),
        ({"HostId": "host-z"}, "InvalidParameterValueException"),
        ({"HostId": "host-a"}, "InvalidStateException"),
        ({"BytesPerSecond": -1}, "InvalidParameterValueException"),
    ],
)
async def test_refusals(fleet: Fleet, instance: str, wanted: dict[str, Any], code: str) -> None:
    await fleet.refused(code, "MigrateInstance", **{"InstanceId": instance, **wanted})


async def test_memory_that_an_emulated_guest_got_is_not_copied(rig: Rig, fleet: Fleet, instance: str) -> None:
    size = MachineSize(
        vcpus=1, vcpus_max=4, memory_bytes=2 * GIB, memory_min_bytes=GIB, memory_max_bytes=4 * GIB
    )
    for name in ("host-a", "host-b"):
        await rig.change(Host, name, accelerator="tcg")
    rig.hosts.sizes[instance] = size
    refused = await fleet.refused("InvalidStateException", "MigrateInstance", InstanceId=instance)
    assert "has got memory while it ran" in str(refused)
    assert "1 GiB" in str(refused)
    rig.hosts.sizes[instance] = replace(size, memory_bytes=GIB)
    await begun(fleet, instance)


async def test_pages(rig: Rig, fleet: Fleet, instance: str) -> None:
    made = await begun(fleet, instance)
    record = await rig.get(InstanceMigration, made["MigrationId"])
    await rig.put(*(replace(record, id=f"mig-{n}", version=0, instance=f"i-{n}") for n in range(2)))
    page = await fleet.call("DescribeInstanceMigrations", MaxResults=2)
    rest = await fleet.call("DescribeInstanceMigrations", MaxResults=2, NextToken=page["NextToken"])
    assert len(page["InstanceMigrations"]) + len(rest["InstanceMigrations"]) == 3
    [own] = (await fleet.call("DescribeInstanceMigrations", InstanceIds=[instance]))["InstanceMigrations"]
    assert own["MigrationId"] == record.id
    await fleet.refused("ResourceNotFoundException", "DescribeInstanceMigrations", MigrationIds=["mig-9"])
    both = {"MigrationIds": ["mig-0"], "InstanceIds": ["i-0"]}
    await fleet.refused("InvalidParameterValueException", "DescribeInstanceMigrations", **both)


async def test_devices_stay_as_they_are_meanwhile(rig: Rig, fleet: Fleet, instance: str) -> None:
    made = await begun(fleet, instance)
    [root] = await rig.find(Volume, instances=instance)
    other = (await rig.call("CreateVolume", AvailabilityZone="us-east-1a", Size=1))["VolumeId"]
    await rig.change(Volume, other, state="available")
    asked = {"VolumeId": other, "InstanceId": instance, "Device": "/dev/sdf"}
    with pytest.raises(ApiError, match="CancelInstanceMigration"):
        await rig.call("AttachVolume", **asked)
    with pytest.raises(ApiError, match="is being migrated"):
        await rig.call("ModifyVolume", VolumeId=root.id, Size=100)
    await fleet.refused("InvalidStateException", "MoveVolume", VolumeId=root.id, PoolName="local")
    await rig.call("StopInstances", InstanceIds=[instance])
    await rig.change(InstanceMigration, made["MigrationId"], state=MigrationState.aborting)
    assert (await rig.get(Instance, instance)).state == "stopping"


async def test_a_drained_host_says_what_stays(rig: Rig, fleet: Fleet, instance: str) -> None:
    drained = (await fleet.call("DrainHost", HostId="host-a"))["Host"]
    assert (drained["StayingInstances"], drained["RunningInstanceIds"]) == ([], [instance])
    await fleet.call("DrainHost", HostId="host-b")
    [host] = (await fleet.call("DescribeHosts", HostIds=["host-a"]))["Hosts"]
    [stays] = host["StayingInstances"]
    assert (stays["InstanceId"], "drained" in stays["Reason"]) == (instance, True)
    await fleet.call("ActivateHost", HostId="host-b")
    await rig.store.transact(lambda tx: _begin(rig, tx, instance))
    [host] = (await fleet.call("DescribeHosts", HostIds=["host-a"]))["Hosts"]
    assert (host["StayingInstances"], host["MigratingInstanceIds"]) == ([], [instance])


async def _begin(rig: Rig, tx: Any, id: str) -> None:
    await migrations.begin(tx, rig.env, await tx.get(Instance, id), drains=True)


async def test_disks_that_go_along(rig: Rig, fleet: Fleet, instance: str) -> None:
    [root] = await rig.find(Volume, instances=instance)
    await rig.change(Volume, root.id, pool="local", source="")
    error = await fleet.refused("InvalidStateException", "MigrateInstance", InstanceId=instance)
    assert "disk left" in str(error)
    await rig.change(Host, "host-b", pool_free_bytes=root.size_bytes)
    made = await begun(fleet, instance)
    assert "DiskTotalBytes" not in made
    for operation, input in (
        ("CreateSnapshot", {"VolumeId": root.id}),
        ("CreateSnapshots", {"InstanceSpecification": {"InstanceId": instance}}),
        ("CreateImage", {"InstanceId": instance, "Name": "image", "NoReboot": True}),
    ):
        with pytest.raises(ApiError, match="is being migrated to host host-b") as refused:
            await rig.call(operation, **input)
        assert refused.value.code == "IncorrectState"
    await rig.change(InstanceMigration, made["MigrationId"], state=MigrationState.copying)
    rig.hosts.migrations[instance] = MigrationReport(
        migration=made["MigrationId"],
        phase=MigrationPhase.copying,
        disk_done_bytes=3,
        disk_total_bytes=5,
    )
    [shown] = (await fleet.call("DescribeInstanceMigrations"))["InstanceMigrations"]
    assert (shown["DiskCopiedBytes"], shown["DiskTotalBytes"]) == (3, 5)
    await rig.change(
        InstanceMigration,
        made["MigrationId"],
        state=MigrationState.switching,
        switched=datetime.now(UTC),
        copied_disk_bytes=5,
    )
    [shown] = (await fleet.call("DescribeInstanceMigrations"))["InstanceMigrations"]
    assert (shown["DiskCopiedBytes"], "DiskTotalBytes" in shown) == (5, False)
    await rig.call("CreateSnapshot", VolumeId=root.id)


async def test_a_volume_of_which_another_host_has_a_copy_does_not_move(
    rig: Rig, fleet: Fleet, instance: str
) -> None:
    [root] = await rig.find(Volume, instances=instance)
    await rig.change(Volume, root.id, pool="local", source="", former=("host-b",))
    error = await fleet.refused("InvalidStateException", "MoveVolume", VolumeId=root.id, PoolName=SAN)
    assert "Host host-b still has a copy" in str(error)
