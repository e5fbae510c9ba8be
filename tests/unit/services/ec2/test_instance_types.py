from __future__ import annotations

import gzip
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from gureum.services.ec2.instance_types import DEFAULT_TYPE, TYPES, item, machine_size

if TYPE_CHECKING:
    from ..conftest import Rig


def test_sizes() -> None:
    size = machine_size("t3.nano")
    assert (size.vcpus, size.memory_bytes) == (2, 512 << 20)
    assert DEFAULT_TYPE in TYPES
    with pytest.raises(LookupError):
        machine_size("t9.huge")


def test_figures_are_those_of_ec2() -> None:
    """moto ships what EC2 itself answers."""
    text = gzip.decompress(files("moto.ec2.resources").joinpath("instance_types.json.gz").read_bytes())
    known: dict[str, dict[str, Any]] = json.loads(text)
    for name in TYPES:
        ours, theirs = item(name), known[name]
        assert ours["MemoryInfo"] == theirs["MemoryInfo"], name
        for member in ("EbsOptimizedSupport", "EbsOptimizedInfo"):
            assert ours["EbsInfo"].get(member) == theirs["EbsInfo"].get(member), name
        assert ours["Hypervisor"] == theirs["Hypervisor"], name
        assert ours["ProcessorInfo"]["Manufacturer"] == theirs["ProcessorInfo"]["Manufacturer"], name
        assert ours["BurstablePerformanceSupported"] == theirs["BurstablePerformanceSupported"], name
        for member in ("DefaultVCpus", "DefaultCores", "DefaultThreadsPerCore"):
            assert ours["VCpuInfo"][member] == theirs["VCpuInfo"][member], name
        for member in ("NetworkPerformance", "MaximumNetworkInterfaces", "Ipv4AddressesPerInterface"):
            assert ours["NetworkInfo"][member] == theirs["NetworkInfo"][member], name


async def test_describe_one(rig: Rig) -> None:
    [shown] = (await rig.call("DescribeInstanceTypes", InstanceTypes=["m5.xlarge"]))["InstanceTypes"]
    assert shown["VCpuInfo"]["DefaultVCpus"] == 4
    assert shown["MemoryInfo"] == {"SizeInMiB": 16384}
    assert shown["Hypervisor"] == "nitro"
    small = await rig.call(
        "RunInstances", ImageId="ami-00000000000000001", MinCount=1, MaxCount=1, InstanceType="t2.micro"
    )
    assert small["Instances"][0]["CpuOptions"] == {"CoreCount": 1, "ThreadsPerCore": 1}


async def test_describe_all_by_pages(rig: Rig) -> None:
    everything = (await rig.call("DescribeInstanceTypes"))["InstanceTypes"]
    assert [each["InstanceType"] for each in everything] == sorted(TYPES)
    first = await rig.call("DescribeInstanceTypes", MaxResults=40)
    second = await rig.call("DescribeInstanceTypes", MaxResults=40, NextToken=first["NextToken"])
    assert first["InstanceTypes"] + second["InstanceTypes"] == everything
    assert "NextToken" not in second


async def test_filters(rig: Rig) -> None:
    async def names(*filters: tuple[str, str]) -> list[str]:
        given = [{"Name": name, "Values": [value]} for name, value in filters]
        answer = await rig.call("DescribeInstanceTypes", Filters=given)
        return [each["InstanceType"] for each in answer["InstanceTypes"]]

    small = await names(("vcpu-info.default-vcpus", "2"), ("memory-info.size-in-mib", "512"))
    assert small == ["t3.nano", "t3a.nano"]
    assert await names(("vcpu-info.default-vcpus", "1")) == ["t2.micro", "t2.nano", "t2.small"]
    assert await names(("instance-type", "c5.9*")) == ["c5.9xlarge"]
    assert len(await names(("burstable-performance-supported", "true"))) == 21
    assert await names(("ebs-info.ebs-optimized-info.maximum-iops", "120000")) == ["m6i.24xlarge"]
    assert await names(("processor-info.supported-architecture", "arm64")) == []


@pytest.mark.parametrize(
    ("code", "input"),
    [
        ("InvalidInstanceType", {"InstanceTypes": ["t9.huge"]}),
        ("InvalidParameterValue", {"MaxResults": 101}),
        ("InvalidParameterCombination", {"MaxResults": 5, "InstanceTypes": ["t3.nano"]}),
        ("InvalidParameterValue", {"Filters": [{"Name": "colour", "Values": ["red"]}]}),
        ("InvalidParameterValue", {"Filters": [{"Name": "tag:x", "Values": ["red"]}]}),
    ],
)
async def test_describe_refuses(rig: Rig, code: str, input: dict[str, Any]) -> None:
    await rig.fails(code, "DescribeInstanceTypes", **input)


async def test_offerings(rig: Rig) -> None:
    regional = (await rig.call("DescribeInstanceTypeOfferings"))["InstanceTypeOfferings"]
    assert len(regional) == len(TYPES)
    assert {each["Location"] for each in regional} == {"us-east-1"}
    filters = [{"Name": "instance-type", "Values": ["t3.nano"]}]
    zonal = await rig.call("DescribeInstanceTypeOfferings", LocationType="availability-zone", Filters=filters)
    assert [each["Location"] for each in zonal["InstanceTypeOfferings"]] == [
        "us-east-1a",
        "us-east-1b",
        "us-east-1c",
    ]
    by_id = await rig.call(
        "DescribeInstanceTypeOfferings",
        LocationType="availability-zone-id",
        Filters=[*filters, {"Name": "location", "Values": ["use1-az3"]}],
    )
    assert len(by_id["InstanceTypeOfferings"]) == 1
    outpost = await rig.call("DescribeInstanceTypeOfferings", LocationType="outpost")
    assert outpost["InstanceTypeOfferings"] == []
    await rig.fails("InvalidParameterValue", "DescribeInstanceTypeOfferings", LocationType="moon")


async def test_offerings_by_pages(rig: Rig) -> None:
    seen: list[tuple[str, str]] = []
    token: dict[str, str] = {}
    while True:
        answer = await rig.call(
            "DescribeInstanceTypeOfferings", LocationType="availability-zone", MaxResults=100, **token
        )
        seen += [(each["InstanceType"], each["Location"]) for each in answer["InstanceTypeOfferings"]]
        if "NextToken" not in answer:
            break
        token = {"NextToken": answer["NextToken"]}
    assert len(seen) == len(set(seen)) == 3 * len(TYPES)
