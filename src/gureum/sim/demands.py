"""How busy guests are in a simulated cloud, and what of it their hosts measure."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping
from typing import NamedTuple

from gureum.hypervisors.fake import FakeMachines
from gureum.loadspec import HostLoad, MachineLoad

OWN_CPUS = 0.1
"""What a host uses besides its machines."""
MOOD_CHANCE = 0.06


class Demand(NamedTuple):
    """Of its processors, the share that a guest wants; ``every``: for so many seconds, and then not for as
    many; 0 for always.
    """

    share: float = 0.0
    every: float = 0.0

    def mean(self, start: float, end: float) -> float:
        """The share of its processors that it wants, between two times."""
        if not self.every or end <= start:
            return self.share
        return self.share * (self._busy(end) - self._busy(start)) / (end - start)

    def _busy(self, until: float) -> float:
        whole, rest = divmod(until, 2 * self.every)
        return whole * self.every + min(rest, self.every)


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
        here = {id: self._machines.machines[id] for id in self._machines.running()}
        wanted = {
            id: self._demands[id].mean(since, self._since) * machine.config.vcpus
            for id, machine in here.items()
        }
        scarce = min(1.0, self._cpus / (sum(wanted.values()) + OWN_CPUS))
        return HostLoad(
            number=self._number,
            cpus=scarce * (sum(wanted.values()) + OWN_CPUS),
            memory_bytes=sum(machine.config.memory_bytes for machine in here.values()),
            cpu_pressure=1 - scarce,
            machines={
                id: MachineLoad(
                    cpus=scarce * cpus,
                    waiting=(1 - scarce) * cpus,
                    memory_bytes=here[id].config.memory_bytes,
                )
                for id, cpus in wanted.items()
            },
        )


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
