"""Which hosts are to be parked, and which woken: what ``parking`` decides about, and what keeps it calm.

A host rests for a while before it is parked, one at a time of those that can stand in for each other; and
nothing is parked while hosts are lost, upgraded, or too busy.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from gureum.breath import breathe
from gureum.control import events, parking, setbacks
from gureum.control.balancer import Assessment, unrest
from gureum.control.emptying import Way
from gureum.control.fences import has_manager
from gureum.control.filters import Scene, Wish
from gureum.control.fleet import EVERY_ZONE, Fleet
from gureum.control.outlook import domain, domains
from gureum.control.placement import NoCapacity, wish_of
from gureum.control.survival import named
from gureum.env import Env
from gureum.resources import (
    Host,
    HostPower,
    Instance,
    InstanceMigration,
    InstanceState,
    NatGateway,
    NatGatewayState,
    Park,
    ParkState,
    Snapshot,
    Upgrade,
    UpgradeState,
    Volume,
    VolumeState,
)
from gureum.resources.migration import UNDER_WAY
from gureum.resources.volume import shared
from gureum.services.ec2.capacity import fleet_of
from gureum.store.base import Reader, Transaction

CALM_SECONDS = 600.0
"""After a host was woken because others were too busy, no other is for so long."""
RETRY_SECONDS = 900.0
"""When a host that could not be switched off is tried again."""
NEEDY_MAX = 200
"""Instances without a host that are looked at in one turn, if there are more: then others."""
DOUBTED = "its agent said that it was off, and it went on reporting, so that may be another host's plug"
SWITCHING = (ParkState.emptying, ParkState.parking, ParkState.waking)


class Rest(NamedTuple):
    """Why a host is on, "" if it could be off. ``way``: by which all that is there could leave it, so that it
    could be.
    """

    host: str
    why: str
    way: Way | None = None


class Resting:
    """``balance``: how busy hosts are. Times are on the event loop's clock."""

    def __init__(self, env: Env, balance: Callable[[], Assessment]) -> None:
        self._env = env
        self._balance = balance
        self._empty: dict[str, float] = {}
        """Since when hosts have been empty."""
        self._refused: dict[str, float] = {}
        """When hosts could not be switched off."""
        self._pressed = float("-inf")
        """When a host was last woken because others were too busy."""
        self._needy = ""
        """The last instance without a host that was looked at, of more than one turn has."""
        self._in_vain: dict[str, int] = {}
        """By domain, the store's revision at which no host would have helped what is to be survived."""

    def refused(self, host: str) -> None:
        """It could not be switched off."""
        self._refused[host] = asyncio.get_running_loop().time()

    def refused_lately(self, host: str) -> bool:
        now = asyncio.get_running_loop().time()
        return now < self._refused.get(host, float("-inf")) + RETRY_SECONDS

    @property
    def empty(self) -> Collection[str]:
        """Hosts that have been found to be empty."""
        return self._empty.keys()

    # What is needed

    async def needed(self, reader: Reader) -> dict[str, str]:
        """Hosts to be woken, and why."""
        if not (await reader.tally(Fleet)).wakes:
            return {}
        wishes: dict[str, Wish] = {}
        for id in self._turn((await reader.tally(Fleet)).unplaced):
            instance = await reader.get(Instance, id)
            try:
                if instance is not None and instance.host is None:
                    wishes[id] = (await wish_of(reader, instance))._replace(wakes=True)
            except NoCapacity:
                continue
        fleet = await fleet_of(reader)  # as it is until the next await
        if fleet.settings.short:
            fleet = fleet.copy()
        found = _homes(fleet, wishes) if parking.wakeable(fleet) else {}
        for area in domains(fleet):
            here = {each.host.id for each in fleet.candidates(area)}
            if not parking.waking(fleet, area) and here.isdisjoint(found):
                found |= await self._kept(fleet, area, reader.revision)
        return found

    def _turn(self, unplaced: Collection[str]) -> list[str]:
        """Which of them are looked at now: those after the last ones, so that none waits for ever."""
        ids = sorted(unplaced)
        if len(ids) > NEEDY_MAX:
            at = bisect_right(ids, self._needy)
            ids = (ids[at:] + ids[:at])[:NEEDY_MAX]
            self._needy = ids[-1]
        return ids

    async def _kept(self, fleet: Fleet, area: str, revision: int) -> dict[str, str]:
        """One to be woken for what is to be left, or for what is too busy."""
        if not parking.wakeable(fleet, area):
            return {}
        if (host := parking.wake_for_headroom(fleet, area)) is not None:
            return {host.id: f"too little is free on the other hosts of {named(area)}"}
        if area in fleet.settings.short and self._in_vain.get(area) != revision:
            if (host := await parking.wake_for_survival(fleet, area)) is not None:
                losses = parking.lost(fleet.settings.survive)
                return {host.id: f"in {named(area)} the loss of {losses} would not be survived"}
            self._in_vain[area] = revision
        busy, now = self._busy(fleet, area), asyncio.get_running_loop().time()
        host = parking.largest(fleet, area) if busy and now >= self._pressed + CALM_SECONDS else None
        if host is None:
            return {}
        self._pressed = now
        return {host.id: f"host {busy} is too busy, and none that is on could take something from it"}

    def _busy(self, fleet: Fleet, area: str) -> str:
        """A host that is too busy, where no move would help and no host is idle; "" for none."""
        here = {each.host.id: each for each in fleet.candidates(area)}
        if any(each.host.schedulable and not each.instances for each in here.values()):
            return ""
        hot = (each.host for each in self._balance().hosts if each.hot and each.stays)
        return next((id for id in hot if id in here and here[id].instances > 1), "")

    # What is not

    async def look(self, reader: Reader) -> tuple[Rest, ...]:
        """Of each host that can be switched and is on, why."""
        powers = {power.id: power for power in await reader.find(HostPower)}
        hosts = [host for host in await reader.find(Host) if host.id in powers and host.park is None]
        left = {host.id: await remains(reader, host.id, own=True) for host in hosts}
        restless = await no_time(reader, self._env)
        fleet = (await fleet_of(reader)).copy()
        now = asyncio.get_running_loop().time()
        self._empty = {id: since for id, since in self._empty.items() if id in left}
        found, taken, looks = [], dict[str, str](), parking.LOOKS_MAX
        for host in sorted(hosts, key=lambda host: host.id, reverse=True):
            area = domain(fleet, host.zone)
            why = self._own_reason(fleet, host, left[host.id], now) or restless or self.stir(fleet, area)
            why = DOUBTED if powers[host.id].doubted else why
            if not why and area in taken:
                why = f"host {taken[area]} is parked before it"
            if not why:
                await breathe()
                why = parking.why_awake(fleet, host) if looks else "others are looked at before it"
                looks -= bool(looks)
            if not why:
                taken[area] = host.id
            found.append(Rest(host.id, why))
        return tuple(reversed(found))

    def _own_reason(self, fleet: Fleet, host: Host, left: str, now: float) -> str:
        if why := in_use(fleet, host, left):
            self._empty.pop(host.id, None)
            return why
        rest, empty = fleet.settings.rest_seconds, now - self._empty.setdefault(host.id, now)
        if empty < rest:
            return f"it has been empty for {empty:.0f} s, and is parked after {rest:.0f} s"
        if self.refused_lately(host.id):
            return "it could not be switched off a while ago"
        return ""

    def stir(self, fleet: Fleet, area: str) -> str:
        """What else is going on among the hosts that could stand in for each other."""
        for host in (each.host for each in fleet.candidates(area)):
            if host.park is not None and host.park.state in SWITCHING:
                return f"host {host.id} is being {'emptied' if host.emptying else 'switched'}"
        if waiting(fleet, area):
            return "instances wait for a host"
        return too_busy(fleet, area, self._balance())


def waiting(fleet: Fleet, area: str) -> bool:
    """Whether instances wait for one of its hosts."""
    return any(area in (EVERY_ZONE, each.zone) for each in fleet.unplaced.values())


def too_busy(fleet: Fleet, area: str, loads: Assessment) -> str:
    """A host that is, in words; "" for none."""
    here = {each.host.id for each in fleet.candidates(area)}
    hot = (each.host for each in loads.hosts if each.hot and each.host in here)
    return next((f"host {host} is too busy" for host in hot), "")


def _homes(fleet: Fleet, wishes: Mapping[str, Wish]) -> dict[str, str]:
    """Hosts to be woken for what finds no room on others, and why: those first that are on still."""
    still = {each.host.id for each in fleet.candidates() if each.host.emptying}
    scene, found = Scene(fleet), dict[str, str]()
    for id, wish in wishes.items():
        if still and scene.best(wish._replace(wakes=False)) is None:
            scene, still = scene.woken(still), set()
        home = scene.place(wish)
        # As it really is: in thought it may be on.
        known = fleet.candidate(home.host.id) if home is not None else None
        if home is not None and known is not None and _is_off(known.host):
            found.setdefault(home.host.id, f"{id} finds no room on the others")
    return found


def _is_off(host: Host) -> bool:
    return host.park is not None and host.park.state is not ParkState.waking


def in_use(fleet: Fleet, host: Host, left: str) -> str:
    """Why the host itself could not be parked now; ``left``: as ``remains`` says."""
    if why := parking.unready(host):
        return f"it {why}"
    if on := fleet.on(host.id):
        return f"{len(on)} instances are there" if len(on) > 1 else f"{next(iter(on))} is there"
    return f"{left} is there" if left else ""


async def remains(reader: Reader, host: str, own: bool = False) -> str:
    """Something that needs this very host, "" for nothing. If only its ``own`` is asked for: without what
    other hosts can look after as well.
    """
    for instance in await reader.find(Instance, host=host):
        if instance.state not in (InstanceState.stopped, InstanceState.terminated):
            return instance.id
    return await fixed(reader, host, own)


async def fixed(reader: Reader, host: str, own: bool = False) -> str:
    """As ``remains``, of what is no instance."""
    if await has_manager(reader, host):
        return "a manager"
    states = [str(state) for state in UNDER_WAY]
    for migration in (
        *await reader.find(InstanceMigration, source=host, state=states),
        *await reader.find(InstanceMigration, destination=host, state=states),
    ):
        return migration.instance
    for volume in await reader.find(Volume, host=host):
        if volume.bound or not (own or volume.state is VolumeState.error):
            return volume.id
    for snapshot in await reader.find(Snapshot, host=host):
        if not (own and shared(snapshot.pool)):
            return snapshot.id
    for gateway in await reader.find(NatGateway, host=host):
        if gateway.state is not NatGatewayState.deleted:
            return gateway.id
    things: list[Volume | Snapshot] = (
        [] if own else [*await reader.find(Volume), *await reader.find(Snapshot)]
    )
    return next((thing.id for thing in things if host in thing.former), "")


async def park(tx: Transaction, env: Env, id: str, reason: str) -> str:
    """Let the host be parked, if it can be; else why not, as a sentence without its end."""
    host, power = await tx.get(Host, id), await tx.get(HostPower, id)
    if host is None or power is None:
        return f"it is not known how host {id} is switched (gureum host power)"
    if power.doubted:
        return DOUBTED
    left, restless = await remains(tx, id, own=True), await no_time(tx, env)
    fleet = await fleet_of(tx)
    on = replace(host, park=None) if host.emptying else host
    if why := in_use(fleet, on, left) or restless or parking.why_awake(fleet, host):
        return why
    for instance in await tx.find(Instance, host=id, state=str(InstanceState.stopped)):
        await tx.put(replace(instance, host=None))  # it can be terminated without this host
    await tx.put(replace(host, park=Park(reason=reason, since=env.now())))
    await events.record(tx, env, "HostParking", f"host {id} is to be parked: {reason}", host=id)
    return ""


async def wake(tx: Transaction, env: Env, id: str, reason: str) -> Host | None:
    """Let the host be woken, if it is parked, or go on if it is being emptied."""
    host = await tx.get(Host, id)
    if host is None or host.park is None or host.park.state is ParkState.waking:
        return host
    park = host.park
    await setbacks.note(tx, env, host)
    if host.emptying:
        host = await tx.put(replace(host, park=None))
        await events.record(tx, env, "HostNotEmptied", f"host {id} is emptied no more: {reason}", host=id)
        return host
    waking = replace(
        park,
        state=ParkState.waking,
        reason=reason,
        since=env.now(),
        again=0.0,
        boot="",
        unsure=park.unsure or park.state is ParkState.parking,
    )
    host = await tx.put(replace(host, park=waking))
    await events.record(tx, env, "HostWaking", f"host {id} is woken: {reason}", host=id)
    return host


async def no_time(reader: Reader, env: Env) -> str:
    """Why this is no time to park anything, "" if it is."""
    if await reader.find(Upgrade, state=str(UpgradeState.running)):
        return "hosts are being upgraded"
    return unrest(await reader.find(Host), env.now())
