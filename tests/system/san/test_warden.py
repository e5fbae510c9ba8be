"""The warden's process against a real cluster, with guests that are only processes which count."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from gureum.agent import watched
from gureum.agent.warden import notes
from gureum.cli.supervisor import command
from gureum.env import Env
from gureum.fencespec import WardenReport
from gureum.network.silence import Place
from gureum.san.ceph.pool import RbdPool
from gureum.san.leases import FenceState

from .ceph_cluster import INDEX, CephCluster, until

pytestmark = [pytest.mark.ceph, pytest.mark.root, pytest.mark.timeout(600)]

CLOUD, HOST, OTHER_NAME = "test", "host-1", "host-3"
GROUP = 50_050
"""Of the warden's process, by which its packets are known."""
TABLE = f"gureum_warden_test_{INDEX}"
T = TypeVar("T")
GUEST = """
import os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
number = 0
while True:
    number += 1
    os.pwrite(file, b"%012d" % number, 0)
    time.sleep(0.01)
"""


class WardedHost:
    """A host with its warden, as its agent sees it: ``speaks`` is whether a manager answers it."""

    def __init__(self, ceph: CephCluster, directory: Path) -> None:
        self.ceph = ceph
        self.directory = directory
        self.machines = directory / "run" / "machines"
        self.machines.mkdir(parents=True)
        self.warden: subprocess.Popen[bytes] | None = None
        self.guests: list[subprocess.Popen[bytes]] = []
        self._pids: dict[str, int] = {}
        self.agent = watched.HostWarden(directory)
        self.speaks = threading.Event()
        self._ends = threading.Event()
        self._speaker = threading.Thread(target=self._speak, daemon=True)
        self._speaker.start()
        watched.configure(directory / "run", self.machines, ceph.settings, CLOUD, HOST, "", Place())

    def _speak(self) -> None:
        while not self._ends.wait(0.5):
            if self.speaks.is_set():
                self.agent.heard(self.agent.now())

    def start(self) -> None:
        with open(self.directory / "warden.log", "ab") as log:
            self.warden = subprocess.Popen(command("warden", str(self.directory)), stderr=log, group=GROUP)

    @property
    def pid(self) -> int:
        assert self.warden is not None
        return self.warden.pid

    def kill(self) -> None:
        assert self.warden is not None
        self.warden.kill()
        self.warden.wait(60)

    def end(self) -> int:
        assert self.warden is not None
        self.warden.terminate()
        return self.warden.wait(60)

    def report(self) -> WardenReport:
        return self.agent.report()

    def log(self) -> str:
        return (self.directory / "warden.log").read_text()

    def wait_permitted(self, permitted: bool = True) -> None:
        until(lambda: self.report().permitted is permitted)

    # Its guests

    def run_guest(self, id: str) -> subprocess.Popen[bytes]:
        (self.machines / id).mkdir(exist_ok=True)
        (self.machines / id / "count").unlink(missing_ok=True)  # of an earlier one
        guest = subprocess.Popen(
            ["python3", "-c", GUEST, str(self.machines / id / "count")],
            env={"PATH": os.environ["PATH"], "GUREUM_MACHINE": str(self.machines / id)},
        )
        self.guests.append(guest)
        self._pids[id] = guest.pid
        until(lambda: self.count(id))
        return guest

    def count(self, id: str) -> int:
        try:
            return int((self.machines / id / "count").read_text() or 0)
        except FileNotFoundError:
            return 0

    def runs(self, id: str) -> bool:
        """Whether it may: a busy machine does not let it count all the time."""
        try:
            return Path(f"/proc/{self._pids[id]}/stat").read_text().rpartition(") ")[2][0] in "RSD"
        except OSError:
            return False

    def close(self) -> None:
        self._ends.set()
        self._speaker.join()
        for process in (*self.guests, self.warden):
            if process is not None:
                process.kill()
                process.wait(60)


@pytest.fixture
def host(ceph: CephCluster, tmp_path: Path) -> Iterator[WardedHost]:
    made = WardedHost(ceph, tmp_path)
    try:
        yield made
    finally:
        made.close()
        subprocess.run(["rm", "-rf", notes.directory(str(tmp_path))], check=True)
        io = ["--conf", str(ceph.conf), "--id", ceph.settings.user, "--pool", ceph.pool]
        for kind in ("host", "fence"):
            for name in (HOST, OTHER_NAME):
                subprocess.run(
                    ["rados", *io, "rm", f"gureum.{kind}.{CLOUD}.{name}"],
                    check=False,
                    stderr=subprocess.DEVNULL,
                )


class Other:
    """Another host's agent."""

    def __init__(self, ceph: CephCluster) -> None:
        self._ceph = ceph

    def fence(self, number: int) -> str:
        """To its end; how that is known."""

        async def work(pool: RbdPool) -> str:
            await pool.mark(HOST, number)
            while not (state := await pool.fenced(HOST, number)).done:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            return state.message

        return asyncio.run(self._with_pool(work))

    def lift(self, number: int) -> None:
        asyncio.run(self._with_pool(lambda pool: pool.lift(HOST, number)))

    def look(self) -> FenceState:
        return asyncio.run(self._with_pool(lambda pool: pool.fenced(HOST, 0)))

    async def _with_pool(self, work: Callable[[RbdPool], Awaitable[T]]) -> T:
        pool = RbdPool(Env(), self._ceph.settings, CLOUD, "host-2")
        try:
            return await work(pool)
        finally:
            await pool.close()


@pytest.fixture
def other(ceph: CephCluster) -> Other:
    return Other(ceph)


@contextlib.contextmanager
def cut_off() -> Iterator[None]:
    """The warden reaches nothing: what its group sends is dropped."""
    rule = f"meta skgid {GROUP} drop"
    chain = f"chain output {{ type filter hook output priority -300; {rule}; }}"
    subprocess.run(["nft", f"table inet {TABLE} {{ {chain}\n}}\n"], check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", f"delete table inet {TABLE}"], check=True)


def test_guests_wait_while_neither_cluster_nor_manager_is_there(host: WardedHost, ceph: CephCluster) -> None:
    host.start()
    host.wait_permitted()
    host.run_guest("i-1")
    with cut_off():
        host.wait_permitted(False)
        until(lambda: not host.runs("i-1"))
        until(lambda: "the manager was not reached yet" in host.report().message)
        host.speaks.set()
        until(lambda: host.runs("i-1"))
        host.wait_permitted()
        host.speaks.clear()
        until(lambda: not host.runs("i-1"))
    until(lambda: host.runs("i-1"))
    host.guests[0].kill()
    host.guests[0].wait(60)
    assert host.end() == 0
    assert not Path(notes.directory(str(host.directory))).exists()


def test_the_managers_word_is_enough_while_the_cluster_is_away(host: WardedHost, ceph: CephCluster) -> None:
    host.start()
    host.speaks.set()
    host.wait_permitted()
    guest = host.run_guest("i-1")
    for name in ceph.daemons:
        ceph.pause(name)
    ends = time.monotonic() + 8
    while time.monotonic() < ends:
        assert host.runs("i-1")
        time.sleep(0.05)
    for name in ceph.daemons:
        ceph.resume(name)
    until(lambda: Other(ceph).look().expires)
    assert guest.poll() is None


def test_a_fenced_host_ends_its_guests_until_the_fence_is_lifted(host: WardedHost, other: Other) -> None:
    host.start()
    host.speaks.set()
    host.wait_permitted()
    guest = host.run_guest("i-1")
    assert other.fence(5) == "its warden has ended all its machines"
    assert guest.wait(0) == -signal.SIGKILL
    assert other.look().done
    until(lambda: host.report().fence == 5)
    assert not host.report().permitted
    late = subprocess.Popen(["sleep", "1000"], env={"GUREUM_MACHINE": str(host.machines / "i-2")})
    host.guests.append(late)
    assert late.wait(60) == -signal.SIGKILL
    host.kill()
    host.start()
    until(lambda: "fence 5" in host.report().message)
    assert not host.report().permitted
    other.lift(5)
    host.wait_permitted()
    host.run_guest("i-1")
    host.kill()
    host.start()  # that the fence is over, it learns from the cluster
    host.wait_permitted()
    assert host.runs("i-1")


def test_a_dead_host_is_fenced_when_its_lease_expires(host: WardedHost, other: Other) -> None:
    host.start()
    host.wait_permitted()
    guest = host.run_guest("i-1")
    died = time.monotonic()
    host.kill()
    guest.kill()
    assert other.fence(5).startswith("its lease has expired")
    print(f"fenced after {time.monotonic() - died:.1f} s")
    host.start()  # the machine comes back
    until(lambda: host.report().fence == 5)
    assert not host.report().permitted
    other.lift(5)
    host.wait_permitted()


def test_guests_are_stopped_before_a_host_that_is_cut_off_counts_as_fenced(
    host: WardedHost, other: Other
) -> None:
    host.start()
    host.wait_permitted()
    guest = host.run_guest("i-1")
    with cut_off():
        began = time.monotonic()
        assert other.fence(5).startswith("its lease has expired")
        print(f"fenced after {time.monotonic() - began:.1f} s")
        assert not host.runs("i-1")
        assert guest.poll() is None
    assert guest.wait(60) == -signal.SIGKILL
    until(lambda: host.report().fence == 5)


def test_a_host_that_was_held_and_goes_on_ends_its_guests(host: WardedHost, other: Other) -> None:
    host.start()
    host.wait_permitted()
    guest = host.run_guest("i-1")
    for pid in (host.pid, guest.pid):
        os.kill(pid, signal.SIGSTOP)
    assert other.fence(5).startswith("its lease has expired")
    before = host.count("i-1")
    os.kill(host.pid, signal.SIGCONT)
    guest.send_signal(signal.SIGCONT)
    assert guest.wait(60) == -signal.SIGKILL
    print(f"it ran for {(host.count('i-1') - before) * 10} ms")
    until(lambda: host.report().fence == 5)


def test_a_warden_goes_on_where_another_ended(host: WardedHost, other: Other) -> None:
    host.start()
    host.speaks.set()
    host.wait_permitted()
    host.run_guest("i-1")
    taken = other.look().expires.split()[0]
    host.kill()
    assert host.runs("i-1")
    host.start()
    until(lambda: (found := other.look().expires.split()) and found[0] != taken)
    assert host.log().count("machines are stopped") == 0
    # With guests left it ends, and its lease stays.
    assert host.end() == 0
    assert other.look().expires
    # Without the manager's word guests wait until the old lease is in its hands.
    host.speaks.clear()
    time.sleep(4)
    host.start()
    host.wait_permitted()
    until(lambda: host.runs("i-1"))


def test_a_lost_osd_costs_nothing_while_the_manager_is_there(host: WardedHost, ceph: CephCluster) -> None:
    host.start()
    host.speaks.set()
    host.wait_permitted()
    host.run_guest("i-1")
    ceph.kill("osd.0")
    ends = time.monotonic() + 6
    while time.monotonic() < ends:
        assert host.runs("i-1")
        time.sleep(0.05)
    until(lambda: Other(ceph).look().expires)
    host.speaks.clear()
    time.sleep(4)
    assert host.runs("i-1")


def test_osds_that_start_again_after_all_were_killed_are_found(host: WardedHost, ceph: CephCluster) -> None:
    """Where no other OSD is left to say that one died, a client's map has it as it was before."""
    host.start()
    host.speaks.set()
    host.wait_permitted()
    osds = ceph.cluster.osds
    for name in osds:
        ceph.pause(name)
    ceph.kill(*osds)
    for name in osds:
        ceph.start(name)
    ceph.wait_well()
    until(lambda: Other(ceph).look().expires)


def test_another_configuration_is_taken_up(host: WardedHost) -> None:
    host.start()
    host.wait_permitted()
    settings = host.ceph.settings
    watched.configure(host.directory / "run", host.machines, settings, CLOUD, OTHER_NAME, "", Place())
    until(lambda: f"host {OTHER_NAME}" in host.log())
    host.wait_permitted()
    assert host.end() == 0
