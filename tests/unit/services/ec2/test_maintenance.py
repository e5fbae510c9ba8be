from __future__ import annotations

from typing import Any

import pytest

from gureum.resources import Instance, InstanceState, Recovery, RecoveryPolicy


async def shown(rig: Any, id: str) -> str:
    answer = await rig.call("DescribeInstances", InstanceIds=[id])
    return str(answer["Reservations"][0]["Instances"][0]["MaintenanceOptions"]["AutoRecovery"])


async def test_recovery_is_switched_off_and_on(rig: Any) -> None:
    id = await rig.running()
    assert await shown(rig, id) == "default"
    answer = await rig.call("ModifyInstanceMaintenanceOptions", InstanceId=id, AutoRecovery="disabled")
    assert answer == {"InstanceId": id, "AutoRecovery": "disabled"}
    assert (await rig.get(Instance, id)).recovery.policy is RecoveryPolicy.none
    assert await shown(rig, id) == "disabled"
    await rig.call("ModifyInstanceMaintenanceOptions", InstanceId=id, AutoRecovery="default")
    assert (await rig.get(Instance, id)).recovery == Recovery()


async def test_one_that_is_to_be_stopped_stays_so(rig: Any) -> None:
    id = await rig.running()
    await rig.change(Instance, id, recovery=Recovery(policy=RecoveryPolicy.stop))
    assert await shown(rig, id) == "disabled"
    await rig.call("ModifyInstanceMaintenanceOptions", InstanceId=id, AutoRecovery="disabled")
    assert (await rig.get(Instance, id)).recovery.policy is RecoveryPolicy.stop


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("InvalidParameterValue", {"AutoRecovery": "never"}),
        ("UnsupportedOperation", {"RebootMigration": "default"}),
    ],
)
async def test_what_cannot_be_asked_for(rig: Any, code: str, wanted: dict[str, str]) -> None:
    id = await rig.running()
    await rig.fails(code, "ModifyInstanceMaintenanceOptions", InstanceId=id, **wanted)


async def test_not_of_one_that_is_gone(rig: Any) -> None:
    id = await rig.running()
    await rig.change(Instance, id, state=InstanceState.terminated)
    await rig.fails(
        "IncorrectInstanceState", "ModifyInstanceMaintenanceOptions", InstanceId=id, AutoRecovery="default"
    )
