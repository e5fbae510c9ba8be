"""DescribeRegions and DescribeAvailabilityZones: the one region that a cloud is, and its zones."""

from __future__ import annotations

from typing import Any

from gureum.errors import ApiError
from gureum.services.ec2.faults import invalid_value
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.zones import zone_ids
from gureum.services.operation import Context, Input, Output, operation

_REGION_FILTERS = Filters(
    {"endpoint": "Endpoint", "opt-in-status": "OptInStatus", "region-name": "RegionName"}, tags=False
)
_ZONE_FILTERS = Filters(
    {
        "group-long-name": "GroupLongName",
        "group-name": "GroupName",
        "message": "Messages[].Message",
        "opt-in-status": "OptInStatus",
        "parent-zone-id": "ParentZoneId",
        "parent-zone-name": "ParentZoneName",
        "region-name": "RegionName",
        "state": "State",
        "zone-id": "ZoneId",
        "zone-name": "ZoneName",
        "zone-type": "ZoneType",
    },
    tags=False,
)


@operation("ec2", "DescribeRegions")
async def describe_regions(ctx: Context, input: Input) -> Output:
    query = _REGION_FILTERS.parse(input.get("Filters"))
    region = ctx.cloud.region
    absent = [name for name in input.get("RegionNames") or () if name != region]
    if absent:
        raise invalid_value(f"Invalid region names provided: {', '.join(absent)}")
    item = {
        "RegionName": region,
        "Endpoint": f"ec2.{region}.amazonaws.com",
        "OptInStatus": "opt-in-not-required",
    }
    return {"Regions": [item] if query.matches(item) else []}


@operation("ec2", "DescribeAvailabilityZones")
async def describe_availability_zones(ctx: Context, input: Input) -> Output:
    query = _ZONE_FILTERS.parse(input.get("Filters"))
    region = ctx.cloud.region
    ids = zone_ids(ctx.cloud)
    absent = [name for name in input.get("ZoneNames") or () if name not in ids]
    if absent:
        raise invalid_value(f"Invalid availability zone: [{', '.join(absent)}]")
    absent = [id for id in input.get("ZoneIds") or () if id not in ids.values()]
    if absent:
        raise ApiError("InvalidParameterValue", f"Invalid availability zone-id: [{', '.join(absent)}]")
    names, wanted_ids = input.get("ZoneNames") or ids, input.get("ZoneIds") or ids.values()
    items = [_zone(name, id, region) for name, id in ids.items() if name in names and id in wanted_ids]
    return {"AvailabilityZones": [item for item in items if query.matches(item)]}


def _zone(name: str, id: str, region: str) -> dict[str, Any]:
    return {
        "State": "available",
        "OptInStatus": "opt-in-not-required",
        "Messages": [],
        "RegionName": region,
        "ZoneName": name,
        "ZoneId": id,
        "GroupName": f"{region}-zg-1",
        "NetworkBorderGroup": region,
        "ZoneType": "availability-zone",
    }
