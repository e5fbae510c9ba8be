"""Whether what runs would find room if hosts were lost, and what would not.

The answer is that of the recovery itself: the same order, filters and weights, in thought. As most fleets
have much more room than that takes, it is seldom asked. Sums tell first: whichever hosts were chosen, a
machine of at most ``m`` bytes finds none only after each has taken so much that less than ``m`` is left. So
if the others have room for all that is lost beyond ``m`` on each, or for as many machines of ``m``, every
machine finds a host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from heapq import heappop, heappush, nlargest
from itertools import combinations
from math import comb
from typing import NamedTuple

from gureum.control.filters import SPREAD_PER_ZONE_MAX, Scene, Wish, plain
from gureum.control.fleet import DEDICATED, EVERY_ZONE, Candidate, Fleet, Taken, serves
from gureum.control.restarts import Load, Restart, Restarts
from gureum.resources import SpreadLevel, Strategy

SETS_MAX = 128
"""Of so many sets of hosts each is looked at. Of more, those of each host with the hardest ones to lose."""
SURVIVE_MAX = 16
"""How many losses are looked at."""
NAMED_MAX = 3

Size = tuple[int, int]
"""Bytes of memory and vCPUs."""


class Shortfall(NamedTuple):
    """``homeless``: what finds no room if the hosts ``lost`` are lost; the first to be started first."""

    lost: tuple[str, ...]
    homeless: tuple[Taken, ...]

    def __str__(self) -> str:
        names = [f"{each.id} ({each.type})" for each in self.homeless[:NAMED_MAX]]
        if more := len(self.homeless) - NAMED_MAX:
            names += [f"{more} more"] if more > 0 else []
        what = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        if not self.lost:
            return f"{what} would find no room: its host is lost or drained, or it waits for one already"
        hosts = f"host {self.lost[0]}" if len(self.lost) == 1 else f"hosts {', '.join(self.lost)}"
        return f"if {hosts} {'was' if len(self.lost) == 1 else 'were'} lost, {what} would find no room"


class Room(NamedTuple):
    """What hosts have room for, by one measure: beyond a machine of some size, in bytes or their worth in
    vCPUs; or in such machines.
    """

    on: Mapping[str, float]
    total: float
    by_rack: Mapping[str, float]

    def without(self, losses: int) -> float:
        """What is left, at least, without so many hosts."""
        return self.total - sum(nlargest(losses, self.on.values()))


def domains(fleet: Fleet) -> list[str]:
    """Of hosts that can take each other's instances: zones, or EVERY_ZONE if hosts stand for all."""
    return [EVERY_ZONE] if fleet.common else sorted({each.host.zone for each in fleet.candidates()})


def domain(fleet: Fleet, zone: str) -> str:
    """That of a zone's hosts."""
    return EVERY_ZONE if fleet.common else zone


class Outlook:
    """Of a domain, in a scene where all that waits for a host gets one in thought, if there is one.

    ``new``: what was placed in thought and is no instance yet, by id.
    """

    def __init__(
        self, scene: Scene, restarts: Restarts, domain: str, new: Mapping[str, Restart] | None = None
    ) -> None:
        self._scene = scene
        self._restarts = restarts
        self._new = new or {}
        self._waiting = list(self._unplaced(domain))
        """What would be restarted, or is to be, and has no place even now."""
        self._loads = self._loaded()
        self.usable: list[Candidate] = []
        gone: list[str] = []
        mixed = False
        for each in scene.candidates(domain):
            if each.host.schedulable:
                self.usable.append(each)
                mixed = mixed or each.host.zone != domain
            else:
                gone.append(each.host.id)
        self._mixed = mixed
        self._gone = [host for host in gone if host in self._loads]
        """What is there is lost, or to leave: it needs room whatever else is lost."""
        cpus = sum(each.cpus for each in self.usable)
        self._cpu_bytes = max(1.0, sum(each.memory_bytes for each in self.usable) / max(1, cpus))
        """What a vCPU counts as, in bytes."""
        self._grouped = bool(scene.fleet.groups)
        self._rooms: dict[Size, tuple[Room, Room]] = {}

    def _unplaced(self, domain: str) -> Iterator[Taken]:
        """Lets what waits for a host have one in thought. What finds none, and is to run whatever is lost."""
        for id, machine in sorted(self._restarts.unplaced.items()):
            if id in self._scene.placed or domain not in (EVERY_ZONE, machine.zone):
                continue
            if self._scene.place(Wish(machine)) is None and self._restarts.restart(id) is not None:
                yield machine

    def _loaded(self) -> Mapping[str, Load]:
        """By host, with what was placed in thought."""
        if not self._scene.placed:
            return self._restarts.loads
        loads, own = dict(self._restarts.loads), dict[str, Load]()

        def load(host: str) -> Load:
            if host not in own:
                loads[host] = own[host] = loads[host].copy() if host in loads else Load()
            return own[host]

        for id, machine in self._scene.placed.items():
            before = self._restarts.restart(id)
            restart = self._new.get(id) or before
            if restart is None:
                continue
            if before is not None and before.machine.host is not None:
                load(before.machine.host).drop(id)  # it was moved
            load(str(machine.host)).put(Restart(machine._replace(held=(0, 0)), restart.order))
        return loads

    # Questions

    def short(self, losses: int) -> Shortfall | None:
        """What shows that the loss of so many hosts would not be survived; None if it would."""
        return next(self.shortfalls(losses), None)

    def avoidable(self, losses: int) -> Shortfall | None:
        """As ``short``, without what has no host that could be left to it by its labels, however much room is
        kept: refusing others' launches gains nothing for it. What is ``new`` itself need not be begun.
        """
        return next((each for each in self.avoidable_looks(losses) if each is not None), None)

    def avoidable_looks(self, losses: int) -> Iterator[Shortfall | None]:
        """The same in slices, as ``looks``."""
        for short in self.looks(losses):
            homeless = short.homeless if short is not None else ()
            lost = short.lost if short is not None else ()
            left = tuple(each for each in homeless if each.id in self._new or self._left(each, lost))
            yield Shortfall(lost, left) if left else None

    def _left(self, machine: Taken, lost: Sequence[str]) -> bool:
        """Whether a host that is not lost has the labels that the machine requires, if it requires any."""
        return not machine.requires or any(
            each.host.id not in lost and serves(each.host, machine.zone) and _labelled(each, machine)
            for each in self.usable
        )

    def shortfalls(self, losses: int) -> Iterator[Shortfall]:
        """All that show it."""
        return (each for each in self.looks(losses) if each is not None)

    def looks(self, losses: int) -> Iterator[Shortfall | None]:
        """In slices: what is tried, None for each set of hosts whose loss is survived."""
        if self._waiting:
            yield Shortfall((), tuple(self._waiting))
        for lost in self._doubtful(losses):
            homeless = self.homeless(lost)
            yield Shortfall(lost, homeless) if homeless else None

    def homeless(self, lost: Sequence[str]) -> tuple[Taken, ...]:
        """What would find no room if these hosts were lost, besides those that are."""
        return tuple(machine for machine, host in self.moves(lost) if host is None)

    def moves(self, lost: Sequence[str]) -> Iterator[tuple[Taken, str | None]]:
        """What would be restarted, in this order, and where; None: nowhere."""
        loads = [self._loads[host] for host in (*self._gone, *lost) if host in self._loads]
        restarts = sorted(
            (each for load in loads for each in load.machines.values()), key=lambda each: each.order
        )
        scene = self._scene.without(lost, (each.machine for each in restarts))
        ladder = _Ladder(scene, self._ordered)
        for restart in restarts:
            machine = restart.machine._replace(host=None)
            found = ladder.place(machine)
            yield machine, None if found is None else found.host.id

    # Sums

    def _doubtful(self, losses: int) -> Iterator[tuple[str, ...]]:
        """Sets of so many hosts, without those whose loss is survived for certain."""
        loads, none = self._loads, Load()
        always = [loads[host] for host in self._gone]
        each_lost = [loads[each.host.id] for each in self.usable if each.host.id in loads]
        if not always and (not losses or not each_lost):
            return
        largest = self._largest((*always, *each_lost))
        most = self._never_short(always, each_lost, losses, largest)
        if most and not any(load.odd for load in (*always, *each_lost)):
            return
        for lost in self._sets(losses):
            here = [*always, *(loads.get(host, none) for host in lost)]
            if not any(load.machines for load in here) or (most and not any(load.odd for load in here)):
                continue
            if not self._fits(here, lost, largest) and not self._fits(here, lost, self._largest(here)):
                yield lost

    def _never_short(
        self, always: Sequence[Load], each_lost: Sequence[Load], losses: int, size: Size
    ) -> bool:
        """Whether even the largest losses of all, in room and in what needs some, leave enough."""
        beyond, slots = self._room(size)
        worth = self._cpu_bytes
        needed = [load.memory_bytes + load.cpus * worth for load in each_lost]
        needed_always = sum(load.memory_bytes + load.cpus * worth for load in always)
        if beyond.without(losses) >= needed_always + sum(nlargest(losses, needed)):
            return True
        counts = [len(load.machines) for load in each_lost]
        return slots.without(losses) >= sum(len(load.machines) for load in always) + sum(
            nlargest(losses, counts)
        )

    def _sets(self, losses: int) -> Iterable[tuple[str, ...]]:
        hosts = [each.host.id for each in self.usable]
        if losses <= 1 or losses >= len(hosts) or comb(len(hosts), losses) <= SETS_MAX:
            return combinations(sorted(hosts), min(losses, len(hosts)))
        # What is lost with a host is the room on it, too.
        cost = {
            each.host.id: each.memory_bytes + self._loads[each.host.id].memory_bytes
            if each.host.id in self._loads
            else each.memory_bytes
            for each in self.usable
        }
        hardest = sorted(hosts, key=lambda host: (-cost[host], host))[:losses]
        return [
            tuple(sorted((host, *[each for each in hardest if each != host][: losses - 1]))) for host in hosts
        ]

    def _largest(self, loads: Iterable[Load]) -> Size:
        memory = cpus = 0
        for load in loads:
            memory = max(memory, load.memory_max)
            cpus = max(cpus, load.cpus_max)
        return memory, cpus

    def _fits(self, loads: Sequence[Load], lost: Sequence[str], size: Size) -> bool:
        """Whether the room on the other hosts, of each that it may have, is enough by one of the measures."""
        beyond, slots = self._room(size)
        needed = sum(load.memory_bytes + load.cpus * self._cpu_bytes for load in loads)
        count = sum(len(load.machines) for load in loads)
        return self._holds(beyond, needed, loads, lost) or self._holds(slots, count, loads, lost)

    def _holds(self, room: Room, needed: float, loads: Sequence[Load], lost: Sequence[str]) -> bool:
        left = room.total - sum(room.on.get(host, 0) for host in lost)
        if left < needed:
            return False
        leaving = {id for load in loads for id in load.odd}
        return all(
            left - self._closed(machine, room, leaving) >= needed
            for load in loads
            for machine in load.odd.values()
        )

    def _room(self, size: Size) -> tuple[Room, Room]:
        """By both measures."""
        if size not in self._rooms:
            memory, cpus = size
            beyond: dict[str, float] = {}
            slots: dict[str, float] = {}
            for each in self.usable:
                # What is not for everybody is for nobody.
                closed = each.dedicated or (self._mixed and each.host.zone != EVERY_ZONE)
                if not closed and each.memory_bytes >= memory and each.cpus >= cpus:
                    more = min(each.memory_bytes - memory, (each.cpus - cpus) * self._cpu_bytes)
                    beyond[each.host.id] = more
                    slots[each.host.id] = min(each.memory_bytes // memory, each.cpus // cpus)
            self._rooms[size] = self._measured(beyond), self._measured(slots)
        return self._rooms[size]

    def _measured(self, on: Mapping[str, float]) -> Room:
        racks: dict[str, float] = {}
        if self._grouped:
            for each in self.usable:
                racks[each.rack] = racks.get(each.rack, 0) + on.get(each.host.id, 0)
        return Room(on, sum(on.values()), racks)

    def _closed(self, machine: Taken, room: Room, leaving: set[str]) -> float:
        """How much of the room is on hosts that the machine may not have, at most."""
        if machine.tenancy == DEDICATED:
            return room.total
        closed: float = 0
        if machine.requires:
            closed += sum(
                room.on.get(each.host.id, 0) for each in self.usable if not _labelled(each, machine)
            )
        group = self._scene.fleet.groups.get(machine.group)
        if group is None:
            return closed
        others = [each for id, each in self._scene.members(group.id).items() if id != machine.id]
        if group.strategy is Strategy.cluster:
            return closed if all(each.zone == machine.zone for each in others) else room.total
        moving = sum(each.id in leaving or each.host is None for each in others)
        staying = [each for each in others if each.host is not None and each.id not in leaving]
        if group.strategy is Strategy.partitions:
            return (
                closed + room.total - sum(room.by_rack.get(rack, 0) for rack in self._own(machine, staying))
            )
        by_rack = group.spread is SpreadLevel.rack
        if by_rack and len(others) >= SPREAD_PER_ZONE_MAX:
            return room.total
        rooms = room.by_rack if by_rack else room.on
        places = {self._rack(each) if by_rack else str(each.host) for each in staying}
        taken = sum(rooms.get(place, 0) for place in places)
        return closed + taken + moving * max(rooms.values(), default=0)

    def _own(self, machine: Taken, staying: Iterable[Taken]) -> set[str]:
        """Racks that only its partition has, and keeps, since members of it stay there."""
        own: set[str] = set()
        others: set[str] = set()
        for each in staying:
            (own if each.partition == machine.partition else others).add(self._rack(each))
        return own - others

    def _rack(self, machine: Taken) -> str:
        candidate = self._scene.candidate(str(machine.host))
        return candidate.rack if candidate is not None else str(machine.host)

    @cached_property
    def _ordered(self) -> list[_Rung]:
        usable = sorted(self.usable, key=lambda each: each.host.id, reverse=True)
        return sorted(_Rung(-each.memory_bytes, number, each) for number, each in enumerate(usable))


def _labelled(candidate: Candidate, machine: Taken) -> bool:
    return all(candidate.host.labels.get(key) == value for key, value in machine.requires)


class _Rung(NamedTuple):
    """A host by its free memory, negative; of equals the one with the last name first, as ``number`` says."""

    memory: int
    number: int
    candidate: Candidate


class _Ladder:
    """Hosts by their free memory, of which few change. They get what ``Scene.place`` would give them."""

    def __init__(self, scene: Scene, rungs: Sequence[_Rung]) -> None:
        self._scene = scene
        self._rungs = rungs
        """As they were; those that are not so any more are skipped."""
        self._at = 0
        self._heap: list[_Rung] = []
        """Those that something was placed on, also as they were before they were placed on again."""

    def place(self, machine: Taken) -> Candidate | None:
        """The best host, taken."""
        if plain(machine):
            rung = self._best(machine)
            found = None if rung is None else self._scene.take(rung.candidate, machine)
        else:
            found = self._scene.place(Wish(machine))
            rung = next(
                (each for each in self._rungs if found and each.candidate.host.id == found.host.id), None
            )
        if found is not None and rung is not None:
            heappush(self._heap, _Rung(-found.memory_bytes, rung.number, found))
        return found

    def _best(self, machine: Taken) -> _Rung | None:
        passed: list[_Rung] = []
        self._at = at = self._unchanged(self._at)
        found: _Rung | None = None
        while found is None:
            while self._heap and self._heap[0].memory != -self._heap[0].candidate.memory_bytes:
                heappop(self._heap)
            first = self._rungs[at] if at < len(self._rungs) else None
            if first is None or (self._heap and self._heap[0] < first):
                if not self._heap:
                    break
                rung = heappop(self._heap)
                passed.append(rung)
            else:
                rung = first
                at = self._unchanged(at + 1)
            each = rung.candidate
            if each.memory_bytes < machine.memory_bytes:
                break
            closed = each.dedicated.keys() - {machine.account} or not serves(each.host, machine.zone)
            if each.cpus >= machine.vcpus and not closed:
                found = rung
        for rung in passed:
            if rung is not found:
                heappush(self._heap, rung)
        return found

    def _unchanged(self, at: int) -> int:
        while at < len(self._rungs) and self._scene.changed(self._rungs[at].candidate.host.id):
            at += 1
        return at
