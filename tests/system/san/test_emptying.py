"""A host that is little used is emptied and parked, and woken when it is needed: guests go on all the while.

What hosts have to rest before is minutes, as it is meant to be: so this takes some, mostly of waiting.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from botocore.exceptions import ClientError

from gureum.cli.lost_hosts import unplugged
from gureum.cli.processes import read_pid_file
from gureum.images.manifest import ImageManifest

from ..realcloud import OPTIONS
from .san_cloud import SanCloud, opened
from .test_lost_hosts import guest_processes

pytestmark = [pytest.mark.ceph, pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(900)]

OSD_BYTES = 4 << 30
HOSTS = ("host-0", "host-1")
SMALL, LARGE = "t3.micro", "t3.medium"
ROOM = 2
"""Small guests that a host may have; of two vCPUs."""
MEMORY_BYTES = 5 << 30
"""What a host gives away: enough for a large guest, and not for a small one besides."""
REST_SECONDS = 60
EMPTY_SECONDS_MAX = 480.0
COUNT = "n=0; while :; do n=$((n+1)); echo $n; sleep 1; done"


@pytest.fixture(scope="module")
def cloud(tiny_image: ImageManifest) -> Iterator[SanCloud]:
    with opened(tiny_image, OSD_BYTES, hosts=2, host_zones=1) as made:
        made.start()
        yield made


class Counter:
    """A guest that counts seconds, over one connection from its first to its last."""

    def __init__(self, cloud: SanCloud) -> None:
        self.cloud = cloud
        [self.id] = cloud.launch(InstanceType=SMALL)
        cloud.waiter("instance_running", InstanceIds=[self.id])
        self.boot = cloud.boot_id(self.id)
        self.said: list[tuple[float, int]] = []
        flags = [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
        address = cloud.instance(self.id)["PublicIpAddress"]
        command = ["ssh", "-F", "none", *flags, "-i", str(cloud.key_file), f"root@{address}", COUNT]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._reads = threading.Thread(target=self._read, daemon=True)
        self._reads.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append((time.monotonic(), int(line)))

    @property
    def host(self) -> int:
        return self.cloud.host_of(self.id)

    def check(self) -> None:
        """It counts on, and has left out nothing."""
        heard = len(self.said)
        self.cloud.wait(f"{self.id} to count on", lambda: len(self.said) > heard)
        assert [number for _, number in self.said] == list(range(1, len(self.said) + 1))
        assert self.cloud.boot_id(self.id) == self.boot

    def largest_gap(self) -> float:
        times = [at for at, _ in self.said]
        return max(after - before for before, after in pairwise(times))

    def close(self) -> None:
        with self._process:
            self._process.kill()
            self._reads.join()


@pytest.fixture(scope="module")
def counters(cloud: SanCloud) -> Iterator[list[Counter]]:
    """One on each host."""
    for host in HOSTS:
        cloud.fleet("modify_host_power", HostId=host, Agent="machine-host")
        [shown] = [each for each in cloud.fleet("describe_hosts")["Hosts"] if each["HostId"] == host]
        vcpus = shown["Capacity"]["Vcpus"] / shown["CpuOvercommit"]
        memory = shown["Capacity"]["MemoryBytes"] / shown["MemoryOvercommit"]
        room = {"CpuOvercommit": 2 * ROOM / vcpus, "MemoryOvercommit": MEMORY_BYTES / memory}
        cloud.fleet("modify_host", HostId=host, **room)
    made: list[Counter] = []
    try:
        while len(made) < len(HOSTS):
            made.append(Counter(cloud))
        assert {each.host for each in made} == {0, 1}
        yield made
    finally:
        for each in made:
            each.close()


def powers(cloud: SanCloud) -> dict[str, str]:
    return {each["HostId"]: each["PowerState"] for each in cloud.fleet("describe_host_power")["HostPowers"]}


def events(cloud: SanCloud) -> list[str]:
    return [each["Name"] for each in cloud.fleet("describe_events")["Events"]]


@pytest.fixture(scope="module")
def parked(cloud: SanCloud, counters: list[Counter]) -> int:
    """The number of the host that was emptied."""
    began = time.monotonic()
    cloud.fleet(
        "modify_fleet_settings",
        PowerMode="automatic",
        EmptyHosts=True,
        RestSeconds=REST_SECONDS,
        HeadroomPercent=0,
    )
    seen = list(powers(cloud).items())

    def one_is_parked() -> str:
        now = powers(cloud)
        seen.extend(item for item in now.items() if item not in seen)
        return next((host for host, state in now.items() if state == "parked"), "")

    host = cloud.wait("a host to be emptied and parked", one_is_parked, EMPTY_SECONDS_MAX)
    gap = max(each.largest_gap() for each in counters)
    print(
        f"{host} is parked after {time.monotonic() - began:.0f} s; a guest was silent for {gap:.1f} s at most"
    )
    assert (host, "emptying") in seen
    return HOSTS.index(host)


def test_a_host_is_emptied_and_parked(cloud: SanCloud, counters: list[Counter], parked: int) -> None:
    for each in counters:
        assert each.host == 1 - parked
        each.check()
    [moved] = cloud.fleet("describe_instance_migrations")["InstanceMigrations"]
    assert (moved["State"], moved["SourceHostId"]) == ("completed", HOSTS[parked]), moved
    assert moved["Reason"].startswith(f"emptying {HOSTS[parked]}"), moved
    for role in (f"agent-{parked}", f"warden-{parked}"):
        assert read_pid_file(cloud.cloud.run_dir / f"{role}.pid") is None
    assert guest_processes(cloud, parked) == []
    told = events(cloud)
    assert {"HostEmptying", "HostParking", "HostParked"} <= set(told)
    assert "HostNotEmptied" not in told


def test_a_launch_without_room_wakes_it(cloud: SanCloud, counters: list[Counter], parked: int) -> None:
    began = time.monotonic()
    new = Counter(cloud)
    print(f"a launch that woke a host runs after {time.monotonic() - began:.1f} s")
    assert new.host == parked
    assert powers(cloud)[HOSTS[parked]] == "awake"
    counters.append(new)
    for each in counters:
        each.check()
    assert "HostAwake" in events(cloud)


def test_what_finds_no_room_when_a_cable_is_out_is_told(
    cloud: SanCloud, counters: list[Counter], parked: int
) -> None:
    """The other host has room for one of the two."""
    full = 1 - parked
    with unplugged(cloud.cloud, full):
        cloud.wait("one to stay", lambda: "InstanceStays" in events(cloud))
        [stays] = [
            each for each in cloud.fleet("describe_events")["Events"] if each["Name"] == "InstanceStays"
        ]
        assert "no other host of zone" in stays["Message"]
        [left] = [each for each in counters if each.id != stays["InstanceId"] and each is not counters[-1]]
        cloud.wait("the other to run elsewhere", lambda: left.id in running_on(cloud, parked))
    [stayed] = [each for each in counters if each.id == stays["InstanceId"]]
    stayed.check()
    counters[-1].check()
    cloud._booted.discard(left.id)
    assert cloud.boot_id(left.id) != left.boot


def test_a_resize_without_room_wakes_it(cloud: SanCloud, counters: list[Counter], parked: int) -> None:
    """By hand: the guest goes to the host that is woken, and grows there."""
    [stayed] = [each for each in counters if each.host != parked]
    gone = [each.id for each in counters if each is not stayed]
    cloud.ec2.terminate_instances(InstanceIds=gone)
    cloud.waiter("instance_terminated", InstanceIds=gone)
    cloud.wait("it to be empty, and parked", lambda: parks(cloud, parked))
    cloud.wait("it to be off", lambda: powers(cloud)[HOSTS[parked]] == "parked")
    counters.append(Counter(cloud))
    assert counters[-1].host == stayed.host
    began = time.monotonic()
    answer = cloud.fleet("resize_instance", InstanceId=stayed.id, InstanceType=LARGE)
    assert answer["InstanceSize"]["State"] == "waiting"

    def size() -> str:
        [found] = cloud.fleet("describe_instance_sizes", InstanceIds=[stayed.id])["InstanceSizes"]
        return f"{found['InstanceType']} {found['State']}"

    cloud.wait("it to have grown", lambda: size() == f"{LARGE} settled")
    print(f"a resize that woke a host is done after {time.monotonic() - began:.1f} s")
    assert stayed.host == parked
    stayed.check()
    assert int(cloud.wait_ssh(stayed.id, "awk '/MemTotal/ {print $2}' /proc/meminfo")) > 3 << 20


def parks(cloud: SanCloud, host: int) -> bool:
    with contextlib.suppress(ClientError):
        cloud.fleet("park_host", HostId=HOSTS[host])
        return True
    return False


def running_on(cloud: SanCloud, host: int) -> list[str]:
    return [
        item["InstanceId"]
        for page in cloud.ec2.describe_instances()["Reservations"]
        for item in page["Instances"]
        if item["State"]["Name"] == "running" and cloud.host_of(item["InstanceId"]) == host
    ]


def test_nothing_leaks(cloud: SanCloud, counters: list[Counter]) -> None:
    cloud.fleet("modify_fleet_settings", PowerMode="off")
    ids = [each.id for each in counters]
    cloud.ec2.terminate_instances(InstanceIds=ids)
    cloud.waiter("instance_terminated", InstanceIds=ids)
    cloud.wait_clean()
