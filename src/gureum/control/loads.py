"""What hosts and machines use, smoothed: a report tells of the last seconds, and they are no reason to move.

It is in memory only, since every host says it again; so nothing is known of them for a while after a start.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

from gureum.hostspec import HostReport
from gureum.loadspec import HostLoad, MachineLoad

SMOOTH_SECONDS = 120.0
"""What is older counts less than a third."""
GAP_SECONDS = 60.0
"""What was not heard of for so long begins anew."""
KNOWN_SECONDS = 100.0
"""For so long a machine is looked at before anything is decided about it."""


class Use(NamedTuple):
    """Processors that are used or wanted, and memory that is used."""

    cpus: float = 0.0
    memory_bytes: float = 0.0


class Smooth:
    """The mean since it began, and after a while of the last ``SMOOTH_SECONDS``, about."""

    __slots__ = ("at", "count", "cpus", "memory_bytes", "since")

    def __init__(self, now: float) -> None:
        self.since = self.at = now
        self.count = 0
        self.cpus = self.memory_bytes = 0.0

    def take(self, use: Use, now: float) -> None:
        passed = now - self.at
        if passed > GAP_SECONDS:
            self.since, self.count = now, 0
        self.count += 1
        weight = max(1 - math.exp(-passed / SMOOTH_SECONDS), 1 / self.count)
        self.at = now
        self.cpus += weight * (use.cpus - self.cpus)
        self.memory_bytes += weight * (use.memory_bytes - self.memory_bytes)

    @property
    def use(self) -> Use:
        return Use(self.cpus, self.memory_bytes)


class Heard:
    """Of one host. ``besides``: what it uses besides its machines."""

    def __init__(self, now: float) -> None:
        self.boot, self.number = "", 0
        self.besides = Smooth(now)
        self.pressure = Smooth(now)
        """Both shares of the time, in the places of processors and memory."""


class Loads:
    """``now`` is by the event loop's clock."""

    def __init__(self) -> None:
        self._hosts: dict[str, Heard] = {}
        self._machines: dict[str, Smooth] = {}

    def take(
        self, report: HostReport, there: Collection[str], moving: Collection[str], now: float
    ) -> dict[str, MachineLoad]:
        """Returns what is learned of machines. ``there``: those that the host may speak for. Of those
        ``moving`` nothing is learned: the copying is in what they use, and they are on two hosts.
        """
        learned: dict[str, MachineLoad] = {}
        load = report.load
        heard = self._hosts.get(report.host)
        if load is None or (heard and (report.boot_id, load.number) == (heard.boot, heard.number)):
            return learned
        if not _plausible(load):
            return learned
        if heard is None:
            heard = self._hosts[report.host] = Heard(now)
        heard.boot, heard.number = report.boot_id, load.number
        cpus, memory = min(load.cpus, report.cpus), min(load.memory_bytes, 2 * report.memory_bytes)
        for id, machine in load.machines.items():
            cpus -= machine.cpus
            memory -= machine.memory_bytes
            if id in there and id not in moving:
                learned[id] = machine
                known = self._machines.get(id)
                if known is None:
                    known = self._machines[id] = Smooth(now)
                wanted = min(machine.cpus + machine.waiting, report.cpus)
                known.take(Use(wanted, min(machine.memory_bytes, report.memory_bytes)), now)
        heard.besides.take(Use(max(0.0, cpus), max(0.0, memory)), now)
        heard.pressure.take(Use(min(load.cpu_pressure, 1.0), min(load.memory_pressure, 1.0)), now)
        return learned

    def host(self, id: str, now: float) -> Use | None:
        """What it uses besides its machines; None if that is not known."""
        heard = self._hosts.get(id)
        return heard.besides.use if heard is not None and now <= heard.besides.at + GAP_SECONDS else None

    def pressure(self, id: str) -> Use:
        """As shares of the time."""
        heard = self._hosts.get(id)
        return heard.pressure.use if heard is not None else Use()

    def machine(self, id: str) -> Use:
        known = self._machines.get(id)
        return known.use if known is not None else Use()

    def is_known(self, id: str, now: float) -> bool:
        """Whether the machine was looked at for long enough to say what it uses."""
        known = self._machines.get(id)
        return known is not None and now >= known.since + KNOWN_SECONDS and now <= known.at + GAP_SECONDS

    def forget(self, now: float) -> None:
        """What is not heard of any more; one that migrates may take that long."""
        self._hosts = {id: each for id, each in self._hosts.items() if now <= each.besides.at + GAP_SECONDS}
        kept = now - 60 * GAP_SECONDS
        self._machines = {id: each for id, each in self._machines.items() if each.at >= kept}


def _plausible(load: HostLoad) -> bool:
    """Numbers from another machine may be anything."""
    own = (load.cpus, load.memory_bytes, load.cpu_pressure, load.memory_pressure)
    machines = (
        value for each in load.machines.values() for value in (each.cpus, each.waiting, each.memory_bytes)
    )
    return all(math.isfinite(value) and value >= 0 for value in (*own, *machines))
