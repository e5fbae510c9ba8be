"""Which hosts can have an instance, and which is the best: filters and weights over plain values.

A filter has a name and words for why a host is out. A host that passes all is weighed; the weights count in
their order, and where all are the same the host's name decides, so the same question has the same answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import NamedTuple

from msgspec.structs import replace

from gureum.control.fleet import DEDICATED, EVERY_ZONE, Candidate, Fleet, Taken, serves
from gureum.cpus import BASELINE
from gureum.resources import Host, HostState, ParkState, PlacementGroup, SpreadLevel, Strategy

SPREAD_PER_ZONE_MAX = 7
"""Instances of a group that is spread over racks, as in EC2."""
SHOWN_MAX = 4
PARKED = {
    ParkState.emptying: "is being emptied, to be parked",
    ParkState.parking: "is being parked",
    ParkState.parked: "is parked",
    ParkState.waking: "is being woken",
}


Rank = tuple[float | str, ...]


class Wish(NamedTuple):
    """What is to be placed. ``bound``: the hosts that its volumes bind it to. ``excluding``: none of
    these, and why, as what follows the name in a sentence.

    ``like``: one where what runs on this host can go on, with the CPU model ``cpu``, "" for the host's own.

    ``copied_bytes``: what of its disks is copied to the host's own; ``promised``: by host, what is on its way
    there already. ``wakes``: where no host can have it, one may that is parked, and can be woken.
    """

    machine: Taken
    bound: Collection[str] = ()
    excluding: Mapping[str, str] = {}
    like: Host | None = None
    cpu: str = ""
    copied_bytes: int = 0
    promised: Mapping[str, int] = {}
    wakes: bool = False


class Move(NamedTuple):
    """Of a machine from the host ``source`` to the one that it has. ``migration``: the one by which its room
    there is taken already, "" for none.
    """

    source: str
    machine: Taken
    migration: str = ""


class Scene:
    """The fleet, and on top of it what was placed in thought only. ``below``: on top of another scene."""

    def __init__(self, fleet: Fleet, below: Scene | None = None) -> None:
        self.fleet = fleet
        self.placed: dict[str, Taken] = {}
        """What was placed, with its host."""
        self._below = below or fleet
        self._changed: dict[str, Candidate] = {}
        self._members: dict[str, dict[str, Taken]] = {}

    def candidate(self, host: str) -> Candidate | None:
        return self._changed.get(host) or self._below.candidate(host)

    def candidates(self, zone: str = EVERY_ZONE) -> Iterator[Candidate]:
        """Those that serve the zone, or all."""
        found = self._below.candidates(zone)
        return (self._changed.get(each.host.id, each) for each in found) if self._changed else found

    def members(self, group: str) -> dict[str, Taken]:
        return self._members.get(group) or self._below.members(group)

    def changed(self, host: str) -> Candidate | None:
        """The host, if something was placed there, or it was lost."""
        return self._changed.get(host)

    def without(self, hosts: Iterable[str], machines: Iterable[Taken]) -> Scene:
        """As it would be if these hosts were lost, and these machines had left them."""
        scene = Scene(self.fleet, self)
        for host in hosts:
            if (candidate := self.candidate(host)) is not None:
                gone = candidate.copy()
                gone.host = replace(gone.host, state=HostState.fenced)
                scene._changed[host] = gone
        for machine in machines:
            scene.wait(machine._replace(host=None))
        return scene

    def take(self, candidate: Candidate, machine: Taken) -> Candidate:
        """Let the machine be there."""
        found = self._own(candidate)
        found.take(machine)
        self.placed[machine.id] = there = machine._replace(host=candidate.host.id)
        self.wait(there)
        return found

    def move(self, move: Move) -> None:
        """Let a machine be where it goes, and not where it is."""
        source, target = self.candidate(move.source), self.candidate(str(move.machine.host))
        before = self.fleet.on(move.source).get(move.machine.id)
        reserved = self.fleet.on(str(move.machine.host)).get(move.migration)
        if target is None:
            return
        if source is not None and before is not None:
            self._own(source).take(before, -1)
        if reserved is not None:
            self._own(target).take(reserved, -1)
        self.take(target, move.machine)

    def _own(self, candidate: Candidate) -> Candidate:
        """This scene's, to be changed."""
        host = candidate.host.id
        if host not in self._changed:
            self._changed[host] = candidate.copy()
        return self._changed[host]

    def wait(self, machine: Taken) -> None:
        """Let the machine be a member of its group."""
        if machine.group:
            if machine.group not in self._members:
                self._members[machine.group] = dict(self._below.members(machine.group))
            self._members[machine.group][machine.id] = machine

    def woken(self, hosts: Collection[str] | None = None) -> Scene:
        """As it would be if these hosts had been woken, or all that can be."""
        scene = Scene(self.fleet, self)
        scene.placed = self.placed.copy()
        for candidate in list(self.candidates()):
            host = candidate.host
            if host.wakeable and (hosts is None or host.id in hosts):
                scene._changed[host.id] = awake = candidate.copy()
                awake.host = replace(host, state=HostState.up, park=None)
        return scene

    def best(self, wish: Wish) -> Candidate | None:
        found = self._best(wish._replace(wakes=False) if wish.wakes else wish)
        return self._best(wish) if found is None and wish.wakes else found

    def _best(self, wish: Wish) -> Candidate | None:
        look = Look(self, wish)
        filters = [each.why for each in FILTERS if each.concerns(look) and each.why is not _zone]
        by_memory = look.weights == MEMORY
        best: Candidate | None = None
        highest: Rank = ()
        most = 0
        for each in self.candidates(wish.machine.zone):
            # Weighed first: then few are asked of the filters.
            memory = each.memory_bytes
            if by_memory and (memory < most or (memory == most and best and each.host.id < best.host.id)):
                continue
            rank = look.rank(each)
            if best is not None and rank < highest:
                continue
            for why in filters:
                if why(look, each):
                    break
            else:
                best, highest, most = each, rank, memory
        return best

    def place(self, wish: Wish) -> Candidate | None:
        """The best host, taken."""
        best = self.best(wish)
        return None if best is None else self.take(best, wish.machine)


class Look:
    """One wish against a scene: what all filters ask for, found out once."""

    def __init__(self, scene: Scene, wish: Wish) -> None:
        self.wish = wish
        self.machine = wish.machine
        self.cpus = wish.machine.vcpus
        self.memory_bytes = wish.machine.memory_bytes
        self.group: PlacementGroup | None = scene.fleet.groups.get(wish.machine.group)
        self.counted = scene.fleet.on(wish.machine.host or "").get(wish.machine.id)
        """The part of a host that it takes already."""
        self.model = scene.fleet.cpu_model(wish.machine.zone) if wish.like is None else ""
        """The CPU model that it is to get; "" for none in particular."""
        self.refused = ""
        """Why the group takes it nowhere."""
        self.hosts: Counter[str] = Counter()
        """The group's other members, by host; as ``racks``."""
        self.racks: Counter[str] = Counter()
        self.owners: defaultdict[str, set[int]] = defaultdict(set)
        """Whose partitions' racks are."""
        self.share = 0
        """How many racks a partition may have."""
        self.guests = scene.fleet.dedicated
        """How many instances have a host that is for their account only."""
        near = self.group is not None and self.group.strategy is Strategy.cluster
        self.weights = WEIGHTS if near else MEMORY
        if self.group is not None:
            self._look_at_group(scene, self.group)

    def _look_at_group(self, scene: Scene, group: PlacementGroup) -> None:
        zone = self.machine.zone
        others = [each for id, each in scene.members(group.id).items() if id != self.machine.id]
        for other in others:
            if other.host is None:
                continue
            candidate = scene.candidate(other.host)
            rack = candidate.rack if candidate is not None else other.host
            self.hosts[other.host] += 1
            self.racks[rack] += 1
            self.owners[rack].add(other.partition)
        if group.strategy is Strategy.cluster:
            if elsewhere := sorted({other.zone for other in others} - {zone}):
                self.refused = f"the instances of the cluster group {group.name} are in zone {elsewhere[0]}"
        elif group.strategy is Strategy.spread and group.spread is SpreadLevel.rack:
            if sum(other.zone == zone for other in others) >= SPREAD_PER_ZONE_MAX:
                count = f"{SPREAD_PER_ZONE_MAX} instances in zone {zone}"
                self.refused = f"the spread group {group.name} has {count}, as many as it may"
        elif group.strategy is Strategy.partitions:
            racks = {each.rack for each in scene.candidates(zone)}
            self.share = max(1, len(racks) // max(1, group.partitions))

    def rank(self, candidate: Candidate) -> Rank:
        return (*[weight.of(self, candidate) for weight in self.weights], candidate.host.id)


class Filter(NamedTuple):
    """``why`` a host is out, as what follows its name in a sentence; "" if it is not.

    ``concerns``: whether it could be, by what is asked.
    """

    name: str
    why: Callable[[Look, Candidate], str]
    concerns: Callable[[Look], bool] = lambda look: True


class Weight(NamedTuple):
    name: str
    of: Callable[[Look, Candidate], float]


def _state(look: Look, candidate: Candidate) -> str:
    host = candidate.host
    if host.park is not None:
        return "" if look.wish.wakes and host.wakeable else PARKED[host.park.state]
    return "" if host.state is HostState.up else f"is {host.state}"


def _zone(look: Look, candidate: Candidate) -> str:
    return "" if serves(candidate.host, look.machine.zone) else f"is in zone {candidate.host.zone}"


def _excluded(look: Look, candidate: Candidate) -> str:
    return look.wish.excluding.get(candidate.host.id, "")


def _storage(look: Look, candidate: Candidate) -> str:
    if candidate.host.id in look.wish.bound:
        return ""
    return f"does not have its volumes, which are on the disk of {', '.join(sorted(look.wish.bound))}"


def _disk(look: Look, candidate: Candidate) -> str:
    """Thin as volumes are, how much of one will be written while it is copied is not known."""
    host, needed = candidate.host, look.wish.copied_bytes
    left = max(0, host.pool_free_bytes - look.wish.promised.get(host.id, 0))
    return "" if left >= needed else f"has {gib(left)} of disk left, and {gib(needed)} are copied to it"


def _draining(look: Look, candidate: Candidate) -> str:
    return "is being drained" if candidate.host.draining else ""


def _uplink(look: Look, candidate: Candidate) -> str:
    return "has no uplink now: nobody would reach it there" if candidate.host.uplink_down else ""


def _fit(look: Look, candidate: Candidate) -> str:
    return candidate.host.unfit


def _hardware(look: Look, candidate: Candidate) -> str:
    like = look.wish.like
    return "" if like is None else unlike(like, candidate.host, look.wish.cpu)


def _model(look: Look, candidate: Candidate) -> str:
    return lacks(candidate.host, look.model)


def _labels(look: Look, candidate: Candidate) -> str:
    labels = candidate.host.labels
    for key, value in look.machine.requires:
        if labels.get(key) != value:
            return f"has no label {key}={value}"
    return ""


def _tenancy(look: Look, candidate: Candidate) -> str:
    if candidate.dedicated.keys() - {look.machine.account}:
        return "is dedicated to another account"
    if look.machine.tenancy == DEDICATED and candidate.owners.keys() - {look.machine.account}:
        return "has instances of another account, and the instance's tenancy is dedicated"
    return ""


def _group(look: Look, candidate: Candidate) -> str:
    if look.refused:
        return f"is out, since {look.refused}"
    group, host = look.group, candidate.host.id
    assert group is not None
    if group.strategy is Strategy.spread:
        if host in look.hosts:
            return f"has another instance of the spread group {group.name}"
        if group.spread is SpreadLevel.rack and candidate.rack in look.racks:
            return f"is in rack {candidate.rack}, as another instance of the spread group {group.name}"
    elif group.strategy is Strategy.partitions:
        return _partition(look, candidate, group)
    return ""


def _partition(look: Look, candidate: Candidate, group: PlacementGroup) -> str:
    own = look.machine.partition
    owners = look.owners.get(candidate.rack, set())
    if others := sorted(owners - {own}):
        return f"has, as its rack, instances of partition {others[0]} of {group.name}"
    if own in owners:
        return ""
    held = sum(own in each for each in look.owners.values())
    if held >= look.share:
        return f"is no rack of partition {own} of {group.name}, which has its share of them, {held}"
    return ""


def _cpus(look: Look, candidate: Candidate) -> str:
    own = look.counted if look.counted is not None and look.counted.host == candidate.host.id else None
    left = candidate.cpus + (own.vcpus if own is not None else 0)
    return "" if left >= look.cpus else f"has {left} vCPUs left, and {look.cpus} are needed"


def _memory(look: Look, candidate: Candidate) -> str:
    own = look.counted if look.counted is not None and look.counted.host == candidate.host.id else None
    left = candidate.memory_bytes + (own.memory_bytes if own is not None else 0)
    if left >= look.memory_bytes:
        return ""
    return f"has {gib(max(0, left))} of memory left, and {gib(look.memory_bytes)} are needed"


def gib(size: float) -> str:
    return f"{size / 2**30:.4g} GiB"


def lacks(host: Host, model: str) -> str:
    """Why guests can't have the CPU model on the host, "" if they can."""
    if not model or model in host.cpu_models:
        return ""
    if model == BASELINE:
        return "has no CPU model in common with the other hosts of the zone"
    return f"does not offer the CPU model {model}"


def unlike(source: Host, host: Host, model: str = "") -> str:
    """Why what runs on ``source``, with the CPU ``model``, can't go on at ``host``, "" if it can."""
    if host.accelerator != source.accelerator:
        return f"runs guests by {host.accelerator or '?'}, and {source.id} by {source.accelerator or '?'}"
    if model and host.cpu_vendor != source.cpu_vendor:
        return f"has a CPU of another maker than {source.id}: {host.cpu_vendor}, and not {source.cpu_vendor}"
    if model:
        return lacks(host, model)
    if host.cpu != source.cpu:
        return f"has another CPU than {source.id}: {host.cpu or '?'}, and not {source.cpu or '?'}"
    return ""


FILTERS = (
    Filter("zone", _zone),
    Filter("excluded", _excluded, lambda look: bool(look.wish.excluding)),
    Filter("state", _state),
    Filter("storage", _storage, lambda look: bool(look.wish.bound)),
    Filter("disk", _disk, lambda look: bool(look.wish.copied_bytes)),
    Filter("draining", _draining),
    Filter("uplink", _uplink),
    Filter("fit", _fit),
    Filter("hardware", _hardware, lambda look: look.wish.like is not None),
    Filter("cpu", _model, lambda look: bool(look.model)),
    Filter("labels", _labels, lambda look: bool(look.machine.requires)),
    Filter("tenancy", _tenancy, lambda look: bool(look.guests) or look.machine.tenancy == DEDICATED),
    Filter("group", _group, lambda look: look.group is not None),
    Filter("vcpus", _cpus),
    Filter("memory", _memory),
)
ROOM = ("vcpus", "memory")
"""Filters by what is left."""

MEMORY = (Weight("free memory", lambda look, each: each.memory_bytes),)
WEIGHTS = (
    Weight("members of its cluster group in the rack", lambda look, each: look.racks.get(each.rack, 0)),
    Weight("members of its cluster group on the host", lambda look, each: look.hosts.get(each.host.id, 0)),
    *MEMORY,
)
"""Of a cluster group; of others, only the last."""


class Verdict(NamedTuple):
    """Of one host. ``reasons``: filter and words, for each that it does not pass."""

    host: str
    reasons: tuple[tuple[str, str], ...]
    weights: tuple[tuple[str, float], ...]
    rank: Rank

    @property
    def fits(self) -> bool:
        return not self.reasons


def verdicts(scene: Scene, wish: Wish) -> list[Verdict]:
    """Of all hosts: those that fit, the best first, then the others."""
    look = Look(scene, wish)
    concerned = [each for each in FILTERS if each.concerns(look)]
    found = []
    for candidate in scene.candidates():
        reasons = [(each.name, each.why(look, candidate)) for each in concerned]
        out = tuple((name, why) for name, why in reasons if why)
        weights = tuple((weight.name, weight.of(look, candidate)) for weight in look.weights)
        found.append(Verdict(candidate.host.id, out, weights, look.rank(candidate)))
    fitting = sorted((each for each in found if each.fits), key=lambda each: each.rank, reverse=True)
    return fitting + sorted((each for each in found if not each.fits), key=lambda each: each.host)


def reasons(found: Sequence[Verdict]) -> str:
    """Why none of these hosts, in a sentence: of each if they are few."""
    if len(found) <= SHOWN_MAX:
        return "; ".join(f"{each.host} {each.reasons[0][1]}" for each in found)
    by = Counter(each.reasons[0][0] for each in found)
    counted = ", ".join(f"{count} by {name}" for name, count in by.most_common())
    return f"of {len(found)} hosts {counted}; for example {found[0].host} {found[0].reasons[0][1]}"


class Shelf:
    """Hosts of a zone by their free memory, for machines that ask for nothing but room: many are placed at
    the cost of one. They get what ``Scene.best`` would give them.
    """

    def __init__(self, scene: Scene, like: Taken) -> None:
        """For machines of the account and zone of ``like``, which is ``plain``."""
        self._scene = scene
        look = Look(scene, Wish(like))
        usable = [
            each
            for each in scene.candidates(like.zone)
            if not (
                _state(look, each)
                or _draining(look, each)
                or _uplink(look, each)
                or _model(look, each)
                or _fit(look, each)
                or _tenancy(look, each)
            )
        ]
        usable.sort(key=lambda each: each.host.id, reverse=True)
        self._hosts = [each.host.id for each in usable]
        self._heap = [(-each.memory_bytes, number) for number, each in enumerate(usable)]
        heapify(self._heap)

    def place(self, machine: Taken) -> Candidate | None:
        """The best host, taken."""
        passed: list[tuple[int, int]] = []
        found: Candidate | None = None
        while self._heap:
            memory, number = self._heap[0]
            candidate = self._scene.candidate(self._hosts[number])
            assert candidate is not None
            if candidate.memory_bytes != -memory:
                heapreplace(self._heap, (-candidate.memory_bytes, number))
            elif candidate.memory_bytes < machine.memory_bytes:
                break
            elif candidate.cpus < machine.vcpus or candidate.dedicated.keys() - {machine.account}:
                passed.append(heappop(self._heap))
            else:
                found = self._scene.take(candidate, machine)
                heapreplace(self._heap, (-found.memory_bytes, number))
                break
        for entry in passed:
            heappush(self._heap, entry)
        return found


def plain(machine: Taken) -> bool:
    return not machine.group and not machine.requires and machine.tenancy != DEDICATED
