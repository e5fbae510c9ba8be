"""Loads and recommendations by the Fleet API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gureum.control.balance import Cost, Level, Move
from gureum.control.balancer import Assessment, HostLoad
from gureum.control.emptying import Departure, Way
from gureum.control.resting import Rest
from gureum.resources import BalanceMode, FleetSettings

if TYPE_CHECKING:
    from .conftest import Fleet

GIB = 1 << 30
MOVE = Move(
    "i-1", "host-1", "host-2", Level(0.93, 0.1), Level(0.2, 0.1), False, 1.234, Cost(4 * GIB, 16.04, 42.0)
)
FOUND = Assessment(
    1_800_000_000.0,
    (
        HostLoad("host-3", False),
        HostLoad("host-1", True, Level(0.931, 0.5), Level(0.4, 0.01), True, 75.5, ""),
        HostLoad("host-2", True, Level(0.2, 0.1), stays=""),
    ),
    0.365,
    (MOVE,),
    "host host-9 was lost",
)


async def test_nothing_was_looked_at_yet(fleet: Fleet) -> None:
    assert await fleet.call("DescribeRecommendations") == {
        "BalanceMode": "recommend",
        "Rebalancing": False,
        "ImbalancePercent": 0.0,
        "HostLoads": [],
        "Recommendations": [],
        "HostsToEmpty": [],
    }


async def test_what_was_found(fleet: Fleet) -> None:
    fleet.rig.hosts.assessment = FOUND
    answer = await fleet.call("DescribeRecommendations")
    assert answer["AssessedAt"].timestamp() == FOUND.at
    assert (answer["ImbalancePercent"], answer["HeldBecause"]) == (36.5, "host host-9 was lost")
    assert answer["HostLoads"] == [
        {
            "HostId": "host-1",
            "Measured": True,
            "CpuPercent": 93.1,
            "MemoryPercent": 50.0,
            "CpuPressurePercent": 40.0,
            "MemoryPressurePercent": 1.0,
            "HotSeconds": 75,
        },
        {
            "HostId": "host-2",
            "Measured": True,
            "CpuPercent": 20.0,
            "MemoryPercent": 10.0,
            "CpuPressurePercent": 0.0,
            "MemoryPressurePercent": 0.0,
        },
        {"HostId": "host-3", "Measured": False},
    ]
    assert answer["Recommendations"] == [
        {
            "InstanceId": "i-1",
            "SourceHostId": "host-1",
            "TargetHostId": "host-2",
            "Reason": "balancing: host-1 is at 93 % of its processors, host-2 at 20 %",
            "Gain": 1.23,
            "CopyBytes": 4 * GIB,
            "CopySeconds": 16.0,
            "PaysBackSeconds": 34,
        }
    ]


async def test_hosts_that_could_be_emptied(fleet: Fleet) -> None:
    moves = (
        Departure("i-1", "host-2", Cost(4 * GIB, 16.04, 42.0)),
        Departure("i-2", "host-3", Cost(2 * GIB, 8.0, 26.0)),
    )
    way = Way("host-1", 4.0, moves)
    rests = (Rest("host-1", "2 instances are there", way), Rest("host-2", "i-3 is there"))
    fleet.rig.hosts.power.found = rests
    [found] = (await fleet.call("DescribeRecommendations"))["HostsToEmpty"]
    first, second = found.pop("Moves")
    assert found == {
        "HostId": "host-1",
        "Reason": "all 2 instances there find room on 2 other hosts (6 GiB to copy in 12 s)",
        "CopyBytes": 6 * GIB,
        "CopySeconds": 12.0,
        "PaysBackSeconds": 17,
    }
    assert first == {
        "InstanceId": "i-1",
        "SourceHostId": "host-1",
        "TargetHostId": "host-2",
        "CopyBytes": 4 * GIB,
        "CopySeconds": 16.0,
    }
    assert second["TargetHostId"] == "host-3"


async def test_the_mode_is_a_setting_of_the_fleet(fleet: Fleet) -> None:
    await fleet.call("Rebalance")
    changed = await fleet.call("ModifyFleetSettings", BalanceMode="automatic")
    assert changed["Settings"]["BalanceMode"] == "automatic"
    assert (await fleet.call("DescribeFleetSettings")) == changed
    [settings] = await fleet.find(FleetSettings)
    assert (settings.balance, settings.rebalance) == (BalanceMode.automatic, 0.0)
    await fleet.call("ModifyFleetSettings", CpuOvercommit=2.0)
    assert (await fleet.call("DescribeRecommendations"))["BalanceMode"] == "automatic"
    # It is being done already.
    assert (await fleet.call("Rebalance"))["Rebalancing"] is False


async def test_once(fleet: Fleet) -> None:
    assert (await fleet.call("Rebalance"))["Rebalancing"] is True
    [first] = await fleet.find(FleetSettings)
    assert first.rebalance == fleet.rig.time
    fleet.rig.time += 5
    await fleet.call("Rebalance")
    assert await fleet.find(FleetSettings) == [first]
