"""DescribePools, CheckPool and RepairPool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from gureum.san.ceph.audit import Action, Finding

if TYPE_CHECKING:
    from .conftest import Fleet

ORPHAN = Finding(line="vol-1 is nobody's", action=Action.delete_volume, id="vol-1")
LOST = Finding(line="vol-2 is lost", id="vol-2")
TRASH = Finding(line="vol-3 waits in the trash", id="vol-3", note=True)


@pytest.fixture
def shared(fleet: Fleet) -> Fleet:
    fleet.rig.cloud = replace(fleet.rig.cloud, pool="gureum")
    fleet.rig.hosts.pools.found = {
        ("local", "h1"): [],
        ("local", "h2"): [],
        ("gureum", "h1"): [ORPHAN, LOST, TRASH],
    }
    return fleet


async def test_each_pool_has_a_host_that_can_be_asked(shared: Fleet) -> None:
    answer = await shared.call("DescribePools")
    assert answer["Pools"] == [
        {"PoolName": "local", "HostId": "h1", "Shared": False},
        {"PoolName": "local", "HostId": "h2", "Shared": False},
        {"PoolName": "gureum", "HostId": "h1", "Shared": True},
    ]


async def test_findings_say_what_a_repair_would_do(shared: Fleet) -> None:
    found = (await shared.call("CheckPool", PoolName="gureum"))["Findings"]
    assert [(each.get("FindingId"), each["Problem"], each.get("Repair")) for each in found] == [
        ("delete_volume/vol-1", True, "delete the volume"),
        (None, True, None),
        (None, False, None),
    ]


async def test_pages(shared: Fleet) -> None:
    shared.rig.hosts.pools.more = {"": "vol-1"}
    first = await shared.call("CheckPool", PoolName="gureum")
    second = await shared.call("CheckPool", PoolName="gureum", NextToken=first["NextToken"])
    assert [each["ResourceId"] for each in second["Findings"]] == ["vol-2", "vol-3"]
    assert "NextToken" not in second
    await shared.refused("InvalidNextToken", "CheckPool", PoolName="gureum", NextToken="x")


async def test_only_what_is_named_is_repaired(shared: Fleet) -> None:
    answer = await shared.call("RepairPool", PoolName="gureum", FindingIds=["delete_volume/vol-9"])
    assert answer["Repaired"] == []
    answer = await shared.call("RepairPool", PoolName="gureum", FindingIds=["delete_volume/vol-1"])
    assert [each["ResourceId"] for each in answer["Repaired"]] == ["vol-1"]
    assert ORPHAN not in shared.rig.hosts.pools.found["gureum", "h1"]


async def test_what_cannot_be_looked_at(shared: Fleet) -> None:
    await shared.refused("InvalidParameterValueException", "CheckPool", PoolName="nowhere")
    await shared.refused("InvalidParameterValueException", "CheckPool", PoolName="local")
    shared.rig.hosts.pools.down = True
    await shared.refused("PoolUnavailableException", "CheckPool", PoolName="gureum")
