"""Upgrades, as they are asked for; how they go is in tests/unit/control/test_upgrades.py."""

from __future__ import annotations

from typing import Any

import pytest

from gureum.resources import Host, HostState, Upgrade, UpgradeState
from gureum.services.fleet.upgrades import KEPT_MAX


def host(id: str, **values: Any) -> Host:
    return Host(id=id, **{"zone": "", "state": HostState.up, **values})


@pytest.fixture
async def hosts(fleet: Any) -> Any:
    await fleet.put(
        host("host-1", gureum_version="0.6.0"), host("host-2"), host("host-3", state=HostState.down)
    )


async def test_one_at_a_time(fleet: Any, hosts: Any) -> None:
    started = (await fleet.call("StartUpgrade", HostIds=["host-2", "host-1"]))["Upgrade"]
    assert (started["State"], started["AtOnce"], started["WaitSeconds"]) == ("running", 1, 600)
    assert [(each["HostId"], each["Step"]) for each in started["Hosts"]] == [
        ("host-2", "waiting"),
        ("host-1", "waiting"),
    ]
    refused = await fleet.refused("InvalidHostStateException", "StartUpgrade", HostIds=["host-1"])
    assert f"{started['UpgradeId']} is under way" in str(refused)
    for _ in range(2):
        cancelled = (await fleet.call("CancelUpgrade", UpgradeId=started["UpgradeId"]))["Upgrade"]
        assert (cancelled["State"], cancelled["EndTime"] is None) == ("cancelled", False)
    await fleet.call("StartUpgrade", HostIds=["host-1"], Evacuate=True, Reboots=True, AtOnce=2)
    shown = (await fleet.call("DescribeUpgrades"))["Upgrades"]
    assert [each["State"] for each in shown] == ["running", "cancelled"]
    assert (shown[0]["Evacuate"], shown[0]["Reboots"], shown[0]["AtOnce"]) == (True, True, 2)


@pytest.mark.parametrize(
    ("code", "words", "input"),
    [
        ("InvalidParameterValueException", "once", {"HostIds": []}),
        ("InvalidParameterValueException", "once", {"HostIds": ["host-1", "host-1"]}),
        ("InvalidParameterValueException", "takes Evacuate", {"HostIds": ["host-1"], "Reboots": True}),
        ("InvalidParameterValueException", "AtOnce", {"HostIds": ["host-1"], "AtOnce": 101}),
        ("InvalidParameterValueException", "WaitSeconds", {"HostIds": ["host-1"], "WaitSeconds": 1}),
        ("ResourceNotFoundException", "host-9", {"HostIds": ["host-1", "host-9"]}),
        ("InvalidHostStateException", "host-3 is down", {"HostIds": ["host-1", "host-3"]}),
    ],
)
async def test_what_is_refused(fleet: Any, hosts: Any, code: str, words: str, input: dict[str, Any]) -> None:
    assert words in str(await fleet.refused(code, "StartUpgrade", **input))


async def test_without_a_command_no_host_is_emptied_for_it(fleet: Any, hosts: Any, rig: Any) -> None:
    rig.hosts.upgrades.hook.lacks = "there is no command /x/hooks/upgrade-host"
    refused = await fleet.refused(
        "InvalidHostStateException", "StartUpgrade", HostIds=["host-1"], Evacuate=True
    )
    assert "there is no command /x/hooks/upgrade-host" in str(refused)
    await fleet.call("StartUpgrade", HostIds=["host-1"])  # the agent alone takes none


async def test_few_are_remembered(fleet: Any, hosts: Any) -> None:
    await fleet.put(
        *(
            Upgrade(id=f"upg-{n}", state=UpgradeState.failed, hosts=(), wait_seconds=1.0, began=float(n))
            for n in range(KEPT_MAX + 3)
        )
    )
    await fleet.call("StartUpgrade", HostIds=["host-1"])
    shown = (await fleet.call("DescribeUpgrades"))["Upgrades"]
    assert len(shown) == KEPT_MAX
    assert shown[-1]["UpgradeId"] == f"upg-{KEPT_MAX + 3 - KEPT_MAX + 1}"
    await fleet.refused("ResourceNotFoundException", "CancelUpgrade", UpgradeId="upg-0")


async def test_hosts_say_their_version(fleet: Any, hosts: Any) -> None:
    [one, other] = (await fleet.call("DescribeHosts", HostIds=["host-1", "host-2"]))["Hosts"]
    assert (one["Version"], other.get("Version")) == ("0.6.0", None)
