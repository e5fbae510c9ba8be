"""Managers on two machines and one PostgreSQL: whichever machine is lost, the other one's manager goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from gureum.cli import api, join
from gureum.cli.manager_revoke import change_access_key
from gureum.cli.output import CliError
from gureum.images.manifest import ImageManifest
from gureum.transport import tls
from support.postgres import Server

from .host import free_port
from .machine import Machine, cabled
from .realcloud import RealCloud, opened, refused
from .standby import both_joined, health, leader, machine_states, stands_by, states

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.postgres, pytest.mark.timeout(600)]

SECOND = "gmgr-second"
CABLE = "gmgr0"
OURS, THEIRS = "10.98.9.1", "10.98.9.2"
LOST_SECONDS_MAX = 120.0
REFUSED_SECONDS = 10.0
"""Another would lead by then."""


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest, postgres_server: Server) -> Iterator[RealCloud]:
    url = postgres_server.create_database("machines")
    with cabled(SECOND, CABLE, OURS, THEIRS), opened(tiny_image, store=url) as made:
        made.config = made.cloud.configure(**join.agents_settings(f"{OURS}:{free_port()}"))
        join.ensure_authority(made.cloud, made.config)
        made.start()
        yield made


@pytest.fixture(scope="module")
def machine(cloud: RealCloud) -> Iterator[Machine]:
    """A host, and with a manager."""
    with both_joined(cloud, SECOND, THEIRS) as made:
        yield made


def launch(cloud: RealCloud, client: Any, token: str) -> str:
    """One instance, and only one, however often it is asked for."""

    def once() -> str:
        try:
            made = client.run_instances(
                ImageId=cloud.image, InstanceType="t3.nano", MinCount=1, MaxCount=1, ClientToken=token
            )
        except (BotoCoreError, ClientError):
            return ""
        return str(made["Instances"][0]["InstanceId"])

    return cloud.wait("an answer", once, LOST_SECONDS_MAX)


def running(cloud: RealCloud, client: Any, instance: str) -> None:
    def state() -> bool:
        try:
            found = client.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
        except (BotoCoreError, ClientError):
            return False
        return str(found["State"]["Name"]) == "running"

    cloud.wait(f"{instance} to run", state, LOST_SECONDS_MAX)


def test_either_machine_can_be_lost(cloud: RealCloud, machine: Machine, tiny_image: ImageManifest) -> None:
    try:
        lose_both(cloud, machine, {tiny_image.disk, tiny_image.kernel, tiny_image.initrd} - {None})
    except BaseException as error:
        for log in sorted(machine.cloud.log_dir.glob("*.log")):
            error.add_note(f"--- second: {log.name}\n{log.read_text()[-6000:]}")
        raise


def lose_both(cloud: RealCloud, machine: Machine, files: set[str | None]) -> None:
    """One after the other. ``files``: of the image."""
    second = machine.cloud
    both = {"host-0": "up", "second": "up"}
    cloud.wait("both hosts", lambda: states(cloud.cloud) == both)
    assert leader(cloud.cloud) == "first"
    assert leader(second) == "first"  # asked by the one that stands by
    mirror = second.state_dir / "mirror"
    # Nothing else of the image is there, and the agent of the first machine's host can go to another.
    cloud.wait("the image", lambda: len([each for each in mirror.glob("*") if not each.suffix]) == len(files))
    cloud.wait("a certificate", (cloud.cloud.state_dir / "tls/life.json").exists)

    # The manager that leads stands still: its agents have links to it, and its port is taken.
    pid = cloud.pid("manager")
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        cloud.wait("the other's API", lambda: health(second.config().endpoint) == 200, LOST_SECONDS_MAX)
        print(f"stopped: the other answers after {time.monotonic() - began:.1f} s")
        cloud.wait("both hosts there", lambda: states(second) == both, LOST_SECONDS_MAX)
        print(f"stopped: both hosts are there after {time.monotonic() - began:.1f} s")
        ec2 = api.client(second, "ec2")
        first_guest = launch(cloud, ec2, "one")
        running(cloud, ec2, first_guest)
    finally:
        os.kill(pid, signal.SIGCONT)
    # It leads no more, whatever it believes, and its successor stands by.
    cloud.wait("its end", lambda: not Path(f"/proc/{pid}").exists() or cloud.pid("manager") != pid)
    cloud.wait("one that stands by", lambda: stands_by(cloud))
    assert leader(second) == "second"
    # Asked by one that has no file of its certificate.
    assert leader(cloud.cloud) == "second"
    standing = {"first": "standing-by", "second": "leading"}
    cloud.wait("a sign of the first", lambda: machine_states(second) == standing)

    # The whole machine of the one that leads now is lost.
    machine.pull()
    machine.kill()
    began = time.monotonic()
    cloud.wait("the first's API", lambda: health(cloud.config.endpoint) == 200, LOST_SECONDS_MAX)
    print(f"lost: the first answers after {time.monotonic() - began:.1f} s")
    wanted = {"host-0": "up", "second": "down"}
    cloud.wait("the loss", lambda: states(cloud.cloud) == wanted, LOST_SECONDS_MAX)
    lost = {"first": "leading", "second": "silent"}
    cloud.wait("the other's silence", lambda: machine_states(cloud.cloud) == lost, LOST_SECONDS_MAX)
    print(f"lost: its host, and the other is there, after {time.monotonic() - began:.1f} s")
    second_guest = launch(cloud, cloud.ec2, "two")
    running(cloud, cloud.ec2, second_guest)

    # It returns, and all is as before.
    machine.plug()
    done = machine.gureum("up", "-d")
    assert done.returncode == 0, done.stderr
    cloud.wait("both hosts again", lambda: states(cloud.cloud) == both, LOST_SECONDS_MAX)
    cloud.waiter("instance_stopped", InstanceIds=[first_guest])  # as any whose hypervisor ended
    cloud.ec2.start_instances(InstanceIds=[first_guest])
    guests = [first_guest, second_guest]
    for guest in guests:
        running(cloud, cloud.ec2, guest)
    assert leader(second) == "first"
    assert sorted([*cloud.cloud.guests(), *second.guests()]) == sorted(guests)
    cloud.ec2.terminate_instances(InstanceIds=guests)
    cloud.waiter("instance_terminated", InstanceIds=guests)


def test_one_that_is_revoked_leads_never_again(cloud: RealCloud, machine: Machine) -> None:
    """But its host is one as before: that is another matter."""
    both = {"host-0": "up", "second": "up"}
    cloud.wait("both hosts", lambda: states(cloud.cloud) == both, LOST_SECONDS_MAX)
    standing = {"first": "leading", "second": "standing-by"}
    cloud.wait("one that stands by", lambda: machine_states(cloud.cloud) == standing)
    with pytest.raises(CliError, match="Let another lead first"):
        api.call(cloud.cloud, "fleet", "revoke_manager", ManagerId="first")
    cloud.fleet("revoke_manager", ManagerId="second")
    log = machine.cloud.log_dir / "manager.log"
    cloud.wait("its end", lambda: "this machine, second, was revoked" in log.read_text())

    pid = cloud.pid("manager")
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + REFUSED_SECONDS
        while time.monotonic() < deadline:
            assert health(machine.cloud.config().endpoint) == 0
    finally:
        os.kill(pid, signal.SIGCONT)
    cloud.wait("the first, again", lambda: leader(cloud.cloud) == "first", LOST_SECONDS_MAX)
    cloud.wait("both hosts again", lambda: states(cloud.cloud) == both, LOST_SECONDS_MAX)
    assert machine_states(cloud.cloud) == {"first": "leading", "second": "revoked"}
    # What its agent was told: whose keys are believed.
    spec = msgspec.msgpack.decode((machine.cloud.state_dir / "agent.spec").read_bytes())
    key = tls.key_in(cloud.cloud.state_dir / "authority" / tls.MANAGER_CERTIFICATE)
    assert spec["manager_keys"] == [key]

    # One of the things that it still has.
    change_access_key(cloud.cloud, from_environment=False)
    with refused("AuthFailure"):
        cloud.ec2.describe_instances()
    assert leader(cloud.cloud) == "first"
