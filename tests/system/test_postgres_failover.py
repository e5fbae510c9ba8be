"""The server that managers write to is lost, and its replica takes over: what was acknowledged is there."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from gureum.cli import api, join, manager_join, manager_token
from gureum.cli.cloud import Cloud
from gureum.cli.output import CliError
from support.postgres import USER, Server, server

from .host import free_port

pytestmark = [pytest.mark.root, pytest.mark.postgres, pytest.mark.timeout(600)]

WORKERS = 4
CALLS_BEFORE = 20
"""Of each worker, so that what is lost would be amid a load."""
CALLS_AFTER = 10
WAIT_SECONDS = 120.0
DATABASE = "failover"


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """A primary that acknowledges nothing that its replica does not have; and that one."""
    with server(durable=True) as primary:
        primary.create_database(DATABASE)
        with server(durable=True, replica_of=primary) as replica:
            name = replica.directory.name
            primary.query("postgres", f"ALTER SYSTEM SET synchronous_standby_names = '\"{name}\"'")
            primary.query("postgres", "SELECT pg_reload_conf()")
            wait("the replica", lambda: primary.query("postgres", SYNCHRONOUS) == "sync")
            yield primary, replica


SYNCHRONOUS = "SELECT sync_state FROM pg_stat_replication"


@pytest.fixture
def machines(servers: tuple[Server, Server]) -> Iterator[tuple[Cloud, Cloud]]:
    """Two with nothing but a manager; the first leads."""
    hosts = ",".join(str(each.directory).replace("/", "%2F") for each in servers)
    # Not the test's own temporary directory: sockets need a short path.
    directory = Path(tempfile.mkdtemp(prefix="gureum-test-", dir="/var/tmp"))
    first, second = Cloud(directory / "first"), Cloud(directory / "second")
    try:
        config = first.configure(
            port=free_port(),
            hosts=0,
            store=f"postgresql://{USER}@{hosts}/{DATABASE}",
            **join.agents_settings(f"127.0.0.1:{free_port()}"),
        )
        join.ensure_authority(first, config)
        first.start(config, print)
        wanted = manager_join.Wanted(name="second", agents=f"127.0.0.1:{free_port()}", port=free_port())
        token = manager_token.make(first, 3600)["Token"]
        manager_join.join(second, config.agents_url, token, wanted, print)
        yield first, second
    finally:
        for each in (first, second):
            each.stop_processes()
        shutil.rmtree(directory)


def wait(what: str, met: Any) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := met()):
        assert time.monotonic() < deadline, f"{what}: not after {WAIT_SECONDS:.0f} s"
        time.sleep(0.05)
    return found


def leads(cloud: Cloud) -> bool:
    """Whether its manager says to a load balancer that calls belong there."""
    try:
        with urllib.request.urlopen(f"{cloud.config().endpoint}/.gureum/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def states(cloud: Cloud) -> dict[str, str]:
    try:
        found = api.call(cloud, "fleet", "describe_managers")["Managers"]
    except CliError:
        return {}
    return {each["ManagerId"]: each["State"] for each in found}


class Load:
    """Workers that make security groups and delete some, one call after the other, each asked for once."""

    def __init__(self, clouds: tuple[Cloud, Cloud]) -> None:
        self.there: dict[str, str] = {}
        """What was acknowledged, id by name."""
        self.gone: set[str] = set()
        """Ids of those whose deletion was acknowledged."""
        self.unknown: set[str] = set()
        """Of which nothing is known, as their last call was not answered."""
        self.answered = [0] * WORKERS
        self.times: list[float] = []
        """When calls were answered."""
        self._clouds = clouds
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(WORKERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)

    def _work(self, worker: int) -> None:
        clients = [ec2(cloud) for cloud in self._clouds]
        number = 0
        while not self._ended.is_set():
            number += 1
            name = f"{worker}-{number}"
            try:
                made = clients[0].create_security_group(GroupName=name, Description="x")["GroupId"]
                self._answered(worker)
                self.there[name] = made
                if number % 3 == 0:
                    self.unknown.add(name)
                    clients[0].delete_security_group(GroupId=made)
                    self._answered(worker)
                    self.unknown.discard(name)
                    del self.there[name]
                    self.gone.add(made)
            except (BotoCoreError, ClientError):
                self.unknown.add(name)
                clients.reverse()  # as a load balancer does
                time.sleep(0.02)

    def _answered(self, worker: int) -> None:
        with self._lock:
            self.answered[worker] += 1
            self.times.append(time.monotonic())


def ec2(cloud: Cloud) -> Any:
    config = cloud.config()
    return boto3.client(
        "ec2",
        endpoint_url=config.endpoint,
        region_name=config.region,
        aws_access_key_id=config.access_key_id,
        aws_secret_access_key=config.secret_access_key,
        config=Config(connect_timeout=2, read_timeout=20, retries={"total_max_attempts": 1}),
    )


@pytest.mark.parametrize("until_promoted_s", [0.0, 6.0], ids=["at-once", "after-the-leader-has-ended"])
def test_what_was_acknowledged_outlives_the_primary(
    servers: tuple[Server, Server], machines: tuple[Cloud, Cloud], until_promoted_s: float
) -> None:
    primary, replica = servers
    wait("a stand-by", lambda: states(machines[0]) == {"first": "leading", "second": "standing-by"})
    both: list[float] = []
    watching = threading.Event()

    def watch() -> None:
        while not watching.is_set():
            if all(map(leads, machines)):
                both.append(time.monotonic())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with Load(machines) as load:
            wait("a load", lambda: min(load.answered) >= CALLS_BEFORE)
            primary.kill()
            lost = time.monotonic()
            time.sleep(until_promoted_s)
            replica.promote()
            promoted = time.monotonic()
            wait("an answer", lambda: [each for each in load.times if each > promoted])
            began = list(load.answered)
            wait("the load", lambda: all(now >= then + CALLS_AFTER for now, then in later(load, began)))
    finally:
        watching.set()
        watcher.join(60)
    first = min(each for each in load.times if each > promoted)
    before = [each for each in load.times if each <= promoted]
    print(
        f"promoted {promoted - lost:.1f} s after the loss; first answer {first - promoted:.1f} s after that; "
        f"{len(load.times)} calls acknowledged, {len(before)} of them before"
    )
    assert not both, "two managers said that they lead"
    leader = next(each for each in machines if leads(each))
    found = {
        group["GroupName"]: group["GroupId"]
        for page in ec2(leader).get_paginator("describe_security_groups").paginate()
        for group in page["SecurityGroups"]
        if group["GroupName"] != "default"
    }
    lost_changes = {name: id for name, id in load.there.items() if found.get(name) != id}
    assert {name for name in lost_changes if name not in load.unknown} == set()
    assert not load.gone & set(found.values()), "what was deleted is back"
    assert set(found) <= set(load.there) | load.unknown
    wait("both machines", lambda: sorted(states(leader).values()) == ["leading", "standing-by"])


def later(load: Load, began: list[int]) -> Iterator[tuple[int, int]]:
    return zip(load.answered, began, strict=True)
