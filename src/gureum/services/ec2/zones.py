"""Availability zones and their ids."""

from __future__ import annotations

from gureum.services.ec2.faults import invalid_value
from gureum.services.operation import Cloud

_DIRECTIONS = {
    "north": "n", "south": "s", "east": "e", "west": "w", "central": "c",
    "northeast": "ne", "northwest": "nw", "southeast": "se", "southwest": "sw",
}  # fmt: skip


def region_code(region: str) -> str:
    """A region as zone ids abbreviate it: ``us-east-1`` is ``use1``, ``ap-southeast-2`` is ``apse2``."""
    return "".join(_DIRECTIONS.get(part, part) for part in region.split("-"))


def zone_ids(cloud: Cloud) -> dict[str, str]:
    """Zone id by zone name, e.g. ``use1-az1`` for ``us-east-1a``."""
    code = region_code(cloud.region)
    return {zone: f"{code}-az{number}" for number, zone in enumerate(cloud.zones, 1)}


def chosen_zone(cloud: Cloud, name: str | None, id: str | None) -> str:
    """The zone that a request names by name or id, "" if by neither."""
    if name and id:
        raise invalid_value("Specify an Availability Zone name or an Availability Zone ID, not both.")
    if id:
        by_id = {value: zone for zone, value in zone_ids(cloud).items()}
        if id not in by_id:
            raise invalid_value(f"Invalid availability zone-id: [{id}]")
        return by_id[id]
    if name and name not in cloud.zones:
        raise invalid_value(f"Invalid availability zone: [{name}]")
    return name or ""
