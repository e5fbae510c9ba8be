"""CPU credit options: of burstable types, kept and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gureum.resources import Instance

if TYPE_CHECKING:
    from ..conftest import Rig

IMAGE = "ami-00000000000000001"
ONE = {"ImageId": IMAGE, "MinCount": 1, "MaxCount": 1}


async def credits(rig: Rig, *ids: str) -> dict[str, str]:
    named: dict[str, Any] = {"InstanceIds": list(ids)} if ids else {}
    answer = await rig.call("DescribeInstanceCreditSpecifications", **named)
    return {each["InstanceId"]: each["CpuCredits"] for each in answer["InstanceCreditSpecifications"]}


async def test_defaults_by_family(rig: Rig) -> None:
    t2, t3, m5 = [await rig.running(InstanceType=f"{family}.large") for family in ("t2", "t3", "m5")]
    assert await credits(rig, t2, t3, m5) == {t2: "standard", t3: "unlimited", m5: "standard"}
    assert await credits(rig) == {t3: "unlimited"}


async def test_what_is_asked_for_at_launch(rig: Rig) -> None:
    t2 = await rig.running(InstanceType="t2.nano", CreditSpecification={"CpuCredits": "unlimited"})
    t3 = await rig.running(InstanceType="t3.nano", CreditSpecification={"CpuCredits": "standard"})
    assert await credits(rig, t2, t3) == {t2: "unlimited", t3: "standard"}
    assert await credits(rig) == {t2: "unlimited"}


@pytest.mark.parametrize("value", ["standard", "unlimited"])
async def test_other_types_have_none(rig: Rig, value: str) -> None:
    message = await rig.fails(
        "InstanceCreditSpecification.NotSupported",
        "RunInstances",
        **ONE,
        InstanceType="m5.large",
        CreditSpecification={"CpuCredits": value},
    )
    assert "m5.large" in message


async def test_unknown_options(rig: Rig) -> None:
    wrong = {"CreditSpecification": {"CpuCredits": "endless"}}
    await rig.fails("InvalidParameterValue", "RunInstances", **ONE, **wrong)


async def test_modify(rig: Rig) -> None:
    running, stopped, m5 = (
        await rig.running(),
        await rig.stopped(),
        await rig.running(InstanceType="m5.large"),
    )
    pending = (await rig.launch())["InstanceId"]
    absent = "i-0123456789abcdef0"
    wanted = [
        {"InstanceId": id, "CpuCredits": "standard"} for id in (running, stopped, m5, pending, absent, "web")
    ]
    answer = await rig.call("ModifyInstanceCreditSpecification", InstanceCreditSpecifications=wanted)
    changed = [each["InstanceId"] for each in answer["SuccessfulInstanceCreditSpecifications"]]
    refused = {
        each["InstanceId"]: each["Error"]["Code"]
        for each in answer["UnsuccessfulInstanceCreditSpecifications"]
    }
    assert changed == [running, stopped]
    assert refused == {
        m5: "InstanceCreditSpecification.NotSupported",
        pending: "IncorrectInstanceState",
        absent: "InvalidInstanceID.NotFound",
        "web": "InvalidInstanceID.Malformed",
    }
    assert (await rig.get(Instance, running)).cpu_credits == "standard"
    assert set((await credits(rig, running, stopped)).values()) == {"standard"}


async def test_modify_refuses_an_unknown_option(rig: Rig) -> None:
    id = await rig.running()
    for wrong in ({}, {"CpuCredits": "endless"}):
        code = "InvalidParameterValue" if wrong else "MissingParameter"
        entry = {"InstanceId": id, **wrong}
        await rig.fails(code, "ModifyInstanceCreditSpecification", InstanceCreditSpecifications=[entry])
