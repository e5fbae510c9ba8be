"""Policies by which instances grow and shrink, by the Fleet API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from gureum.control.autosize import Level, Seen, Verdict
from gureum.control.autosizer import Sight
from gureum.resources import Autosize, AutosizeMode, Instance

if TYPE_CHECKING:
    from ..conftest import Rig
    from .conftest import Fleet

BOUNDS = {"MinInstanceType": "t3.small", "MaxInstanceType": "m5.xlarge"}


@pytest.fixture
async def instance(rig: Rig) -> str:
    return await rig.running(InstanceType="t3.small")


async def described(fleet: Fleet, *ids: str) -> list[dict[str, Any]]:
    wanted = {"InstanceIds": list(ids)} if ids else {}
    answer = await fleet.call("DescribeInstanceAutosizes", **wanted)
    found: list[dict[str, Any]] = answer["InstanceAutosizes"]
    return found


async def test_what_is_not_said_is_the_default_and_then_stays(rig: Rig, fleet: Fleet, instance: str) -> None:
    assert await described(fleet) == []
    assert await described(fleet, instance) == [
        {"InstanceId": instance, "InstanceType": "t3.small", "Mode": "off"}
    ]
    answer = await fleet.call("SetInstanceAutosize", InstanceId=instance, **BOUNDS)
    shown = answer["InstanceAutosize"]
    assert shown == {
        "InstanceId": instance,
        "InstanceType": "t3.small",
        "Mode": "recommend",
        "TargetPercent": 60,
        "CoolDownSeconds": 300,
        **BOUNDS,
    }
    record = await rig.get(Instance, instance)
    assert record.autosize is not None
    await rig.change(Instance, instance, autosize=replace(record.autosize, changed=7.0))
    more = {"Mode": "automatic", "TargetPercent": 75, "CoolDownSeconds": 60, "MaxInstanceType": "t3.large"}
    await fleet.call("SetInstanceAutosize", InstanceId=instance, **more)
    assert (await rig.get(Instance, instance)).autosize == Autosize(
        mode=AutosizeMode.automatic,
        target=75,
        smallest="t3.small",
        largest="t3.large",
        cooldown=60,
        changed=7.0,
    )
    before = rig.store.revision
    await fleet.call("SetInstanceAutosize", InstanceId=instance, **more)
    assert rig.store.revision == before
    [shown] = await described(fleet)
    assert shown["LastChangedAt"].timestamp() == 7.0
    await fleet.call("SetInstanceAutosize", InstanceId=instance, Mode="off")
    assert await described(fleet) == []


async def test_what_is_seen_is_shown(rig: Rig, fleet: Fleet, instance: str) -> None:
    await fleet.call("SetInstanceAutosize", InstanceId=instance, **BOUNDS)
    seen = Seen(Level(0.7, None), Level(0.801, None))
    rig.hosts.sights[instance] = Sight(180.0, seen, Verdict("so", "t3.xlarge", "m5.xlarge"), "not now")
    [shown] = await described(fleet, instance)
    assert shown["Recent"] == {"CpuPercent": 80.1}
    assert "Peak" not in shown
    assert shown["ObservedSeconds"] == 180
    assert (shown["RecommendedInstanceType"], shown["StoppedInstanceType"]) == ("t3.xlarge", "m5.xlarge")
    assert (shown["Reason"], shown["HeldBecause"]) == ("so", "not now")
    level = Level(0.1, 0.254)
    rig.hosts.sights[instance] = Sight(1800.0, Seen(level, level, level), Verdict("so"), "")
    [shown] = await described(fleet, instance)
    assert shown["Peak"] == {"CpuPercent": 10.0, "MemoryPercent": 25.4}
    assert not shown.keys() & {"RecommendedInstanceType", "StoppedInstanceType", "HeldBecause"}


async def test_by_pages(rig: Rig, fleet: Fleet) -> None:
    for _ in range(3):
        id = await rig.running(InstanceType="t3.nano")
        await fleet.call("SetInstanceAutosize", InstanceId=id, **BOUNDS)
    first = await fleet.call("DescribeInstanceAutosizes", MaxResults=2)
    rest = await fleet.call("DescribeInstanceAutosizes", MaxResults=2, NextToken=first["NextToken"])
    assert (len(first["InstanceAutosizes"]), len(rest["InstanceAutosizes"])) == (2, 1)
    assert "NextToken" not in rest


async def test_refused(fleet: Fleet, instance: str) -> None:
    async def refused(**wanted: Any) -> str:
        return str(
            await fleet.refused(
                "InvalidParameterValueException", "SetInstanceAutosize", InstanceId=instance, **wanted
            )
        )

    assert "MinInstanceType is missing" in await refused()
    assert "MaxInstanceType is missing" in await refused(MinInstanceType="t3.small")
    assert "no instance type 't9.huge'" in await refused(**{**BOUNDS, "MaxInstanceType": "t9.huge"})
    assert "no larger than" in await refused(MinInstanceType="t3.large", MaxInstanceType="c5.large")
    assert "TargetPercent" in await refused(**BOUNDS, TargetPercent=91)
    assert "TargetPercent" in await refused(**BOUNDS, TargetPercent=0)
    assert "CoolDownSeconds" in await refused(**BOUNDS, CoolDownSeconds=59)
    assert "Mode is one of" in await refused(**BOUNDS, Mode="always")
    for name in ("SetInstanceAutosize", "DescribeInstanceAutosizes"):
        wanted = {"InstanceIds": ["i-0"]} if name.startswith("Describe") else {"InstanceId": "i-0", **BOUNDS}
        await fleet.refused("ResourceNotFoundException", name, **wanted)
    await fleet.refused(
        "InvalidParameterValueException", "DescribeInstanceAutosizes", InstanceIds=[instance], MaxResults=5
    )
