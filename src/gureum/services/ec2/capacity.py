"""What the hosts have room for: one arithmetic for the services, which refuse, and for placement.

It is asked inside the transaction that takes the room. Transactions follow one another, so what one has
taken the next one sees, also where placement has not chosen the host yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from math import inf
from typing import NamedTuple

from msgspec.structs import replace

from gureum.breath import breathe
from gureum.control.filters import ROOM, Move, Scene, Shelf, Wish, gib, plain, reasons, verdicts
from gureum.control.fleet import Candidate, Fleet, Taken, held, taken, total_cpus, total_memory
from gureum.control.fleet import serves as serves
from gureum.control.outlook import Outlook, Shortfall, domain
from gureum.control.restarts import Restart, Restarts, restarts
from gureum.errors import ApiError
from gureum.resources import (
    HostState,
    Instance,
    InstanceMigration,
    Pool,
    Recovery,
    Snapshot,
    Strategy,
    Volume,
)
from gureum.resources.migration import UNDECIDED
from gureum.resources.volume import shared
from gureum.store.base import Reader

NEW = "new-"
"""How ids begin that instances have before they are made."""
SHELF_MIN = 8
"""From so many machines on, sorting the hosts costs less than looking at all of them for each."""


def anywhere(volumes: Iterable[Volume]) -> bool:
    """Whether any host can run a stopped instance with these volumes."""
    bound = [volume.bound for volume in volumes]
    return bool(bound) and not any(bound)


async def homes(reader: Reader, volumes: Iterable[Volume]) -> set[str]:
    """The hosts that volumes on local pools, or on their way, or what they are made from, bind to."""
    volumes = [volume for volume in volumes if volume.bound]
    sources = await reader.get_many(Snapshot, {volume.source for volume in volumes if volume.host is None})
    found = [*(volume.host for volume in volumes), *(snapshot.host for snapshot in sources)]
    return {host for host in found if host is not None}


def insufficient(text: str) -> ApiError:
    """As EC2, for which a lack of room is an error of the server (so that clients try again)."""
    return ApiError("InsufficientInstanceCapacity", text, status=500)


async def require_room_in(reader: Reader, pool: str) -> None:
    """Raises InsufficientVolumeCapacity while nothing new is made in a shared pool: it is nearly full."""
    record = await reader.get(Pool, pool) if shared(pool) else None
    if record is not None and record.full:
        raise ApiError(
            "InsufficientVolumeCapacity",
            f"There is not enough capacity to fulfill your EBS volume provision request: {record.message}. "
            "Delete volumes and snapshots that are not needed, or add storage, and try again.",
            status=500,
        )


class Admission(NamedTuple):
    """``partitions``: one for each instance that has room, 0 where it has none. ``refusal``: why the next one
    has not.
    """

    partitions: list[int]
    refusal: ApiError | None = None


async def admit(reader: Reader, machine: Taken, count: int, sources: Collection[str]) -> Admission:
    """Which of ``count`` new instances like this one have room. ``sources``: the snapshots of which disks are
    made. One in a group with partitions gets the one with the fewest, if it names none.

    All of them have, while no host is up that could be asked: they wait for one.
    """
    snapshots = await reader.get_many(Snapshot, sources)
    bound = [snapshot.host for snapshot in snapshots if not shared(snapshot.pool)]
    only = {host for host in bound if host is not None}
    fleet = await fleet_of(reader)
    scene, admission = _place(fleet, machine, count, only)
    if not isinstance(fleet, Restarts) or not _someone_is_up(scene, machine.zone, only):
        return admission
    fitting = len(admission.partitions)
    if fitting == 0 or (short := _short(scene, fleet, machine, Recovery().priority)) is None:
        return admission
    # As many as leave what would be restarted its room: ``few`` do, ``enough`` do not.
    enough, few, admission = fitting, 0, Admission([])
    while enough - few > 1:
        # Each answer may take long; others have their turn, and then it is asked of how things are.
        await breathe()
        now = await reader.tally(Restarts)
        middle = (few + enough) // 2
        scene, fewer = _place(now, machine, middle, only)
        if (found := _short(scene, now, machine, Recovery().priority)) is None:
            few, admission = middle, fewer
        else:
            enough, short = middle, found
    head = f"{machine.type} capacity in the Availability Zone you requested ({machine.zone})"
    refusal = f"We currently do not have sufficient {head}: {_kept(fleet, short)}"
    return admission._replace(refusal=insufficient(refusal))


async def fleet_of(reader: Reader) -> Fleet:
    """The fleet; with what would be restarted, if room is kept for that."""
    fleet = await reader.tally(Fleet)
    return await reader.tally(Restarts) if fleet.settings.survive else fleet


def _short(scene: Scene, fleet: Restarts, machine: Taken, priority: int) -> Shortfall | None:
    """What would find no room any more if hosts were lost, with what was placed in thought, and might find
    some if less was launched.
    """
    new = {
        id: Restart(each, (-priority, inf, id))
        for id, each in scene.placed.items()
        if machine.restarts and (id == machine.id or id.startswith(NEW))
    }
    scene = scene.woken() if fleet.wakes else scene
    return Outlook(scene, fleet, domain(fleet, machine.zone), new).avoidable(fleet.settings.survive)


async def shortfall(
    reader: Reader, zone: str, moves: Collection[Move] = (), woken: Collection[str] = ()
) -> str:
    """What would find no room in the zone if hosts were lost whose loss is to be survived, "" for nothing.
    As where launches are refused: without what no host that is left has the labels for.

    ``moves``: when these are done, and what is on its way already. ``woken``: hosts that are on by then.
    """
    fleet = await fleet_of(reader)
    if not isinstance(fleet, Restarts):
        return ""
    moves = (*await under_way(reader), *moves) if moves else ()
    short = outlook(fleet, zone, moves, woken).avoidable(fleet.settings.survive)
    if short is None:
        return ""
    hosts = "a host" if fleet.settings.survive == 1 else f"{fleet.settings.survive} hosts"
    return f"room is kept so that the loss of {hosts} is survived, and then {short}"


def outlook(fleet: Restarts, zone: str, moves: Iterable[Move], woken: Collection[str]) -> Outlook:
    """Of the zone, when these moves are done and these hosts are on."""
    scene = Scene(fleet).woken(woken)
    for move in moves:
        scene.move(move)
    return Outlook(scene, fleet, domain(fleet, zone))


async def under_way(reader: Reader) -> list[Move]:
    """What instances do that are on their way to another host."""
    migrations = await reader.find(InstanceMigration, state=[str(state) for state in UNDECIDED])
    instances = await reader.get_many(Instance, {each.instance for each in migrations})
    by_id = {each.id: each for each in instances}
    return [
        Move(each.source, going(by_id[each.instance], each.destination, each.type), each.id)
        for each in migrations
        if each.instance in by_id
    ]


def going(instance: Instance, host: str, type: str = "") -> Taken:
    """The instance as it will be on another host, with the type that it gets there."""
    machine = taken(replace(instance, type=type or instance.type))
    return machine._replace(host=host, held=held(instance))


def _kept(fleet: Fleet, short: Shortfall) -> str:
    """Why there is no room, and what to do."""
    count = fleet.settings.survive
    hosts = "a host" if count == 1 else f"{count} hosts"
    named = (each._replace(id="a new one") if each.id.startswith(NEW) else each for each in short.homeless)
    short = short._replace(homeless=tuple(named))
    return (
        f"room is kept so that the loss of {hosts} is survived, and then {short}. Stop or terminate other "
        "instances, choose a smaller instance type, add a host, or keep less room (gureum host survive), and "
        "try again."
    )


def _place(fleet: Fleet, machine: Taken, count: int, only: Collection[str]) -> tuple[Scene, Admission]:
    """Of ``count`` new instances those that have room, in thought where placement will put them."""
    scene = Scene(fleet)
    waits = not _someone_is_up(scene, machine.zone, only)
    shelf = None if waits else settle(scene, machine.zone, count, machine.id)(machine)
    admission = Admission([])
    for number in range(count):
        new = machine._replace(id=f"{NEW}{number}")
        for partition in _partitions(scene, new):
            wish = Wish(new._replace(partition=partition), only, wakes=fleet.wakes)
            if waits:
                scene.wait(wish.machine)
            elif _put(scene, None if only else shelf, wish) is None:
                continue
            admission.partitions.append(partition)
            break
        else:
            return scene, admission._replace(refusal=_refusal(scene, Wish(new, only)))
    return scene, admission


def _someone_is_up(scene: Scene, zone: str, only: Collection[str]) -> bool:
    hosts = (each.host for each in scene.candidates(zone))
    return any(host.state is HostState.up and (not only or host.id in only) for host in hosts)


def settle(scene: Scene, zone: str, count: int = 0, but: str = "") -> Callable[[Taken], Shelf | None]:
    """Let all that was accepted, ``but`` one, have a host in thought, as placement will choose. Returned is
    what gives a shelf for machines, if they are plain and it is worth it; ``count``: how many more come.
    """
    few = count + len(scene.fleet.unplaced) < SHELF_MIN
    shelves: dict[tuple[str, str], Shelf] = {}

    def shelf(of: Taken) -> Shelf | None:
        if few or not plain(of):
            return None
        key = (of.account, of.zone)
        if key not in shelves:
            shelves[key] = Shelf(scene, of)
        return shelves[key]

    for _, other in sorted(scene.fleet.unplaced.items()):
        if other.id != but and (scene.fleet.common or other.zone == zone):
            _put(scene, shelf(other), Wish(other, wakes=scene.fleet.wakes))
    return shelf


def _put(scene: Scene, shelf: Shelf | None, wish: Wish) -> Candidate | None:
    """The host that it got. ``shelf``: with the hosts that are awake, if it asks for nothing but room."""
    found = None if shelf is None else shelf.place(wish.machine)
    return scene.place(wish) if shelf is None or (found is None and wish.wakes) else found


def _partitions(scene: Scene, machine: Taken) -> list[int]:
    """Those that it may have, the best first."""
    group = scene.fleet.groups.get(machine.group)
    if machine.partition or group is None or group.strategy is not Strategy.partitions:
        return [machine.partition]
    members = Counter(each.partition for each in scene.members(machine.group).values())
    return sorted(range(1, group.partitions + 1), key=lambda number: (members[number], number))


def _refusal(scene: Scene, wish: Wish) -> ApiError:
    """Of a launch."""
    machine = wish.machine
    near = [each for each in verdicts(scene, wish) if "zone" not in dict(each.reasons)]
    head = f"the Availability Zone you requested ({machine.zone})"
    if too_large := _too_large(scene, machine, wish.bound):
        return insufficient(f"We currently do not have {machine.type} capacity in {head}: {too_large}.")
    up = [each for each in near if "state" not in dict(each.reasons)]
    if up and all("draining" in dict(each.reasons) for each in up):
        named = ", ".join(each.host for each in up)
        which = f"its only host, {named}, is" if len(up) == 1 else f"{named}, its only hosts, are"
        return insufficient(
            f"We currently do not have {machine.type} capacity in {head}: {which} being drained. Activate "
            "one, or choose another zone, and try again."
        )
    if all(dict(each.reasons).keys() <= {*ROOM, "draining"} for each in up):
        return insufficient(
            f"We currently do not have sufficient {machine.type} capacity in {head}. Stop or terminate other "
            "instances, or choose a smaller instance type, and try again."
        )
    return insufficient(
        f"We currently do not have sufficient {machine.type} capacity in {head} for what was asked: "
        f"{reasons(up)}."
    )


def _too_large(scene: Scene, machine: Taken, only: Collection[str]) -> str:
    """That no host would have room for it if nothing else were there, and what to do; "" if one would."""
    settings = scene.fleet.settings
    hosts = [each.host for each in scene.candidates(machine.zone) if not only or each.host.id in only]
    sizes = [(total_memory(host, settings), total_cpus(host, settings), host.id) for host in hosts]
    if not sizes or any(
        memory >= machine.memory_bytes and cpus >= machine.vcpus for memory, cpus, _ in sizes
    ):
        return ""
    memory, cpus, host = max(sizes)
    return (
        f"no host is that large, also if it is empty: the largest, {host}, has {cpus} vCPUs and "
        f"{gib(memory)} of memory for instances, and {machine.vcpus} and {gib(machine.memory_bytes)} are "
        "needed. Choose a smaller instance type, or add a larger host, and try again"
    )


async def require_room(reader: Reader, instance: Instance) -> None:
    """Raises InsufficientInstanceCapacity where the stopped instance can't start. Where no host is up the
    start waits for one.
    """
    volumes = await reader.find(Volume, instances=instance.id)
    only = await homes(reader, volumes)
    if not only and instance.host is not None and not anywhere(volumes):
        only = {instance.host}
    fleet = await fleet_of(reader)
    scene = Scene(fleet)
    if not _someone_is_up(scene, instance.zone, only):
        return
    machine = taken(instance)._replace(restarts=restarts(instance.recovery, volumes))
    settle(scene, machine.zone, but=machine.id)
    wish = Wish(machine, only, wakes=fleet.wakes)
    best = scene.best(wish)
    if best is not None:
        if isinstance(fleet, Restarts):
            scene.take(best, machine)
            if (short := _short(scene, fleet, machine, instance.recovery.priority)) is not None:
                raise insufficient(
                    f"Insufficient capacity for instance '{instance.id}': {_kept(fleet, short)}"
                )
        return
    if too_large := _too_large(scene, machine, only):
        raise insufficient(f"Insufficient capacity for instance '{instance.id}': {too_large}.")
    found = [each for each in verdicts(scene, wish) if not only or each.host in only]
    if only and all("draining" in dict(each.reasons) for each in found):
        raise insufficient(
            f"Insufficient capacity: the host of instance '{instance.id}' "
            f"({', '.join(sorted(only))}) is being drained. Activate the host, and try again."
        )
    near = [each for each in found if not {"zone", "state"} & dict(each.reasons).keys()]
    if all(dict(each.reasons).keys() <= {*ROOM, "draining"} for each in near):
        who = f"the host of instance '{instance.id}'" if only else f"each host of zone {instance.zone}"
        raise insufficient(
            f"Insufficient capacity: {who} has no room for another {instance.type} now. Stop or terminate "
            "other instances, or change its instance type."
        )
    raise insufficient(f"Insufficient capacity for instance '{instance.id}': {reasons(near)}.")
