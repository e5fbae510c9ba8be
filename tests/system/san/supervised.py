"""A cluster's daemons under a cloud's supervisor, without the rest of a cloud."""

from __future__ import annotations

import signal
import subprocess

from gureum.cli.children import little_process
from gureum.cli.cloud import Cloud
from gureum.cli.config import make_state_dir
from gureum.cli.processes import read_pid_file
from gureum.san.settings import SanSettings

from .ceph_cluster import TIMEOUT_S, CephCluster, until


class Supervised:
    def __init__(self, ceph: CephCluster) -> None:
        self.ceph = ceph
        self.cloud = Cloud(ceph.directory)
        self.process: subprocess.Popen[bytes] | None = None
        make_state_dir(ceph.directory)
        SanSettings.save(ceph.settings, ceph.directory)

    def start(self) -> None:
        command = little_process("gureum.cli.supervisor", self.ceph.directory, *self.ceph.daemons)
        self.process = subprocess.Popen(command, start_new_session=True)
        until(lambda: self.cloud.supervisor() is not None and len(self.pids()) == len(self.ceph.daemons))

    def pids(self) -> dict[str, int]:
        files = {name: self.cloud.run_dir / f"{name}.pid" for name in self.ceph.daemons}
        return {name: found.pid for name, file in files.items() if (found := read_pid_file(file))}

    def end(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(TIMEOUT_S)
