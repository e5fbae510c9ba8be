"""Hosts that are lost: found, fenced by another host, and what ran on them started elsewhere.

up       -> down      it was not heard of for its lease
down     -> fencing   something there is wanted elsewhere, a host is up that reaches the storage cluster, and
                      sees there that the lost one does not renew its lease; or that lasts too long
fencing  -> fenced    that host says that nothing of it runs any more
fenced   -> up        its instances have left it, and it says itself that it has nothing of before

Each step is one transaction, and depends only on the store and on what hosts say: any manager goes on where
the last one was killed. If most hosts fall silent at once the manager is more likely to be cut off than
they are to be lost: then nothing is done until that changes, or until somebody says ``FenceHost``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from gureum.agent.warden.custody import SILENCE_SECONDS_MIN
from gureum.bell import Bell
from gureum.control import events, recovery
from gureum.control.attempts import attempt
from gureum.control.cuts import Cuts, unreached, why_away, why_unfit
from gureum.control.fences import Brake, begun, fence_power
from gureum.control.hosts import Hosts
from gureum.control.observed import HostView, Observed
from gureum.control.survival import Survival
from gureum.env import Env
from gureum.resources import (
    Event,
    FencePower,
    Host,
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    MigrationState,
    NatGateway,
    NatGatewayState,
    Severity,
    Volume,
    VolumeState,
)
from gureum.resources.migration import UNDECIDED
from gureum.store.base import Change, Reader, Store, Transaction

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
LISTEN_SECONDS = 6.0
"""How long a manager that has just begun waits for hosts to report before it says that none can help."""
PLACE_SECONDS = 5.0
"""How often a place is looked for again."""
AT_ONCE_SECONDS = 10.0
"""Hosts that fall silent within this time of each other did so at once."""
ALIVE_SECONDS = 30.0
"""How long a host may be silent while it renews its lease: only its agent is away, and its machines run."""
FENCE_SECONDS_MAX = 20.0
"""After which another host tries to carry a fence out."""
BATCH_MAX = 64
HOLDS_NAT = (NatGatewayState.pending, NatGatewayState.available)


class Ha:
    """``run`` works until cancelled. ``kick(kind, id)`` lets a reconciler look at a thing."""

    def __init__(
        self,
        env: Env,
        store: Store,
        hosts: Hosts,
        observed: Observed,
        kick: Callable[[str, str], None],
    ) -> None:
        self._env = env
        self._store = store
        self._heard = hosts
        self._observed = observed
        self._kick = kick
        self._hosts: dict[str, Host] = {}
        self._given_up: set[str] = set()
        self._homeless: set[str] = set()
        """Instances that wait for a host."""
        self._held: dict[str, float] = {}
        """Instances that are not started before a time (Unix)."""
        self._idle: set[str] = set()
        """Lost hosts of which nothing is wanted elsewhere, as far as is known."""
        self._down: dict[str, float] = {}
        """Hosts that are down, and since when this manager has seen that, on the event loop's clock."""
        self._cuts = Cuts(env, store, hosts, observed)
        self._brake = Brake(env)
        self._began: float | None = None
        """When this manager began, on the event loop's clock."""
        self._words: dict[str, float] = {}
        """By host, when it was last told that it may run machines: by this manager, or perhaps one before."""
        self._told: dict[str, str] = {}
        """By host, the name of what was last told of it while it is not fenced."""
        self._place_at = 0.0
        self._wake = Bell()
        self._survival = Survival(env, store)

    # What is known

    async def load(self, reader: Reader) -> None:
        for host in await reader.find(Host):
            self._learn(Host.kind, host.id, host)
        for instance in await reader.find(Instance, state=str(InstanceState.pending)):
            self._learn(Instance.kind, instance.id, instance)
        await self._survival.load(reader)

    def changed(self, change: Change) -> bool:
        """Whether hosts must be told something else of fences."""
        record = change.record
        if isinstance(record, Event):
            events.happened(record)
        self._survival.changed(change)
        if change.kind in (Host.kind, Instance.kind):
            return self._learn(change.kind, change.id, record)
        return False

    def _learn(self, kind: str, id: str, record: object) -> bool:
        if kind == Host.kind:
            before = self._hosts.pop(id, None)
            if isinstance(record, Host):
                self._hosts[id] = record
                if record.state is HostState.up:
                    self._idle.discard(id)
                    self._told.pop(id, None)
                if before is not None and before.uplink_down != record.uplink_down:
                    self._wake.set()
            fenced = isinstance(record, Host) and record.fence is not None
            (self._given_up.add if fenced else self._given_up.discard)(id)
            if _told_of(before) != _told_of(self._hosts.get(id)):
                self._wake.set()
                return True
            return False
        waited = id in self._homeless
        self._homeless.discard(id)
        self._held.pop(id, None)
        if isinstance(record, Instance):
            if record.host is not None:
                self._idle.discard(record.host)
                self._cuts.filled(record.host)
            if record.state is InstanceState.pending and record.recovers:
                if record.host is None:
                    self._homeless.add(id)
                    if not waited:  # those that find no room are looked at again now and then
                        self._place_at = 0.0
                        self._wake.set()
                if record.restart_at:
                    self._held[id] = record.restart_at
        return False

    def heard(self) -> None:
        """A host said something new."""
        if self._given_up:
            self._wake.set()

    def spoke(self, host: str) -> None:
        """The host is told now that it may run machines."""
        self._words[host] = asyncio.get_running_loop().time()

    # The work

    async def run(self) -> None:
        async with self._store.read() as reader:
            await self.load(reader)
        while True:
            await self._wake.wait(self._cuts.wait(TICK_SECONDS))
            self._wake.clear()
            # Without this nothing would be looked after any more, or the manager end again and again.
            if not await self._attempt("what is lost", self.step()):
                await asyncio.sleep(TICK_SECONDS)

    async def step(self) -> None:
        for id in self._heard.silent():
            await self._heard.down(id)
        now = asyncio.get_running_loop().time()
        self._began = now if self._began is None else self._began
        down = (id for id, host in self._hosts.items() if host.state is HostState.down)
        self._down = {id: self._down.get(id, now) for id in down}
        lost = [host for host in self._hosts.values() if host.state is not HostState.up]
        for host in sorted(lost, key=lambda host: host.id):
            await self._attempt(f"host {host.id}", self._look_after(host))
        await self._attempt("hosts that are cut off", self._cuts.step(self._hosts.values()))
        if self._homeless and asyncio.get_running_loop().time() >= self._place_at:
            await self._place()
        waiting = {id: at for id, at in self._held.items() if recovery.is_due(self._env, at)}
        if waiting:
            await self._store.transact(lambda tx: recovery.due(tx, self._env, waiting), frees=True)
        await self._attempt("what would be lost", self._survival.step())

    async def _look_after(self, host: Host) -> None:
        if host.state is HostState.down and host.silent and not self._heard.heard(host.id):
            await self._consider(host)
        elif host.state is HostState.fencing:
            await self._fence(host)
        elif host.state is HostState.fenced:
            await self._leave(host)
            await self._lift(host)

    # Fences

    async def _consider(self, host: Host) -> None:
        if host.id in self._idle:
            return
        async with self._store.read() as reader:
            wanted, stays = await self._wanted(reader, host)
        if stays and not wanted:
            await self._tell(host, "InstancesWait", f"{host.id} is waited for: {stays}")
        if not wanted:
            self._idle.add(host.id)
            return
        if not host.fenceable:
            text = f"host {host.id} cannot be fenced, since it reached no shared pool: {wanted} wait for it"
            await self._tell(host, "CannotFence", text)
            return
        if silent := self._suspects(host):
            text = (
                f"most hosts fell silent at once ({', '.join(silent)}): perhaps this manager is cut off, so "
                "nothing is started elsewhere. If they are lost: gureum host fence HOST"
            )
            await self._tell(host, "MostHostsSilent", text)
            return
        by = self._able(host, host.watcher)
        if not by:
            text = f"no other host is up and reaches the storage cluster, so {host.id} cannot be fenced"
            if self._has_listened():
                await self._tell(host, "CannotFence", text)
        elif by != host.watcher:
            await self._store.transact(lambda tx: self._watch(tx, host, by), frees=True)
        elif self._is_over(host) and await self._may_begin(host):
            await self._store.transact(lambda tx: self._begin(tx, host, by), frees=True)

    async def _watch(self, tx: Transaction, host: Host, by: str) -> None:
        now = await tx.get(Host, host.id)
        if now is not None and now.state is HostState.down:
            await tx.put(replace(now, watcher=by))

    def _is_over(self, host: Host) -> bool:
        """Whether its lease has ended, as its watcher says; or it is silent for too long all the same."""
        view = self._observed.hosts[host.watcher]
        seen = next((each for each in view.fences if each.host == host.id and not each.number), None)
        if seen is None or view.revision < host.version:
            return False
        # Since this manager sees it: another one's silence says nothing of this one's way to the host.
        late = asyncio.get_running_loop().time() > self._down[host.id] + ALIVE_SECONDS
        return seen.done or (seen.alive and late)

    def _lives(self, host: Host) -> bool:
        """Whether its machine is known to live, as its warden goes on: only its agent is not heard."""
        view = self._observed.hosts[host.watcher]
        return any(each.host == host.id and not each.number and not each.done for each in view.fences)

    async def _may_begin(self, host: Host) -> bool:
        """Hosts that live are given up one after the other, slowly: perhaps all agents are at fault. And only
        if another one could open what their instances have.
        """
        if not self._lives(host):
            return True
        if away := await self._unreached_elsewhere(host):
            text = (
                f"host {host.id} is not heard of, but it lives, and its instances run. It is not given up, "
                f"as no other host reaches pool {', '.join(away)}, where they have volumes. "
                f"If it is to be given up all the same: gureum host fence {host.id}"
            )
            await self._tell(host, "FenceWaits", text)
            return False
        if not (others := self._brake.held(self._hosts.values())):
            return True
        text = (
            f"host {host.id} is not heard of, but it lives, and its instances run. It is not given up yet, "
            f"as {', '.join(others)} was a moment ago while it lived, too: perhaps all agents are at fault. "
            f"If it is to be given up now: gureum host fence {host.id}"
        )
        await self._tell(host, "FenceWaits", text)
        return False

    async def _unreached_elsewhere(self, host: Host) -> list[str]:
        """The pools that what runs there needs, and no other host reaches."""
        if not (away := unreached(self._others().values())):
            return []
        async with self._store.read() as reader:
            states = [str(state) for state in recovery.RUNS]
            there = await reader.find(Instance, host=host.id, state=states)
            needs = [await reader.find(Volume, instances=each.id) for each in there]
        return sorted({pool for volumes in needs for volume in volumes for pool in volume.pools} & away)

    def _has_listened(self) -> bool:
        """Whether hosts had the time to say what they can do."""
        return self._began is not None and asyncio.get_running_loop().time() > self._began + LISTEN_SECONDS

    async def _wanted(self, reader: Reader, host: Host) -> tuple[str, str]:
        """What of the host could be elsewhere, and what only waits for it, with the reason; for people."""
        moves, stays = [], []
        for instance in await reader.find(Instance, host=host.id):
            if instance.state not in (*recovery.RUNS, *recovery.ENDS):
                continue
            why = await recovery.waits(reader, instance)
            if why:
                stays.append(f"{instance.id} ({why})")
            else:
                moves.append(instance.id)
        moves += [nat.id for nat in await reader.find(NatGateway, host=host.id) if nat.state in HOLDS_NAT]
        # Also who goes there, or came from there, waits until nothing of it runs.
        moves += [migration.instance for migration in await _migrations(reader, host)]
        return ", ".join(moves), ", ".join(stays)

    def _suspects(self, host: Host) -> list[str]:
        """The hosts that fell silent together with this one, if that are most; else none."""
        quiet = self._heard.quiet()
        at_once = quiet | {
            other.id
            for other in self._hosts.values()
            if other.silent
            and other.state is not HostState.up
            and abs(other.silent - host.silent) <= AT_ONCE_SECONDS
        }
        up = {other.id for other in self._hosts.values() if other.state is HostState.up} - at_once
        return sorted(at_once) if len(at_once) > max(1, len(up)) else []

    def _able(self, host: Host, present: str) -> str:
        """The host that is to fence this one: the present one while it can, "" for none."""
        able = self._all_able(host)
        if not able or present in able:
            return present if present in able else ""
        return able[0]

    def _all_able(self, host: Host) -> list[str]:
        """For a fence that was decided also those that are given up themselves and heard again, if no other
        is there; in the end the host itself. If all were given up nobody would be left to bring one back.
        """
        able = [id for id in self._fencers() if id != host.id]
        if able or host.state is not HostState.fencing or not self._has_listened():
            return able
        views = {id: view for id, view in self._observed.hosts.items() if self._is_back(id)}
        return sorted(_reaching(views, why_away), key=lambda id: (id == host.id, id))

    def _fencers(self) -> list[str]:
        """Hosts that can fence others."""
        return _reaching(self._others(), why_unfit)

    def _others(self) -> dict[str, HostView]:
        """What those that are up and heard said last."""
        quiet = self._heard.quiet()
        up = {id for id, host in self._hosts.items() if host.state is HostState.up} - quiet
        return {id: view for id, view in sorted(self._observed.hosts.items()) if id in up}

    def _is_back(self, id: str) -> bool:
        """Whether the host is given up, and heard of all the same."""
        host = self._hosts.get(id)
        return host is not None and host.fence is not None and self._heard.heard(id)

    async def _begin(self, tx: Transaction, host: Host, by: str) -> None:
        now = await tx.get(Host, host.id)
        if now is None or now.state is not HostState.down or self._heard.heard(host.id):
            return
        lives = self._lives(host)
        reason = f"not heard of for {max(0.0, self._env.now() - now.silent):.0f} s"
        await tx.put(begun(now, self._env, reason, by, lives))
        if lives:
            self._brake.used(host.id)
        text = f"host {host.id} is given up ({reason}): host {by} fences it"
        await events.record(tx, self._env, "HostFencing", text, Severity.warning, host=host.id)

    async def _fence(self, host: Host) -> None:
        fence = host.fence
        assert fence is not None
        for view in self._observed.hosts.values():
            for seen in view.fences:
                if (seen.host, seen.number) == (host.id, fence.number) and seen.done:
                    if not self._is_speechless(host.id):
                        return
                    await self._store.transact(partial(self._fenced, host=host, how=seen.message), frees=True)
                    await self._leave(host)
                    return
        by = self._able(host, fence.by)
        if not by and not self._has_listened():
            return
        late = abs(self._env.now() - fence.since) > FENCE_SECONDS_MAX
        if by == fence.by and not (by and late):
            if not by:
                text = f"no other host is up and reaches the storage cluster, so {host.id} cannot be fenced"
                await self._tell(host, "CannotFence", text)
            return
        if late:
            by = self._next(host, by)
        if by != fence.by:
            await self._store.transact(lambda tx: self._reassign(tx, host, by), frees=True)

    def _is_speechless(self, id: str) -> bool:
        """Whether no word that the host was given counts there any more. A lease that has ended is no proof
        before.
        """
        last = self._words.get(id, self._began or 0.0)
        return asyncio.get_running_loop().time() >= last + SILENCE_SECONDS_MIN

    def _next(self, host: Host, present: str) -> str:
        """Another host than the one that did not come to an end with it, if there is one."""
        able = self._all_able(host)
        after = able.index(present) + 1 if present in able else 0
        return able[after % len(able)] if able else present

    async def _reassign(self, tx: Transaction, host: Host, by: str) -> None:
        now = await tx.get(Host, host.id)
        if now is not None and now.state is HostState.fencing and now.fence is not None:
            await tx.put(replace(now, fence=replace(now.fence, by=by, since=self._env.now())))
            text = f"host {by} fences host {host.id} now" if by else f"no host can fence {host.id} now"
            await events.record(tx, self._env, "HostFencing", text, Severity.warning, host=host.id)

    async def _fenced(self, tx: Transaction, host: Host, how: str) -> None:
        now = await tx.get(Host, host.id)
        if now is None or now.state is not HostState.fencing or now.fence is None or host.fence is None:
            return
        if now.fence.number != host.fence.number:
            return
        power = await fence_power(tx, host.id)
        await tx.put(replace(now, state=HostState.fenced, fence=replace(now.fence, power=power)))
        text = f"host {host.id} is fenced: {how or 'nothing of it runs any more'}"
        await events.record(tx, self._env, "HostFenced", text, host=host.id)
        _, stays = await self._wanted(tx, now)
        if stays:
            text = f"{host.id} is waited for: {stays}"
            await events.record(tx, self._env, "InstancesWait", text, Severity.warning, host=host.id)
        for nat in await tx.find(NatGateway, host=host.id):
            self._kick(nat.kind, nat.id)
        for migration in await _migrations(tx, host):
            self._kick(Instance.kind, migration.instance)

    # What was on it

    async def _leave(self, host: Host) -> None:
        """Let all that can be elsewhere leave a fenced host."""
        if host.id in self._idle:
            return
        states = [str(state) for state in (*recovery.RUNS, *recovery.ENDS)]
        async with self._store.read() as reader:
            now = await reader.get(Host, host.id)
            if now is None or now.state is not HostState.fenced:
                return
            found = sorted(await reader.find(Instance, host=host.id, state=states), key=recovery.order)
            leaving = [each.id for each in found if not await recovery.waits(reader, each)]
        whole = await self._each(leaving, partial(self._leave_one, host=host.id))
        if whole:
            self._idle.add(host.id)
        if leaving:
            await self._place()

    async def _leave_one(self, tx: Transaction, id: str, host: str) -> None:
        now, instance = await tx.get(Host, host), await tx.get(Instance, id)
        if now is None or now.state is not HostState.fenced or instance is None or instance.host != host:
            return
        wanted = instance.state in (*recovery.RUNS, *recovery.ENDS)
        if wanted and not await recovery.waits(tx, instance):
            await recovery.leave(tx, self._env, instance, now)

    async def _each(self, ids: Sequence[str], work: Callable[[Transaction, str], Awaitable[None]]) -> bool:
        """Do this for all, many in a transaction. One that fails keeps no other from it; whether none did."""
        whole = True
        for at in range(0, len(ids), BATCH_MAX):
            batch = ids[at : at + BATCH_MAX]
            if not await self._attempt(f"{len(batch)} instances", self._together(batch, work)):
                alone = [await self._attempt(id, self._together([id], work)) for id in batch]
                whole = whole and all(alone)
        return whole

    async def _together(
        self, ids: Sequence[str], work: Callable[[Transaction, str], Awaitable[None]]
    ) -> None:
        async def all_of_them(tx: Transaction) -> None:
            for id in ids:
                await work(tx, id)

        await self._store.transact(all_of_them, frees=True)

    async def _attempt(self, what: str, work: Awaitable[None]) -> bool:
        return await attempt(log, f"{what}: not looked after now, will try again", work)

    async def _place(self) -> None:
        """Those with more priority first. One that finds no room keeps no smaller one from its place."""
        self._place_at = asyncio.get_running_loop().time() + PLACE_SECONDS
        async with self._store.read() as reader:
            found = await reader.find(Instance, state=str(InstanceState.pending))
        homeless = sorted((each for each in found if each.recovers and each.host is None), key=recovery.order)
        await self._each([each.id for each in homeless], self._place_one)

    async def _place_one(self, tx: Transaction, id: str) -> None:
        await recovery.place(tx, self._env, id)

    # Its return

    async def _lift(self, host: Host) -> None:
        view, fence = self._observed.hosts.get(host.id), host.fence
        if view is None or fence is None or not self._heard.heard(host.id) or host.id not in self._idle:
            return
        if view.warden is None or view.warden.fence < fence.number or view.machines_live():
            return
        await self._store.transact(lambda tx: self._lifted(tx, host), frees=True)

    async def _lifted(self, tx: Transaction, host: Host) -> None:
        now = await tx.get(Host, host.id)
        if now is None or now.state is not HostState.fenced or now.fence is None:
            return
        if now.fence.power is not FencePower.none or now.park is not None:
            return  # it may be about to be switched off, with all that would be put there
        for volume in await tx.find(Volume):
            keeper = self._hosts.get(volume.host or "")
            if volume.state is VolumeState.error:
                continue  # no host is told of it
            if volume.multi_attach and host.id in volume.lost and keeper is not None and keeper.schedulable:
                # An agent before 0.9 would take from this host also what it has opened anew.
                return
        await tx.put(
            replace(
                now,
                state=HostState.up,
                fence=None,
                silent=0.0,
                lifted=max(now.lifted, now.fence.number),
            )
        )
        states = [str(state) for state in recovery.RUNS]
        for instance in await tx.find(Instance, host=host.id, state=states):
            await recovery.rejoin(tx, self._env, instance, now.silent)
        text = f"host {host.id} is back, has nothing of before, and takes instances again"
        await events.record(tx, self._env, "HostUp", text, host=host.id)

    async def _tell(self, host: Host, name: str, message: str) -> None:
        """Once for each silence of the host, until there is something else to say."""
        if self._told.get(host.id) == name:
            return
        self._told[host.id] = name
        await self._store.transact(
            lambda tx: events.record(tx, self._env, name, message, Severity.warning, host=host.id), frees=True
        )


def _told_of(host: Host | None) -> tuple[object, ...]:
    return (host.state, host.watcher, host.fence, host.lifted) if host is not None else ()


def _reaching(
    views: Mapping[str, HostView], why_not: Callable[[HostView, Collection[str]], str]
) -> list[str]:
    """Those of the hosts that can write to leases. What pool none of them reaches does not matter, unless
    leases are in it: that their wardens say.
    """
    away = unreached(views.values())
    return [
        id
        for id, view in views.items()
        if not why_not(view, away) and not (away and view.warden and view.warden.away)
    ]


async def _migrations(reader: Reader, host: Host) -> list[InstanceMigration]:
    """Those of instances that are elsewhere, which cannot end before this host has let go of its machine."""
    states = [str(state) for state in (*UNDECIDED, MigrationState.aborting)]
    going = await reader.find(InstanceMigration, destination=host.id, state=states)
    left = await reader.find(InstanceMigration, source=host.id, state=str(MigrationState.switching))
    return [*going, *left]
