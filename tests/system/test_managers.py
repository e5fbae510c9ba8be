"""Two managers on a PostgreSQL store: whatever ends the leader, things go on, and guests notice nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from gureum.bench.clouds import launcher
from gureum.images.manifest import ImageManifest
from support.postgres import USER, Server

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


def test_another_login_to_the_database(cloud: RealCloud, guest: str, postgres_server: Server) -> None:
    """Of a cloud that there is already, without a word in its configuration file."""
    for sql in (
        "CREATE ROLE gureum_first LOGIN",
        f"GRANT {USER} TO gureum_first",
        f"ALTER ROLE gureum_first SET role = {USER}",
    ):
        postgres_server.query("managers", sql)
    boot, process = cloud.boot_id(guest), cloud.qemu_pids()[guest]
    url = cloud.config.store.replace(f"//{USER}@", "//gureum_first@")
    said = gureum(cloud, "up", "-d", "--store", url)
    assert (said.returncode, "gureum down" in said.stderr) == (1, True), said.stderr
    for words in (["down", "--keep-guests"], ["up", "-d", "--store", url]):
        said = gureum(cloud, *words)
        assert said.returncode == 0, said.stderr
    cloud.config = cloud.cloud.config()
    assert "//gureum_first@" in cloud.config.store
    cloud.wait("one that leads and one that stands by", lambda: both_are_ready(cloud))
    users = "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = 'managers'"
    assert postgres_server.query("postgres", users) == "gureum_first"
    [second] = cloud.launch()
    cloud.waiter("instance_running", InstanceIds=[second])
    assert (cloud.boot_id(guest), cloud.qemu_pids()[guest]) == (boot, process)
    cloud.ec2.terminate_instances(InstanceIds=[second])
    cloud.waiter("instance_terminated", InstanceIds=[second])
    cloud.wait_clean()


def gureum(cloud: RealCloud, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*launcher(), *words, "--state-dir", str(cloud.cloud.state_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
