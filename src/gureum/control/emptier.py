"""Hosts that are emptied so that they can be parked: which, and what keeps that calm.

Of those that can stand in for each other one at a time is chosen, once it could have been emptied for as long
as an empty one rests. Then its record says so (``ParkState.emptying``): nothing new is put there, and what is
there leaves, a few at a time. It is on all the while, so whatever comes between only takes that word back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from gureum.control import evacuations, events, migrations, resting, setbacks
from gureum.control.emptying import (
    INSTANCES_MAX,
    SECONDS_MAX,
    Busy,
    Sizes,
    Stays,
    Thought,
    Unknown,
    Way,
    require_worth,
)
from gureum.control.fleet import Fleet
from gureum.control.outlook import domain, domains
from gureum.control.parking import unready
from gureum.control.resting import SWITCHING, Rest, Resting
from gureum.env import Env
from gureum.resources import FleetSettings, Host, HostPower, Park, ParkState, PowerMode
from gureum.services.ec2.capacity import fleet_of
from gureum.store.base import Reader, Store, Transaction

EMPTYING = "emptying"
"""How the reasons of migrations begin by which a host is emptied."""
LOOKS_MAX = 8
"""Hosts of a zone of which it is tried in thought in one round whether they could be emptied."""
AGAIN_SECONDS = 6.0
"""How often it is tried anew where what is left on a host could go."""


class Area(NamedTuple):
    """Hosts that can stand in for each other: those that are on and can be switched, and all their powers."""

    name: str
    hosts: Sequence[Host]
    powers: Mapping[str, HostPower]


class Emptier:
    """``look`` finds hosts, ``begin`` begins, and ``step`` is to be called of each that is being emptied."""

    def __init__(self, env: Env, store: Store, rests: Resting, busy: Busy, sizes: Sizes) -> None:
        self._env = env
        self._store = store
        self._resting = rests
        self._busy, self._sizes = busy, sizes
        self._since: dict[str, float] = {}
        """Since when all could have left the hosts that were chosen, on the event loop's clock."""
        self._round = 0
        self._refused: dict[str, int] = {}
        """The round in which it was found last that a host could not be emptied."""
        self._tried: dict[str, float] = {}
        """When it was tried last where what is left on a host could go."""

    # Which

    async def look(self, reader: Reader, rests: Sequence[Rest]) -> tuple[Rest, ...]:
        """With the way by which a host could be emptied, or why it could not."""
        self._round += 1
        whys = {rest.host: rest.why for rest in rests}
        hosts = await reader.get_many(Host, whys)
        powers = {power.id: power for power in await reader.find(HostPower)}
        no_time = await resting.no_time(reader, self._env)
        thought = Thought(self._env, (await fleet_of(reader)).copy(), self._busy, self._sizes)
        await thought.fill()
        found, since = dict[str, Rest](), dict[str, float]()
        self._refused = {id: number for id, number in self._refused.items() if id in whys}
        for name in domains(thought.fleet):
            here = [host for host in hosts if domain(thought.fleet, host.zone) == name]
            ids = {each.host.id for each in thought.fleet.candidates(name)}
            area = Area(name, here, {id: power for id, power in powers.items() if id in ids})
            held, looks = no_time or self._held(thought.fleet, area), LOOKS_MAX
            for host in self._ordered(thought.fleet, area):
                why = whys[host.id]
                held = held or ("" if looks else "others are looked at before it")
                if held:
                    found[host.id] = _stays(host, why, held)
                    continue
                looks -= 1
                found[host.id] = await self._tried_in_thought(reader, thought, host, why, since)
                if host.id in since:
                    held = f"host {host.id} comes first, one at a time"
        self._since = since
        return tuple(found.get(rest.host, rest) for rest in rests)

    def _held(self, fleet: Fleet, area: Area) -> str:
        """Why no host of the area is emptied now, "" if one may be."""
        for host in area.hosts:
            stuck = area.powers[host.id].doubted or self._resting.refused_lately(host.id)
            if host.id in self._resting.empty and not stuck:
                return f"host {host.id} is empty, and is parked before it"
        if why := self._resting.stir(fleet, area.name) or _drained(fleet, area.name):
            return why
        if left := setbacks.left_seconds(area.powers.values(), self._env.now()):
            return f"one was woken, or could not be emptied, a while ago: for {left:.0f} s more none is"
        return ""

    def _ordered(self, fleet: Fleet, area: Area) -> list[Host]:
        """Those with something on them that may be emptied: what is chosen already first, then those that
        were not refused for longest, then where least is to be copied for what is gained.
        """

        def order(host: Host) -> tuple[bool, int, float, str]:
            memory = sum(each.memory_bytes for each in fleet.on(host.id).values())
            refused = self._refused.get(host.id, 0)
            return host.id not in self._since, refused, memory / max(1, host.cpus), host.id

        return sorted(
            (
                host
                for host in area.hosts
                if fleet.on(host.id) and not unready(host) and not area.powers[host.id].doubted
            ),
            key=order,
        )

    async def _tried_in_thought(
        self, reader: Reader, thought: Thought, host: Host, why: str, since: dict[str, float]
    ) -> Rest:
        try:
            if len(thought.fleet.on(host.id)) > INSTANCES_MAX:
                raise Stays(f"more than {INSTANCES_MAX} instances are not moved for it")
            if self._resting.refused_lately(host.id):
                raise Stays("it could not be switched off a while ago")
            if left := await resting.fixed(reader, host.id, own=True):
                raise Stays(f"{left} is there")
            way = await thought.way(reader, host)
        except Stays as error:
            self._refused[host.id] = self._round
            return _stays(host, why, str(error))
        self._refused.pop(host.id, None)
        now, rest = asyncio.get_running_loop().time(), thought.fleet.settings.rest_seconds
        since[host.id] = began = self._since.get(host.id, now)
        if now - began < rest:
            after = f"so for {now - began:.0f} s: it may be emptied after {rest:.0f} s"
            return Rest(host.id, f"{why}; {way.reason}, {after}")
        try:
            require_worth(way, now - began)
        except Stays as error:
            return _stays(host, why, str(error))
        return Rest(host.id, f"{why}; {way.reason}", way)

    # Doing it

    async def begin(self, tx: Transaction, way: Way) -> None:
        """Let the host be emptied, if it is as it was seen. What was thought is thought again anyway."""
        host, power, fleet = (
            await tx.get(Host, way.host),
            await tx.get(HostPower, way.host),
            await tx.tally(Fleet),
        )
        if host is None or power is None or power.doubted or unready(host) or not wanted(fleet.settings):
            return
        others = (each.host.park for each in fleet.candidates(domain(fleet, host.zone)))
        if any(park is not None and park.state in SWITCHING for park in others):
            return
        if await resting.fixed(tx, host.id, own=True):
            return  # also what is on its way there
        park = Park(state=ParkState.emptying, reason=way.reason, since=self._env.now())
        await tx.put(replace(host, park=park))
        text = f"host {host.id} is emptied, to be parked: {way.reason}"
        await events.record(tx, self._env, "HostEmptying", text, host=host.id)

    async def step(self, id: str) -> bool:
        """Let some of what is there leave; whether nothing is left. Raises Stays if that is to end."""
        now = asyncio.get_running_loop().time()
        async with self._store.read() as reader:
            host = await reader.get(Host, id)
            if host is None or not host.emptying:
                return False
            await self._require_wanted(reader, host)
            if not await resting.remains(reader, id, own=True):
                return True
            fleet = await reader.tally(Fleet)
            waits = resting.waiting(fleet, domain(fleet, host.zone))
            soon = now < self._tried.get(id, float("-inf")) + AGAIN_SECONDS
            if waits or soon or await migrations.busy(reader, source=id):
                return False  # what waits for a host may be about to need this one
            self._tried[id] = now
            thought = Thought(self._env, (await fleet_of(reader)).copy(), self._busy, self._sizes)
            await thought.fill()
            try:
                way = await thought.way(reader, host, begun=True)
            except Unknown:
                return False  # this manager has only begun to look
        to = {move.instance: move.target for move in way.moves}
        reason = f"{EMPTYING} {id}, which is to be parked"
        for _ in range(min(len(to), migrations.PER_HOST_MAX)):
            self._env.crashpoint("power.leave")
            leave = partial(evacuations.leave, env=self._env, host=id, to=to, reason=reason)
            await self._store.transact(leave, frees=True)
        return False

    async def _require_wanted(self, reader: Reader, host: Host) -> None:
        """Raises Stays with why the host is to be emptied no more."""
        fleet = await reader.tally(Fleet)
        park, power = host.park, await reader.get(HostPower, host.id)
        assert park is not None
        if not wanted(fleet.settings):
            raise Stays("no host is to be emptied now")
        if why := unready(replace(host, park=None)):
            raise Stays(f"it {why}")
        if power is None or power.doubted:
            raise Stays("it is not known how it is switched")
        area = domain(fleet, host.zone)
        busy = resting.too_busy(fleet, area, self._busy.found)
        if why := await resting.no_time(reader, self._env) or busy or _drained(fleet, area):
            raise Stays(why)
        if abs(self._env.now() - park.since) > SECONDS_MAX:
            left = await resting.remains(reader, host.id, own=True)
            raise Stays(f"{left or 'what was there'} had not left it after {SECONDS_MAX:.0f} s")

    def forget(self, hosts: Collection[str]) -> None:
        """Only these are being emptied."""
        self._tried = {id: at for id, at in self._tried.items() if id in hosts}


def wanted(settings: FleetSettings) -> bool:
    """Whether hosts are emptied at all."""
    return settings.empties and settings.power is PowerMode.automatic


def _drained(fleet: Fleet, area: str) -> str:
    """A host whose instances need the room, in words; "" for none."""
    drained = (each.host.id for each in fleet.candidates(area) if each.host.draining and each.instances)
    return next((f"host {id} is being drained" for id in drained), "")


def _stays(host: Host, why: str, held: str) -> Rest:
    return Rest(host.id, f"{why}; not emptied: {held}")
