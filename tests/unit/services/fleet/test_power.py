"""Hosts' power by the Fleet API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from gureum.control.emptying import Way
from gureum.control.fence_agents import MACHINE_HOST, Action, Answer, opened
from gureum.control.resting import Rest
from gureum.resources import (
    FleetSettings,
    Host,
    HostCertificate,
    HostPower,
    HostState,
    ManagerMachine,
    Park,
    ParkState,
    PowerMode,
)
from gureum.services.operation import OPERATIONS, Later

from .test_hosts import host

if TYPE_CHECKING:
    from .conftest import Fleet

UNSAFE = (
    *("password_script", "passwd-script", "snmp_priv_passwd_script", "ipmitool-path", "ssh_path", "exec"),
    *("ssh-options", "ssh_options", "debug", "Debug_File", "identity-file", "logfile", "kubeconfig"),
)
INVALID, WRONG = "InvalidParameterValueException", "InvalidHostStateException"
GIB = 1 << 30


def large(id: str, **values: Any) -> Host:
    return host(id, cpus=4, memory_bytes=17 * GIB, **values)


async def test_a_host_gets_an_agent_whose_secrets_nobody_is_shown(fleet: Fleet) -> None:
    await fleet.put(host())
    said = {"Agent": "fence_known", "Options": {"ip": "192.0.2.9"}, "Secrets": {"password": "s3cret"}}
    shown = (await fleet.call("ModifyHostPower", HostId="host-1", **said))["HostPower"]
    assert shown == {
        "HostId": "host-1",
        "PowerState": "awake",
        "CouldBeParked": False,
        "CouldBeEmptied": False,
        "Failures": 0,
        "Agent": "fence_known",
        "Options": {"ip": "192.0.2.9"},
        "HasSecrets": True,
        "WakeSeconds": 600,
    }
    power = await fleet.get(HostPower, "host-1")
    assert opened(fleet.rig.keys, power) == {"password": "s3cret"}
    await fleet.call("ModifyHostPower", HostId="host-1", WakeSeconds=90)
    again = await fleet.get(HostPower, "host-1")
    assert (again.options, again.sealed, again.wake_seconds) == (power.options, power.sealed, 90.0)
    assert (await fleet.call("DescribeHostPower"))["HostPowers"][0]["WakeSeconds"] == 90


async def test_secrets_are_not_sent_elsewhere(fleet: Fleet) -> None:
    await fleet.put(host())
    said = {"HostId": "host-1", "Agent": "fence_known", "Options": {"ip": "192.0.2.9"}}
    await fleet.call("ModifyHostPower", **said, Secrets={"password": "s3cret"})
    await fleet.call("ModifyHostPower", **said)
    said["Options"] = {"ip": "192.0.2.66"}
    assert "Secrets again" in str(await fleet.refused(INVALID, "ModifyHostPower", **said))
    shown = (await fleet.call("ModifyHostPower", **said, Secrets={}))["HostPower"]
    assert (shown["HasSecrets"], shown["Options"]) == (False, {"ip": "192.0.2.66"})


async def test_no_two_hosts_have_the_same_plug(fleet: Fleet) -> None:
    await fleet.put(host("host-1"), host("host-2"))
    said = {"Agent": "fence_known", "Options": {"ip": "192.0.2.9"}}
    for _ in range(2):
        await fleet.call("ModifyHostPower", HostId="host-1", **said)
    refused = await fleet.refused(INVALID, "ModifyHostPower", HostId="host-2", **said)
    assert "fence_known switches host host-1" in str(refused)
    await fleet.call("ModifyHostPower", HostId="host-2", **said | {"Options": {"ip": "192.0.2.8"}})


async def test_a_doubt_ends_when_it_is_said_anew_how_a_host_is_switched(fleet: Fleet) -> None:
    await fleet.put(host(), HostPower(id="host-1", agent="fence_known", doubted=True))
    await fleet.call("ModifyHostPower", HostId="host-1", Options={"ip": "192.0.2.9"})
    assert not (await fleet.get(HostPower, "host-1")).doubted


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "Agent is the name"),
        ({"Agent": "/bin/sh"}, "Agent is the name"),
        ({"Agent": "fence_other"}, "there is no fence agent 'fence_other'"),
        ({"Agent": "fence_known", "Options": {"action": "off"}}, "'action' is no option"),
        ({"Agent": "fence_known", "Options": {"a b": "c"}}, "'a b' is no option"),
        ({"Agent": "fence_known", "Options": {"ip": "1\naction=off"}}, "The value of ip"),
        ({"Agent": "fence_known", "Options": {"password": "x"}}, "password is to be among the Secrets"),
        ({"Agent": "fence_known", "Options": {"snmp-community": "x"}}, "snmp-community is to be among"),
        ({"Agent": "fence_known", "Options": {"api-token": "x"}}, "api-token is to be among the Secrets"),
        ({"Agent": "fence_known", "Secrets": {"password": "x\ny"}}, "The value of password"),
        ({"Agent": "fence_known", "Options": {"ip": "x" * 20000}}, "too many options"),
        *(
            ({"Agent": "fence_known", given: {name: "/tmp/x"}}, f"{name} would let an agent start programs")
            for given in ("Options", "Secrets")
            for name in UNSAFE
        ),
        ({"Agent": "fence_known", "WakeSeconds": 0}, "WakeSeconds is 0"),
    ],
)
async def test_what_no_agent_could_be_told(fleet: Fleet, said: dict[str, Any], why: str) -> None:
    await fleet.put(host())
    assert why in str(await fleet.refused(INVALID, "ModifyHostPower", HostId="host-1", **said))
    await fleet.refused("ResourceNotFoundException", "ModifyHostPower", HostId="host-9", **said)


async def test_what_agents_need_is_no_program(fleet: Fleet) -> None:
    await fleet.put(host())
    usual = ("ip", "plug", "username", "lanplus", "ssl_insecure", "systems_uri", "power_wait", "snmp_version")
    said = {"Agent": "fence_known", "Options": dict.fromkeys(usual, "1")}
    assert (await fleet.call("ModifyHostPower", HostId="host-1", **said))["HostPower"]["Options"]


async def test_its_agent_is_asked_whether_it_is_on(fleet: Fleet) -> None:
    await fleet.put(host())
    await fleet.refused(WRONG, "TestHostPower", HostId="host-1")
    await fleet.put(HostPower(id="host-1", agent="fence_known"))
    assert await fleet.call("TestHostPower", HostId="host-1") == {"On": True}
    fleet.rig.hosts.power.answer = Answer("fence_known: it is away")
    assert await fleet.call("TestHostPower", HostId="host-1") == {"Message": "fence_known: it is away"}
    assert {action for _, action, _ in fleet.rig.hosts.power.asked} == {Action.status}


async def test_no_read_of_the_store_waits_for_its_agent(fleet: Fleet) -> None:
    await fleet.put(host(), HostPower(id="host-1", agent="fence_known"))
    async with fleet.rig.store.read() as reader:
        operation = OPERATIONS["fleet", "TestHostPower"]
        later = await operation.handler(fleet.rig.context(reader), {"HostId": "host-1"})
        assert isinstance(later, Later)
        assert fleet.rig.hosts.power.asked == []


async def test_the_machine_of_a_manager_stays_on(fleet: Fleet) -> None:
    await fleet.put(replace(large("host-1"), address="192.0.2.2"), large("host-2"))
    await fleet.put(*(large(name, zone="") for name in ("third", "host-3", "host-4")))
    for id, address in (("second", "192.0.2.2"), ("third", "192.0.2.3")):
        await fleet.put(ManagerMachine(id=id, agents=f"{address}:4567", endpoint=f"https://{address}"))
    agents = dict.fromkeys(("host-1", "host-2", "third", "host-3"), "fence_known")
    agents["host-4"] = MACHINE_HOST
    await fleet.put(*(HostPower(id=id, agent=agent) for id, agent in agents.items()))
    for name in ("host-3", "host-4"):
        await fleet.put(HostCertificate(id=f"of {name}", host=name, zone="", expires=1e12, own=True))
    for name in ("host-1", "third", "host-3"):
        assert "a manager is there" in str(await fleet.refused(WRONG, "ParkHost", HostId=name)), name
    await fleet.call("ParkHost", HostId="host-2")
    await fleet.call("WakeHost", HostId="host-2")
    await fleet.call("ParkHost", HostId="host-4")


async def test_a_host_is_parked_and_woken(fleet: Fleet) -> None:
    await fleet.put(large("host-1"), large("host-2"))
    assert "gureum host power" in str(await fleet.refused(WRONG, "ParkHost", HostId="host-1"))
    await fleet.put(*(HostPower(id=f"host-{number}", agent="fence_known") for number in (1, 2)))
    assert (await fleet.call("ParkHost", HostId="host-1"))["Host"]["PowerState"] == "parking"
    assert "it is down" not in str(await fleet.refused(WRONG, "ParkHost", HostId="host-2"))
    shown = (await fleet.call("DescribeHosts", HostIds=["host-1"]))["Hosts"][0]
    assert "somebody asked for it" in shown["StateReason"]
    await fleet.refused(WRONG, "ModifyHostPower", HostId="host-1", Remove=True)
    assert (await fleet.call("WakeHost", HostId="host-1"))["Host"]["PowerState"] == "waking"
    assert (await fleet.call("WakeHost", HostId="host-2"))["Host"]["PowerState"] == "awake"
    await fleet.rig.change(Host, "host-2", state=HostState.down)
    assert "not parked" in str(await fleet.refused(WRONG, "WakeHost", HostId="host-2"))
    await fleet.call("ModifyHostPower", HostId="host-2", Remove=True)
    assert [power.id for power in await fleet.find(HostPower)] == ["host-1"]


async def test_why_hosts_are_on(fleet: Fleet) -> None:
    await fleet.put(host("host-1"), host("host-2"))
    await fleet.put(host("host-3"))
    way = Way("host-3", 4.0, ())
    fleet.rig.hosts.power.found = (
        Rest("host-1", ""),
        Rest("host-2", "i-1 is there"),
        Rest("host-3", "i-2 is there; it finds room", way),
    )
    found = (await fleet.call("DescribeHostPower"))["HostPowers"]
    assert [(each["CouldBeParked"], each["CouldBeEmptied"], each.get("Reason")) for each in found] == [
        (True, False, None),
        (False, False, "i-1 is there"),
        (False, True, "i-2 is there; it finds room"),
    ]


async def test_one_that_is_emptied_goes_on_when_somebody_says_so(fleet: Fleet) -> None:
    park = Park(state=ParkState.emptying, reason="all finds room elsewhere", since=0.0)
    for call, said in (("WakeHost", {}), ("ActivateHost", {})):
        name = f"host-{call}"
        await fleet.put(large(name, park=park), HostPower(id=name, agent="fence_known"))
        shown = (await fleet.call("ParkHost", HostId=name))["Host"]
        assert (shown["PowerState"], shown["State"]) == ("emptying", "up"), "it is about to be"
        shown = (await fleet.call(call, HostId=name, **said))["Host"]
        assert (shown["PowerState"], shown["Draining"]) == ("awake", False)
        assert (await fleet.get(HostPower, name)).setback is not None


async def test_one_that_is_emptied_can_be_upgraded_and_revoked(fleet: Fleet) -> None:
    park = Park(state=ParkState.emptying, reason="all finds room elsewhere", since=0.0)
    await fleet.put(large("host-1", park=park))
    await fleet.put(HostCertificate(id="1", host="host-1", zone="", expires=2e9))
    await fleet.call("StartUpgrade", HostIds=["host-1"])
    await fleet.call("RevokeHost", HostId="host-1")
    assert (await fleet.get(Host, "host-1")).park is None


async def test_the_fleet_says_when_hosts_are_parked(fleet: Fleet) -> None:
    said = {
        "PowerMode": "automatic",
        "FencePower": "reboot",
        "RestSeconds": 120,
        "AwakeHosts": 2,
        "HeadroomPercent": 25,
        "EmptyHosts": True,
    }
    shown = (await fleet.call("ModifyFleetSettings", **said))["Settings"]
    assert {key: shown[key] for key in said} == said
    (settings,) = await fleet.find(FleetSettings)
    assert (settings.power, settings.rest_seconds) == (PowerMode.automatic, 120.0)
    assert (settings.awake_min, settings.headroom, settings.empties) == (2, 0.25, True)
    assert not (await fleet.call("ModifyFleetSettings", EmptyHosts=False))["Settings"]["EmptyHosts"]
    for name, value in (
        ("PowerMode", "on"),
        ("FencePower", "on"),
        ("RestSeconds", 5),
        ("AwakeHosts", 0),
        ("HeadroomPercent", 91),
    ):
        await fleet.refused(INVALID, "ModifyFleetSettings", **{name: value})


async def test_a_launch_is_granted_for_which_a_host_is_woken(fleet: Fleet) -> None:
    park = Park(state=ParkState.parked, reason="", since=0.0)
    await fleet.put(large("host-1", zone="us-east-1a"))
    await fleet.put(large("host-2", zone="us-east-1a", state=HostState.down, park=park))
    assert await room(fleet, "m5.large") == 1
    await fleet.call("ModifyFleetSettings", PowerMode="automatic")
    assert await room(fleet, "m5.large") == 2
    await fleet.rig.change(Host, "host-2", park=replace(park, again=9.0))
    assert await room(fleet, "m5.large") == 1, "it did not come when it was woken"


async def room(fleet: Fleet, type: str) -> int:
    found = await fleet.call("DescribeLaunchCapacity", InstanceTypes=[type], Zone="us-east-1a")
    count: int = found["Capacities"][0]["Count"]
    return count
