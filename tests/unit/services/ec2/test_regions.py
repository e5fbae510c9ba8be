from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gureum.services.ec2.zones import region_code

if TYPE_CHECKING:
    from ..conftest import Rig


@pytest.mark.parametrize(
    ("region", "code"),
    [("us-east-1", "use1"), ("ap-southeast-2", "apse2"), ("eu-central-1", "euc1"), ("lab-1", "lab1")],
)
def test_region_code(region: str, code: str) -> None:
    assert region_code(region) == code


async def test_regions(rig: Rig) -> None:
    [region] = (await rig.call("DescribeRegions"))["Regions"]
    assert region["RegionName"] == "us-east-1"
    assert (await rig.call("DescribeRegions", RegionNames=["us-east-1"]))["Regions"] == [region]
    filters = [{"Name": "region-name", "Values": ["eu-*"]}]
    assert (await rig.call("DescribeRegions", Filters=filters))["Regions"] == []
    await rig.fails("InvalidParameterValue", "DescribeRegions", RegionNames=["mars-1"])


async def test_zones(rig: Rig) -> None:
    zones = (await rig.call("DescribeAvailabilityZones"))["AvailabilityZones"]
    assert {zone["ZoneName"]: zone["ZoneId"] for zone in zones} == {
        "us-east-1a": "use1-az1",
        "us-east-1b": "use1-az2",
        "us-east-1c": "use1-az3",
    }
    assert {zone["State"] for zone in zones} == {"available"}
    for input in (
        {"ZoneNames": ["us-east-1b"]},
        {"ZoneIds": ["use1-az2"]},
        {"Filters": [{"Name": "zone-name", "Values": ["*b"]}]},
    ):
        assert (await rig.call("DescribeAvailabilityZones", **input))["AvailabilityZones"] == [zones[1]]
    await rig.fails("InvalidParameterValue", "DescribeAvailabilityZones", ZoneNames=["mars-1a"])
    await rig.fails("InvalidParameterValue", "DescribeAvailabilityZones", ZoneIds=["mars-az1"])
