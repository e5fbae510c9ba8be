"""Hosts that are upgraded, one after the other: agents are started anew, or hosts emptied and changed.

What is wanted and how far it is stands in the store, so whoever asked for it may go, and a manager that ends
is followed by one that goes on. What a manager began itself, the operator's command, the next one begins
again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from msgspec.structs import replace

from gureum.control import events, migrations
from gureum.control.attempts import attempt
from gureum.control.balancer import unrest
from gureum.control.calls import Calls
from gureum.control.hooks import Hook, NoHook
from gureum.control.move import CannotMove
from gureum.control.observed import HostView, Observed
from gureum.env import Env
from gureum.errors import TransportError
from gureum.resources import (
    Host,
    HostState,
    HostUpgrade,
    Instance,
    InstanceMigration,
    InstanceState,
    NatGateway,
    NatGatewayState,
    Severity,
    Upgrade,
    UpgradeState,
    UpgradeStep,
)
from gureum.resources import migration as moves
from gureum.resources.upgrade import UNDER_WAY
from gureum.store.base import Change, Reader, Store, Transaction

log = logging.getLogger(__name__)

LATER = "an upgrade stands still, and goes on later"

TICK_SECONDS = 2.0
END_AGENT = "end-agent"
"""The call that asks an agent to end, for its supervisor to start the next one."""
RUNS = tuple(
    str(state)
    for state in (
        InstanceState.pending,
        InstanceState.running,
        InstanceState.stopping,
        InstanceState.shutting_down,
    )
)
WORKS = (str(NatGatewayState.pending), str(NatGatewayState.available))


class Upgrades:
    """``hook``: the operator's command. ``run`` works until cancelled, and only while there is an upgrade."""

    def __init__(
        self, env: Env, store: Store, observed: Observed, calls: Calls, hook: Hook | None = None
    ) -> None:
        self._env = env
        self._store = store
        self._observed = observed
        self._calls = calls
        self.hook: Hook = hook or NoHook()
        self._running: set[str] = set()
        self._wake = asyncio.Event()
        self._tasks: dict[tuple[str, str], asyncio.Task[bool]] = {}
        """Of upgrades and hosts, what is being done there."""
        self._results: dict[tuple[str, str], str] = {}
        """What the command said when it ended: why it failed, or "". """

    async def load(self, reader: Reader) -> None:
        for upgrade in await reader.find(Upgrade, state=str(UpgradeState.running)):
            self._note(upgrade.id, running=True)

    def changed(self, change: Change) -> None:
        """An upgrade is as this says now."""
        record = change.record
        self._note(change.id, isinstance(record, Upgrade) and record.state is UpgradeState.running)

    def _note(self, id: str, running: bool) -> None:
        (self._running.add if running else self._running.discard)(id)
        if self._running:
            self._wake.set()
        else:
            self._wake.clear()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wake.wait()
                await attempt(log, LATER, self.step(group))
                await asyncio.sleep(TICK_SECONDS)

    async def step(self, group: asyncio.TaskGroup) -> None:
        for id in sorted(self._running):
            upgrade = await self._store.transact(partial(self._advance, id=id), frees=True)
            if upgrade is None:
                continue
            # Only now: before the commit, the transaction may be done once more.
            for each in upgrade.hosts:
                if each.step is not UpgradeStep.changing:
                    self._results.pop((id, each.host), None)
            for each in upgrade.hosts if upgrade.state is UpgradeState.running else ():
                self._act(group, upgrade, each)

    def _act(self, group: asyncio.TaskGroup, upgrade: Upgrade, each: HostUpgrade) -> None:
        """What the store can't do: at most one such thing for each host."""
        key = upgrade.id, each.host
        if any(host == each.host for _, host in self._tasks):
            # Also of an upgrade that was cancelled: its command may run still.
            return
        view = self._observed.hosts.get(each.host)
        if each.step is UpgradeStep.changing and key not in self._results:
            work = self._change(key)
        elif _to_end(each, view) and not upgrade.reboots:
            work = self._end_agent(each)
        else:
            return
        task = self._tasks[key] = group.create_task(attempt(log, LATER, work))
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _change(self, key: tuple[str, str]) -> None:
        _, host = key
        async with self._store.read() as reader:
            record = await reader.get(Host, host)
        self._results[key] = await self.hook.run(host, record.address if record is not None else "")

    async def _end_agent(self, each: HostUpgrade) -> None:
        try:
            await self._calls.call(each.host, END_AGENT, data=repr(each.started).encode())
        except TransportError as error:
            log.info("host %s: %s", each.host, error)

    # The next step, in one transaction

    async def _advance(self, tx: Transaction, id: str) -> Upgrade | None:
        upgrade = await tx.get(Upgrade, id)
        if upgrade is None or upgrade.state is not UpgradeState.running:
            return None
        hosts = [await self._proceed(tx, upgrade, each) for each in upgrade.hosts]
        for at, each in enumerate(hosts):
            failed = any(other.step is UpgradeStep.failed for other in hosts)
            busy = sum(other.step in UNDER_WAY for other in hosts)
            if each.step is UpgradeStep.waiting and not failed and busy < upgrade.at_once:
                hosts[at] = await self._begin(tx, upgrade, each)
        after = self._concluded(replace(upgrade, hosts=tuple(hosts)))
        if after == upgrade:
            return upgrade
        await self._tell(tx, upgrade, after)
        return await tx.put(after)

    def _concluded(self, upgrade: Upgrade) -> Upgrade:
        steps = {each.step for each in upgrade.hosts}
        if steps.intersection(UNDER_WAY):
            return upgrade
        if UpgradeStep.failed in steps:
            [why, *_] = [each.message for each in upgrade.hosts if each.step is UpgradeStep.failed]
            return replace(upgrade, state=UpgradeState.failed, message=why, ended=self._env.now())
        if steps == {UpgradeStep.done}:
            return replace(upgrade, state=UpgradeState.completed, ended=self._env.now())
        return upgrade

    async def _tell(self, tx: Transaction, before: Upgrade, after: Upgrade) -> None:
        for old, new in zip(before.hosts, after.hosts, strict=True):
            if new.step is old.step:
                continue
            if new.step is UpgradeStep.failed:
                text = f"the upgrade of hosts stops: {new.message}"
                await events.record(tx, self._env, "UpgradeFailed", text, Severity.error, host=new.host)
            elif old.step is UpgradeStep.waiting:
                text = f"host {new.host} is being upgraded" + (
                    ", and drained for that" if after.evacuate else ""
                )
                await events.record(tx, self._env, "HostUpgrade", text, host=new.host)
            elif new.step is UpgradeStep.done:
                text = f"host {new.host} is back from its upgrade"
                await events.record(tx, self._env, "HostUpgraded", text, host=new.host)
        if after.state is UpgradeState.completed:
            one = len(after.hosts) == 1
            text = f"the upgrade of {'one host' if one else f'{len(after.hosts)} hosts'} has ended well"
            await events.record(tx, self._env, "UpgradeCompleted", text)

    async def _begin(self, tx: Transaction, upgrade: Upgrade, each: HostUpgrade) -> HostUpgrade:
        # Those that are being upgraded are silent for that, and looked at besides.
        own = {other.host for other in upgrade.hosts if other.step in UNDER_WAY}
        others = [host for host in await tx.find(Host) if host.id not in {*own, each.host}]
        if why := unrest(others, self._env.now()):
            return replace(each, message=why)
        host, view = await tx.get(Host, each.host), self._observed.hosts.get(each.host)
        if host is None or host.state is not HostState.up or view is None:
            return self._failed(each, f"host {each.host} is not up")
        if not view.started:
            return self._failed(
                each,
                f"the agent of host {each.host} is of a gureum that can't be asked to start anew: on its "
                "machine, gureum down --keep-guests and gureum up -d",
            )
        each = replace(
            each,
            since=self._env.now(),
            started=view.started,
            boot_id=host.boot_id,
            problems=view.problems,
            message="",
        )
        if not upgrade.evacuate:
            return replace(each, step=UpgradeStep.returning)
        if missing := self.hook.missing():
            return self._failed(each, missing)
        if not host.draining:
            await tx.put(replace(host, draining=True))
        return replace(each, step=UpgradeStep.leaving, drained=not host.draining)

    async def _proceed(self, tx: Transaction, upgrade: Upgrade, each: HostUpgrade) -> HostUpgrade:
        if each.step is UpgradeStep.leaving:
            return await self._leave(tx, upgrade, each)
        if each.step is UpgradeStep.changing:
            return self._changed(upgrade, each)
        if each.step is UpgradeStep.returning:
            return await self._return(tx, upgrade, each)
        return each

    async def _leave(self, tx: Transaction, upgrade: Upgrade, each: HostUpgrade) -> HostUpgrade:
        host = await tx.get(Host, each.host)
        if host is not None and not host.draining:
            return self._failed(each, f"somebody activated host {each.host} while it was emptied")
        left = await _left(tx, each.host)
        if not left:
            return self._next(each, UpgradeStep.changing)
        message = f"{', '.join(left)} {'has' if len(left) == 1 else 'have'} not left host {each.host}"
        if not self._late(upgrade, each):
            return replace(each, message=message)
        return self._failed(each, message + await _why(tx, each.host))

    def _changed(self, upgrade: Upgrade, each: HostUpgrade) -> HostUpgrade:
        """The command has its own time limit."""
        error = self._results.get((upgrade.id, each.host))
        if error is None:
            return each
        if error:
            return self._failed(each, f"the command for host {each.host} failed: {error}")
        view = self._observed.hosts.get(each.host)
        # A host that was restarted has a new agent by that.
        started = each.started if view is None or upgrade.reboots else view.started
        return replace(self._next(each, UpgradeStep.returning), started=started)

    async def _return(self, tx: Transaction, upgrade: Upgrade, each: HostUpgrade) -> HostUpgrade:
        host = await tx.get(Host, each.host)
        amiss = _amiss(upgrade, each, host, self._observed.hosts.get(each.host))
        if amiss and self._late(upgrade, each):
            return self._failed(each, f"host {each.host} did not come back as it should: {amiss}")
        if amiss:
            return replace(each, message=amiss)
        if host is not None and each.drained:
            await tx.put(replace(host, draining=False))
        return self._next(each, UpgradeStep.done)

    def _next(self, each: HostUpgrade, step: UpgradeStep) -> HostUpgrade:
        return replace(each, step=step, since=self._env.now(), message="")

    def _failed(self, each: HostUpgrade, message: str) -> HostUpgrade:
        return replace(each, step=UpgradeStep.failed, since=self._env.now(), message=message)

    def _late(self, upgrade: Upgrade, each: HostUpgrade) -> bool:
        return abs(self._env.now() - each.since) >= upgrade.wait_seconds


def _to_end(each: HostUpgrade, view: HostView | None) -> bool:
    """Whether the agent that is there is the one that is to end."""
    return each.step is UpgradeStep.returning and view is not None and view.started == each.started


def _amiss(upgrade: Upgrade, each: HostUpgrade, host: Host | None, view: HostView | None) -> str:
    """Why the host is not yet as it should be, "" if it is."""
    if host is None:
        return "it was removed"
    if host.state is not HostState.up:
        return f"it is {host.state}"
    if host.unfit:
        return f"it {host.unfit}"
    if view is None:
        return "it was not heard of since the manager started"
    if upgrade.reboots and host.boot_id == each.boot_id:
        return "it was not restarted yet"
    if _to_end(each, view):
        return "its agent has not ended yet"
    if not view.revision:
        return "its agent has not taken in what is to be there"
    if not view.network_revision:
        return "its network is not in effect"
    if view.uplink_down:
        return "its uplink is down"
    if view.warden is not None and not view.warden.permitted:
        return view.warden.message or "machines may not run there"
    return next((problem for problem in view.problems if problem not in each.problems), "")


async def _left(reader: Reader, host: str) -> Sequence[str]:
    """What has not left the host yet."""
    states = [str(state) for state in moves.UNDER_WAY]
    found = {each.id for each in await reader.find(Instance, host=host, state=RUNS)}
    found |= {each.instance for each in await reader.find(InstanceMigration, source=host, state=states)}
    found |= {each.instance for each in await reader.find(InstanceMigration, destination=host, state=states)}
    gateways = await reader.find(NatGateway, host=host)
    found |= {each.id for each in gateways if each.state in WORKS}
    return sorted(found)


async def _why(reader: Reader, host: str) -> str:
    """What keeps the first of them there."""
    for instance in await reader.find(Instance, host=host, state=str(InstanceState.running)):
        try:
            await migrations.require_movable(reader, instance)
            await migrations.require_destination(reader, instance)
        except CannotMove as error:
            return f": {error}"
    return ""


async def cancel(tx: Transaction, env: Env, upgrade: Upgrade) -> Upgrade:
    """No further host is begun, and those that were drained take instances again; but not those which the
    operator's command may be about to change or to restart. It goes on, and nobody waits for it any more.
    """
    hosts = [await _let_go(tx, upgrade, each) for each in upgrade.hosts]
    return await tx.put(replace(upgrade, state=UpgradeState.cancelled, hosts=tuple(hosts), ended=env.now()))


async def _let_go(tx: Transaction, upgrade: Upgrade, each: HostUpgrade) -> HostUpgrade:
    host = await tx.get(Host, each.host)
    if host is None or each.step not in UNDER_WAY or not (each.drained and host.draining):
        return each
    restarts = each.step is UpgradeStep.returning and upgrade.reboots
    if each.step is UpgradeStep.changing or restarts:
        ended = "it has restarted" if restarts else "its command has ended"
        how = f"activate host {each.host} when {ended} (gureum host activate {each.host})"
        return replace(each, message=f"it stays drained: {how}")
    await tx.put(replace(host, draining=False))
    return each
