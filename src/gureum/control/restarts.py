"""What would be started elsewhere if a host were lost: the fleet's tally, kept only where somebody asks.

An instance would be if its recovery says so and all its volumes are in shared pools, as ``recovery.waits``
says of one whose host is lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import ClassVar, NamedTuple, Self

from gureum.control.filters import plain
from gureum.control.fleet import Fleet, Taken
from gureum.resources import Instance, InstanceState, Record, Recovery, RecoveryPolicy, Volume
from gureum.resources.volume import shared

RUNS = (InstanceState.pending, InstanceState.running)

Order = tuple[int, float, str]


def order(instance: Instance) -> Order:
    """Who is started first."""
    return -instance.recovery.priority, instance.launched.timestamp(), instance.id


def restarts(recovery: Recovery, volumes: Collection[Volume]) -> bool:
    """Whether an instance with these volumes would be started elsewhere if its host was lost."""
    return recovery.policy is RecoveryPolicy.restart and bool(volumes) and all(map(whole, volumes))


def whole(volume: Volume) -> bool:
    """Whether every host reaches all of it."""
    return all(map(shared, volume.pools))


class Restart(NamedTuple):
    """A machine that would be started elsewhere."""

    machine: Taken
    order: Order


class Seen(NamedTuple):
    """Of an instance. ``wanted``: what runs again, as far as its own record says; None if nothing does."""

    machine: Taken
    wanted: Restart | None


class Disks(NamedTuple):
    """Of a volume: who has it, and whether it is ``whole``."""

    instances: tuple[str, ...]
    shared: bool


class Load:
    """What a host's loss would have started elsewhere: sums, and the largest sizes."""

    __slots__ = ("cpus", "cpus_max", "machines", "memory_bytes", "memory_max", "odd")

    def __init__(self) -> None:
        self.machines: dict[str, Restart] = {}
        self.odd: dict[str, Taken] = {}
        """Those that ask for more than room."""
        self.cpus = 0
        self.memory_bytes = 0
        self.cpus_max = 0
        self.memory_max = 0

    def put(self, restart: Restart) -> None:
        machine = restart.machine
        self.machines[machine.id] = restart
        if not plain(machine):
            self.odd[machine.id] = machine
        cpus, memory = machine.vcpus, machine.memory_bytes
        self.cpus += cpus
        self.memory_bytes += memory
        self.cpus_max = max(self.cpus_max, cpus)
        self.memory_max = max(self.memory_max, memory)

    def drop(self, id: str) -> None:
        machine = self.machines.pop(id).machine
        self.odd.pop(id, None)
        cpus, memory = machine.vcpus, machine.memory_bytes
        self.cpus -= cpus
        self.memory_bytes -= memory
        if cpus == self.cpus_max:
            self.cpus_max = max((each.machine.vcpus for each in self.machines.values()), default=0)
        if memory == self.memory_max:
            self.memory_max = max((each.machine.memory_bytes for each in self.machines.values()), default=0)

    def copy(self) -> Load:
        new = Load()
        new.machines, new.odd = self.machines.copy(), self.odd.copy()
        new.cpus, new.memory_bytes = self.cpus, self.memory_bytes
        new.cpus_max, new.memory_max = self.cpus_max, self.memory_max
        return new


class Restarts(Fleet):
    """``loads``: by host; no host has an empty one."""

    kinds: ClassVar[tuple[type[Record], ...]] = (*Fleet.kinds, Volume)

    def __init__(self) -> None:
        super().__init__()
        self.loads: dict[str, Load] = {}
        self._wanted: dict[str, Restart] = {}
        """By instance, what its own record wants."""
        self._disks: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        """By instance, how many volumes it has in shared pools, and how many others."""
        self._counted: dict[str, Restart] = {}
        """What would be restarted, and is part of its host's load."""

    def copy(self) -> Self:
        new = super().copy()
        new.loads = {host: load.copy() for host, load in self.loads.items()}
        new._wanted, new._counted = self._wanted.copy(), self._counted.copy()
        new._disks.update((id, counts.copy()) for id, counts in self._disks.items())
        return new

    def restart(self, id: str) -> Restart | None:
        """Of an instance that would be started elsewhere, or waits to be."""
        disks = self._disks.get(id)
        return self._wanted.get(id) if disks is not None and disks[0] and not disks[1] else None

    def digest(self, record: Record) -> object | None:
        if isinstance(record, Volume):
            return Disks(record.instances, whole(record)) if record.instances else None
        kept = super().digest(record)
        if not isinstance(record, Instance) or not isinstance(kept, Taken):
            return kept
        again = record.state in RUNS and record.recovery.policy is RecoveryPolicy.restart
        # Elsewhere it has the size of its type, whatever its machine still has here.
        anew = kept._replace(held=(0, 0))
        return Seen(kept, Restart(anew, order(record)) if again else None)

    def add(self, kind: str, id: str, kept: object) -> None:
        if isinstance(kept, Disks):
            self._count_disks(kept, 1)
        elif isinstance(kept, Seen):
            super().add(kind, id, kept.machine)
            if kept.wanted is not None:
                self._wanted[id] = kept.wanted
                self._count(id)
        else:
            super().add(kind, id, kept)

    def remove(self, kind: str, id: str, kept: object) -> None:
        if isinstance(kept, Disks):
            self._count_disks(kept, -1)
        elif isinstance(kept, Seen):
            super().remove(kind, id, kept.machine)
            if self._wanted.pop(id, None) is not None:
                self._count(id)
        else:
            super().remove(kind, id, kept)

    def _count_disks(self, disks: Disks, times: int) -> None:
        for id in disks.instances:
            counts = self._disks[id]
            counts[not disks.shared] += times
            if counts == [0, 0]:
                del self._disks[id]
            self._count(id)

    def _count(self, id: str) -> None:
        """Let its host's load be as is known now."""
        before, now = self._counted.get(id), self.restart(id)
        if before is now:
            return
        if before is not None:
            host = str(before.machine.host)
            del self._counted[id]
            self.loads[host].drop(id)
            if not self.loads[host].machines:
                del self.loads[host]
        if now is not None and now.machine.host is not None:
            self._counted[id] = now
            self.loads.setdefault(now.machine.host, Load()).put(now)
