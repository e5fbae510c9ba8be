"""What hosts there are, and what is taken of each: a tally, so that asking costs what changed.

What takes room is what runs or is to run, also where no host is chosen yet: it was accepted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from gureum.cpus import BASELINE, HOST, common_level
from gureum.resources import (
    FleetSettings,
    Host,
    Instance,
    InstanceMigration,
    InstanceState,
    MigrationState,
    PlacementGroup,
    PowerMode,
    Record,
)
from gureum.resources.migration import UNDECIDED
from gureum.store.tally import Tally

if TYPE_CHECKING:
    from gureum.services.ec2.instance_types import InstanceType

HOST_MEMORY_BYTES = 1 << 30
"""What a host keeps for itself: a host without memory ends guests."""
MACHINE_MEMORY_BYTES = 128 << 20
"""What a machine takes besides its guest's memory: the hypervisor's own, and translated code."""

EVERY_ZONE = ""
"""The zone of a host that stands for all zones: the only one of a small cloud."""

TAKES_ROOM = (
    InstanceState.pending,
    InstanceState.running,
    InstanceState.stopping,
    InstanceState.shutting_down,
)

COMES = (*UNDECIDED, MigrationState.aborting)
"""While a migrating instance has a machine at its destination that is not the instance's yet."""

DEDICATED = "dedicated"
RACK = "rack"
"""The label of hosts that says in which rack they are."""
REQUIRES = "gureum:host:"
"""How tags of instances begin that name a label which their host must have."""


class Taken(NamedTuple):
    """An instance that takes room. ``host`` None: placement has not chosen one yet."""

    id: str
    type: str
    zone: str
    host: str | None
    account: str
    group: str = ""
    partition: int = 0
    tenancy: str = "default"
    requires: tuple[tuple[str, str], ...] = ()
    restarts: bool = False
    """Of one that is to be: whether it would be started elsewhere if its host was lost."""
    held: tuple[int, int] = (0, 0)
    """vCPUs and bytes of memory that its machine has still, if that is more than its type has."""

    @property
    def size(self) -> InstanceType:
        return _size(self.type)

    @property
    def vcpus(self) -> int:
        return max(self.size.vcpus, self.held[0])

    @property
    def memory_bytes(self) -> int:
        return max(self.size.memory_bytes, self.held[1]) + MACHINE_MEMORY_BYTES


@cache
def _size(type: str) -> InstanceType:
    # The package's operations ask this module what there is room for, so it can't be imported above.
    from gureum.services.ec2.instance_types import machine_size

    return machine_size(type)


def required_labels(tags: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What an instance with these tags requires of its host's labels."""
    found = ((key.removeprefix(REQUIRES), tags[key]) for key in tags if key.startswith(REQUIRES))
    return tuple(sorted(found))


class Held(NamedTuple):
    vcpus: int
    memory_bytes: int


def held(instance: Instance) -> Held:
    """The most that the instance's machine may have now."""
    size, resize = _size(instance.type), instance.resize
    if resize is None or resize.generation != instance.generation:
        return Held(size.vcpus, size.memory_bytes)
    return Held(max(size.vcpus, resize.vcpus), max(size.memory_bytes, resize.memory_bytes))


def taken(instance: Instance) -> Taken:
    return Taken(
        instance.id,
        instance.type,
        instance.zone,
        instance.host,
        instance.account,
        instance.group,
        instance.partition,
        instance.tenancy,
        required_labels(instance.tags),
        held=held(instance) if instance.resize is not None else (0, 0),
    )


def coming(migration: InstanceMigration) -> Taken:
    """The part of the destination that a migrating instance takes besides its own host's."""
    return Taken(
        migration.id,
        migration.type,
        migration.zone,
        migration.destination,
        migration.account,
        held=migration.held,
    )


class Candidate:
    """A host as placement sees it: plain values, some of them sums."""

    __slots__ = ("cpus", "dedicated", "host", "instances", "memory_bytes", "owners", "rack")

    def __init__(self, host: Host, settings: FleetSettings) -> None:
        self.host = host
        self.cpus = total_cpus(host, settings)
        """Left, in vCPUs; as ``memory_bytes``."""
        self.memory_bytes = total_memory(host, settings)
        self.instances = 0
        self.owners: dict[str, int] = {}
        """Instances by account; as ``dedicated``, of those of that tenancy."""
        self.dedicated: dict[str, int] = {}
        self.rack = host.labels.get(RACK) or host.id

    def take(self, machine: Taken, times: int = 1) -> None:
        self.cpus -= machine.vcpus * times
        self.memory_bytes -= machine.memory_bytes * times
        self.instances += times
        _count(self.owners, machine.account, times)
        if machine.tenancy == DEDICATED:
            _count(self.dedicated, machine.account, times)

    def copy(self) -> Candidate:
        new = object.__new__(Candidate)
        new.host, new.rack, new.instances = self.host, self.rack, self.instances
        new.cpus, new.memory_bytes = self.cpus, self.memory_bytes
        new.owners, new.dedicated = self.owners.copy(), self.dedicated.copy()
        return new


def _count(numbers: dict[str, int], key: str, more: int) -> None:
    numbers[key] = numbers.get(key, 0) + more
    if not numbers[key]:
        del numbers[key]


def total_cpus(host: Host, settings: FleetSettings) -> int:
    """What it gives away, in vCPUs."""
    return int(host.cpus * (host.cpu_overcommit or settings.cpu_overcommit))


def total_memory(host: Host, settings: FleetSettings) -> int:
    own = max(0, host.memory_bytes - HOST_MEMORY_BYTES)
    return int(own * (host.memory_overcommit or settings.memory_overcommit))


def serves(host: Host, zone: str) -> bool:
    return host.zone in (zone, EVERY_ZONE)


class Fleet(Tally):
    """The candidates of each zone with what is left of them, and what waits for a host."""

    kinds: ClassVar[tuple[type[Record], ...]] = (
        FleetSettings,
        PlacementGroup,
        Host,
        Instance,
        InstanceMigration,
    )

    def __init__(self) -> None:
        self.settings = FleetSettings(id="")
        self.groups: dict[str, PlacementGroup] = {}
        self.unplaced: dict[str, Taken] = {}
        self.dedicated = 0
        """How many instances are to share their host with nobody else's."""
        self._levels: dict[str, str] = {}
        """By zone, what its hosts have in common."""
        self._zones: defaultdict[str, dict[str, Candidate]] = defaultdict(dict)
        self._candidates: dict[str, Candidate] = {}
        self._on: defaultdict[str, dict[str, Taken]] = defaultdict(dict)
        self._members: defaultdict[str, dict[str, Taken]] = defaultdict(dict)

    @property
    def common(self) -> bool:
        """Whether hosts stand for all zones."""
        return bool(self._zones.get(EVERY_ZONE))

    @property
    def wakes(self) -> bool:
        """Whether hosts that are parked are woken for what finds no room."""
        return self.settings.power is PowerMode.automatic

    def copy(self) -> Self:
        """As it is now, to be looked at for longer than until the next ``await``."""
        new = type(self)()
        new.settings, new.groups, new.dedicated = self.settings, self.groups.copy(), self.dedicated
        new.unplaced = self.unplaced.copy()
        for id, candidate in self._candidates.items():
            new._candidates[id] = new._zones[candidate.host.zone][id] = candidate.copy()
        new._on.update((host, machines.copy()) for host, machines in self._on.items())
        new._members.update((group, members.copy()) for group, members in self._members.items())
        return new

    def candidate(self, host: str) -> Candidate | None:
        return self._candidates.get(host)

    def candidates(self, zone: str = EVERY_ZONE) -> Iterator[Candidate]:
        """Those that serve the zone, or all."""
        if zone == EVERY_ZONE:
            yield from self._candidates.values()
            return
        yield from self._zones.get(zone, {}).values()
        yield from self._zones.get(EVERY_ZONE, {}).values()

    def cpu_model(self, zone: str) -> str:
        """What an instance that is placed in the zone now gets, "" for its host's own CPU. ``BASELINE``,
        which no host offers, if its hosts have nothing in common.
        """
        wanted = self.settings.cpu_model
        if wanted != BASELINE:
            return "" if wanted == HOST else wanted
        if zone not in self._levels:
            level = common_level(each.host.cpu_models for each in self.candidates(zone))
            self._levels[zone] = level or BASELINE
        return self._levels[zone]

    def members(self, group: str) -> dict[str, Taken]:
        """The instances of a placement group that take room."""
        return self._members.get(group, {})

    def on(self, host: str) -> dict[str, Taken]:
        """What takes room on a host."""
        return self._on.get(host, {})

    def digest(self, record: Record) -> object | None:
        if isinstance(record, Instance):
            nowhere = record.host is None and record.state is not InstanceState.pending
            return taken(record) if record.state in TAKES_ROOM and not nowhere else None
        if isinstance(record, InstanceMigration):
            return coming(record) if record.state in COMES else None
        return record

    def add(self, kind: str, id: str, kept: object) -> None:
        if isinstance(kept, Taken):
            self._take(kept)
        elif isinstance(kept, Host):
            self._add_host(kept)
        elif isinstance(kept, PlacementGroup):
            self.groups[id] = kept
        elif isinstance(kept, FleetSettings):
            self._settle(kept)

    def remove(self, kind: str, id: str, kept: object) -> None:
        if isinstance(kept, Taken):
            self._give_back(kept)
        elif isinstance(kept, Host):
            self._levels.clear()
            del self._zones[kept.zone][id]
            del self._candidates[id]
        elif isinstance(kept, PlacementGroup):
            del self.groups[id]
        elif isinstance(kept, FleetSettings):
            self._settle(FleetSettings(id=""))

    def _settle(self, settings: FleetSettings) -> None:
        before, self.settings = self.settings, settings
        if (before.cpu_overcommit, before.memory_overcommit) == (
            settings.cpu_overcommit,
            settings.memory_overcommit,
        ):
            return
        for candidate in list(self._candidates.values()):
            self._add_host(candidate.host)

    def _add_host(self, host: Host) -> None:
        self._levels.clear()
        candidate = Candidate(host, self.settings)
        for machine in self._on.get(host.id, {}).values():
            candidate.take(machine)
        self._candidates[host.id] = self._zones[host.zone][host.id] = candidate

    def _take(self, machine: Taken) -> None:
        self.dedicated += machine.tenancy == DEDICATED
        if machine.group:
            self._members[machine.group][machine.id] = machine
        if machine.host is None:
            self.unplaced[machine.id] = machine
            return
        self._on[machine.host][machine.id] = machine
        if (candidate := self._candidates.get(machine.host)) is not None:
            candidate.take(machine)

    def _give_back(self, machine: Taken) -> None:
        self.dedicated -= machine.tenancy == DEDICATED
        if machine.group:
            _drop(self._members, machine.group, machine.id)
        if machine.host is None:
            del self.unplaced[machine.id]
            return
        _drop(self._on, machine.host, machine.id)
        if (candidate := self._candidates.get(machine.host)) is not None:
            candidate.take(machine, -1)


def _drop(of: defaultdict[str, dict[str, Taken]], key: str, id: str) -> None:
    del of[key][id]
    if not of[key]:
        del of[key]
