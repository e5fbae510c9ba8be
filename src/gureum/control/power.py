"""Hosts that nothing needs are switched off, and on again when something does.

awake   -> emptying all that is there finds room on others, and what is to be left is left
emptying -> parking nothing is there any more; or it is awake again, if that is not so any more
awake   -> parking  it was empty for a while, and enough is left without it: nothing new is put there
parking -> parked   others look after what it looked after, and its fence agent says that it is off
parked  -> waking   something needs it: what finds no room, room that is to be kept, a host that is too busy
waking  -> awake    it was switched on, and heard of after that

Each step is one transaction, and each call of an agent can be made again, so any manager goes on where the
last one was killed. What to park and to wake is decided in ``resting``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from gureum.control import events, resting, setbacks
from gureum.control.attempts import attempt
from gureum.control.emptier import Emptier, wanted
from gureum.control.emptying import Busy, Sizes, Stays
from gureum.control.fence_agents import SECONDS_MAX, Action, Answer, NoSwitch, Switch
from gureum.control.fleet import Fleet
from gureum.control.growths import Growths
from gureum.control.hosts import Hosts
from gureum.control.resting import Rest, Resting
from gureum.env import Env
from gureum.resources import (
    Fence,
    FencePower,
    FleetSettings,
    Host,
    HostPower,
    HostState,
    Instance,
    Park,
    ParkState,
    PowerMode,
    Severity,
)
from gureum.resources.placement import FLEET
from gureum.store.base import Change, Reader, Store, Transaction

log = logging.getLogger(__name__)

LATER = "hosts' power is looked after later"

WARNINGS = ("HostNotParked", "HostNotWoken")
TICK_SECONDS = 2.0
ROUND_SECONDS = 30.0
"""How often it is looked whether a host could be off."""
LEAVE_SECONDS = 120.0
"""In which others have to look after what a host that is about to be off looked after."""
SETTLE_SECONDS = 20.0
"""After that, what is heard of a host that was switched off is no echo."""
SILENT_SECONDS = 60.0
"""After that, one that is not heard of is off: an agent finds the next manager sooner."""
BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 120.0, 3600.0
"""When a host that did not come is tried again: the first time, and at most."""


class Called(NamedTuple):
    """What a host's agent was called for, its last action, and what it said."""

    what: Park | Fence
    action: Action
    answer: Answer


class Power:
    """``run`` works until cancelled, and only while a host can be switched. ``kick(kind, id)`` lets a
    reconciler look at a thing; ``busy``: how busy hosts are; ``leads``: whether this manager certainly does.
    """

    def __init__(
        self,
        env: Env,
        store: Store,
        hosts: Hosts,
        kick: Callable[[str, str], None],
        busy: Busy,
        leads: Callable[[], bool],
        sizes: Sizes = lambda host, machine, generation: None,
    ) -> None:
        self._env = env
        self._leads = leads
        self._store = store
        self._heard = hosts
        self._kick = kick
        self.switch: Switch = NoSwitch()
        self.found: tuple[Rest, ...] = ()
        """Why the hosts that can be switched are on."""
        self._resting = Resting(env, lambda: busy.found)
        self._emptier = Emptier(env, store, self._resting, busy, sizes)
        self._growths = Growths(env, store, sizes)
        self._switchable: set[str] = set()
        self._parks: dict[str, Host] = {}
        """Hosts that are off, or on their way there or back, or fenced and to be switched."""
        self._tasks: dict[str, asyncio.Task[bool]] = {}
        self._called: dict[str, Called] = {}
        """By host, how its agent was called last."""
        self._since: dict[str, float] = {}
        """When a host's agent has answered, or else one that is parked was first seen to be, on the event
        loop's clock.
        """
        self._round_at = 0.0
        self._wake = asyncio.Event()

    # What is known

    async def load(self, reader: Reader) -> None:
        self._switchable = {power.id for power in await reader.find(HostPower)}
        self._parks = {host.id: host for host in await reader.find(Host) if _concerns(host)}
        await self._growths.load(reader)
        self._wake.set()

    def changed(self, change: Change) -> None:
        """A record is as this says now."""
        record = change.record
        self._growths.changed(change)
        if self._growths.any:
            self._wake.set()  # also where no host can be switched any more: it is to be told
        if change.kind == HostPower.kind:
            (self._switchable.discard if record is None else self._switchable.add)(change.id)
            self._wake.set()
        elif change.kind == FleetSettings.kind:
            self._round_at = 0.0
        elif change.kind == Host.kind:
            if isinstance(record, Host) and _concerns(record):
                self._parks[record.id] = record
                self._wake.set()  # also where no host can be switched any more: it is to come to an end
                # What was found of it before is not so when it is awake again.
                self.found = tuple(rest for rest in self.found if rest.host != record.id)
            else:
                self._parks.pop(change.id, None)

    # The work

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                if not (self._switchable or self._parks or self._growths.any):
                    self._wake.clear()
                    await self._wake.wait()
                await attempt(log, LATER, self.step(group))
                await asyncio.sleep(TICK_SECONDS)

    async def step(self, group: asyncio.TaskGroup) -> None:
        """Raises StoreError."""
        self._since = {id: since for id, since in self._since.items() if id in self._parks}
        self._called = {id: called for id, called in self._called.items() if id in self._parks}
        self._emptier.forget(self._parks.keys())
        for _, host in sorted(self._parks.items()):
            if host.id not in self._tasks:
                await attempt(log, LATER, self._drive(group, host))
        if self._parks:
            async with self._store.read() as reader:
                needed = await self._resting.needed(reader)
            for id, reason in needed.items():
                await self._store.transact(
                    partial(resting.wake, env=self._env, id=id, reason=reason), frees=True
                )
            if needed:
                await self._kick_waiting()
        await self._growths.step()
        now = asyncio.get_running_loop().time()
        if now >= self._round_at:
            self._round_at = now + ROUND_SECONDS
            await self._round()

    async def _round(self) -> None:
        async with self._store.read() as reader:
            settings = await reader.get(FleetSettings, FLEET) or FleetSettings(id=FLEET)
            found: tuple[Rest, ...] = ()
            if settings.power is not PowerMode.off:
                found = await self._emptier.look(reader, await self._resting.look(reader))
            self.found = found
        if settings.power is not PowerMode.automatic:
            return
        reason = f"it was empty for {settings.rest_seconds / 60:g} minutes, and the others are enough"
        for host in [rest.host for rest in self.found if not rest.why]:
            await self._store.transact(
                partial(resting.park, env=self._env, id=host, reason=reason), frees=True
            )
        for way in [rest.way for rest in self.found if rest.way is not None] if wanted(settings) else ():
            self._env.crashpoint("power.empty")
            await self._store.transact(partial(self._emptier.begin, way=way), frees=True)

    # Hosts that are on their way

    async def _drive(self, group: asyncio.TaskGroup, host: Host) -> None:
        park = host.park
        called = self._called.get(host.id)
        if host.fence is not None and host.fence.power is not FencePower.none:
            called = called if called is not None and called.what == host.fence else None
            await self._fence(group, host, host.fence, called)
            return
        assert park is not None
        answer = called.answer if called is not None and called.what == park else None
        if park.state is ParkState.emptying:
            await self._empty(host, park)
        elif park.state is ParkState.parked:
            await self._stay(host, park)
        elif park.state is ParkState.parking:
            await self._park(group, host, park, answer)
        else:
            await self._wake_up(group, host, park, answer)

    async def _empty(self, host: Host, park: Park) -> None:
        """What is on its way when that ends arrives all the same."""
        try:
            if not await self._emptier.step(host.id):
                return
            self._env.crashpoint("power.emptied")
            reason = "what was there found room on others"
            work = partial(resting.park, env=self._env, id=host.id, reason=reason)
            if why := await self._store.transact(work, frees=True):
                raise Stays(why)
        except Stays as error:
            text = f"host {host.id} is emptied no more: {error}"
            await self._settle(host, None, "HostNotEmptied", text)

    async def _stay(self, host: Host, park: Park) -> None:
        id, now = host.id, asyncio.get_running_loop().time()
        since, heard = self._since.setdefault(id, now), self._heard.heard(id)
        # What failed, or was not waited for, may yet switch it off.
        if heard and now > since + (SECONDS_MAX if park.unsure else SETTLE_SECONDS):
            if park.boot and park.boot == host.boot_id:
                text = (
                    f"host {id} could not be parked: {resting.DOUBTED}; it is not switched off before that "
                    "is said anew (gureum host power)"
                )
                await self._settle(host, None, "HostNotParked", text, doubted=True)
            else:
                await self._settle(host, None, "HostAwake", f"host {id} is on{_takes(host)}")
        elif park.boot and not heard and now > since + SILENT_SECONDS:
            await self._settle(host, replace(park, boot=""))
        elif park.again and not self._env.now() < park.again <= self._env.now() + BACKOFF_SECONDS_MAX:
            await self._settle(host, replace(park, again=0.0))

    async def _park(self, group: asyncio.TaskGroup, host: Host, park: Park, answer: Answer | None) -> None:
        if answer is None:
            async with self._store.read() as reader:
                left = await resting.remains(reader, host.id)
            if not left:
                self._call(group, host.id, park, Action.off)
            elif abs(self._env.now() - park.since) > LEAVE_SECONDS:
                await self._not_parked(host, f"{left} did not leave it")
        elif answer.error:
            now = self._env.now()
            again = now + BACKOFF_SECONDS
            after = replace(park, state=ParkState.parked, since=now, again=again, unsure=True)
            await self._not_parked(host, answer.error, after)
        else:
            after = replace(park, state=ParkState.parked, since=self._env.now(), boot=host.boot_id)
            await self._settle(host, after, "HostParked", f"host {host.id} is parked: {park.reason}")

    async def _not_parked(self, host: Host, why: str, after: Park | None = None) -> None:
        self._resting.refused(host.id)
        await self._settle(host, after, "HostNotParked", f"host {host.id} could not be parked: {why}")

    async def _wake_up(self, group: asyncio.TaskGroup, host: Host, park: Park, answer: Answer | None) -> None:
        id = host.id
        async with self._store.read() as reader:
            power = await reader.get(HostPower, id)
        waited = abs(self._env.now() - park.since)
        if answer is not None and answer.error:
            await self._not_woken(host, park, answer.error)
        elif (
            answer is not None
            and (host.state is HostState.up or host.fence is not None)
            and self._heard.heard_after(id, self._since[id])
        ):
            text = f"host {id} is awake after {waited:.0f} s{_takes(host)}"
            await self._settle(host, None, "HostAwake", text)
        elif power is None or waited > power.wake_seconds:
            await self._not_woken(host, park, f"it was not heard of for {waited:.0f} s")
        elif answer is None:
            # One that hung at its last start does so no more then, and nothing switches it off later.
            self._call(group, id, park, *((Action.off,) if park.unsure else ()), Action.on)

    async def _not_woken(self, host: Host, park: Park, why: str) -> None:
        failures, now = park.failures + 1, self._env.now()
        backoff = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS * 2.0 ** (failures - 1))
        text = f"host {host.id} did not come when it was woken: {why}; it is tried again in {backoff:.0f} s"
        again = now + backoff
        after = replace(park, state=ParkState.parked, since=now, failures=failures, again=again, unsure=True)
        await self._settle(host, after, "HostNotWoken", text)

    async def _fence(self, group: asyncio.TaskGroup, host: Host, fence: Fence, called: Called | None) -> None:
        """Of a host of which nothing runs any more."""
        id, power, now = host.id, fence.power, self._env.now()
        if called is None:
            back = (Action.on,) if power is FencePower.reboot else ()
            self._call(group, id, fence, Action.off, *back)
            return
        error, off_failed = called.answer.error, called.action is Action.off
        # It may yet lose its power; or what was heard of it is an echo of before. It takes nothing meanwhile.
        wait = SECONDS_MAX if error and off_failed else SETTLE_SECONDS
        if asyncio.get_running_loop().time() <= self._since[id] + wait:
            return
        park = Park(state=ParkState.parked, reason=f"it was fenced ({fence.reason})", since=now)
        off: Park | None = park
        if error:
            # It comes back by itself, or somebody wakes it.
            off = replace(park, again=now + BACKOFF_SECONDS, unsure=True)
            done = "could not be switched" if off_failed else "was switched off, and not on again"
        elif power is FencePower.reboot:
            off, done = None, "was switched off and on again"
        else:
            done = "was switched off, until somebody wakes it"
        text = f"host {id}, which is fenced, {done}" + (f": {error}" if error else "")

        async def work(tx: Transaction) -> None:
            now = await tx.get(Host, id)
            if now is None or now.fence != fence:
                return
            over = replace(now.fence, power=FencePower.none)
            await tx.put(replace(now, fence=over, park=off or now.park))
            severity = Severity.warning if error else Severity.info
            await events.record(tx, self._env, "HostSwitched", text, severity, host=id)

        await self._store.transact(work, frees=True)

    def _call(self, group: asyncio.TaskGroup, id: str, what: Park | Fence, *actions: Action) -> None:
        task = self._tasks[id] = group.create_task(attempt(log, LATER, self._switched(id, what, actions)))
        task.add_done_callback(lambda _: self._tasks.pop(id, None))

    async def _switched(self, id: str, what: Park | Fence, actions: Sequence[Action]) -> None:
        """Only as long as that is wanted still, and this manager is the one to do it: another one may lead,
        and use the host.
        """
        for action in actions:  # at least one
            async with self._store.read() as reader:
                host, power = await reader.get(Host, id), await reader.get(HostPower, id)
            if host is None or what not in (host.park, host.fence) or not self._leads():
                return
            if power is None:
                answer = Answer(f"it is not known how host {id} is switched (gureum host power)")
            else:
                self._env.crashpoint("power.switch")
                answer = await self.switch(power, action)
                self._env.crashpoint("power.switched")
            if answer.error:
                break
        self._since[id] = asyncio.get_running_loop().time()
        self._called[id] = Called(what, action, answer)

    async def _settle(
        self, host: Host, park: Park | None, name: str = "", text: str = "", doubted: bool = False
    ) -> None:
        """Let the host be so, if it is still as it was seen. ``doubted``: and what switches it."""

        async def work(tx: Transaction) -> None:
            now = await tx.get(Host, host.id)
            if now is None or now.park != host.park:
                return
            after = replace(now, park=park)
            off = park is not None and park.state is ParkState.parked and not park.unsure
            if off and now.state is HostState.up:
                # It is as it should be, and not silent.
                after = replace(after, state=HostState.down, silent=0.0)
            if park is None and now.state is HostState.down:
                await self._heard.lost(tx, after)
            else:
                await tx.put(after)
            power = await tx.get(HostPower, host.id) if doubted else None
            if power is not None:
                await tx.put(replace(power, doubted=True))
            if host.emptying:
                await setbacks.note(tx, self._env, host)
            if name:
                severity = Severity.warning if name in WARNINGS else Severity.info
                await events.record(tx, self._env, name, text, severity, host=host.id)

        await self._store.transact(work, frees=True)
        await self._kick_waiting()

    async def _kick_waiting(self) -> None:
        """What waited for a host can go there now; or has none any more, and is to know."""
        async with self._store.read() as reader:
            waiting = sorted((await reader.tally(Fleet)).unplaced)
        for id in waiting:
            self._kick(Instance.kind, id)


def _takes(host: Host) -> str:
    """One that is fenced takes instances when that is lifted, for which it must not be about to be off."""
    return "" if host.fence is not None else ", and takes instances"


def _concerns(host: Host) -> bool:
    fence = host.fence
    return host.park is not None or (fence is not None and fence.power is not FencePower.none)
