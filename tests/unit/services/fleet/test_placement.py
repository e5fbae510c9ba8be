from __future__ import annotations

from typing import Any

import pytest

from gureum.control.fleet import HOST_MEMORY_BYTES, MACHINE_MEMORY_BYTES
from gureum.resources import Host, HostState, Instance, Volume

GIB = 1 << 30


def host(id: str = "host-1", **values: Any) -> Host:
    defaults: dict[str, Any] = {
        "zone": "us-east-1a",
        "state": HostState.up,
        "cpus": 4,
        "memory_bytes": 8 * GIB + HOST_MEMORY_BYTES,
    }
    return Host(**{"id": id, **defaults, **values})


async def described(fleet: Any, id: str = "host-1") -> Any:
    [shown] = (await fleet.call("DescribeHosts", HostIds=[id]))["Hosts"]
    return shown


async def test_what_a_host_gives_away(fleet: Any) -> None:
    await fleet.put(host())
    shown = await described(fleet)
    assert shown["Capacity"] == {
        "Vcpus": 64,
        "FreeVcpus": 64,
        "MemoryBytes": 8 * GIB,
        "FreeMemoryBytes": 8 * GIB,
        "Instances": 0,
    }
    assert (shown["CpuOvercommit"], shown["MemoryOvercommit"], shown["Labels"]) == (16.0, 1.0, {})
    id = await fleet.rig.running(InstanceType="t3.micro")
    await fleet.rig.change(Instance, id, host="host-1")
    shown = (await described(fleet))["Capacity"]
    assert (shown["FreeVcpus"], shown["Instances"]) == (62, 1)
    assert shown["FreeMemoryBytes"] == 7 * GIB - MACHINE_MEMORY_BYTES


async def test_labels_come_and_go(fleet: Any) -> None:
    await fleet.put(host())
    added = await fleet.call("ModifyHost", HostId="host-1", Labels={"rack": "r1", "disk": "ssd"})
    assert added["Host"]["Labels"] == {"disk": "ssd", "rack": "r1"}
    changed = await fleet.call("ModifyHost", HostId="host-1", Labels={"rack": "r2"}, RemoveLabels=["disk"])
    assert changed["Host"]["Labels"] == {"rack": "r2"}
    assert (await fleet.get(Host, "host-1")).labels == {"rack": "r2"}


async def test_the_cpu_model_of_new_instances(fleet: Any) -> None:
    await fleet.put(host("host-1", cpu="kvm a", cpu_models=("x86-64-v1", "Nehalem")), host("host-2"))
    shown = await described(fleet)
    assert (shown["Cpu"], shown["CpuModels"]) == ("kvm a", ["x86-64-v1", "Nehalem"])
    for model in ("Nehalem", "baseline", "host"):
        changed = await fleet.call("ModifyFleetSettings", CpuModel=model)
        assert changed["Settings"]["CpuModel"] == model
        assert (await fleet.call("DescribeFleetSettings"))["Settings"] == changed["Settings"]
    invalid = "InvalidParameterValueException"
    assert "baseline, x86-64-v1" in str(await fleet.refused(invalid, "ModifyFleetSettings", CpuModel="486"))
    refused = await fleet.refused(invalid, "ModifyFleetSettings", CpuModel="EPYC")
    assert "Some offer: x86-64-v1, Nehalem" in str(refused)


async def test_overcommit_of_all_and_of_one(fleet: Any) -> None:
    await fleet.put(host("host-1"), host("host-2"))
    settings = (await fleet.call("DescribeFleetSettings"))["Settings"]
    assert settings == {
        "CpuOvercommit": 16.0,
        "MemoryOvercommit": 1.0,
        "Survive": 0,
        "BalanceMode": "recommend",
        "CpuModel": "host",
        "PowerMode": "off",
        "FencePower": "none",
        "RestSeconds": 900,
        "AwakeHosts": 1,
        "HeadroomPercent": 20,
        "EmptyHosts": False,
    }
    changed = await fleet.call("ModifyFleetSettings", CpuOvercommit=4)
    assert changed["Settings"] == {**settings, "CpuOvercommit": 4.0}
    await fleet.call("ModifyFleetSettings", MemoryOvercommit=1.5)
    await fleet.call("ModifyHost", HostId="host-2", CpuOvercommit=2, MemoryOvercommit=1)
    first, second = [(await described(fleet, id))["Capacity"] for id in ("host-1", "host-2")]
    assert (first["Vcpus"], first["MemoryBytes"]) == (16, 12 * GIB)
    assert (second["Vcpus"], second["MemoryBytes"]) == (8, 8 * GIB)
    await fleet.call("ModifyHost", HostId="host-2", CpuOvercommit=0)
    assert (await described(fleet, "host-2"))["Capacity"]["Vcpus"] == 16


@pytest.mark.parametrize(
    ("operation", "input"),
    [
        ("ModifyHost", {"CpuOvercommit": 101}),
        ("ModifyHost", {"MemoryOvercommit": -1}),
        ("ModifyHost", {"MemoryOvercommit": 0.01}),
        ("ModifyHost", {"MemoryOvercommit": float("nan")}),
        ("ModifyHost", {"Labels": {f"l{number}": "" for number in range(51)}}),
        ("ModifyHost", {"Labels": {"a": "b"}, "RemoveLabels": ["a"]}),
        ("ModifyFleetSettings", {"CpuOvercommit": 0}),
    ],
)
async def test_what_is_refused(fleet: Any, operation: str, input: dict[str, Any]) -> None:
    await fleet.put(host())
    more = {"HostId": "host-1"} if operation == "ModifyHost" else {}
    await fleet.refused("InvalidParameterValueException", operation, **more, **input)


async def test_no_such_host(fleet: Any) -> None:
    await fleet.refused("ResourceNotFoundException", "ModifyHost", HostId="host-9", Labels={"a": "b"})


async def test_a_launch_is_explained(fleet: Any) -> None:
    await fleet.put(
        host("host-1", labels={"disk": "ssd"}),
        host("host-2", memory_bytes=99 * GIB),
        host("host-3", zone="us-east-1b", draining=True),
    )
    answer = await fleet.call(
        "ExplainPlacement", InstanceType="t3.micro", Zone="us-east-1a", RequiredLabels={"disk": "ssd"}
    )
    first, second, third = answer["Hosts"]
    assert (first["HostId"], first["Fits"], first["Chosen"]) == ("host-1", True, True)
    assert first["Weights"] == [{"Name": "free memory", "Value": 8.0 * GIB}]
    assert second["Reasons"] == [{"Filter": "labels", "Message": "has no label disk=ssd"}]
    assert not second["Chosen"]
    assert [each["Filter"] for each in third["Reasons"]] == ["zone", "draining", "labels"]
    assert "Message" not in answer
    nothing = await fleet.call("ExplainPlacement", InstanceType="m5.24xlarge", Zone="us-east-1b")
    assert nothing["Message"] == "No host can have it."


async def test_a_group_is_explained(fleet: Any) -> None:
    await fleet.put(host())
    await fleet.rig.call("CreatePlacementGroup", GroupName="g", Strategy="spread")
    id = await fleet.rig.running(Placement={"GroupName": "g", "AvailabilityZone": "us-east-1a"})
    await fleet.rig.change(Instance, id, host="host-1")
    answer = await fleet.call("ExplainPlacement", InstanceType="t3.micro", GroupName="g")
    assert answer["Hosts"][0]["Reasons"][0]["Filter"] == "group"


async def test_an_instance_is_explained(fleet: Any) -> None:
    await fleet.put(host("host-1"), host("host-2"))
    id, _ = await fleet.occupy("host-1")
    answer = await fleet.call("ExplainPlacement", InstanceId=id)
    assert answer["HostId"] == "host-1"
    first, second = answer["Hosts"]
    assert (first["HostId"], first["Fits"]) == ("host-1", True)
    assert second["Reasons"][0]["Filter"] == "storage"
    volume = await fleet.rig.volume()
    attachments = (await fleet.find(Volume, instances=id))[0].attachments
    await fleet.rig.change(Volume, volume, host="host-2", attachments=attachments)
    answer = await fleet.call("ExplainPlacement", InstanceId=id)
    assert answer["Hosts"] == []
    assert "different hosts" in answer["Message"]


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("ResourceNotFoundException", {"InstanceId": "i-00000000000000000"}),
        ("InvalidParameterValueException", {}),
        ("InvalidParameterValueException", {"InstanceType": "z9.huge"}),
        ("InvalidParameterValueException", {"InstanceId": "i-1", "InstanceType": "t3.micro"}),
        ("InvalidPlacementGroup.Unknown", {"InstanceType": "t3.micro", "GroupName": "no"}),
    ],
)
async def test_what_cannot_be_explained(fleet: Any, code: str, input: dict[str, Any]) -> None:
    await fleet.refused(code, "ExplainPlacement", **input)
