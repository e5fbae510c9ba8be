"""The processes of a cloud's machines, as the kernel shows them, and whether two of one go on at once.

Nothing of the cloud is asked: that is who is judged.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gureum.cli.cloud import Cloud
from gureum.cli.lost_hosts import network, networks

LOOK_SECONDS = 0.25
FRESH_SECONDS = 5.0
"""For so long a process may still become another program."""
OVERLAPS_MAX = 3
"""Looks in a row at which two copies of a migrating machine have used their vCPUs. The one that is left and
the one that goes on may share one; and a vCPU thread that only begins uses some time as well."""
THAW_LOOKS_MAX = 20
HELD = "TZX"
"""States of proc(5) in which nothing of a process goes on."""
_GUEST = re.compile(rb"\bguest=(i-[0-9a-f]{17})\b")
_TICKS = os.sysconf("SC_CLK_TCK")


class Copy(NamedTuple):
    """``started``: clock ticks after boot. ``comes``: started for a migration, to receive the machine."""

    instance: str
    pid: int
    host: int
    started: int
    state: str
    comes: bool
    vcpu_seconds: float = 0.0


def state(pid: int) -> str:
    """Of a process, by proc(5): T is stopped, Z is dead; "" if there is none."""
    return (_stat(pid) or [""])[0]


def copies(cloud: Cloud, passed_over: frozenset[int] = frozenset()) -> list[Copy]:
    """Of all machines of the cloud, on all of its hosts of this machine. A copy's state is as it was when
    all copies had been found.
    """
    hosts = networks(cloud)
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if pid in passed_over:
            continue
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        guest = _GUEST.search(command)
        if guest is not None and (host := hosts.get(network(pid))) is not None:
            found.append((pid, guest[1].decode(), host, b"\0-incoming\0" in command))
    looked_at = ((*each, _stat(each[0])) for each in found)
    return [
        Copy(instance, pid, host, int(fields[19]), fields[0], comes)
        for pid, instance, host, comes, fields in looked_at
        if fields is not None
    ]


def _stat(pid: int, thread: int | None = None) -> list[str] | None:
    """The fields from the third one on."""
    path = f"/proc/{pid}/stat" if thread is None else f"/proc/{pid}/task/{thread}/stat"
    try:
        return Path(path).read_text().rpartition(") ")[2].split()
    except OSError:
        return None


def vcpu_seconds(pid: int) -> float:
    """Processor time that a machine's vCPUs have used: of what QEMU names so."""
    total = 0
    try:
        for thread in map(int, os.listdir(f"/proc/{pid}/task")):
            if Path(f"/proc/{pid}/task/{thread}/comm").read_text().startswith("CPU "):
                fields = _stat(pid, thread)
                total += sum(map(int, fields[11:13])) if fields else 0
    except OSError:
        pass
    return total / _TICKS


class Judge:
    """Looks at copies, again and again, and says what must not be.

    When a machine's new process is there, each older one has to be held or gone. One that was held as its
    whole host was, and goes on with it, has ``THAW_LOOKS_MAX`` until that host's warden has ended it.
    """

    def __init__(self) -> None:
        self._vcpus: dict[int, float] = {}
        self._known: set[int] = set()
        self._went_on: set[int] = set()
        self._in_a_row: dict[str, int] = {}
        self._told: set[tuple[int, ...]] = set()

    def look(self, found: Sequence[Copy]) -> list[str]:
        by_instance: dict[str, list[Copy]] = defaultdict(list)
        for each in found:
            by_instance[each.instance].append(each)
        several = {id: sorted(those, key=_age) for id, those in by_instance.items() if len(those) > 1}
        wrong = {id: live for id, those in several.items() if len(live := self._live(those)) > 1}
        self._in_a_row = {id: self._in_a_row.get(id, 0) + 1 for id in wrong}
        said = [_words(id, live) for id, live in wrong.items() if self._is_too_much(id, live)]
        self._vcpus = {each.pid: each.vcpu_seconds for those in several.values() for each in those}
        self._known = {each.pid for each in found}
        self._went_on = {each.pid for each in found if each.state not in HELD}
        return said

    def _live(self, those: list[Copy]) -> list[Copy]:
        """Those that go on. Of a migration both processes are there for a while, and one guest is held."""
        live = [each for each in those if each.state not in HELD]
        if those[-1].comes:
            return [each for each in live if each.vcpu_seconds > self._vcpus.get(each.pid, math.inf)]
        return live

    def _is_too_much(self, id: str, live: list[Copy]) -> bool:
        pids = tuple(each.pid for each in live)
        *older, newest = live
        is_new = newest.pid not in self._known and any(each.pid in self._went_on for each in older)
        bound = OVERLAPS_MAX if newest.comes else 0 if is_new else THAW_LOOKS_MAX
        if self._in_a_row[id] <= bound or pids in self._told:
            return False
        self._told.add(pids)
        return True


def _words(id: str, live: list[Copy]) -> str:
    shown = ", ".join(f"process {each.pid} on host-{each.host} ({each.state})" for each in live)
    return f"{id} runs more than once: {shown}"


def _age(copy: Copy) -> tuple[int, int]:
    return copy.started, copy.pid


class Seen(NamedTuple):
    """A process that is there from then on (``at``, monotonic)."""

    copy: Copy
    at: float


class Watch(threading.Thread):
    """Judges all the time. ``say`` is told what must not be."""

    def __init__(self, cloud: Cloud, say: Callable[[str], None]) -> None:
        super().__init__(name="copies", daemon=True)
        self._cloud = cloud
        self._say = say
        self._ends = threading.Event()
        self._first_seen: dict[int, float] = {}
        self.now: list[Copy] = []
        self.began: list[Seen] = []
        self.looks = 0

    def run(self) -> None:
        judge, known = Judge(), set[tuple[int, int]]()
        while not self._ends.wait(LOOK_SECONDS):
            now = time.monotonic()
            pids = set(map(int, filter(str.isdigit, os.listdir("/proc"))))
            ours = {each.pid for each in self.now}
            self._first_seen = {pid: self._first_seen.get(pid, now) for pid in pids}
            old = {pid for pid, at in self._first_seen.items() if at < now - FRESH_SECONDS}
            found = copies(self._cloud, frozenset(old - ours))
            count: dict[str, int] = defaultdict(int)
            for each in found:
                count[each.instance] += 1
            found = [
                each._replace(vcpu_seconds=vcpu_seconds(each.pid)) if count[each.instance] > 1 else each
                for each in found
            ]
            for each in found:
                if (key := (each.pid, each.started)) not in known:
                    known.add(key)
                    self.began.append(Seen(each, now))
            self.now = found
            self.looks += 1
            for said in judge.look(found):
                self._say(said)

    def host_of(self, instance: str) -> int | None:
        """Of its newest process that has not ended."""
        live = [each for each in self.now if each.instance == instance and each.state not in "ZX"]
        return max(live, key=_age).host if live else None

    def close(self) -> None:
        self._ends.set()
        self.join()
