"""Which instances are to go where, so that no host is much busier than others: decided over plain values.

Each host has a discomfort, convex in its load, and a move has to make the sum of it less. So under a constant
load the moves come to an end, and nothing goes in circles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from gureum.control.filters import FILTERS, Look, Scene, Wish
from gureum.control.fleet import EVERY_ZONE, Fleet, Taken, serves
from gureum.control.loads import Use
from gureum.resources import Host, HostState, Strategy


class Bounds(NamedTuple):
    """Of one kind of load, as shares of what the host has.

    A host is hot from ``hot`` on, if it is ``apart`` from the mean of its zone; and then until it is below
    ``cool``, or less than ``near`` from the mean.
    """

    hot: float
    apart: float
    cool: float
    near: float

    def exceeded(self, share: float, mean: float, *, already: bool) -> bool:
        if already:
            return share >= self.cool and share - mean >= self.near
        return share >= self.hot and share - mean >= self.apart


CPU = Bounds(hot=0.70, apart=0.15, cool=0.60, near=0.05)
MEMORY = Bounds(hot=0.90, apart=0.10, cool=0.85, near=0.05)

MEMORY_FREELY = 0.7
"""Memory hurts when it is used beyond this share; a processor the more the busier it is."""
MEMORY_WEIGHT = 12.0
COPY_BYTES_PER_SECOND = 256 << 20
DEVICE_CPUS = 1.0
"""What a machine may use besides its own processors."""
COPY_CPUS = 2.0
"""What copying takes, at both ends together."""
MOVE_CPU_SECONDS = 10.0
"""What a move costs besides."""
GAIN_MIN = 0.1
"""Processors that a move has to be worth."""
WORTH = 2.0
"""So many times its cost a move has to gain, as long as the load is thought to last."""
LASTS_SECONDS_MAX = 3600.0
"""A host that was hot for so long is thought to be so for as long again, up to this."""
LOOKED_AT_MAX = 50
"""Hosts with room that are tried for one instance, the least loaded first."""
HOSTS_MAX = 50
"""Hosts that are relieved in one plan, the hottest first."""
MOVES_MAX = 50
SLICE = 25
"""Hosts that are looked at before others have their turn."""


class Level(NamedTuple):
    """Loads as shares of what a host has; more than 1 if more is wanted."""

    cpu: float = 0.0
    memory: float = 0.0

    def exceeded(self, mean: Level, *, already: bool) -> tuple[bool, bool]:
        """By processors, and by memory."""
        return (
            CPU.exceeded(self.cpu, mean.cpu, already=already),
            MEMORY.exceeded(self.memory, mean.memory, already=already),
        )


class Cost(NamedTuple):
    """Of a move: memory to be copied, how long that takes, and processor seconds in all."""

    bytes: int
    seconds: float
    cpu_seconds: float

    @classmethod
    def of(cls, machine: Taken, use: Use) -> Cost:
        """A guest that works writes to its memory meanwhile: that is copied again."""
        memory = min(use.memory_bytes, machine.memory_bytes) or machine.memory_bytes
        seconds = memory / COPY_BYTES_PER_SECOND * (1 + min(1.0, use.cpus / max(1, machine.size.vcpus)))
        return cls(int(memory), seconds, COPY_CPUS * seconds + MOVE_CPU_SECONDS)


class Move(NamedTuple):
    """The levels are those before it. ``gain``: processors no longer wanted where they are scarce."""

    instance: str
    source: str
    target: str
    source_level: Level
    target_level: Level
    by_memory: bool
    gain: float
    cost: Cost

    @property
    def pays_back_seconds(self) -> float:
        return self.cost.cpu_seconds / self.gain

    @property
    def reason(self) -> str:
        what = "memory" if self.by_memory else "processors"
        here, there = (percent(level[self.by_memory]) for level in (self.source_level, self.target_level))
        return f"balancing: {self.source} is at {here} of its {what}, {self.target} at {there}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


NOTHING = Use()


class Place:
    """A host that says how busy it is, and what is, or will be, on it."""

    __slots__ = ("cpus", "host", "machines", "memory_bytes")

    def __init__(self, host: Host, besides: Use) -> None:
        self.host = host
        self.cpus, self.memory_bytes = besides
        self.machines: dict[str, tuple[Taken, Use]] = {}

    def add(self, machine: Taken, use: Use) -> None:
        self.machines[machine.id] = machine, use
        self.cpus += use.cpus
        self.memory_bytes += use.memory_bytes

    def remove(self, id: str) -> None:
        _, use = self.machines.pop(id)
        self.cpus -= use.cpus
        self.memory_bytes -= use.memory_bytes

    def level(self, use: Use = NOTHING, times: int = 1) -> Level:
        """With so much more."""
        return Level(
            (self.cpus + times * use.cpus) / self.host.cpus,
            (self.memory_bytes + times * use.memory_bytes) / self.host.memory_bytes,
        )

    def discomfort(self, level: Level) -> float:
        """At that level, in processors."""
        memory = max(0.0, level.memory - MEMORY_FREELY)
        return self.host.cpus * (level.cpu * level.cpu + MEMORY_WEIGHT * memory * memory) / 2


class Situation(NamedTuple):
    """What is decided about. ``fleet`` is the caller's own. ``besides``: what hosts use besides their
    machines, of those that say so; ``use``: what a machine uses; ``going``: where instances go that are on
    their way.
    """

    fleet: Fleet
    besides: Mapping[str, Use]
    use: Callable[[str], Use]
    going: Mapping[str, str]


class Plan:
    """The hosts as they will be when what is on its way has arrived, and what was taken here since.

    To be filled first, and then not for long: what it knows gets old.
    """

    def __init__(self, snapshot: Situation) -> None:
        self._situation = snapshot
        self._scene = Scene(snapshot.fleet)
        self.places: dict[str, Place] = {}
        self._order: list[Place] = []
        """By their processors' load."""
        self._means: dict[str, Level] = {}

    def fill(self) -> Iterator[None]:
        """In slices."""
        fleet, going = self._situation.fleet, self._situation.going
        hosts = [candidate.host for candidate in fleet.candidates()]
        for host in hosts:
            besides = self._situation.besides.get(host.id)
            if host.state is HostState.up and besides is not None and host.cpus and host.memory_bytes:
                self.places[host.id] = Place(host, besides)
        for number, host in enumerate(hosts, 1):
            for id, machine in fleet.on(host.id).items():
                if (place := self.places.get(going.get(id, host.id))) is not None:
                    use = self._situation.use(id)
                    wanted = min(use.cpus, machine.size.vcpus + DEVICE_CPUS)
                    place.add(machine, Use(wanted, use.memory_bytes))
            if not number % SLICE:
                yield
        # What is moved stays in the zone: its mean does not change.
        sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * 4)
        zones = {host.zone for host in hosts}
        for place in self.places.values():
            host = place.host
            own = place.cpus, host.cpus, place.memory_bytes, host.memory_bytes
            for zone in zones if host.zone == EVERY_ZONE else {host.zone, EVERY_ZONE}:
                sums[zone] = [sum(pair) for pair in zip(sums[zone], own, strict=True)]
        self._means = {zone: Level(a / b, c / d) for zone, (a, b, c, d) in sums.items()}
        self._sort()

    def _sort(self) -> None:
        self._order = sorted(self.places.values(), key=lambda each: (each.level().cpu, each.host.id))

    def mean(self, host: str) -> Level:
        """Of all hosts that serve its zone, as if they were one."""
        return self._means[self.places[host].host.zone]

    def exceeded(self, host: str, *, already: bool) -> tuple[bool, bool]:
        """Whether it is hot, by processors and by memory."""
        return self.places[host].level().exceeded(self.mean(host), already=already)

    @property
    def imbalance(self) -> float:
        """How far the busiest host's processors are above the mean of its zone, as a share."""
        return max((place.level().cpu - self.mean(id).cpu for id, place in self.places.items()), default=0.0)

    def best(self, host: str, lasts: float, left_alone: Collection[str]) -> Move | None:
        """What relieves the host most for its cost, if anything is worth it. ``lasts``: for how many seconds
        it is thought to be hot.
        """
        here = self.places[host]
        by_cpu, _ = self.exceeded(host, already=True)
        now = here.level()
        calm = here.discomfort(now)
        lowest = self._order[0].level().cpu
        options = []
        for id, (machine, use) in here.machines.items():
            if id in left_alone:
                continue
            cost = Cost.of(machine, use)
            relief = calm - here.discomfort(here.level(use, -1))
            # No host would have less discomfort from it than that.
            gain = relief - use.cpus * lowest
            if _worth(gain, cost, lasts):
                options.append((gain / cost.cpu_seconds, id, machine, use, cost, relief))
        options.sort(key=lambda option: (-option[0], option[1]))
        best: Move | None = None
        for at_most, _, machine, use, cost, relief in options:
            if best is not None and at_most <= best.gain / best.cost.cpu_seconds:
                break
            found = self._target(here, machine, use, cost, relief, lasts, best)
            if found is not None:
                target, gain = found
                best = Move(machine.id, host, target.host.id, now, target.level(), not by_cpu, gain, cost)
        return best

    def _target(
        self,
        here: Place,
        machine: Taken,
        use: Use,
        cost: Cost,
        relief: float,
        lasts: float,
        best: Move | None,
    ) -> tuple[Place, float] | None:
        """Where most is gained, if that is better than ``best``."""
        bar = best.gain / best.cost.cpu_seconds * cost.cpu_seconds if best is not None else 0.0
        after = here.level(use, -1)
        allowed = Level(max(CPU.cool, after.cpu), max(MEMORY.cool, after.memory))
        look = Look(self._scene, Wish(machine, excluding={here.host.id: "has it already"}, like=here.host))
        filters = [each.why for each in FILTERS if each.concerns(look)]
        near = self._near(look, here.host.id)
        found: Place | None = None
        looked = 0
        for place in self._order:
            level = place.level()
            if looked >= LOOKED_AT_MAX or relief - use.cpus * level.cpu <= max(bar, GAIN_MIN):
                break
            candidate = self._scene.candidate(place.host.id)
            if candidate is None or candidate.memory_bytes < machine.memory_bytes:
                continue
            if not serves(place.host, machine.zone) or not place.host.address:
                continue
            if near and look.racks[candidate.rack] < near:
                continue
            looked += 1
            there = place.level(use)
            if there.cpu > allowed.cpu or there.memory > allowed.memory:
                continue
            gain = relief - (place.discomfort(there) - place.discomfort(level))
            if gain > bar and _worth(gain, cost, lasts) and not any(why(look, candidate) for why in filters):
                found, bar = place, gain
        return (found, bar) if found is not None else None

    def _near(self, look: Look, host: str) -> int:
        """How many of its cluster group are in its rack: it is not to go where fewer are."""
        candidate = self._scene.candidate(host)
        if candidate is None or look.group is None or look.group.strategy is not Strategy.cluster:
            return 0
        return look.racks[candidate.rack]

    def take(self, move: Move) -> None:
        """As if it were done."""
        machine, use = self.places[move.source].machines[move.instance]
        self.places[move.source].remove(move.instance)
        self.places[move.target].add(machine, use)
        candidate = self._scene.candidate(move.target)
        assert candidate is not None
        self._scene.take(candidate, machine)
        self._sort()


def _worth(gain: float, cost: Cost, lasts: float) -> bool:
    return gain >= GAIN_MIN and gain * lasts >= WORTH * cost.cpu_seconds


class Heat:
    """Which hosts are hot, and since when, by the clock of ``now``."""

    def __init__(self) -> None:
        self.since: dict[str, float] = {}

    def take(self, plan: Plan, now: float) -> None:
        hot = [id for id in plan.places if any(plan.exceeded(id, already=id in self.since))]
        self.since = {id: self.since.get(id, now) for id in hot}

    def seconds(self, host: str, now: float) -> float:
        return now - self.since[host] if host in self.since else 0.0


def proposals(plan: Plan, hot: Mapping[str, float], left_alone: set[str]) -> Iterator[Move | None]:
    """What is to be moved off hosts that were ``hot`` for so many seconds, in slices (None).

    What the caller then puts into ``left_alone`` cannot be moved; all else is taken as done.
    """
    count = 0
    for host in sorted(hot, key=lambda id: (-max(plan.places[id].level()), id))[:HOSTS_MAX]:
        lasts = min(hot[host], LASTS_SECONDS_MAX)
        while count < MOVES_MAX and any(plan.exceeded(host, already=True)):
            yield None
            move = plan.best(host, lasts, left_alone)
            if move is None:
                break
            yield move
            if move.instance not in left_alone:
                plan.take(move)
                left_alone.add(move.instance)
                count += 1
