"""Faults: ``begin`` does one and says to what, ``close`` of what it returns takes it back."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NamedTuple

from gureum.bench.chaos.plan import Fault
from gureum.bench.copies import HELD, Copy
from gureum.bench.leftovers import command_lines
from gureum.cli import lost_hosts
from gureum.cli.cloud import Cloud
from gureum.cli.lost_hosts import kill_host
from gureum.cli.output import CliError
from gureum.cli.processes import identify, read_pid_file, send
from gureum.san.ceph.cluster import MON, Cluster

KILL_SECONDS = 0.05
KILLS_MAX = 40
WORKER = b"rbdworker"
MACHINE_KILLS_MAX = 4
KILLS_SECONDS = 600.0
"""A machine that dies six times in ten minutes is left stopped, as is promised: it is killed less often."""


@contextmanager
def _killed(cloud: Cloud, number: int) -> Iterator[None]:
    """All of it, and again what the supervisor starts of it: the host is off as long as this lasts."""
    ends = threading.Event()

    def kill() -> None:
        while not ends.wait(KILL_SECONDS):
            for role in ("agent", "warden"):
                identity = read_pid_file(cloud.run_dir / f"{role}-{number}.pid")
                if identity is not None:
                    send(identity, signal.SIGKILL)

    for _ in range(KILLS_MAX):
        if not kill_host(cloud, f"host-{number}", signal.SIGKILL):
            break
        time.sleep(KILL_SECONDS)
    again = threading.Thread(target=kill, daemon=True)
    again.start()
    try:
        yield
    finally:
        ends.set()
        again.join()


HOST: dict[str, Callable[[Cloud, int], AbstractContextManager[None]]] = {
    "host killed": _killed,
    "host stopped": lost_hosts.stopped,
    "host cut off": lost_hosts.cut_off,
    "host away from manager": lost_hosts.away_from_manager,
    "host away from storage": lost_hosts.away_from_storage,
    "host unplugged": lost_hosts.unplugged,
}


class Underway(NamedTuple):
    """``hosts``: which ones it takes away, ``instance``: whose process was killed."""

    words: str
    hosts: frozenset[int]
    instance: str
    stack: ExitStack

    def close(self) -> None:
        self.stack.close()


class Faults:
    def __init__(self, cloud: Cloud, hosts: int, machines: Callable[[], Sequence[Copy]]) -> None:
        self._cloud = cloud
        self._hosts = hosts
        self._machines = machines
        self._killed: list[tuple[str, float]] = []

    def begin(self, fault: Fault) -> Underway | None:
        """None: what it is for is not there."""
        stack = ExitStack()
        host = fault.target % self._hosts
        if fault.kind in HOST:
            try:
                stack.enter_context(HOST[fault.kind](self._cloud, host))
            except CliError:
                return None
            words = f"host-{host} {fault.kind.removeprefix('host ')} for {fault.seconds:.0f} s"
            return Underway(words, frozenset({host}), "", stack)
        if fault.kind == "machine killed":
            return self._kill_machine(fault, stack)
        if fault.kind == "worker killed":
            return self._kill_worker(fault, stack)
        names, how = self._daemons(fault)
        if fault.seconds:
            stack.enter_context(self._held(names))
        elif not [name for name in names if self._send(name, how)]:
            return None
        lasts = f" for {fault.seconds:.0f} s" if fault.seconds else ""
        return Underway(f"{' '.join(names)} {fault.kind.rpartition(' ')[2]}{lasts}", frozenset(), "", stack)

    def _daemons(self, fault: Fault) -> tuple[list[str], signal.Signals]:
        host = fault.target % self._hosts
        osds = Cluster(self._cloud.state_dir).osds
        names = {
            "agent killed": [f"agent-{host}"],
            "warden killed": [f"warden-{host}"],
            "manager killed": ["manager"],
            "osd killed": [osds[fault.target % len(osds)]],
            "osd stopped": [osds[fault.target % len(osds)]],
            "mon killed": [MON],
            "storage stopped": list(self._cloud.daemons),
        }
        return names[fault.kind], signal.SIGKILL

    def _kill_machine(self, fault: Fault, stack: ExitStack) -> Underway | None:
        now = time.monotonic()
        self._killed = [each for each in self._killed if each[1] > now - KILLS_SECONDS]
        spent = [instance for instance, _ in self._killed]
        there = [each for each in self._machines() if each.state not in HELD]
        there = [each for each in there if spent.count(each.instance) < MACHINE_KILLS_MAX]
        if not there:
            return None
        copy = sorted(there)[fault.target % len(there)]
        identity = identify(copy.pid)
        if identity is None or not send(identity, signal.SIGKILL):
            return None
        self._killed.append((copy.instance, now))
        words = f"process of {copy.instance} killed on host-{copy.host}"
        return Underway(words, frozenset(), copy.instance, stack)

    def _kill_worker(self, fault: Fault, stack: ExitStack) -> Underway | None:
        """Of those that do an agent's work in the storage cluster."""
        mark = f"{self._cloud.state_dir}/".encode()
        there = sorted(pid for pid, command in command_lines() if WORKER in command and mark in command)
        identity = identify(there[fault.target % len(there)]) if there else None
        if identity is None or not send(identity, signal.SIGKILL):
            return None
        return Underway(f"worker {identity.pid} of an agent killed", frozenset(), "", stack)

    def _send(self, name: str, how: signal.Signals) -> bool:
        identity = read_pid_file(self._cloud.run_dir / f"{name}.pid")
        return identity is not None and send(identity, how)

    @contextmanager
    def _held(self, names: Sequence[str]) -> Iterator[None]:
        found = [read_pid_file(self._cloud.run_dir / f"{name}.pid") for name in names]
        held = [each for each in found if each is not None and send(each, signal.SIGSTOP)]
        try:
            yield
        finally:
            for each in held:
                send(each, signal.SIGCONT)
