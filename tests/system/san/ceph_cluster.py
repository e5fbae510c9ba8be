"""A real Ceph cluster for tests: its daemons are this process's children, and can be killed and held down."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gureum.cli.supervisor import command, daemon_environment
from gureum.san.ceph import bootstrap, machine, pools
from gureum.san.ceph.cluster import LOOPBACK, MON, Cluster, Record, new_uuid
from gureum.san.ceph.commands import ask
from gureum.san.settings import SanSettings

INDEX = int(os.environ.get("GUREUM_TEST_INDEX", "62"))
OSD_BYTES = 6 << 30
TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


def until(condition: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


class CephCluster:
    """``settings``: what a pool is opened with; ``admin``: a client.admin's `ceph` commands."""

    def __init__(self, osd_bytes: int = OSD_BYTES, index: int = INDEX, devices: tuple[str, ...] = ()) -> None:
        # Ceph's own user must be able to pass, which it cannot below pytest's directories.
        self.directory = Path(tempfile.mkdtemp(prefix="gureum-san-", dir="/var/tmp"))
        self.directory.chmod(0o711)
        self.cluster = Cluster(self.directory)
        self.index = index
        self.cluster.directory.mkdir()
        port = machine.choose_port(index, LOOPBACK)
        size = 0 if devices else osd_bytes
        self.cluster.create(Record(fsid=new_uuid(), mon_port=port, osd_bytes=size, devices=devices))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def settings(self) -> SanSettings:
        return self.cluster.settings()

    @property
    def conf(self) -> Path:
        return self.cluster.conf

    @property
    def pool(self) -> str:
        return self.settings.pool

    @property
    def daemons(self) -> tuple[str, ...]:
        return self.cluster.daemons

    # ---- its life

    def prepare(self, address: str = LOOPBACK) -> None:
        bootstrap.prepare(self.cluster, self.index, address, lambda _text: None)

    def bring_up(self) -> None:
        """All of it, until all is well."""
        self.prepare()
        for name in self.daemons:
            if not self.runs(name):
                self.start(name)
        assert pools.wait_joined(self.cluster, self.cluster.osds, time.monotonic() + TIMEOUT_S)
        pools.have_pools(self.cluster, time.monotonic() + TIMEOUT_S)
        self.wait_well()

    def wait_well(self) -> dict[str, Any]:
        """The status with HEALTH_OK; fails where that does not come."""
        status = pools.wait_for(self.cluster, pools.is_well, time.monotonic() + TIMEOUT_S)
        assert pools.is_well(status), status["health"]
        return status

    def take_down(self) -> None:
        for name in (*self.daemons[1:], MON):
            if self.runs(name):
                self._processes[name].send_signal(signal.SIGCONT)
                self._processes[name].terminate()
            if name == self.daemons[-1]:
                self._wait_ended(set(self.daemons) - {MON})
        self._wait_ended({MON})

    def _wait_ended(self, names: set[str]) -> None:
        for name in names & set(self._processes):
            try:
                self._processes[name].wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._processes[name].kill()
                self._processes[name].wait(STOP_TIMEOUT_S)

    def close(self) -> None:
        """End it and remove all of it, in whatever state it is."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(STOP_TIMEOUT_S)
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- its daemons: mon.a, mgr.x, osd.0 ...

    def start(self, name: str) -> None:
        with open(self.directory / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                command(name, str(self.directory)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=daemon_environment(),
                start_new_session=True,
            )

    def runs(self, name: str) -> bool:
        return name in self._processes and self._processes[name].poll() is None

    def pid(self, name: str) -> int:
        assert self.runs(name), f"{name} does not run: {self.log(name)}"
        return self._processes[name].pid

    def kill(self, *names: str) -> None:
        """As by a power cut of its part; nothing starts it again."""
        for name in names:
            os.kill(self.pid(name), signal.SIGKILL)
            self._processes[name].wait(STOP_TIMEOUT_S)

    def stop(self, *names: str) -> None:
        """In order."""
        for name in names:
            self._processes[name].terminate()
        self._wait_ended(set(names))

    def pause(self, name: str) -> None:
        """It lives, and does nothing: a hung disk, a swapped-out machine."""
        os.kill(self.pid(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        os.kill(self.pid(name), signal.SIGCONT)

    def log(self, name: str) -> str:
        try:
            return (self.directory / f"{name}.log").read_text(errors="replace")[-1500:]
        except FileNotFoundError:
            return ""

    # ---- its answers

    def admin(self, prefix: str, **arguments: Any) -> Any:
        """The JSON that the administrator gets from a command."""
        return ask(pools.admin(self.cluster), [{"prefix": prefix, **arguments}])[0].document()

    def rbd(self, *words: str) -> str:
        """`rbd` as the cloud's own user."""
        settings = self.settings
        done = subprocess.run(
            ["rbd", "--conf", str(settings.conf), "--id", settings.user, "--pool", settings.pool, *words],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        return done.stdout
