"""Two managers on a PostgreSQL store: whatever ends the leader, things go on, and guests notice nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from gureum.images.manifest import ImageManifest
from support.postgres import Server

from .realcloud import RealCloud, opened

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.postgres, pytest.mark.timeout(600)]

CALLS = 40


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest, postgres_server: Server) -> Iterator[RealCloud]:
    url = postgres_server.create_database("managers")
    with opened(tiny_image, store=url, managers=2) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def guest(cloud: RealCloud) -> str:
    [id] = cloud.launch()
    cloud.waiter("instance_running", InstanceIds=[id])
    cloud.wait_ssh(id)
    return id


def leader(cloud: RealCloud) -> str:
    leaders = [role for role in cloud.config.manager_roles if cloud.cloud.leads(role)]
    return leaders[0] if len(leaders) == 1 else ""


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM])
def test_another_goes_on(cloud: RealCloud, guest: str, how: signal.Signals) -> None:
    """While calls are made: what was answered is there, once, and the guest runs as before."""
    boot, process = cloud.boot_id(guest), cloud.qemu_pids()[guest]
    cloud.wait("one that leads and one that stands by", lambda: both_are_ready(cloud))
    before, pid = leader(cloud), cloud.pid(leader(cloud))
    groups: list[str] = []
    enough = threading.Event()

    def make_groups() -> None:
        for number in range(CALLS):
            made = create_group(cloud, f"{how.name}-{number}")
            groups.append(made)
            if number == CALLS // 4:
                enough.set()

    calling = threading.Thread(target=make_groups)
    calling.start()
    assert enough.wait(60)
    os.kill(pid, how)
    [second] = cloud.launch()
    calling.join(120)
    assert len(groups) == len(set(groups)) == CALLS
    cloud.wait("a leader", lambda: leader(cloud))
    assert cloud.pid(leader(cloud)) != pid
    if how is signal.SIGSTOP:
        assert leader(cloud) != before
    found = cloud.ec2.describe_security_groups(GroupIds=groups)["SecurityGroups"]
    assert {group["GroupId"] for group in found} == set(groups)
    cloud.waiter("instance_running", InstanceIds=[second])
    assert cloud.boot_id(guest) == boot
    assert cloud.qemu_pids()[guest] == process
    assert len(cloud.qemu_pids()) == 2
    cloud.ec2.terminate_instances(InstanceIds=[second])
    cloud.waiter("instance_terminated", InstanceIds=[second])
    cloud.wait_clean()


def both_are_ready(cloud: RealCloud) -> bool:
    ready = {process.name: process.is_ready for process in cloud.cloud.processes()}
    return bool(leader(cloud)) and all(ready[role] for role in cloud.config.manager_roles)


def create_group(cloud: RealCloud, name: str) -> str:
    """Until it is answered. One that was made and not answered is found by its name."""

    def once() -> str:
        try:
            made = cloud.ec2.create_security_group(GroupName=name, Description="x")
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidGroup.Duplicate":
                return ""
            wanted = [{"Name": "group-name", "Values": [name]}]
            [made] = cloud.ec2.describe_security_groups(Filters=wanted)["SecurityGroups"]
        except BotoCoreError:
            return ""
        return str(made["GroupId"])

    return cloud.wait(f"an answer for {name}", once)
