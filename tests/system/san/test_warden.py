"""The warden's process against a real cluster, with guests that are only processes which count."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gureum.agent import watched
from gureum.agent.warden import notes
from gureum.cli.processes import rss_kib
from gureum.cli.supervisor import command
from gureum.env import Env
from gureum.hostspec import WardenReport
from gureum.san.ceph.pool import RbdPool

from .ceph_cluster import CephCluster, until

pytestmark = [pytest.mark.ceph, pytest.mark.root, pytest.mark.timeout(240)]

CLOUD, HOST, OTHER = "test", "host-1", "host-2"
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
        self.agent = watched.HostWarden(directory)
        self.speaks = threading.Event()
        self._ends = threading.Event()
        self._speaker = threading.Thread(target=self._speak, daemon=True)
        self._speaker.start()
        self.configure()

    def configure(self, **changes: object) -> None:
        settings = self.ceph.settings
        watched.configure(self.directory / "run", self.machines, settings, CLOUD, HOST, "")

    def _speak(self) -> None:
        while not self._ends.wait(0.5):
            if self.speaks.is_set():
                self.agent.heard(self.agent.now())

    def start(self) -> None:
        with open(self.directory / "warden.log", "ab") as log:
            self.warden = subprocess.Popen(command("warden", str(self.directory)), stderr=log)

    @property
    def pid(self) -> int:
        assert self.warden is not None
        return self.warden.pid

    def kill(self) -> None:
        assert self.warden is not None
        self.warden.kill()
        self.warden.wait(10)

    def end(self) -> int:
        assert self.warden is not None
        self.warden.terminate()
        return self.warden.wait(10)

    def report(self) -> WardenReport:
        return self.agent.report()

    def log(self) -> str:
        return (self.directory / "warden.log").read_text()

    def wait_permitted(self, permitted: bool = True) -> None:
        until(lambda: self.report().permitted is permitted)

    # Its guests

    def run_guest(self, id: str) -> subprocess.Popen[bytes]:
        """Also a process that has a child, as a machine's may."""
        (self.machines / id).mkdir(exist_ok=True)
        guest = subprocess.Popen(
            ["python3", "-c", GUEST, str(self.machines / id / "count")],
            env={"PATH": os.environ["PATH"], "GUREUM_MACHINE": str(self.machines / id)},
        )
        self.guests.append(guest)
        until(lambda: self.count(id))
        return guest

    def count(self, id: str) -> int:
        try:
            return int((self.machines / id / "count").read_text() or 0)
        except FileNotFoundError:
            return 0

    def runs(self, id: str) -> bool:
        before = self.count(id)
        time.sleep(0.2)
        return self.count(id) > before

    def close(self) -> None:
        self._ends.set()
        self._speaker.join()
        for process in (*self.guests, self.warden):
            if process is not None:
                process.kill()
                process.wait(10)


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
            subprocess.run(["rados", *io, "rm", f"gureum.{kind}.{CLOUD}.{HOST}"], check=False)


class Fencer:
    """The agent of another host."""

    def __init__(self, ceph: CephCluster, host: str = OTHER) -> None:
        self._ceph = ceph
        self._host = host

    def mark(self, number: int) -> None:
        asyncio.run(self._do("mark", number))

    def lift(self, number: int) -> None:
        asyncio.run(self._do("lift", number))

    def fence(self, number: int) -> str:
        """How it came to its end."""

        async def work(pool: RbdPool) -> str:
            await pool.mark(HOST, number)
            while not (state := await pool.fenced(HOST, number)).done:
                await asyncio.sleep(0.1)
            return state.message

        return asyncio.run(self._with_pool(work))

    async def _do(self, name: str, number: int) -> None:
        await self._with_pool(lambda pool: getattr(pool, name)(HOST, number))

    async def _with_pool(self, work):  # type: ignore[no-untyped-def]
        pool = RbdPool(Env(), self._ceph.settings, CLOUD, self._host)
        try:
            return await work(pool)
        finally:
            await pool.close()


def test_guests_run_while_the_cluster_or_the_manager_is_there(host: WardedHost, ceph: CephCluster) -> None:
    host.start()
    host.wait_permitted()
    host.run_guest("i-1")
    time.sleep(2)
    print("rss", rss_kib(host.pid))
    print(open(f"/proc/{host.pid}/smaps_rollup").read())
    def cpu(): 
        f = open(f"/proc/{host.pid}/stat").read().rpartition(")")[2].split(); return (int(f[11]) + int(f[12])) * 10
    a = cpu(); time.sleep(20); print("ms cpu per s", (cpu() - a) / 20)
    t = time.time()
    ceph.pause("osd.0"); 
    until(lambda: not host.runs("i-1"))
    print("frozen after", time.time() - t)
    print(host.log())
    print(host.report())
    ceph.resume("osd.0")
    t = time.time()
    until(lambda: host.runs("i-1"))
    print("on after", time.time() - t)
    print(host.log())
    t = time.time()
    print(Fencer(ceph).fence(5), time.time() - t)
    print(host.log())
    print(host.report())
    assert host.guests[0].wait(1) == -9
    Fencer(ceph).lift(5)
    host.wait_permitted()
    print(host.log())
    assert host.end() == 0
    print(host.log())
    print(ceph.rbd("ls"))
