"""Whether all that is on a host finds room on the others, so that it could be parked: tried in thought.

What is asked are placement's filters, the migration's own refusals and the recovery's outlook, of the fleet
as it will be when all that is on its way has arrived; and of each host that takes something, how busy it
would be. It is asked before a host is emptied, and again as instances leave: it may be so no more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from gureum.breath import breathe
from gureum.control import disk_copies, migrations, parking
from gureum.control.balance import (
    CPU,
    DEVICE_CPUS,
    LASTS_SECONDS_MAX,
    MEMORY,
    WORTH,
    Cost,
    Plan,
    Situation,
    percent,
)
from gureum.control.balancer import REST_SECONDS, STAYS, TAG, Assessment
from gureum.control.filters import Move, Scene, Wish, gib, reasons, verdicts
from gureum.control.fleet import TAKES_ROOM, Fleet, Taken, taken
from gureum.control.loads import Use
from gureum.control.migrations import PER_HOST_MAX
from gureum.control.move import CannotMove
from gureum.control.outlook import domain
from gureum.control.placement import NoCapacity, wish_of
from gureum.env import Env
from gureum.resources import Host, Instance, InstanceMigration, InstanceState, MigrationState
from gureum.services.ec2 import capacity
from gureum.sizespec import MachineSize
from gureum.store.base import Reader

IDLE_SHARE = 0.5
"""Of what a busy host uses, what an idle one does: as if so many of its processors worked."""
INSTANCES_MAX = 32
"""A host with more is not emptied."""
SECONDS_MAX = 1800.0
"""In which a host has to be empty; half of that is what it may take by what is known before."""
FAILED_SECONDS = 4 * 3600.0
"""For so long a host is let be from which an instance could not migrate."""
TRIES = 8
"""Hosts that are looked at for one instance."""

Sizes = Callable[[str, str, int], MachineSize | None]
"""What a host says that a machine, of that generation, has and can have while it runs."""


class Stays(Exception):
    """The host is not to be emptied now; the text says why, for people."""


class Unknown(Stays):
    """That is not known yet."""


class Busy(Protocol):
    """How busy hosts and machines are."""

    @property
    def found(self) -> Assessment: ...

    def situation(self, fleet: Fleet) -> Situation:
        """``fleet``: the caller's own."""

    def knows(self, machine: str) -> bool:
        """Whether the machine was looked at for long enough to say what it uses."""


class Departure(NamedTuple):
    instance: str
    target: str
    cost: Cost


class Way(NamedTuple):
    """By which all leaves a ``host`` that does not leave it already. ``gain``: in processors."""

    host: str
    gain: float
    moves: tuple[Departure, ...]

    @property
    def copy_bytes(self) -> int:
        return sum(move.cost.bytes for move in self.moves)

    @property
    def seconds(self) -> float:
        return sum(move.cost.seconds for move in self.moves) / PER_HOST_MAX

    @property
    def cpu_seconds(self) -> float:
        return sum(move.cost.cpu_seconds for move in self.moves)

    @property
    def pays_back_seconds(self) -> float:
        return self.cpu_seconds / self.gain

    @property
    def reason(self) -> str:
        targets = sorted({move.target for move in self.moves})
        where = targets[0] if len(targets) == 1 else f"{len(targets)} other hosts"
        count = len(self.moves)
        what = "the only instance there" if count == 1 else f"all {count} instances there"
        find = "finds" if count == 1 else "find"
        return f"{what} {find} room on {where} ({gib(self.copy_bytes)} to copy in {self.seconds:.0f} s)"


class Thought:
    """The fleet with its loads, as it is for one turn: to be filled first. ``fleet``: the caller's own."""

    def __init__(self, env: Env, fleet: Fleet, busy: Busy, sizes: Sizes) -> None:
        self._env = env
        self.fleet = fleet
        self._busy, self._sizes = busy, sizes
        self._situation = busy.situation(fleet)
        self._plan = Plan(self._situation)

    async def fill(self) -> None:
        for _ in self._plan.fill():
            await breathe()

    async def way(self, reader: Reader, host: Host, begun: bool = False) -> Way:
        """By which all leaves the host. Raises Stays. ``begun``: it is being emptied already."""
        fleet = self.fleet
        there = await reader.find(Instance, host=host.id, state=[str(state) for state in TAKES_ROOM])
        if begun:
            # What ends, or is just starting, is looked at when that is over.
            there = [each for each in there if each.state is InstanceState.running and not each.migration]
        for instance in there:
            await self._require_leaves(reader, instance, host)
        scene = Scene(fleet).without([host.id], ())
        for move in await capacity.under_way(reader):
            scene.move(move)
        capacity.settle(scene, domain(fleet, host.zone))
        extra: defaultdict[str, Use] = defaultdict(Use)
        moves = []
        for instance in sorted(there, key=lambda each: (-taken(each).memory_bytes, each.id)):
            await breathe()
            moves.append(await self._departure(reader, scene, extra, instance, host))
        if why := parking.why_awake(fleet, host, scene):
            raise Stays(why)
        way = Way(host.id, IDLE_SHARE * max(1, host.cpus), tuple(moves))
        if way.seconds > SECONDS_MAX / 2:
            raise Stays(f"to copy {gib(way.copy_bytes)} would take {way.seconds:.0f} s")
        return way

    async def _require_leaves(self, reader: Reader, instance: Instance, host: Host) -> None:
        """Raises Stays with what keeps the instance there, wherever it would go."""
        id = instance.id
        try:
            await migrations.require_movable(reader, instance)
        except CannotMove as error:
            raise Stays(str(error)) from error
        if instance.tags.get(TAG) == STAYS:
            raise Stays(f"{id} is to stay: it has the tag {TAG}={STAYS}")
        # It could, but what that costs the hosts is not known here.
        if copied := await disk_copies.bound(reader, instance):
            which = f"{copied[0].id} of {id}"
            raise Stays(f"{which} is in its host's own pool, and would have to be copied")
        if instance.resize is not None:
            raise Stays(f"the guest of {id} has not taken up, or given up, what its type says")
        size = self._sizes(host.id, id, instance.generation)
        if size is not None and size.is_tied(host.accelerator):
            raise Stays(f"{id} is emulated and has got memory while it ran, which cannot be copied")
        self._require_rested(instance, await reader.find(InstanceMigration, instance=id))
        if not self._busy.knows(id):
            raise Unknown(f"what {id} uses is not known for long enough")

    def _require_rested(self, instance: Instance, migrated: Iterable[InstanceMigration]) -> None:
        now = self._env.now()
        for each in migrated:
            ago = now - each.ended.timestamp() if each.ended is not None else 0.0
            failed = each.state is MigrationState.failed and each.source_generation == instance.generation
            if failed and abs(ago) < FAILED_SECONDS:
                raise Stays(f"{instance.id} could not migrate: {each.message}")
            if abs(ago) < REST_SECONDS:
                raise Stays(f"{instance.id} migrated a while ago, and is left alone")

    async def _departure(
        self, reader: Reader, scene: Scene, extra: dict[str, Use], instance: Instance, host: Host
    ) -> Departure:
        """Where it goes, taken: where placement puts it, of those that would not be too busy."""
        try:
            wish = await wish_of(reader, instance, excluding={host.id: "is to be off"}, like=host)
        except NoCapacity as error:
            raise Stays(str(error)) from error
        machine, use = wish.machine, self._use(wish.machine)
        whys: list[str] = []
        for _ in range(TRIES):
            best = scene.best(wish)
            if best is None:
                break
            target = best.host.id
            why = self._too_busy(best.host, extra[target], use)
            if not why:
                extra[target] = _sum(extra[target], use)
                scene.move(Move(host.id, machine._replace(host=target)))
                return Departure(instance.id, target, Cost.of(machine, self._situation.use(machine.id)))
            whys.append(why)
            wish = wish._replace(excluding={**wish.excluding, target: why})
        raise Stays(
            f"{instance.id} finds no room on the others: {'; '.join(whys) or self._nowhere(scene, wish)}"
        )

    def _use(self, machine: Taken) -> Use:
        use = self._situation.use(machine.id)
        return use._replace(cpus=min(use.cpus, machine.size.vcpus + DEVICE_CPUS))

    def _too_busy(self, host: Host, extra: Use, use: Use) -> str:
        place = self._plan.places.get(host.id)
        if place is None or not host.address:
            return f"host {host.id} does not say how busy it is"
        level = place.level(_sum(extra, use))
        if level.cpu > CPU.cool:
            return f"host {host.id} would be at {percent(level.cpu)} of its processors"
        if level.memory > MEMORY.cool:
            return f"host {host.id} would be at {percent(level.memory)} of its memory"
        return ""

    def _nowhere(self, scene: Scene, wish: Wish) -> str:
        near = [each for each in verdicts(scene, wish) if "zone" not in dict(each.reasons)]
        return reasons([each for each in near if each.host not in wish.excluding]) or "there is no other host"


def require_worth(way: Way, lasts: float) -> None:
    """Raises Stays if more is moved than is gained. ``lasts``: for so many seconds the host could have been
    off already, and is thought to be able to for as long again.
    """
    if way.gain * min(lasts, LASTS_SECONDS_MAX) < WORTH * way.cpu_seconds:
        raise Stays(
            f"to copy {gib(way.copy_bytes)} pays back only after {way.pays_back_seconds:.0f} s, and it could "
            f"have been off for {lasts:.0f} s"
        )


def _sum(one: Use, other: Use) -> Use:
    return Use(one.cpus + other.cpus, one.memory_bytes + other.memory_bytes)
