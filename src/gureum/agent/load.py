"""How busy the host and its machines are, as the kernel counts it.

A machine's processor time is that of its process; what its threads waited for a processor (the run queue's
delay, /proc/PID/task/TID/schedstat) is what it wanted besides. The host's is /proc/stat's, and how long
anything waited the kernel's pressure stall information, where it has that. What guests use of their memory
they say themselves.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from gureum.loadspec import HostLoad, MachineLoad

PROC = Path("/proc")
NANOSECONDS = 1_000_000_000
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STALL_MICROSECONDS = 1_000_000


class Gauge(Protocol):
    async def measure(self) -> HostLoad | None:
        """What was used since the last call; None if that cannot be told, as of the first one."""


class Count(NamedTuple):
    """Of a process since it began. ``waited``: by thread, nanoseconds."""

    pid: int
    seconds: float
    waited: dict[str, int]
    memory_bytes: int


class Counts(NamedTuple):
    """All of a host at a time, in seconds. ``stalled``: for processors and for memory."""

    time: float
    busy: float
    memory_bytes: int
    stalled: tuple[float, float]
    machines: dict[str, Count]


class ProcGauge:
    """``processes()``: those of the machines, by id. ``used_memory()``: the bytes that guests say they use.

    ``whole``: the host is all of this computer. One that shares it with other hosts counts only its machines.
    """

    def __init__(
        self,
        processes: Callable[[], Mapping[str, int]],
        used_memory: Callable[[], Awaitable[Mapping[str, int]]],
        whole: bool = True,
        proc: Path = PROC,
    ) -> None:
        self._processes = processes
        self._used_memory = used_memory
        self._whole = whole
        self._proc = proc
        self._before: Counts | None = None
        self._number = 0

    async def measure(self) -> HostLoad | None:
        now = asyncio.get_running_loop().time()
        processes = dict(self._processes())
        counts = await asyncio.to_thread(self._count, now, processes)
        used = await self._used_memory()
        before, self._before = self._before, counts
        if before is None or counts.time <= before.time:
            return None
        self._number += 1
        return load(self._number, before, counts, used, whole=self._whole)

    def _count(self, now: float, processes: Mapping[str, int]) -> Counts:
        found = ((id, self._process(pid)) for id, pid in processes.items())
        return Counts(
            now,
            self._busy(),
            self._memory_bytes(),
            (self._stalled("cpu"), self._stalled("memory")),
            {id: count for id, count in found if count is not None},
        )

    def _busy(self) -> float:
        """Seconds that all processors worked, for guests, too; not those that another host took."""
        with (self._proc / "stat").open() as file:
            user, nice, system, _, _, irq, softirq, *_ = map(int, file.readline().split()[1:])
        return (user + nice + system + irq + softirq) / TICKS

    def _memory_bytes(self) -> int:
        found: dict[str, int] = {}
        for line in (self._proc / "meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            found[name] = int(rest.split()[0]) * 1024
        swapped = found.get("SwapTotal", 0) - found.get("SwapFree", 0)
        return found["MemTotal"] - found["MemAvailable"] + swapped

    def _stalled(self, resource: str) -> float:
        try:
            text = (self._proc / "pressure" / resource).read_text()
        except OSError:
            return 0.0
        for line in text.splitlines():
            if line.startswith("some "):
                return int(line.rpartition("total=")[2]) / STALL_MICROSECONDS
        return 0.0

    def _process(self, pid: int) -> Count | None:
        directory = self._proc / str(pid)
        try:
            fields = (directory / "stat").read_text().rpartition(") ")[2].split()
            resident = int((directory / "statm").read_text().split()[1])
            waited = {
                task: self._waited(directory / "task" / task) for task in os.listdir(directory / "task")
            }
        except OSError:
            return None  # it has ended
        return Count(pid, (int(fields[11]) + int(fields[12])) / TICKS, waited, resident * PAGE_BYTES)

    @staticmethod
    def _waited(task: Path) -> int:
        try:
            return int((task / "schedstat").read_text().split()[1])
        except (OSError, IndexError):
            return 0  # it has ended, or the kernel does not count it


def load(number: int, before: Counts, now: Counts, used: Mapping[str, int], *, whole: bool) -> HostLoad:
    """What was used between two counts. ``used``: of guests' memory, now."""
    seconds = now.time - before.time
    machines = {}
    for id, count in now.machines.items():
        then = before.machines.get(id)
        if then is None or then.pid != count.pid:
            continue  # it has just begun
        waited = sum(max(0, total - then.waited.get(task, total)) for task, total in count.waited.items())
        machines[id] = MachineLoad(
            cpus=max(0.0, count.seconds - then.seconds) / seconds,
            waiting=waited / NANOSECONDS / seconds,
            memory_bytes=count.memory_bytes,
            used_bytes=used.get(id, -1),
        )
    if not whole:
        return HostLoad(
            number=number,
            cpus=sum(machine.cpus for machine in machines.values()),
            memory_bytes=sum(machine.memory_bytes for machine in machines.values()),
            machines=machines,
        )
    shares = [min(1.0, max(0.0, a - b) / seconds) for a, b in zip(now.stalled, before.stalled, strict=True)]
    return HostLoad(
        number=number,
        cpus=max(0.0, now.busy - before.busy) / seconds,
        memory_bytes=now.memory_bytes,
        cpu_pressure=shares[0],
        memory_pressure=shares[1],
        machines=machines,
    )
