from __future__ import annotations

from typing import Any

import pytest

from gureum.control import events
from gureum.resources import Instance, RecoveryPolicy


async def test_what_is_wanted_of_an_instance(fleet: Any) -> None:
    id = await fleet.rig.running()
    shown = (await fleet.call("SetInstanceRecovery", InstanceId=id))["Recovery"]
    assert shown == {"InstanceId": id, "Policy": "restart", "Priority": 50}
    await fleet.call("SetInstanceRecovery", InstanceId=id, Policy="stop", Priority=0)
    recovery = (await fleet.get(Instance, id)).recovery
    assert (recovery.policy, recovery.priority) == (RecoveryPolicy.stop, 0)
    await fleet.call("SetInstanceRecovery", InstanceId=id, Priority=100)
    assert (await fleet.get(Instance, id)).recovery.policy is RecoveryPolicy.stop


@pytest.mark.parametrize("wanted", [{"Policy": "reset"}, {"Priority": 101}, {"Priority": -1}])
async def test_what_cannot_be_wanted(fleet: Any, wanted: dict[str, Any]) -> None:
    id = await fleet.rig.running()
    await fleet.refused("InvalidParameterValueException", "SetInstanceRecovery", InstanceId=id, **wanted)
    await fleet.refused("ResourceNotFoundException", "SetInstanceRecovery", InstanceId="i-0")


async def test_events_are_listed_in_their_order(fleet: Any) -> None:
    for number in range(5):

        async def work(tx: Any, number: int = number) -> None:
            about = {"host": "host-1"} if number % 2 else {"instance": "i-1"}
            await events.record(tx, fleet.rig.env, f"N{number}", f"event {number}", **about)

        await fleet.rig.store.transact(work)
    first = await fleet.call("DescribeEvents", MaxResults=2)
    assert [event["Name"] for event in first["Events"]] == ["N0", "N1"]
    rest = await fleet.call("DescribeEvents", NextToken=first["NextToken"])
    assert [event["Message"] for event in rest["Events"]] == ["event 2", "event 3", "event 4"]
    assert "NextToken" not in rest
    new = await fleet.call("DescribeEvents", After=rest["Events"][1]["EventId"])
    assert [event["Name"] for event in new["Events"]] == ["N4"]
    of_host = await fleet.call("DescribeEvents", HostId="host-1")
    assert [event["Name"] for event in of_host["Events"]] == ["N1", "N3"]
    of_instance = (await fleet.call("DescribeEvents", InstanceId="i-1"))["Events"]
    assert [event["Name"] for event in of_instance] == ["N0", "N2", "N4"]
    assert "HostId" not in of_instance[0]
