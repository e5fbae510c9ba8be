from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import machines
from gureum.control.keys import KeyStore
from gureum.resources import (
    Host,
    HostCertificate,
    HostPower,
    HostState,
    HostToken,
    ManagerMachine,
    Park,
    ParkState,
)
from gureum.services.operation import Joining
from gureum.transport import token

FINGERPRINT = "ab" * 32


async def test_a_token_for_a_manager(fleet: Any) -> None:
    """Made by who has the master key: an access key alone buys no more than it is."""
    keys, now = fleet.rig.keys, int(fleet.rig.time)

    def sealed(id: str = "ab", expires: int = now + 120, by: KeyStore = keys) -> dict[str, Any]:
        return {"TokenId": id, "Expires": expires, "Seal": token.manager_seal(by.sign, id, expires)}

    error = await fleet.refused("NotListeningException", "CreateManagerToken", **sealed())
    assert "--agents-address" in error.message
    fleet.rig.hosts.joining = Joining("https://192.0.2.1:4567", FINGERPRINT)
    error = await fleet.refused("NotListeningException", "CreateManagerToken", **sealed())
    assert "--store" in error.message
    fleet.rig.hosts.joining = Joining("https://192.0.2.1:4567", FINGERPRINT, "first")
    for wrong in (
        sealed(by=KeyStore(b"n" * 32)),
        sealed() | {"TokenId": "cd"},
        sealed() | {"Expires": now + 121},
        sealed() | {"Seal": "\u00e9"},
    ):
        error = await fleet.refused("InvalidParameterValueException", "CreateManagerToken", **wrong)
        assert "gureum manager token" in error.message
    for expires in (now, now + 2 * 3600):
        error = await fleet.refused(
            "InvalidParameterValueException", "CreateManagerToken", **sealed(expires=expires)
        )
        assert "within 3600 seconds" in error.message
    made = await fleet.call("CreateManagerToken", **sealed())
    assert made == {"Fingerprint": FINGERPRINT, "Url": "https://192.0.2.1:4567"}
    (kept,) = await fleet.find(HostToken)
    assert (kept.id, kept.manager, kept.expires) == ("ab", True, now + 120)
    assert kept.seal == sealed()["Seal"]


async def test_machines_with_managers(fleet: Any) -> None:
    assert (await fleet.call("DescribeManagers"))["Managers"] == []
    fleet.rig.hosts.joining = Joining("https://192.0.2.1:4567", FINGERPRINT, "first")
    await fleet.put(
        *(ManagerMachine(id=id, agents=f"{id}:4567", endpoint=f"https://{id}") for id in ("first", "second"))
    )
    found = (await fleet.call("DescribeManagers"))["Managers"]
    assert [(each["ManagerId"], each["Leads"]) for each in found] == [("first", True), ("second", False)]
    assert (found[1]["AgentsAddress"], found[1]["Endpoint"]) == ("second:4567", "https://second")
    assert [each["State"] for each in found] == ["leading", "silent"]
    assert "LastSeen" not in found[1]
    await fleet.refused("InvalidStateException", "RemoveManager", ManagerId="first")
    await fleet.refused("ResourceNotFoundException", "RemoveManager", ManagerId="third")
    await fleet.call("RemoveManager", ManagerId="second")
    assert [each.id for each in await fleet.find(ManagerMachine)] == ["first"]


async def test_which_machines_are_alive(fleet: Any) -> None:
    now = fleet.rig.time
    seen = {"second": now - 4.0, "third": now - 15.0}
    fleet.rig.hosts.joining = Joining("https://192.0.2.1:4567", FINGERPRINT, "first", seen)
    await fleet.put(
        *(
            ManagerMachine(id=id, agents=f"{id}:4567", endpoint=f"https://{id}")
            for id in ("first", "fourth", "second", "third")
        )
    )
    found = {each["ManagerId"]: each for each in (await fleet.call("DescribeManagers"))["Managers"]}
    states = {id: each["State"] for id, each in found.items()}
    assert states == {"first": "leading", "fourth": "silent", "second": "standing-by", "third": "silent"}
    assert found["third"]["LastSeen"].timestamp() == pytest.approx(now - 15.0)
    assert found["first"]["LastSeen"].timestamp() == pytest.approx(now)


async def test_a_machine_is_revoked_for_ever(fleet: Any) -> None:
    fleet.rig.hosts.joining = Joining("https://192.0.2.1:4567", FINGERPRINT, "first")
    await fleet.put(
        *(ManagerMachine(id=id, agents=f"{id}:4567", endpoint=f"https://{id}") for id in ("first", "second")),
        HostToken(id="ab", zone="", expires=fleet.rig.time + 60, manager=True),
        HostToken(id="cd", zone="", expires=fleet.rig.time + 60),
    )
    error = await fleet.refused("InvalidStateException", "RevokeManager", ManagerId="first")
    assert "Let another lead first" in error.message
    await fleet.refused("ResourceNotFoundException", "RevokeManager", ManagerId="third")
    made = (await fleet.call("RevokeManager", ManagerId="second"))["Manager"]
    assert (made["ManagerId"], made["State"], made["Leads"]) == ("second", "revoked", False)
    assert await fleet.find(HostToken) == []  # they may be of its making
    assert [each.revoked for each in await fleet.find(ManagerMachine)] == [False, True]
    (event,) = (await fleet.call("DescribeEvents"))["Events"]
    assert (event["Name"], event["Severity"]) == ("ManagerRevoked", "warning")
    assert (await fleet.call("RevokeManager", ManagerId="second"))["Manager"]["State"] == "revoked"
    assert len((await fleet.call("DescribeEvents"))["Events"]) == 1
    error = await fleet.refused("InvalidStateException", "RemoveManager", ManagerId="second")
    assert "stays in the list" in error.message


async def test_tokens_made_after_a_revocation_are_void_after_the_next(fleet: Any) -> None:
    """Until the access key is changed, too, whoever had it makes others."""
    fleet.rig.hosts.joining = Joining("https://192.0.2.1:4567", FINGERPRINT, "first")
    await fleet.put(ManagerMachine(id="second", agents="second:4567", endpoint="https://second"))
    await fleet.call("RevokeManager", ManagerId="second")
    await fleet.put(
        HostToken(id="ab", zone="", expires=fleet.rig.time + 60, manager=True),
        HostToken(id="cd", zone="", expires=fleet.rig.time + 60),
    )
    await fleet.call("RevokeManager", ManagerId="second")
    assert await fleet.find(HostToken) == []


async def test_one_that_was_removed_can_be_revoked_all_the_same(fleet: Any) -> None:
    fleet.rig.hosts.joining = Joining("https://192.0.2.1:4567", FINGERPRINT, "first")
    first = ManagerMachine(id="first", agents="first:4567", endpoint="https://first", key="aa")
    await fleet.put(first, ManagerMachine(id="second", agents="s:4567", endpoint="https://s", key="bb"))
    await fleet.call("RemoveManager", ManagerId="second")
    assert machines.accepted(await fleet.find(ManagerMachine)) == ()  # its key would do
    error = await fleet.refused("ResourceNotFoundException", "RevokeManager", ManagerId="second")
    assert "gureum manager revoke --force" in error.message
    made = (await fleet.call("RevokeManager", ManagerId="second", Force=True))["Manager"]
    assert (made["ManagerId"], made["State"], made["AgentsAddress"]) == ("second", "revoked", "")
    found = await fleet.find(ManagerMachine)
    assert machines.accepted(found) == ("aa",)
    assert machines.addresses(found) == ("first:4567",)
    assert [each.revoked for each in found] == [False, True]
    await fleet.call("RevokeManager", ManagerId="second", Force=True)
    assert len((await fleet.call("DescribeEvents"))["Events"]) == 1
    await fleet.refused("InvalidStateException", "RevokeManager", ManagerId="first", Force=True)


async def test_a_name_that_was_mistyped_can_be_removed(fleet: Any) -> None:
    """One that was seen as a machine stays revoked, whatever is said."""
    fleet.rig.hosts.joining = Joining("https://192.0.2.1:4567", FINGERPRINT, "first")
    first = ManagerMachine(id="first", agents="first:4567", endpoint="https://first", key="aa")
    second = ManagerMachine(id="second", agents="s:4567", endpoint="https://s", key="")
    await fleet.put(first, second)
    assert machines.accepted(await fleet.find(ManagerMachine)) == (), "the second has not said its key yet"
    await fleet.call("RevokeManager", ManagerId="secnod", Force=True)
    assert machines.accepted(await fleet.find(ManagerMachine)) == ("aa",)
    error = await fleet.refused("InvalidStateException", "RemoveManager", ManagerId="secnod")
    assert "gureum manager remove secnod --force" in error.message
    await fleet.call("RemoveManager", ManagerId="secnod", Force=True)
    assert machines.accepted(await fleet.find(ManagerMachine)) == ()
    events = (await fleet.call("DescribeEvents"))["Events"]
    assert {each["Name"] for each in events} == {"ManagerRevoked", "ManagerForgotten"}
    await fleet.call("RevokeManager", ManagerId="second")
    await fleet.refused("InvalidStateException", "RemoveManager", ManagerId="second", Force=True)
    assert [each.id for each in await fleet.find(ManagerMachine)] == ["first", "second"]


async def test_a_revocation_says_which_hosts_need_something_done(fleet: Any) -> None:
    now = fleet.rig.time
    fleet.rig.hosts.joining = Joining("https://192.0.2.1:4567", FINGERPRINT, "first")
    park = Park(reason="", since=now)
    await fleet.put(
        ManagerMachine(id="second", agents="second:4567", endpoint="https://second"),
        Host(id="h1", zone="ra", state=HostState.up),
        Host(id="h2", zone="ra", state=HostState.down),
        Host(id="h3", zone="ra", state=HostState.up, park=replace(park, state=ParkState.parked)),
        Host(id="h4", zone="ra", state=HostState.up, park=replace(park, state=ParkState.emptying)),
        HostCertificate(id="1", host="h1", zone="ra", expires=now + 60, key="aa"),
        HostCertificate(id="2", host="h2", zone="ra", expires=now + 60),
        HostCertificate(id="3", host="h3", zone="ra", expires=now - 60),
        HostCertificate(id="4", host="h4", zone="ra", expires=now + 60, revoked=True),
        HostPower(id="h1", agent="fence_ipmilan", sealed=b"x"),
        HostPower(id="h4", agent="fence_virsh"),
    )
    said = await fleet.call("RevokeManager", ManagerId="second")
    assert said["HostsAway"] == ["h2", "h3"]
    assert said["HostsWithoutKey"] == ["h2"]
    assert said["HostsWithSecrets"] == ["h1"]
