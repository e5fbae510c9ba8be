"""Hosts that die, hang, are cut off, or only seem so: what ran there goes on elsewhere, and nowhere twice."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from gureum.cli.lost_hosts import unplugged
from gureum.hypervisors.qemu.record import MARKER
from gureum.images.manifest import ImageManifest

from .san_cloud import SanCloud, opened

pytestmark = [pytest.mark.ceph, pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]

OSD_BYTES = 4 << 30
HOSTS = (0, 3)
"""Of four hosts, the first and the last are in the first of three zones."""
KEPT = "/root/kept"
RUNS = tuple("RSD")
"""States of processes that are neither stopped nor dead."""
LOOK_SECONDS = 0.1


@pytest.fixture(scope="module")
def made(tiny_image: ImageManifest) -> Iterator[SanCloud]:
    with opened(tiny_image, OSD_BYTES, hosts=4) as cloud:
        cloud.start()
        yield cloud


@pytest.fixture
def cloud(made: SanCloud) -> Iterator[SanCloud]:
    yield made
    instances = [
        item["InstanceId"]
        for page in made.ec2.describe_instances()["Reservations"]
        for item in page["Instances"]
    ]
    made.ec2.terminate_instances(InstanceIds=instances)
    made.waiter("instance_terminated", InstanceIds=instances)
    made.wait("all hosts to be up", lambda: set(hosts(made).values()) == {"up"})


def hosts(cloud: SanCloud) -> dict[str, str]:
    return {each["HostId"]: each["State"] for each in cloud.fleet("describe_hosts")["Hosts"]}


def takes_instances(cloud: SanCloud, host: int) -> bool:
    [seen] = [each for each in cloud.fleet("describe_hosts")["Hosts"] if each["HostId"] == f"host-{host}"]
    return bool(seen["State"] == "up" and not seen.get("StateReason"))


class Guest:
    """A guest that has written something, and the host it is on."""

    def __init__(self, cloud: SanCloud) -> None:
        self.cloud = cloud
        [self.id] = cloud.launch(Placement={"AvailabilityZone": f"{cloud.config.region}a"})
        cloud.waiter("instance_running", InstanceIds=[self.id])
        cloud.wait_ssh(self.id)
        self.host = cloud.host_of(self.id)
        assert self.host in HOSTS
        [self.other] = set(HOSTS) - {self.host}
        self.write()
        [self.process] = self.processes(self.host)

    def write(self) -> None:
        random = f"head -c 3000000 /dev/urandom >{KEPT}"
        self.cloud.ssh(self.id, f"{random}; sync; echo 3 >/proc/sys/vm/drop_caches")
        self.sum = self.cloud.ssh(self.id, f"sha256sum {KEPT}")

    def processes(self, host: int) -> list[int]:
        return [pid for pid in guest_processes(self.cloud, host) if self.id in environment(pid)]

    def wait_elsewhere(self) -> float:
        """Until it runs on the other host. How long it takes until its process is there."""
        began = time.monotonic()
        self.cloud.wait("it to run elsewhere", lambda: self.processes(self.other))
        took = time.monotonic() - began
        self.cloud.waiter("instance_running", InstanceIds=[self.id])
        return took

    def go_back(self) -> None:
        """To the host that it was lost with: what that one's clients were shut out of, new ones may have."""
        self.cloud.ec2.stop_instances(InstanceIds=[self.id])
        self.cloud.waiter("instance_stopped", InstanceIds=[self.id])
        self.cloud.fleet("drain_host", HostId=f"host-{self.other}")
        self.cloud.ec2.start_instances(InstanceIds=[self.id])
        self.cloud.waiter("instance_running", InstanceIds=[self.id])
        self.cloud.fleet("activate_host", HostId=f"host-{self.other}")
        assert self.processes(self.host)
        self.check()

    def check(self) -> None:
        """It has what it had written, and nobody else has its disk open."""
        self.cloud._booted.discard(self.id)
        assert self.cloud.wait_ssh(self.id, f"sha256sum {KEPT}") == self.sum
        volume = self.cloud.root_volume(self.id)
        self.cloud.wait("one to have it open", lambda: len(self.cloud.watchers(volume)) == 1, 60)


class Looks:
    """At the processes of guests, again and again, until the end of its ``with``."""

    def __init__(self, ids: list[str]) -> None:
        self.seen: dict[str, set[int]] = {id: set() for id in ids}
        """All that there were of a guest; ``most``: how many of them ran at once."""
        self.most = dict.fromkeys(ids, 0)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def running(self, id: str) -> list[int]:
        pids = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if state(pid) in RUNS]
        return [pid for pid in pids if MARKER in (found := environment(pid)) and id in found]

    def _look(self) -> None:
        while not self._ends.wait(LOOK_SECONDS):
            for id in self.seen:
                found = self.running(id)
                self.seen[id] |= set(found)
                self.most[id] = max(self.most[id], len(found))


def environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


def guest_processes(cloud: SanCloud, host: int) -> list[int]:
    run = cloud.cloud.run_dir if host == 0 else cloud.cloud.state_dir / "hosts" / str(host) / "run"
    mark = f"{MARKER}={run}/machines/"
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if mark in environment(pid)]


def is_silent(cloud: SanCloud, host: int) -> bool:
    """Whether its filters are there, and nothing says that they let pass."""
    inside = ["ip", "netns", "exec", f"gh{cloud.config.index}-{host}"]
    table = ["nft", "list", "table", "inet", f"gureum_{cloud.config.index}_silence"]
    return (
        "elements" not in subprocess.run([*inside, *table], check=True, capture_output=True, text=True).stdout
    )


def workers(pid: int) -> list[int]:
    """The children of a process, but for guests."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in map(int, found) if MARKER not in environment(child)]


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return ""


@contextlib.contextmanager
def unsupervised(cloud: SanCloud) -> Iterator[None]:
    """What dies stays dead."""
    supervisor = cloud.pid("supervisor")
    os.kill(supervisor, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(supervisor, signal.SIGCONT)


def all_of(cloud: SanCloud, host: int) -> list[int]:
    """The processes of a host."""
    agent = cloud.pid(f"agent-{host}")
    return [agent, cloud.pid(f"warden-{host}"), *workers(agent), *guest_processes(cloud, host)]


def send(number: signal.Signals, pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def test_a_dead_host(cloud: SanCloud) -> None:
    guest = Guest(cloud)
    with unsupervised(cloud):
        send(signal.SIGKILL, all_of(cloud, guest.host))
        print(f"dead: runs elsewhere after {guest.wait_elsewhere():.1f} s")
        guest.check()
        assert hosts(cloud)[f"host-{guest.host}"] != "up"
    cloud.wait("it to come back", lambda: hosts(cloud)[f"host-{guest.host}"] == "up")
    assert guest.processes(guest.host) == []
    guest.go_back()


def test_a_host_that_hangs_and_goes_on(cloud: SanCloud) -> None:
    guest = Guest(cloud)
    pids = all_of(cloud, guest.host)
    send(signal.SIGSTOP, pids)
    print(f"hung: runs elsewhere after {guest.wait_elsewhere():.1f} s")
    send(signal.SIGCONT, pids)
    cloud.wait("the old copy to be ended", lambda: state(guest.process) == "")
    guest.check()
    cloud.wait("it to come back", lambda: hosts(cloud)[f"host-{guest.host}"] == "up")


def test_a_host_that_is_cut_off(cloud: SanCloud) -> None:
    guest = Guest(cloud)
    agent = cloud.pid(f"agent-{guest.host}")
    with cloud.cut(guest.host):
        send(signal.SIGSTOP, [agent])  # its way to the manager
        print(f"cut off: runs elsewhere after {guest.wait_elsewhere():.1f} s")
        assert state(guest.process) == "T"
        guest.check()
        assert state(guest.process) == "T"
    cloud.wait("the old copy to be ended", lambda: state(guest.process) in ("", "Z"))
    send(signal.SIGCONT, [agent])
    cloud.wait("it to come back", lambda: hosts(cloud)[f"host-{guest.host}"] == "up")
    guest.go_back()


def test_a_host_that_is_unplugged_and_heard(cloud: SanCloud) -> None:
    """Its agent needs no cable to reach the manager."""
    guest = Guest(cloud)
    with unplugged(cloud.cloud, guest.host):
        print(f"unplugged: runs elsewhere after {guest.wait_elsewhere():.1f} s")
        assert state(guest.process) in ("", "Z")
        assert hosts(cloud)[f"host-{guest.host}"] == "up"
        guest.check()
    cloud.wait("it to take instances", lambda: takes_instances(cloud, guest.host))
    guest.go_back()
    assert state(guest.process) in ("", "Z")


def test_a_host_that_is_unplugged_for_a_moment(cloud: SanCloud) -> None:
    guest = Guest(cloud)
    for _ in range(3):
        with unplugged(cloud.cloud, guest.host):
            time.sleep(1.5)
        time.sleep(3)
    assert guest.processes(guest.host) == [guest.process]
    guest.check()


def test_a_host_without_an_agent(cloud: SanCloud) -> None:
    guest = Guest(cloud)
    agent = cloud.pid(f"agent-{guest.host}")
    send(signal.SIGSTOP, [agent])
    print(f"without agent: runs elsewhere after {guest.wait_elsewhere():.1f} s")
    assert state(guest.process) in ("", "Z")
    # The old host's kernel lives, and still has all of the guest's network.
    assert is_silent(cloud, guest.host)
    subprocess.run(["ip", "neighbour", "flush", "dev", f"gb{cloud.config.index}"], check=True)
    guest.check()
    send(signal.SIGCONT, [agent])
    cloud.wait("it to come back", lambda: hosts(cloud)[f"host-{guest.host}"] == "up")
    cloud.wait("it to be heard again", lambda: not is_silent(cloud, guest.host))


def test_nothing_stops_without_the_manager(cloud: SanCloud) -> None:
    guest = Guest(cloud)
    with unsupervised(cloud):
        cloud.kill("manager")
        ends = time.monotonic() + 30
        while time.monotonic() < ends:
            assert state(guest.process) in "RS"
            time.sleep(0.1)
    cloud.start()
    assert guest.processes(guest.host) == [guest.process]
    guest.check()


def test_nothing_ends_without_the_storage_cluster(cloud: SanCloud) -> None:
    guest = Guest(cloud)
    with cloud.halted(*cloud.cloud.daemons):
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            assert state(guest.process) in "RS"
            time.sleep(0.1)
    cloud.wait_well()
    assert guest.processes(guest.host) == [guest.process]
    guest.check()


def down(cloud: SanCloud) -> None:
    """None of the hosts is heard of. A person says that all are lost, and nobody is left to see to it."""
    names = sorted(hosts(cloud))
    cloud.wait("no host to be heard", lambda: set(hosts(cloud).values()) == {"down"})
    for name in names:
        cloud.fleet("fence_host", HostId=name)
    time.sleep(3)
    assert hosts(cloud) == dict.fromkeys(names, "fencing")


def back(cloud: SanCloud, guests: list[Guest], looks: Looks) -> None:
    """All hosts are, and each guest runs again, was started once, and has all that it had written."""
    cloud.wait("all hosts to be back", lambda: set(hosts(cloud).values()) == {"up"})
    cloud.waiter("instance_running", InstanceIds=[guest.id for guest in guests])
    for guest in guests:
        guest.check()
        assert (len(looks.seen[guest.id] - {guest.process}), looks.most[guest.id]) == (1, 1)


def test_all_hosts_are_given_up_while_they_live(cloud: SanCloud) -> None:
    """The first that is heard again fences the others and itself, and has what ran on those of its zone."""
    guests = [Guest(cloud), Guest(cloud)]
    agents = [cloud.pid(f"agent-{host}") for host in range(4)]
    with Looks([guest.id for guest in guests]) as looks:
        send(signal.SIGSTOP, agents)
        try:
            down(cloud)
            for guest in guests:  # nobody could have ended them
                assert guest.processes(guest.host) == [guest.process]
                guest.write()
            send(signal.SIGCONT, agents[:1])
            began = time.monotonic()
            cloud.wait("the first to be back", lambda: hosts(cloud)["host-0"] == "up")
            cloud.wait("both to run there", lambda: all(guest.processes(0) for guest in guests))
            said = [each["Message"] for each in cloud.fleet("describe_events", HostId="host-0")["Events"]]
            assert "host host-0 fences host host-0 now" in said
            print(f"all given up: runs on the first that is back after {time.monotonic() - began:.1f} s")
            cloud.wait("the others to be fenced", lambda: set(hosts(cloud).values()) == {"up", "fenced"})
        finally:
            send(signal.SIGCONT, agents)
        back(cloud, guests, looks)


def test_all_hosts_die_and_are_given_up(cloud: SanCloud) -> None:
    guests = [Guest(cloud), Guest(cloud)]
    with Looks([guest.id for guest in guests]) as looks:
        with unsupervised(cloud):
            send(signal.SIGKILL, [pid for host in range(4) for pid in all_of(cloud, host)])
            down(cloud)
        began = time.monotonic()
        cloud.wait("both to run", lambda: all(looks.running(guest.id) for guest in guests))
        print(f"all dead: runs after {time.monotonic() - began:.1f} s")
        back(cloud, guests, looks)


def test_guests_are_adopted_by_new_wardens(cloud: SanCloud) -> None:
    guest = Guest(cloud)
    before = cloud.pid(f"warden-{guest.host}")
    cloud.stop()
    assert cloud.pid(f"warden-{guest.host}") == before
    time.sleep(8)  # the storage cluster is enough
    assert state(guest.process) in "RS"
    cloud.start()
    assert cloud.pid(f"warden-{guest.host}") != before
    ends = time.monotonic() + 8
    while time.monotonic() < ends:
        assert guest.processes(guest.host) == [guest.process]
        time.sleep(0.1)
    assert state(guest.process) in "RS"
    guest.check()
