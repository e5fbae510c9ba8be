"""Keeps hosts about equally busy: looks at the loads now and then, says what is to be moved, and moves it.

What to move is decided in ``balance``. Here is what it decides about, and what keeps it calm: loads are
smoothed, a host has to be hot for a while, what was moved is left alone, and nothing is moved while hosts
are being lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from gureum.breath import breathe
from gureum.control import disk_copies, events, filters, migrations
from gureum.control.balance import Heat, Level, Move, Plan, Situation, proposals
from gureum.control.fleet import Fleet
from gureum.control.loads import Loads
from gureum.control.move import CannotMove
from gureum.env import Env
from gureum.errors import StoreError
from gureum.hostspec import HostReport
from gureum.loadspec import MachineLoad
from gureum.resources import BalanceMode, FleetSettings, Host, HostState, Instance, InstanceMigration
from gureum.resources.migration import UNDER_WAY
from gureum.resources.placement import FLEET
from gureum.services.ec2 import capacity
from gureum.store.base import Change, Reader, Store, Transaction

log = logging.getLogger(__name__)

ROUND_SECONDS = 30.0
HOT_SECONDS = 60.0
"""For so long a host has to be hot until something is to be moved off it."""
REST_SECONDS = 1800.0
"""For so long an instance is left alone that has moved, or could not."""
CALM_SECONDS = 300.0
"""After a host fell silent nothing is moved for so long: its instances may need the room."""
AT_ONCE_MAX = 8
"""Migrations that balance hosts, at once; and of a host as many as of any."""
REBALANCE_SECONDS_MAX = 1800.0
"""What is done once is over after that."""
ROOM_TRIES = 3
"""How many instances of a host are tried that would take room which is kept for lost hosts."""
REASON_MAX = 200
TAG, STAYS = "gureum:balance", "off"
"""The tag of an instance that is not to be moved for this."""


class HostLoad(NamedTuple):
    """``known``: whether it says how busy it is. ``pressure``: shares of the time in which something waited.
    ``hot_seconds``: for how long it is ``hot``; then ``stays`` says why nothing is moved off it.
    """

    host: str
    known: bool
    level: Level = Level()
    pressure: Level = Level()
    hot: bool = False
    hot_seconds: float = 0.0
    stays: str = ""


class Assessment(NamedTuple):
    """How busy hosts are at Unix time ``at``, and what should be moved. ``imbalance``: how far the busiest
    host's processors are above the mean, as a share. ``held``: why nothing is begun now, "" if it would be.
    """

    at: float = 0.0
    hosts: tuple[HostLoad, ...] = ()
    imbalance: float = 0.0
    moves: tuple[Move, ...] = ()
    held: str = ""


class Balancer:
    """``step`` is to be called now and then, ``heard`` with what hosts report."""

    def __init__(self, env: Env, store: Store) -> None:
        self.env = env
        self.found = Assessment()
        self._store = store
        self._loads = Loads()
        self._heat = Heat()
        self._under_way: dict[str, InstanceMigration] = {}
        self._rested: dict[str, float] = {}
        """When instances migrated last, Unix time."""
        self._settings: FleetSettings | None = None
        self._due = 0.0
        """When it is looked next, on the event loop's clock."""

    async def load(self, reader: Reader) -> None:
        self._due = asyncio.get_running_loop().time() + ROUND_SECONDS
        for migration in await reader.find(InstanceMigration):
            self._note(migration)

    def changed(self, change: Change) -> None:
        """A record is as this says now."""
        record = change.record
        if isinstance(record, InstanceMigration):
            self._note(record)
        elif change.kind == InstanceMigration.kind:
            self._under_way.pop(change.id, None)
        elif isinstance(record, FleetSettings):
            before, self._settings = self._settings, record
            if before is None or (before.balance, before.rebalance) != (record.balance, record.rebalance):
                self._due = 0.0

    def _note(self, migration: InstanceMigration) -> None:
        if migration.state in UNDER_WAY:
            self._under_way[migration.id] = migration
            return
        self._under_way.pop(migration.id, None)
        if migration.ended is not None:
            ended = migration.ended.timestamp()
            self._rested[migration.instance] = max(ended, self._rested.get(migration.instance, 0.0))

    def heard(self, report: HostReport, there: Collection[str]) -> dict[str, MachineLoad]:
        """``there``: what the host has, as the manager told it. Returns what that tells of machines."""
        if report.load is None:
            return {}
        moving = {migration.instance for migration in self._under_way.values()}
        return self._loads.take(report, there, moving, asyncio.get_running_loop().time())

    async def step(self) -> None:
        """Look, and begin what is to be begun, if it is time to. Raises StoreError."""
        now = asyncio.get_running_loop().time()
        if now < self._due:
            return
        self._due = now + ROUND_SECONDS
        try:
            await self._round(now)
        except StoreError:
            raise
        except Exception:
            # Nobody waits for it: a fault here must not end the manager.
            log.exception("hosts could not be balanced")

    async def _round(self, now: float) -> None:
        self._loads.forget(now)
        rested = self.env.now() - REST_SECONDS
        self._rested = {id: ended for id, ended in self._rested.items() if ended > rested}
        async with self._store.read() as reader:
            fleet = (await reader.tally(Fleet)).copy()
        settings, hosts = fleet.settings, [candidate.host for candidate in fleet.candidates()]
        plan = Plan(self.situation(fleet))
        for _ in plan.fill():
            await breathe()
        self._heat.take(plan, now)
        levels = {id: place.level() for id, place in plan.places.items()}
        imbalance = plan.imbalance
        acts = settings.balance is BalanceMode.automatic or settings.rebalance > 0
        moves: list[Move] = []
        stays: dict[str, str] = {}
        if acts or settings.balance is BalanceMode.recommend:
            await self._search(plan, now, moves, stays)
        held = unrest(hosts, self.env.now())
        self.found = Assessment(
            self.env.now(),
            tuple(self._described(host.id, levels, stays, now) for host in hosts),
            imbalance,
            tuple(moves),
            held,
        )
        if acts and not held:
            await self._begin(moves)
        if settings.rebalance:
            await self._end_rebalance(settings, done=bool(plan.places) and not moves)

    def knows(self, machine: str) -> bool:
        """Whether the machine was looked at for long enough to say what it uses."""
        return self._loads.is_known(machine, asyncio.get_running_loop().time())

    def situation(self, fleet: Fleet) -> Situation:
        """``fleet``: the caller's own."""
        now = asyncio.get_running_loop().time()
        besides = {each.host.id: self._loads.host(each.host.id, now) for each in fleet.candidates()}
        return Situation(
            fleet,
            {id: use for id, use in besides.items() if use is not None},
            self._loads.machine,
            {
                migration.instance: migration.destination
                for migration in self._under_way.values()
                if not migration.outcome
            },
        )

    async def _search(self, plan: Plan, now: float, moves: list[Move], stays: dict[str, str]) -> None:
        """Find ``moves``, and why nothing ``stays`` to be moved off other hosts that are hot."""
        hot = {id: now - since for id, since in self._heat.since.items()}
        # What is being drained, or not reached, loses its instances in other ways.
        hot = {
            id: seconds
            for id, seconds in hot.items()
            if seconds >= HOT_SECONDS and plan.places[id].host.schedulable
        }
        moving = {migration.instance for migration in self._under_way.values()}
        left_alone: set[str] = set()
        room = _Room()
        for host in hot:
            mine = plan.places[host].machines
            unknown = {id for id in mine if not self._loads.is_known(id, now)}
            resting = {id for id in mine if id in self._rested or id in moving}
            left_alone |= unknown | resting
            stays[host] = "nothing on it could go where it would help more than it costs"
            if len(unknown) == len(mine):
                stays[host] = "what its instances use is not known for long enough"
            if resting:
                stays[host] = f"{len(resting)} of its instances migrated a while ago, and are left alone"
        for move in proposals(plan, hot, left_alone):
            await breathe()
            if move is None:
                continue
            why = await self._why_not(move, room)
            if why:
                left_alone.add(move.instance)
                stays[move.source] = why[:REASON_MAX]
                if room.tries[move.source] >= ROOM_TRIES:
                    left_alone |= plan.places[move.source].machines.keys()
            else:
                moves.append(move)
        for move in moves:
            stays.pop(move.source, None)

    async def _why_not(self, move: Move, room: _Room) -> str:
        """Why the instance cannot go, "" if it can."""
        async with self._store.read() as reader:
            instance = await reader.get(Instance, move.instance)
            if instance is None or instance.host != move.source:
                return f"{move.instance} is there no more"
            if instance.tags.get(TAG) == STAYS:
                return f"{move.instance} is to stay: it has the tag {TAG}={STAYS}"
            try:
                await migrations.require_movable(reader, instance)
            except CannotMove as error:
                return str(error)
            # It could, but what that costs the hosts is not known here.
            if copied := await disk_copies.bound(reader, instance):
                which = f"{copied[0].id} of {instance.id}"
                return f"{which} is in its host's own pool, and would have to be copied"
            return await room.move(reader, instance, move.target)

    def _described(self, id: str, levels: dict[str, Level], stays: dict[str, str], now: float) -> HostLoad:
        if id not in levels:
            return HostLoad(id, False)
        pressure = Level(*self._loads.pressure(id))
        hot, seconds = id in self._heat.since, self._heat.seconds(id, now)
        return HostLoad(id, True, levels[id], pressure, hot, seconds, stays.get(id, ""))

    async def _begin(self, moves: list[Move]) -> None:
        for move in moves:
            if not await self._store.transact(partial(self._begun, move=move)):
                return

    async def _begun(self, tx: Transaction, move: Move) -> bool:
        """Begin the move, if it can; False if as many as may are under way."""
        states = [str(state) for state in UNDER_WAY]
        under_way = await tx.find(InstanceMigration, state=states)
        if sum(bool(migration.reason) for migration in under_way) >= AT_ONCE_MAX:
            return False
        instance = await tx.get(Instance, move.instance)
        if instance is None or instance.host != move.source:
            return True
        if why := await _Room().move(tx, instance, move.target):
            log.debug("%s stays on host %s: %s", instance.id, move.source, why)
            return True
        try:
            await migrations.begin(tx, self.env, instance, to=move.target, reason=move.reason)
        except CannotMove as error:
            log.debug("%s stays on host %s: %s", instance.id, move.source, error)
            return True
        text = f"{instance.id} goes from {move.source} to {move.target}; {move.reason}"
        await events.record(tx, self.env, "InstanceBalanced", text, host=move.source, instance=instance.id)
        return True

    async def _end_rebalance(self, settings: FleetSettings, done: bool) -> None:
        balancing = any(migration.reason for migration in self._under_way.values())
        if not (done and not balancing) and self.env.now() < settings.rebalance + REBALANCE_SECONDS_MAX:
            return

        async def work(tx: Transaction) -> None:
            now = await tx.get(FleetSettings, FLEET)
            if now is not None and now.rebalance == settings.rebalance:
                await tx.put(replace(now, rebalance=0.0))

        await self._store.transact(work)


class _Room:
    """What is kept for lost hosts, while instances are moved in thought. ``tries``: by host, how many of its
    would have taken that.
    """

    def __init__(self) -> None:
        self.tries: Counter[str] = Counter()
        self._moves: list[filters.Move] = []
        self._short: dict[str, bool] = {}
        """By zone, whether it is not kept anyway."""

    async def move(self, reader: Reader, instance: Instance, to: str) -> str:
        """Let the instance go to the host; why it is not to, "" if it may."""
        source, zone = str(instance.host), instance.zone
        moves = [*self._moves, filters.Move(source, capacity.going(instance, to))]
        if zone not in self._short:
            self._short[zone] = bool(await capacity.shortfall(reader, zone, self._moves))
        if not self._short[zone] and (lacking := await capacity.shortfall(reader, zone, moves)):
            self.tries[source] += 1
            return f"{instance.id} is not to go to {to}: {lacking}"
        self._moves = moves
        return ""


def unrest(hosts: Collection[Host], now: float) -> str:
    """Why this is no time to move anything, "" if it is."""
    for host in hosts:
        if host.state is HostState.fencing:
            return f"host {host.id} is being given up: what runs there comes first"
        if host.state is not HostState.up and host.silent and now < host.silent + CALM_SECONDS:
            return f"host {host.id} was lost a moment ago: what ran there comes first"
    return ""
