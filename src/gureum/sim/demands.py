"""How busy guests are in a simulated cloud, and what of it their hosts measure."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping
from typing import NamedTuple

from gureum.hypervisors.fake import FakeMachines
from gureum.hypervisors.fake_machine import FakeMachine
from gureum.loadspec import HostLoad, MachineLoad

OWN_CPUS = 0.1
"""What a host uses besides its machines."""
MOOD_CHANCE = 0.06
MIB = 1 << 20


class Demand(NamedTuple):
    """What a guest wants: ``share`` of its processors, or ``cpus`` of them, if it has so many; ``every``: for
    so many seconds, and then not for as many; 0 for always. ``memory_mib``: what it uses of its memory, if it
    has so much; negative: it doesn't say it.
    """

    share: float = 0.0
    every: float = 0.0
    cpus: float = 0.0
    memory_mib: float = 0.0

    def mean(self, vcpus: int, start: float, end: float) -> float:
        """The processors that it wants of these, between two times."""
        wanted = max(self.share * vcpus, min(self.cpus, vcpus))
        if not self.every or end <= start:
            return wanted
        return wanted * (self._busy(end) - self._busy(start)) / (end - start)

    def _busy(self, until: float) -> float:
        whole, rest = divmod(until, 2 * self.every)
        return whole * self.every + min(rest, self.every)

    def used_bytes(self, memory_bytes: int) -> int:
        return min(int(self.memory_mib * MIB), memory_bytes) if self.memory_mib >= 0 else -1


class Demands(dict[str, Demand]):
    """By instance. What nothing is said of is idle."""

    def __missing__(self, id: str) -> Demand:
        return Demand()


class SimGauge:
    """Guests get less than they want where there are not enough processors, and wait for the rest."""

    def __init__(self, machines: FakeMachines, cpus: int, demands: Mapping[str, Demand]) -> None:
        self._machines, self._cpus, self._demands = machines, cpus, demands
        self._number = 0
        self._since: float | None = None

    async def measure(self) -> HostLoad | None:
        since, self._since = self._since, asyncio.get_running_loop().time()
        if since is None:
            return None
        self._number += 1
        here = {id: _size(self._machines.machines[id]) for id in self._machines.running()}
        wanted = {id: self._demands[id].mean(vcpus, since, self._since) for id, (vcpus, _) in here.items()}
        scarce = min(1.0, self._cpus / (sum(wanted.values()) + OWN_CPUS))
        return HostLoad(
            number=self._number,
            cpus=scarce * (sum(wanted.values()) + OWN_CPUS),
            memory_bytes=sum(memory_bytes for _, memory_bytes in here.values()),
            cpu_pressure=1 - scarce,
            machines={
                id: MachineLoad(
                    cpus=scarce * cpus,
                    waiting=(1 - scarce) * cpus,
                    memory_bytes=here[id][1],
                    used_bytes=self._demands[id].used_bytes(here[id][1]),
                )
                for id, cpus in wanted.items()
            },
        )


def _size(machine: FakeMachine) -> tuple[int, int]:
    """The vCPUs and the bytes of memory that it has now."""
    has = machine.size or machine.config
    return has.vcpus, has.memory_bytes


class Moods:
    """Guests that become busy, or idle, now and then, by dice of their own: the others fall as ever."""

    def __init__(self, seed: int, demands: Demands) -> None:
        self._random = random.Random(seed)
        self._demands = demands

    def step(self, instances: Collection[str]) -> None:
        rng = self._random
        for id in sorted(instances):
            if rng.random() < MOOD_CHANCE:
                every = rng.choice([0.0, 0.0, 0.0, 15.0, 100.0])
                self._demands[id] = Demand(rng.choice([0.0, 0.7, 1.0, 1.0]), every)

    def end(self) -> None:
        """All are idle."""
        self._demands.clear()
