"""Instances that get another type while they run: asked for, and looked at until their machine has its size.

The type is the instance's at once, and what its host's spec says follows from it. ``Instance.resize`` holds
what the machine may still have besides, until its host says that it has what the type has, no more and no
less. Where its host has no room for more it migrates first (``InstanceMigration.type``), and grows there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from gureum.control import disk_copies, migrations, parking
from gureum.control.filters import Move, Scene, Wish, gib
from gureum.control.fleet import Fleet, held
from gureum.control.move import CannotMove
from gureum.control.placement import NoCapacity, explain, require_host, wish_of
from gureum.control.restarts import Restarts
from gureum.env import Env
from gureum.hostspec import MachineReport, MachineState
from gureum.resources import Host, Instance, InstanceState, NetworkInterface, Resize
from gureum.services.ec2 import capacity
from gureum.services.ec2.instance_types import InstanceType, machine_size
from gureum.services.ec2.interface_options import check_interface_count, check_limits
from gureum.sizespec import MachineSize
from gureum.store.base import Reader, Transaction

log = logging.getLogger(__name__)

RESIZE_SECONDS = 120.0
"""After so long the guest is said not to cooperate. It is asked on and on."""

SEARCH_SECONDS = 5.0
"""After so long in a round no host to wake is looked for any more: that may take a second each time."""
SLICE = 16
"""Losses that are looked at before others have their turn."""
PAUSE_SECONDS = 0.001
"""For these: with none at all the store's threads hardly come to run, and what is committed waits for all."""


class CannotResize(Exception):
    """The instance can't get that type while it runs; the text says why, for people."""


async def begin(
    tx: Transaction, env: Env, instance: Instance, type: str, size: MachineSize | None, moves: bool
) -> Instance:
    """Let the instance have the type, here or on another host. Raises CannotResize, NoCapacity.

    ``size``: what its host says that its machine has, and can have. ``moves``: it may go to another host.
    """
    if type == instance.type:
        return instance
    require_possible(instance, machine_size(type), size)
    new = replace(instance, type=type)
    grows = _grows(instance, type)
    moving: Instance | None = None
    if grows:
        try:
            await require_host(tx, new, str(instance.host))
        except NoCapacity as error:
            if not moves:
                raise
            moving = await _move(tx, env, instance, type, error)
    changed = moving or await tx.put(resized(instance, type, env.now()))
    if grows and (lacking := await capacity.shortfall(tx, instance.zone)):
        raise NoCapacity(lacking)
    return changed


def _grows(instance: Instance, type: str) -> bool:
    now, wanted = held(instance), machine_size(type)
    return wanted.vcpus > now.vcpus or wanted.memory_bytes > now.memory_bytes


def resized(instance: Instance, type: str, now: float) -> Instance:
    """With the type, and what its machine may have besides."""
    most = held(instance)
    resize = Resize(
        generation=instance.generation, vcpus=most.vcpus, memory_bytes=most.memory_bytes, since=now
    )
    return replace(instance, type=type, resize=resize)


async def _move(tx: Transaction, env: Env, instance: Instance, type: str, error: NoCapacity) -> Instance:
    try:
        await migrations.require_movable(tx, instance)
        host = await migrations.require_destination(tx, replace(instance, type=type))
        move = Move(str(instance.host), capacity.going(instance, host.id, type))
        if lacking := await capacity.shortfall(tx, instance.zone, [move]):
            raise NoCapacity(f"{error}; and on host {host.id} {lacking}")
        await migrations.begin(tx, env, instance, to=host.id, type=type)
    except CannotMove as other:
        raise NoCapacity(f"{error}; and {instance.id} cannot go to another host: {other}") from other
    moving = await tx.get(Instance, instance.id)
    assert moving is not None
    return moving


async def held_up(reader: Reader, instance: Instance, type: str) -> bool:
    """Whether only other migrations keep it from going where there is room for it with the type: as many
    leave its host, or come to that one, as may.
    """
    source = str(instance.host)
    try:
        await migrations.require_movable(reader, instance)
        host = await migrations.require_destination(reader, replace(instance, type=type), later=True)
    except CannotMove:
        return False
    leave, come = {"source": source}, {"destination": host.id}
    if not (await migrations.busy(reader, **leave) or await migrations.busy(reader, **come)):
        return False
    move = Move(source, capacity.going(instance, host.id, type))
    return not await capacity.shortfall(reader, instance.zone, [move])


class Growing(NamedTuple):
    """What an instance that is to have another type could have with hosts that are woken, in thought: of the
    ``fleet`` as it was, since each look may take long, and others have their turn meanwhile.

    ``stays``: there is room for it where it is, but for what is kept; ``wish``: what it needs elsewhere, None
    if it cannot go. ``moves``: what is on its way already.
    """

    fleet: Fleet
    instance: Instance
    type: str
    stays: bool
    wish: Wish | None
    moves: Sequence[Move]

    async def wanting(self) -> str | None:
        """The parked host that is to be woken so that the instance can have the type; "" if such a one comes
        already, None if none would help, or none is needed.
        """
        if await self._fits(()):
            return None  # what keeps it from that is not room
        coming = parking.waking(self.fleet)
        if coming and await self._fits(coming):
            return ""
        asleep = sorted(parking.wakeable(self.fleet), key=parking.preference)
        for candidate in asleep[: parking.LOOKS_MAX]:
            id = candidate.host.id
            if await self._fits({*coming, id}):
                return id
        return None

    async def later(self) -> bool:
        """Whether there is no room for it now, and would be if all hosts were on that can be woken."""
        woken = parking.waking(self.fleet) | {each.host.id for each in parking.wakeable(self.fleet)}
        return bool(woken) and not await self._fits(()) and await self._fits(woken)

    async def helps(self, host: str) -> bool:
        """Whether this is such a host."""
        coming = parking.waking(self.fleet)
        if all(each.host.id != host for each in parking.wakeable(self.fleet)) or await self._fits(coming):
            return False
        return await self._fits({*coming, host})

    async def _fits(self, woken: Collection[str]) -> bool:
        """Whether there is room for it with that type, here or on another host, once these hosts are on."""
        await asyncio.sleep(PAUSE_SECONDS)
        if self.stays and not await self._lacks(str(self.instance.host), woken):
            return True
        if self.wish is None:
            return False
        best = Scene(self.fleet).woken(woken).best(self.wish)
        return best is not None and not await self._lacks(best.host.id, woken)

    async def _lacks(self, host: str, woken: Collection[str]) -> bool:
        """Whether room that is kept for lost hosts would be taken."""
        if not isinstance(self.fleet, Restarts):
            return False
        move = Move(str(self.instance.host), capacity.going(self.instance, host, self.type))
        outlook = capacity.outlook(self.fleet, self.instance.zone, (*self.moves, move), woken)
        for number, short in enumerate(outlook.avoidable_looks(self.fleet.settings.survive)):
            if short is not None:
                return True
            if number % SLICE == SLICE - 1:
                await asyncio.sleep(PAUSE_SECONDS)
        return False


async def grows_later(reader: Reader, instance: Instance, type: str) -> bool:
    """Whether it finds no room with the type on the hosts that are on, and would on those that can be woken,
    or with them.
    """
    found = await growing(reader, instance, type) if _grows(instance, type) else None
    return found is not None and await found.later()


async def growing(reader: Reader, instance: Instance, type: str) -> Growing | None:
    """None if it could not have the type by that some host is woken."""
    fleet = await reader.tally(Fleet)
    if not fleet.wakes or not any(each.host.park is not None for each in fleet.candidates()):
        return None
    new, here = replace(instance, type=type), str(instance.host)
    wish: Wish | None = None
    try:
        stays = {each.host: each.fits for each in await explain(reader, new)}.get(here, False)
    except NoCapacity:
        return None
    try:
        await migrations.require_movable(reader, instance)
        copies = await disk_copies.bound(reader, instance)
        wish = await wish_of(reader, new, {here: "has it already"}, await reader.get(Host, here), copies)
    except (NoCapacity, CannotMove):
        if not stays:
            return None
    moves = await capacity.under_way(reader)
    return Growing((await capacity.fleet_of(reader)).copy(), instance, type, stays, wish, moves)


async def require_interfaces(reader: Reader, instance: Instance, type: str) -> None:
    """Raises ApiError if it has more interfaces, or more addresses of one, than the type can have."""
    check_interface_count(len(instance.interfaces), type)
    for interface in await reader.get_many(NetworkInterface, instance.interfaces):
        check_limits(1 + len(interface.secondary), len(interface.ipv6), type)


def require_possible(instance: Instance, wanted: InstanceType, size: MachineSize | None) -> None:
    """Raises CannotResize with what keeps the machine from having that size while it runs."""
    id = instance.id
    if instance.state is not InstanceState.running or instance.host is None:
        raise CannotResize(
            f"{id} is {instance.state}, not running: ModifyInstanceAttribute sets the type of what is stopped"
        )
    if instance.migration:
        raise CannotResize(
            f"{id} is being migrated ({instance.migration}): wait until it is there, or cancel that"
        )
    if instance.capturing:
        raise CannotResize(f"{id} is off until the image {instance.capturing[0]} is made of it")
    stop = "stop it, set its type (ModifyInstanceAttribute) and start it"
    if size is None:
        raise CannotResize(
            f"the machine of {id} keeps its size while it runs, or its host has not told it yet: try again "
            f"in a moment, or {stop}"
        )
    if wanted.vcpus > size.vcpus_max or wanted.memory_bytes > size.memory_max_bytes:
        raise CannotResize(
            f"{id} can grow to {size.vcpus_max} vCPUs and {gib(size.memory_max_bytes)} while it runs, and "
            f"{wanted.name} has {wanted.vcpus} and {gib(wanted.memory_bytes)}: for that {stop}"
        )
    if wanted.memory_bytes < size.memory_min_bytes:
        raise CannotResize(
            f"{id} was started with {gib(size.memory_min_bytes)} of memory and keeps that while it runs, and "
            f"{wanted.name} has {gib(wanted.memory_bytes)}: for that {stop}"
        )


async def step(tx: Transaction, env: Env, instance: Instance, seen: MachineReport | None) -> None:
    """Look how far the instance's machine is."""
    resize = instance.resize
    if resize is None or seen is None or seen.state is not MachineState.running:
        return
    if resize.generation != instance.generation:
        # It was started anew since, with the size that it is to have.
        await tx.put(replace(instance, resize=None))
        return
    if seen.size is None:
        return
    wanted, size = machine_size(instance.type), seen.size
    there = (size.vcpus, size.memory_bytes) == (wanted.vcpus, wanted.memory_bytes)
    if there and seen.revision < instance.version:
        return  # perhaps by chance, on its way from an earlier type to a later one
    if there:
        log.info("%s has %d vCPUs and %s now", instance.id, size.vcpus, gib(size.memory_bytes))
        await tx.put(replace(instance, resize=None))
        return
    message = size.stuck
    if not message and not resize.since <= env.now() < resize.since + RESIZE_SECONDS:
        message = _late(size, wanted)
    if message != resize.message:
        await tx.put(replace(instance, resize=replace(resize, message=message)))


def _late(size: MachineSize, wanted: InstanceType) -> str:
    what = "taken up" if size.memory_bytes < wanted.memory_bytes or size.vcpus < wanted.vcpus else "given up"
    return (
        f"the guest has {size.vcpus} vCPUs and {gib(size.memory_bytes)}, and has not {what} the rest after "
        f"{RESIZE_SECONDS:g} s"
    )


async def resizing(reader: Reader) -> list[Instance]:
    """The instances whose machines do not have their size yet."""
    return await reader.find(Instance, resizing="yes")
