"""A second machine joins the cloud."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gureum.cli import join
from gureum.cli.processes import read_pid_file
from gureum.images.manifest import ImageManifest

from .host import free_port
from .machine import Machine, cabled
from .realcloud import RealCloud, opened, refused

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(600)]

SECOND = "gjoin-second"
CABLE = "gjoin0"
OURS, THEIRS = "10.98.7.1", "10.98.7.2"


@pytest.fixture(scope="module")
def cable() -> Iterator[None]:
    with cabled(SECOND, CABLE, OURS, THEIRS):
        yield


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest, cable: None) -> Iterator[RealCloud]:
    with opened(tiny_image) as made:
        made.config = made.cloud.configure(**join.agents_settings(f"{OURS}:{free_port()}"))
        join.ensure_authority(made.cloud, made.config)
        made.start()
        yield made


@pytest.fixture(scope="module")
def machine(cloud: RealCloud) -> Iterator[Machine]:
    made = Machine(cloud.directory, SECOND)
    try:
        yield made
    finally:
        if made.cloud.joined() is not None:
            done = made.gureum("down")
            assert done.returncode == 0, done.stderr


def token(cloud: RealCloud) -> str:
    return str(cloud.fleet("create_host_token", Zone="us-east-1b")["Token"])


def second(cloud: RealCloud) -> Any:
    return next((h for h in cloud.fleet("describe_hosts")["Hosts"] if h["HostId"] == "second"), None)


def up(cloud: RealCloud) -> bool:
    host = second(cloud)
    return host is not None and host["State"] == "up"


def test_a_machine_joins(cloud: RealCloud, machine: Machine) -> None:
    invitation = token(cloud)
    done = machine.join(cloud.config.agents_url, invitation)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "cloud": cloud.config.name,
        "host": "second",
        "zone": "us-east-1b",
        "uplink": "lan",
    }
    cloud.wait("the host", lambda: up(cloud))
    host = second(cloud)
    assert (host["Address"], host["Remote"], host["Zone"]) == (THEIRS, True, "us-east-1b")
    status = machine.gureum("status", "--json")
    assert status.returncode == 0
    assert json.loads(status.stdout)["host"] == "second"
    again = machine.join(cloud.config.agents_url, token(cloud))
    assert again.returncode != 0
    assert "its agent runs" in again.stderr


def test_a_token_is_good_once(cloud: RealCloud, machine: Machine) -> None:
    invitation = token(cloud)
    other = Machine(cloud.directory / "other", SECOND)
    other.cloud.state_dir.parent.mkdir()
    assert other.join(cloud.config.agents_url, invitation).returncode != 0  # the name is taken
    done = other.gureum(
        "host", "join", cloud.config.agents_url, "--token", invitation, "--name", "third", "-d"
    )
    assert done.returncode == 0, done.stderr
    log = other.cloud.log_dir / "agent.log"
    cloud.wait("its refusal", lambda: f"its address {THEIRS} is that of host second" in log.read_text())
    assert other.gureum("down").returncode == 0
    cloud.fleet("revoke_host", HostId="third")
    cloud.fleet("remove_host", HostId="third")
    again = Machine(cloud.directory / "again", SECOND)
    again.cloud.state_dir.parent.mkdir()
    done = again.gureum(
        "host", "join", cloud.config.agents_url, "--token", invitation, "--name", "fourth", "-d"
    )
    assert "was used before" in done.stderr


@pytest.fixture(scope="module")
def guests(cloud: RealCloud, machine: Machine) -> list[str]:
    """One on each machine."""
    cloud.ec2.authorize_security_group_ingress(
        GroupId=cloud.default_group(), IpProtocol="icmp", FromPort=-1, ToPort=-1, CidrIp="0.0.0.0/0"
    )
    ids = [cloud.launch(Placement={"AvailabilityZone": f"us-east-1{zone}"})[0] for zone in "ab"]
    while not any(host_of(cloud, id) == "second" for id in ids):
        # Both hosts serve zone b: the one with more room gets it.
        ids.append(cloud.launch(Placement={"AvailabilityZone": "us-east-1b"})[0])
        assert len(ids) < 8
        cloud.waiter("instance_running", InstanceIds=ids)
    cloud.waiter("instance_running", InstanceIds=ids)
    return [ids[0], next(id for id in ids if host_of(cloud, id) == "second")]


def host_of(cloud: RealCloud, instance: str) -> str:
    hosts = cloud.fleet("describe_hosts")["Hosts"]
    return next((host["HostId"] for host in hosts if instance in host["InstanceIds"]), "")


def test_images_are_fetched_and_guests_reach_each_other(
    cloud: RealCloud, machine: Machine, guests: list[str]
) -> None:
    assert (machine.cloud.run_dir / "machines" / guests[1]).is_dir()
    for id in guests:
        cloud.wait_ssh(id)
    addresses = [cloud.instance(id)["PrivateIpAddress"] for id in guests]
    for id, other in zip(guests, reversed(addresses), strict=True):
        ping = f"ping -c 1 -W 3 {other}"
        cloud.wait(f"{id} to reach {other}", lambda id=id, ping=ping: " 0% packet" in cloud.try_ssh(id, ping))
    assert f"instance {guests[1]}" in cloud.console(guests[1])


def test_a_host_that_is_revoked_is_out_and_may_come_back(
    cloud: RealCloud, machine: Machine, guests: list[str]
) -> None:
    cloud.fleet("revoke_host", HostId="second")
    agent = machine.cloud.log_dir / "agent.log"
    cloud.wait("the refusal", lambda: "certificate of host second is revoked" in agent.read_text())
    assert not up(cloud)
    shown = machine.gureum("status")
    assert shown.returncode != 0
    assert "the manager refuses this host: the certificate of host second is revoked" in shown.stdout
    assert machine.gureum("down", "--keep-guests").returncode == 0
    done = machine.join(cloud.config.agents_url, token(cloud))
    assert done.returncode == 0, done.stderr
    cloud.wait("the host to be back", lambda: up(cloud))
    assert not second(cloud)["Draining"]
    assert cloud.wait_ssh(guests[1], "echo there") == "there"


def test_a_host_leaves_when_it_is_empty(cloud: RealCloud, machine: Machine, guests: list[str]) -> None:
    cloud.fleet("drain_host", HostId="second")
    with refused("InvalidHostStateException"):
        cloud.fleet("remove_host", HostId="second")
    there = second(cloud)["InstanceIds"]
    assert guests[1] in there
    cloud.ec2.terminate_instances(InstanceIds=there)
    cloud.waiter("instance_terminated", InstanceIds=there)
    cloud.wait("the host to be empty", lambda: not second(cloud)["VolumeIds"])
    cloud.fleet("remove_host", HostId="second")
    assert second(cloud) is None
    assert machine.gureum("down").returncode == 0
    assert read_pid_file(machine.cloud.run_dir / "agent.pid") is None
    assert second(cloud) is None
