from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from gureum.resources import Address, Instance, InstanceState, Move, NetworkInterface, Volume

if TYPE_CHECKING:
    from ..conftest import Rig

NOBODY = "i-0123456789abcdef0"
ALL = ("StartInstances", "StopInstances", "RebootInstances", "TerminateInstances")


@pytest.mark.parametrize("operation", ALL)
async def test_unknown_instances(rig: Rig, operation: str) -> None:
    message = await rig.fails("InvalidInstanceID.NotFound", operation, InstanceIds=[NOBODY])
    assert message == f"The instance ID '{NOBODY}' does not exist"
    message = await rig.fails("InvalidInstanceID.NotFound", operation, InstanceIds=[NOBODY, "i-00000001"])
    assert message == f"The instance IDs '{NOBODY}, i-00000001' do not exist"
    await rig.fails("InvalidInstanceID.Malformed", operation, InstanceIds=["web-1"])


@pytest.mark.parametrize("operation", ALL)
async def test_all_or_none(rig: Rig, operation: str) -> None:
    id = await rig.running()
    await rig.fails("InvalidInstanceID.NotFound", operation, InstanceIds=[id, NOBODY])


async def test_stop(rig: Rig) -> None:
    id = await rig.running()
    answer = await rig.call("StopInstances", InstanceIds=[id])
    assert answer["StoppingInstances"] == [
        {
            "InstanceId": id,
            "PreviousState": {"Code": 16, "Name": "running"},
            "CurrentState": {"Code": 64, "Name": "stopping"},
        }
    ]
    instance = await rig.get(Instance, id)
    assert instance.state is InstanceState.stopping
    assert instance.state_reason is not None
    assert instance.state_reason.code == "Client.UserInitiatedShutdown"
    assert instance.transition_reason == "User initiated (2027-01-15 08:00:00 GMT)"
    assert not instance.force


async def test_stop_by_force(rig: Rig, at: Callable[[float], None]) -> None:
    id = await rig.running()
    await rig.call("StopInstances", InstanceIds=[id])
    at(5)
    await rig.call("StopInstances", InstanceIds=[id])
    assert not (await rig.get(Instance, id)).force
    await rig.call("StopInstances", InstanceIds=[id], Force=True)
    instance = await rig.get(Instance, id)
    assert instance.force


async def test_stopping_what_is_stopped(rig: Rig) -> None:
    id = await rig.stopped()
    before = await rig.get(Instance, id)
    [change] = (await rig.call("StopInstances", InstanceIds=[id]))["StoppingInstances"]
    assert change["CurrentState"] == change["PreviousState"] == {"Code": 80, "Name": "stopped"}
    assert await rig.get(Instance, id) == before


async def test_stop_needs_a_running_instance(rig: Rig) -> None:
    id = (await rig.launch())["InstanceId"]
    message = await rig.fails("IncorrectInstanceState", "StopInstances", InstanceIds=[id])
    assert message == f"The instance '{id}' is not in a state from which it can be stopped."
    await rig.call("TerminateInstances", InstanceIds=[id])
    await rig.fails("IncorrectInstanceState", "StopInstances", InstanceIds=[id])


async def test_hibernation_is_refused(rig: Rig) -> None:
    id = await rig.running()
    await rig.fails("UnsupportedHibernationConfiguration", "StopInstances", InstanceIds=[id], Hibernate=True)


async def test_stop_protection(rig: Rig) -> None:
    id = await rig.running(DisableApiStop=True)
    message = await rig.fails("OperationNotPermitted", "StopInstances", InstanceIds=[id])
    assert "disableApiStop" in message


async def test_start(rig: Rig, at: Callable[[float], None]) -> None:
    id = await rig.stopped()
    await rig.change(Instance, id, reboots=3)
    [interface] = await rig.find(NetworkInterface, instance=id)
    await rig.change(NetworkInterface, interface.id, public_ip="")
    at(60)
    answer = await rig.call("StartInstances", InstanceIds=[id])
    assert answer["StartingInstances"][0]["CurrentState"]["Name"] == "pending"
    instance = await rig.get(Instance, id)
    assert (instance.state, instance.generation, instance.reboots) == (InstanceState.pending, 2, 0)
    assert instance.state_reason is None
    assert instance.transition_reason == ""
    assert instance.launched.timestamp() == rig.time
    assert instance.host == "host-a"
    assert (await rig.get(NetworkInterface, interface.id)).public_ip.startswith("198.18.0.")


async def test_start_keeps_an_elastic_address(rig: Rig) -> None:
    id = await rig.stopped()
    allocated = await rig.call("AllocateAddress")
    await rig.call("AssociateAddress", AllocationId=allocated["AllocationId"], InstanceId=id)
    await rig.call("StartInstances", InstanceIds=[id])
    [interface] = await rig.find(NetworkInterface, instance=id)
    assert interface.public_ip == allocated["PublicIp"]


async def test_start_without_a_public_address(rig: Rig) -> None:
    id = await rig.stopped(NetworkInterfaces=[{"DeviceIndex": 0, "AssociatePublicIpAddress": False}])
    await rig.call("StartInstances", InstanceIds=[id])
    [interface] = await rig.find(NetworkInterface, instance=id)
    assert interface.public_ip == ""


async def test_starting_what_runs(rig: Rig) -> None:
    id = await rig.running()
    [change] = (await rig.call("StartInstances", InstanceIds=[id]))["StartingInstances"]
    assert change["CurrentState"] == change["PreviousState"] == {"Code": 16, "Name": "running"}
    assert (await rig.get(Instance, id)).generation == 1


async def test_start_needs_a_stopped_instance(rig: Rig) -> None:
    id = await rig.running()
    await rig.call("StopInstances", InstanceIds=[id])
    await rig.fails("IncorrectInstanceState", "StartInstances", InstanceIds=[id])


async def test_start_needs_a_root_volume(rig: Rig) -> None:
    id = await rig.stopped()
    await rig.change(Instance, id, devices=())
    message = await rig.fails("IncorrectInstanceState", "StartInstances", InstanceIds=[id])
    assert message == f"Instance '{id}' does not have a volume attached at root (/dev/xvda)"


async def test_reboot(rig: Rig) -> None:
    id = await rig.running()
    assert await rig.call("RebootInstances", InstanceIds=[id]) == {}
    await rig.call("RebootInstances", InstanceIds=[id, id])
    instance = await rig.get(Instance, id)
    assert (instance.state, instance.reboots) == (InstanceState.running, 2)


async def test_reboot_needs_a_running_instance(rig: Rig) -> None:
    id = await rig.stopped()
    await rig.fails("IncorrectInstanceState", "RebootInstances", InstanceIds=[id])


@pytest.mark.parametrize("begin", ["pending", "running", "stopped"])
async def test_terminate(rig: Rig, begin: str) -> None:
    if begin == "pending":
        id = (await rig.launch())["InstanceId"]
    else:
        id = await (rig.running() if begin == "running" else rig.stopped())
    [change] = (await rig.call("TerminateInstances", InstanceIds=[id]))["TerminatingInstances"]
    assert change["PreviousState"]["Name"] == begin
    assert change["CurrentState"] == {"Code": 32, "Name": "shutting-down"}
    instance = await rig.get(Instance, id)
    assert instance.state is InstanceState.shutting_down
    # Nothing is let go before the machine is off.
    assert await rig.find(NetworkInterface, instance=id)
    assert await rig.find(Volume, instances=id)


async def test_terminate_by_force(rig: Rig) -> None:
    id = await rig.running()
    await rig.call("TerminateInstances", InstanceIds=[id])
    await rig.call("TerminateInstances", InstanceIds=[id], SkipOsShutdown=True)
    instance = await rig.get(Instance, id)
    assert instance.force


async def test_terminating_what_is_terminated(rig: Rig) -> None:
    id = await rig.running()
    await rig.change(Instance, id, state=InstanceState.terminated)
    [change] = (await rig.call("TerminateInstances", InstanceIds=[id]))["TerminatingInstances"]
    assert change["CurrentState"] == change["PreviousState"] == {"Code": 48, "Name": "terminated"}


async def test_termination_protection_covers_the_whole_request(rig: Rig) -> None:
    other = await rig.running()
    id = await rig.running(DisableApiTermination=True)
    message = await rig.fails("OperationNotPermitted", "TerminateInstances", InstanceIds=[other, id])
    assert f"'{id}'" in message
    assert (await rig.get(Instance, other)).state is InstanceState.running


async def test_public_address_is_new_after_stop_and_start(rig: Rig) -> None:
    id = await rig.stopped()
    [interface] = await rig.find(NetworkInterface, instance=id)
    await rig.change(NetworkInterface, interface.id, public_ip="")
    await rig.call("StartInstances", InstanceIds=[id])
    again = await rig.get(NetworkInterface, interface.id)
    assert again.public_ip not in ("", interface.public_ip)
    assert not await rig.find(Address)


async def test_with_all_its_volumes_in_shared_pools_it_starts_where_there_is_room(rig: Rig) -> None:
    instance = await rig.stopped()
    await rig.change(Instance, instance, host="host-0")
    [root] = await rig.find(Volume, instances=instance)
    await rig.change(Volume, root.id, pool="san", host="host-0")
    await rig.call("StartInstances", InstanceIds=[instance])
    assert (await rig.get(Instance, instance)).host is None


async def test_a_local_volume_decides_where_it_starts_and_the_others_come(rig: Rig) -> None:
    instance = await rig.stopped()
    await rig.change(Instance, instance, host="host-0")
    [root] = await rig.find(Volume, instances=instance)
    await rig.change(Volume, root.id, host="host-0")
    volume = await rig.volume()
    await rig.change(Volume, volume, pool="san", host="host-1")
    await rig.call("AttachVolume", VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
    assert (await rig.get(Volume, volume)).host == "host-1"
    await rig.call("StartInstances", InstanceIds=[instance])
    assert (await rig.get(Instance, instance)).host == "host-0"
    assert (await rig.get(Volume, volume)).host == "host-0"


async def test_start_where_a_volume_is_on_its_way(rig: Rig) -> None:
    """It may have been looked after by another host than the stopped instance's when its move began."""
    instance = await rig.stopped()
    await rig.change(Instance, instance, host="host-0")
    [root] = await rig.find(Volume, instances=instance)
    move = Move(state="moving", source="san", target="other", started=rig.env.utcnow())
    await rig.change(Volume, root.id, pool="san", host="host-1", move=move)
    await rig.call("StartInstances", InstanceIds=[instance])
    # Placement knows where its volumes are.
    assert (await rig.get(Instance, instance)).host is None
    assert (await rig.get(Volume, root.id)).host == "host-1"
