from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import instances, volumes
from gureum.control.observed import Observed
from gureum.resources import (
    Host,
    HostCertificate,
    HostState,
    HostToken,
    Instance,
    InstanceState,
    ManagerMachine,
    NatGateway,
    NatGatewayState,
    NetworkInterface,
    Snapshot,
    Volume,
)
from gureum.services.operation import Joining
from gureum.transport import token

FINGERPRINT = "ab" * 32


def host(id: str = "host-1", **values: Any) -> Host:
    return Host(**{"id": id, "zone": "us-east-1b", "state": HostState.up, "number": 2, **values})


def certificate(host: str, serial: str = "a1", **values: Any) -> HostCertificate:
    return HostCertificate(**{"id": serial, "host": host, "zone": "us-east-1b", "expires": 1.9e9, **values})


def gateway(id: str, host: str = "host-1", state: str = "available") -> NatGateway:
    return NatGateway(
        id=id,
        state=NatGatewayState(state),
        host=host,
        vpc="vpc-1",
        subnet="subnet-1",
        zone="us-east-1b",
        interface="eni-1",
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def test_hosts_are_described(fleet: Any) -> None:
    await fleet.put(
        host("host-0", zone="", address=""),
        host("host-1", address="198.19.64.11", uplink_mtu=9000, cpus=2, memory_bytes=5, draining=True),
        certificate("host-1"),
    )
    first, second = (await fleet.call("DescribeHosts"))["Hosts"]
    assert first["HostId"] == "host-0"
    assert "Zone" not in first
    assert "Address" not in first
    assert not first["Remote"]
    assert second["Zone"] == "us-east-1b"
    assert (second["Address"], second["Mtu"], second["Number"]) == ("198.19.64.11", 9000, 2)
    assert second["Draining"]
    assert second["Remote"]
    assert second["Certificate"] == {
        "Serial": "a1",
        "Expires": datetime.fromtimestamp(1.9e9, UTC),
        "Revoked": False,
    }


async def test_problems_and_gateways_of_a_host_are_shown(fleet: Any) -> None:
    await fleet.put(host(draining=True), gateway("nat-1"), gateway("nat-2", state="deleted"))
    await fleet.put(gateway("nat-3", host="other"))
    fleet.rig.hosts.wrong["host-1"] = ("the disk is full",)
    (shown,) = (await fleet.call("DescribeHosts"))["Hosts"]
    assert (shown["NatGatewayIds"], shown["Problems"]) == (["nat-1"], ["the disk is full"])
    error = await fleet.refused("InvalidHostStateException", "RemoveHost", HostId="host-1")
    assert "delete the NAT gateways nat-1" in error.message


async def test_pages(fleet: Any) -> None:
    await fleet.put(*(host(f"h{number}") for number in range(5)))
    seen: list[str] = []
    more: dict[str, Any] = {}
    while True:
        page = await fleet.call("DescribeHosts", MaxResults=2, **more)
        seen += [each["HostId"] for each in page["Hosts"]]
        if "NextToken" not in page:
            break
        more = {"NextToken": page["NextToken"]}
    assert seen == ["h0", "h1", "h2", "h3", "h4"]
    (one,) = (await fleet.call("DescribeHosts", HostIds=["h3"]))["Hosts"]
    assert one["HostId"] == "h3"
    await fleet.refused("ResourceNotFoundException", "DescribeHosts", HostIds=["h3", "nosuch"])
    await fleet.refused("InvalidParameterValueException", "DescribeHosts", HostIds=["h3"], MaxResults=2)


async def test_draining_and_back(fleet: Any) -> None:
    await fleet.put(host())
    assert (await fleet.call("DrainHost", HostId="host-1"))["Host"]["Draining"]
    assert (await fleet.get(Host, "host-1")).draining
    await fleet.call("DrainHost", HostId="host-1")
    [told] = (await fleet.call("DescribeEvents", HostId="host-1"))["Events"]
    assert (told["Name"], "takes nothing new" in told["Message"]) == ("HostDraining", True)
    assert not (await fleet.call("ActivateHost", HostId="host-1"))["Host"]["Draining"]
    for operation in ("DrainHost", "ActivateHost", "RemoveHost", "RevokeHost"):
        await fleet.refused("ResourceNotFoundException", operation, HostId="nosuch")


async def test_only_a_drained_host_can_be_removed(fleet: Any) -> None:
    await fleet.put(host("second"), certificate("second"))
    error = await fleet.refused("InvalidHostStateException", "RemoveHost", HostId="second")
    assert "Drain it first" in error.message


async def test_a_host_is_removed_with_its_certificates(fleet: Any) -> None:
    await fleet.put(host("second", draining=True), certificate("second"), certificate("second", "b2"))
    assert await fleet.call("RemoveHost", HostId="second") == {}
    assert await fleet.find(Host) == []
    assert await fleet.find(HostCertificate) == []


async def test_what_is_still_on_a_host_is_said(fleet: Any) -> None:
    await fleet.put(host("second", draining=True), certificate("second"))
    instance, volume = await fleet.occupy("second")
    error = await fleet.refused("InvalidHostStateException", "RemoveHost", HostId="second")
    steps = f"terminate the instances {instance}; delete, or move to another pool (MoveVolume), the volumes"
    assert f"{steps} {volume}" in error.message
    assert error.fields == {"ResourceIds": [instance, volume]}
    (shown,) = (await fleet.call("DescribeHosts", HostIds=["second"]))["Hosts"]
    assert (shown["InstanceIds"], shown["VolumeIds"]) == ([instance], [volume])


async def test_a_host_that_is_lost_goes_with_all_that_was_there(fleet: Any) -> None:
    await fleet.put(host("second", draining=True), certificate("second"))
    instance, volume = await fleet.occupy("second")
    (interface,) = await fleet.find(NetworkInterface, instance=instance)
    await fleet.rig.change(NetworkInterface, interface.id, host="second")
    snapshot = (await fleet.rig.call("CreateSnapshot", VolumeId=volume))["SnapshotId"]
    await fleet.rig.change(Snapshot, snapshot, host="second")
    error = await fleet.refused("InvalidHostStateException", "RemoveHost", HostId="second", Force=True)
    assert "is up" in error.message
    await fleet.call("RevokeHost", HostId="second")
    await fleet.refused("InvalidHostStateException", "RemoveHost", HostId="second")
    await fleet.call("RemoveHost", HostId="second", Force=True)
    assert await fleet.find(Host) == []
    assert await fleet.find(HostCertificate) == []
    ended = await fleet.get(Instance, instance)
    assert (ended.state, ended.host) == (InstanceState.shutting_down, None)
    assert "host second is lost" in ended.transition_reason
    for kind, id in ((Volume, volume), (Snapshot, snapshot)):
        record = await fleet.get(kind, id)
        assert (str(record.state), record.host) == ("deleting", None)
    assert (await fleet.get(NetworkInterface, interface.id)).host is None
    # What takes the next steps is the reconcilers'.
    observed = Observed()
    for step, id in (
        (instances.reconcile, instance),
        (volumes.reconcile, volume),
        (volumes.reconcile_snapshot, snapshot),
    ):
        await fleet.rig.store.transact(partial(step, env=fleet.rig.env, observed=observed, id=id))
    assert (await fleet.get(Instance, instance)).state is InstanceState.terminated
    assert await fleet.find(Volume) == await fleet.find(NetworkInterface) == []
    assert await fleet.find(Snapshot, volume=volume) == []


async def test_gateways_of_a_lost_host_go_on_elsewhere(fleet: Any) -> None:
    """They have nothing to lose; without another host in their zone they end."""
    lost = host("second", draining=True, state=HostState.down)
    await fleet.put(lost, host("third"), gateway("nat-1", "second"), port("eni-1", "second"))
    await fleet.call("RemoveHost", HostId="second", Force=True)
    moved = await fleet.get(NatGateway, "nat-1")
    assert (str(moved.state), moved.host) == ("available", "third")
    assert (await fleet.get(NetworkInterface, "eni-1")).host == "third"
    await fleet.put(replace(await fleet.get(Host, "third"), draining=True, state=HostState.down))
    await fleet.call("RemoveHost", HostId="third", Force=True)
    assert str((await fleet.get(NatGateway, "nat-1")).state) == "deleting"
    assert (await fleet.get(NetworkInterface, "eni-1")).host is None


def port(id: str, host: str) -> NetworkInterface:
    return NetworkInterface(
        id=id,
        vpc="vpc-1",
        subnet="subnet-1",
        zone="us-east-1b",
        mac="06:00:00:00:00:01",
        private_ip="10.0.0.4",
        host=host,
    )


async def test_the_clouds_own_hosts_go_otherwise(fleet: Any) -> None:
    await fleet.put(host("host-1", draining=True))
    error = await fleet.refused("InvalidHostStateException", "RemoveHost", HostId="host-1")
    assert "gureum up --hosts N" in error.message
    error = await fleet.refused("InvalidHostStateException", "RevokeHost", HostId="host-1")
    assert "no certificate" in error.message


async def test_the_own_host_of_a_first_machine_that_is_revoked_can_be_revoked_too(fleet: Any) -> None:
    """It reaches the manager that leads elsewhere with a certificate like any other's."""
    first = ManagerMachine(id="first", agents="192.0.2.1:4567", endpoint="https://192.0.2.1:4566")
    await fleet.put(host("host-0"), replace(certificate("host-0"), own=True), first)
    await fleet.refused("InvalidHostStateException", "RevokeHost", HostId="host-0")
    await fleet.rig.change(ManagerMachine, "first", revoked=True)
    await fleet.call("RevokeHost", HostId="host-0")
    assert [each.revoked for each in await fleet.find(HostCertificate)] == [True]


async def test_one_of_the_own_hosts_that_is_down_can_be_forgotten(fleet: Any) -> None:
    await fleet.put(host("host-1", draining=True, state=HostState.down))
    await fleet.call("RemoveHost", HostId="host-1")
    assert await fleet.find(Host) == []


async def test_a_revoked_host_is_out_of_the_network(fleet: Any) -> None:
    await fleet.put(host("second", address="10.0.0.2", wireguard_key="k"), certificate("second"))
    shown = (await fleet.call("RevokeHost", HostId="second"))["Host"]
    assert shown["Certificate"]["Revoked"]
    assert (shown["State"], shown["Draining"]) == ("down", True)
    record = await fleet.get(Host, "second")
    assert (record.address, record.wireguard_key) == ("", "")
    assert (await fleet.get(HostCertificate, "a1")).revoked
    error = await fleet.refused("InvalidHostStateException", "ActivateHost", HostId="second")
    assert "join again" in error.message


# Tokens


async def test_a_token(fleet: Any) -> None:
    fleet.rig.hosts.joining = Joining("https://192.0.2.1:4567", FINGERPRINT)
    await fleet.put(host("host-0", zone="us-east-1a"))
    made = await fleet.call("CreateHostToken", TtlSeconds=120)
    assert (made["Zone"], made["Url"]) == ("us-east-1b", "https://192.0.2.1:4567")
    fingerprint, secret = token.read(made["Token"])
    assert fingerprint == FINGERPRINT
    (kept,) = await fleet.find(HostToken)
    assert kept.id == token.identify(secret)
    assert kept.expires == fleet.rig.time + 120
    assert made["Expires"].timestamp() == kept.expires
    assert secret.hex() not in repr(kept)


async def test_tokens_that_have_expired_are_forgotten(fleet: Any) -> None:
    fleet.rig.hosts.joining = Joining("https://192.0.2.1:4567", FINGERPRINT)
    await fleet.call("CreateHostToken", TtlSeconds=60, Zone="us-east-1c")
    fleet.rig.time += 61
    await fleet.call("CreateHostToken")
    assert len(await fleet.find(HostToken)) == 1


async def test_what_a_token_cannot_be(fleet: Any) -> None:
    error = await fleet.refused("NotListeningException", "CreateHostToken")
    assert "--agents-address" in error.message
    fleet.rig.hosts.joining = Joining("https://192.0.2.1:4567", FINGERPRINT)
    await fleet.refused("InvalidParameterValueException", "CreateHostToken", Zone="us-east-1z")
    for ttl in (59, 604801):
        with pytest.raises(Exception, match="TtlSeconds"):
            await fleet.call("CreateHostToken", TtlSeconds=ttl)


async def test_what_is_in_a_shared_pool_does_not_bind_to_its_host(fleet: Any) -> None:
    await fleet.put(host("second", draining=True, state=HostState.down), certificate("second"))
    instance, volume = await fleet.occupy("second")
    await fleet.rig.change(Volume, volume, pool="san")
    assert (await fleet.call("DescribeHosts"))["Hosts"][0]["InstanceIds"] == [instance]
    error = await fleet.refused("InvalidHostStateException", "RemoveHost", HostId="second")
    assert instance in error.message
    assert volume not in error.message
    await fleet.rig.change(Instance, instance, state=InstanceState.stopping)
    await fleet.rig.change(Instance, instance, state=InstanceState.stopped)
    await fleet.call("RemoveHost", HostId="second")
    assert (await fleet.get(Instance, instance)).host is None
    after = await fleet.get(Volume, volume)
    assert (after.host, after.former, after.state) == (None, ("second",), "in-use")


async def test_an_instance_on_a_shared_pool_survives_its_host(fleet: Any) -> None:
    await fleet.put(host("second", draining=True, state=HostState.down), certificate("second"))
    one, volume = await fleet.occupy("second")
    await fleet.rig.change(Volume, volume, pool="san")
    other, local = await fleet.occupy("second")
    snapshot = (await fleet.rig.call("CreateSnapshot", VolumeId=volume))["SnapshotId"]
    await fleet.call("RemoveHost", HostId="second", Force=True)
    saved = await fleet.get(Instance, one)
    assert (saved.state, saved.host) == ("stopping", None)
    assert "second is lost" in saved.transition_reason
    assert (await fleet.get(Instance, other)).state == "shutting-down"
    assert (await fleet.get(Volume, local)).state == "deleting"
    kept = await fleet.get(Volume, volume)
    assert (kept.state, kept.host, kept.former) == ("in-use", None, ("second",))
    taken = await fleet.get(Snapshot, snapshot)
    assert (taken.state, taken.host, taken.former) == ("pending", None, ("second",))


class TestFencing:
    @pytest.fixture
    def recovers(self, fleet: Any) -> None:
        fleet.rig.cloud = replace(fleet.rig.cloud, recovers=True)

    async def test_one_that_is_down_is_given_up(self, fleet: Any, recovers: None) -> None:
        await fleet.put(host(state=HostState.down, silent=1.7e9, fenceable=True))
        (shown,) = (await fleet.call("DescribeHosts"))["Hosts"]
        assert shown["StateReason"].startswith("not heard of since 2023-11-14 22:13:20 UTC")
        given_up = (await fleet.call("FenceHost", HostId="host-1"))["Host"]
        assert given_up["State"] == "fencing"
        assert "somebody asked for it" in given_up["StateReason"]
        again = (await fleet.call("FenceHost", HostId="host-1"))["Host"]
        assert again == given_up
        (event,) = (await fleet.call("DescribeEvents"))["Events"]
        assert (event["Name"], event["HostId"], event["Severity"]) == ("HostFencing", "host-1", "warning")
        # A person may know that it is gone for good.
        await fleet.call("DrainHost", HostId="host-1")
        await fleet.call("RemoveHost", HostId="host-1", Force=True)

    async def test_one_that_may_live_is_fenced_before_it_is_removed(self, fleet: Any, recovers: None) -> None:
        await fleet.put(host("second", draining=True, state=HostState.down, fenceable=True))
        instance, volume = await fleet.occupy("second")
        await fleet.rig.change(Volume, volume, pool="san")
        refused = partial(fleet.refused, "InvalidHostStateException", "RemoveHost")
        remove = partial(refused, HostId="second", Force=True)
        error = await remove()
        assert instance in error.message
        assert "FenceHost" in error.message
        await fleet.call("FenceHost", HostId="second")
        assert "when it is fenced" in (await remove()).message
        given_up = await fleet.get(Host, "second")
        await fleet.put(replace(given_up, state=HostState.fenced))
        await fleet.call("RemoveHost", HostId="second", Force=True)
        assert (await fleet.get(Instance, instance)).host is None

    async def test_one_that_is_revoked_is_silent_from_then_on(self, fleet: Any, recovers: None) -> None:
        await fleet.put(host("second", fenceable=True), certificate("second"))
        fleet.rig.time = 1.7e9
        await fleet.call("RevokeHost", HostId="second")
        revoked = await fleet.get(Host, "second")
        assert (revoked.state, revoked.silent) == (HostState.down, 1.7e9)
        (event,) = (await fleet.call("DescribeEvents"))["Events"]
        assert (event["Name"], event["HostId"]) == ("HostDown", "second")

    @pytest.mark.parametrize("state", [HostState.up, HostState.down])
    async def test_others_are_not(self, fleet: Any, recovers: None, state: HostState) -> None:
        await fleet.put(host(state=state, fenceable=state is HostState.up))
        error = await fleet.refused("InvalidHostStateException", "FenceHost", HostId="host-1")
        assert ("is up" if state is HostState.up else "cannot be fenced") in str(error)
        await fleet.refused("ResourceNotFoundException", "FenceHost", HostId="host-9")

    async def test_not_where_nothing_is_recovered(self, fleet: Any) -> None:
        await fleet.put(host(state=HostState.down, fenceable=True))
        await fleet.refused("InvalidHostStateException", "FenceHost", HostId="host-1")

    async def test_one_that_is_revoked_stays_given_up(self, fleet: Any, recovers: None) -> None:
        await fleet.put(host(state=HostState.down, fenceable=True), certificate("host-1"))
        await fleet.call("FenceHost", HostId="host-1")
        assert (await fleet.call("RevokeHost", HostId="host-1"))["Host"]["State"] == "fencing"
