"""Two machines with their disks in a storage cluster of neither: one is lost, and what ran there goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from gureum.cli import api, join
from gureum.cli.cloud import Cloud
from gureum.hypervisors.qemu.record import MARKER
from gureum.images.manifest import ImageManifest
from support.postgres import Server

from ..host import free_port
from ..machine import Machine, cabled
from ..realcloud import RealCloud, opened
from ..standby import both_joined, health, leader, stands_by, states
from .ceph_cluster import CephCluster

pytestmark = [
    *(pytest.mark.ceph, pytest.mark.qemu, pytest.mark.root, pytest.mark.postgres),
    pytest.mark.timeout(900),
]

SECOND = "gsan-second"
CABLE = "gsan0"
OURS, THEIRS = "10.98.10.1", "10.98.10.2"
KEPT = "/root/kept"
BOTH = {"host-0": "up", "second": "up"}


class Reachable(CephCluster):
    """From the other machine, too."""

    def prepare(self, address: str = OURS) -> None:
        super().prepare(address)


@pytest.fixture(scope="module")
def storage() -> Iterator[Reachable]:
    with cabled(SECOND, CABLE, OURS, THEIRS):
        made = Reachable()
        try:
            made.bring_up()
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest, postgres_server: Server, storage: Reachable) -> Iterator[RealCloud]:
    url = postgres_server.create_database("lostmachine")
    with opened(tiny_image, store=url) as made:
        made.directory.chmod(0o711)
        storage.settings.save(made.cloud.state_dir)
        made.config = made.cloud.configure(**join.agents_settings(f"{OURS}:{free_port()}"))
        join.ensure_authority(made.cloud, made.config)
        made.start()
        yield made


@pytest.fixture(scope="module")
def machine(cloud: RealCloud) -> Iterator[Machine]:
    with both_joined(cloud, SECOND, THEIRS) as made:
        yield made


@pytest.fixture(scope="module")
def guest(cloud: RealCloud, machine: Machine) -> Iterator[str]:
    """On the second machine, with something written."""
    cloud.wait("both hosts", lambda: states(cloud.cloud) == BOTH)
    cloud.fleet("drain_host", HostId="host-0")
    [id] = cloud.launch()
    cloud.waiter("instance_running", InstanceIds=[id])
    cloud.fleet("activate_host", HostId="host-0")
    assert runs(machine.cloud, id)
    cloud.wait_ssh(id)
    cloud.ssh(id, f"head -c 3000000 /dev/urandom >{KEPT}; sha256sum {KEPT} >{KEPT}.sum; sync")
    yield id
    cloud.ec2.terminate_instances(InstanceIds=[id])
    cloud.waiter("instance_terminated", InstanceIds=[id])


def runs(at: Cloud, guest: str) -> int:
    """How many processes there are of the guest on a machine; all that are here see each other."""
    mark = f"{MARKER}={at.run_dir}/machines/{guest}"
    return sum(mark in environment(int(pid)) for pid in filter(str.isdigit, os.listdir("/proc")))


def environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


def lose(cloud: RealCloud, machine: Machine, guest: str, what: str) -> None:
    """All of the machine that the guest is on; it is to run on the other, with what it had written."""
    machine.pull()
    machine.kill()
    began = time.monotonic()
    cloud.wait("it to run here", lambda: runs(cloud.cloud, guest))
    print(f"{what} lost: it runs elsewhere after {time.monotonic() - began:.1f} s")
    cloud.wait("it to be said", lambda: state(cloud.ec2, guest) == "running")
    cloud._booted.discard(guest)
    assert cloud.wait_ssh(guest, f"sha256sum -c {KEPT}.sum").endswith("OK")
    assert not runs(machine.cloud, guest)
    machine.plug()
    done = machine.gureum("up", "-d")
    assert done.returncode == 0, done.stderr
    cloud.wait("both hosts again", lambda: states(cloud.cloud) == BOTH)
    assert (runs(cloud.cloud, guest), runs(machine.cloud, guest)) == (1, 0)


def state(client: Any, id: str) -> str:
    """As the API says, if it does."""
    try:
        found = client.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"][0]
    except (BotoCoreError, ClientError):
        return ""
    return str(found["State"]["Name"])


def test_a_machine_is_lost_that_has_a_guest(cloud: RealCloud, machine: Machine, guest: str) -> None:
    assert leader(cloud.cloud) == "first"
    lose(cloud, machine, guest, "a host")


def test_a_machine_is_lost_that_leads_and_has_a_guest(cloud: RealCloud, machine: Machine, guest: str) -> None:
    """Who starts it elsewhere is a manager that has only just begun to lead."""
    cloud.ec2.stop_instances(InstanceIds=[guest])
    cloud.waiter("instance_stopped", InstanceIds=[guest])
    cloud.fleet("drain_host", HostId="host-0")
    cloud.ec2.start_instances(InstanceIds=[guest])
    cloud.waiter("instance_running", InstanceIds=[guest])
    cloud.fleet("activate_host", HostId="host-0")
    assert runs(machine.cloud, guest)
    pid = cloud.pid("manager")
    os.kill(pid, signal.SIGSTOP)
    second = machine.cloud
    cloud.wait("the other to lead", lambda: health(second.config().endpoint) == 200)
    os.kill(pid, signal.SIGCONT)
    cloud.wait("one that stands by", lambda: stands_by(cloud))
    cloud.wait("both hosts there", lambda: states(second) == BOTH)
    assert state(api.client(second, "ec2"), guest) == "running"
    lose(cloud, machine, guest, "a host and the leader")
    assert leader(cloud.cloud) == "first"
