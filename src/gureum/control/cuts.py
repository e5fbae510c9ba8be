"""Hosts that are heard, and cut off: from the other hosts, or alone from the storage cluster.

Nothing has to be fenced, as they do as they are told: what could be elsewhere is ended there first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from gureum.control import events, recovery
from gureum.control.hosts import QUIET_SECONDS, Hosts
from gureum.control.observed import HostView, Observed
from gureum.env import Env
from gureum.resources import Host, HostState, Severity
from gureum.store.base import Store, Transaction

UPLINK_SECONDS = 3.5
"""How long an uplink may be down: longer than hosts that fell silent at once with it take to be seen so."""
UNFIT_SECONDS = 5.0
"""How long a host may be without the storage cluster, or its warden, before nothing new is put there."""
STORAGE_SECONDS = 60.0
"""And before what it has runs elsewhere: guests that wait for their storage lose nothing."""
ROOM_SECONDS = 5.0
"""How often room is looked for again, for what stays as there is none elsewhere."""
NO_STORAGE = "does not reach the storage cluster"
NO_PERMISSION = "may start no machine now, as its warden says"


class Cut(NamedTuple):
    """Why what is on a host should be elsewhere, and since when, on the event loop's clock.

    ``pools``: only what has a volume in one of these; none: everything. ``stays``: but what has one in these.
    """

    why: str
    since: float
    pools: frozenset[str] = frozenset()
    stays: frozenset[str] = frozenset()
    uplink: bool = False
    """Only while its record still says that its uplink is down."""


class Cuts:
    """``step`` as often as hosts report."""

    def __init__(self, env: Env, store: Store, heard: Hosts, observed: Observed) -> None:
        self._env = env
        self._store = store
        self._heard = heard
        self._observed = observed
        self._stepped = 0.0
        """When this was last asked, on the event loop's clock."""
        self._uplink: dict[str, float] = {}
        """Hosts whose uplink is down, and since when, on the event loop's clock."""
        self._unfit: dict[str, tuple[str, float]] = {}
        """Hosts that can't run what is new, why, and since when."""
        self._elsewhere = False
        """Most others can."""
        self._unreached: frozenset[str] = frozenset()
        """Pools that no host reaches."""
        self._emptied: set[str] = set()
        """Of those, what could leave was told to."""
        self._again: dict[str, float] = {}
        """Of those where something found no room, when that is looked at again."""
        self._stay: dict[str, frozenset[str]] = {}
        """By host without an uplink, what was told to stay there, as it finds no room elsewhere."""
        self._due = 0.0
        """When the next of them is cut off for too long, on the event loop's clock; 0 for none."""

    def filled(self, host: str) -> None:
        """Something is on the host that may not have been told to leave."""
        self._emptied.discard(host)

    def wait(self, most: float) -> float:
        """Seconds until the next ``step``, at most so many."""
        left = self._due - asyncio.get_running_loop().time()
        return max(0.01, min(most, left)) if self._due else most

    async def step(self, hosts: Collection[Host]) -> None:
        now = asyncio.get_running_loop().time()
        if now > self._stepped + QUIET_SECONDS:
            # This process did not run for a while: what was true then may be over, and every host counts as
            # heard now (``Hosts.silent``).
            self._uplink.clear()
        self._stepped = now
        up = {host.id: host for host in hosts if host.state is HostState.up}
        down = self._without_uplink(up, now)
        stays = self._away(up) if down else frozenset[str]()
        cut = {id: Cut("whose uplink is down", since, stays=stays, uplink=True) for id, since in down.items()}
        for id, unfit in self._changes(up, now).items():
            await self._store.transact(partial(self._note, id=id, unfit=unfit), frees=True)
        for id, (why, since) in self._unfit.items():
            # It is heard, so it has the manager's word. If still nothing may run there its warden is
            # broken: its guests may be stopped, or reach nobody.
            if now > since + STORAGE_SECONDS and self._elsewhere:
                pools = _failing(self._observed.hosts[id]) - self._unreached
                cut.setdefault(id, Cut(f"which {why}", since, pools))
        for id, each in cut.items():
            if id not in self._emptied and now >= self._again.get(id, 0.0):
                await self._end_there(id, each, now)
        self._stay = {id: stay for id, stay in self._stay.items() if id in self._uplink}
        self._emptied &= cut.keys()
        self._again = {id: at for id, at in self._again.items() if id in cut}

    async def _end_there(self, id: str, cut: Cut, now: float) -> None:
        since = self._env.now() - (now - cut.since)
        work = partial(
            recovery.end_there,
            env=self._env,
            host=id,
            why=cut.why,
            since=since,
            pools=cut.pools,
            stays=cut.stays,
            uplink=cut.uplink,
            told=self._stay.get(id, frozenset()),
        )
        ended = await self._store.transact(work, frees=True)
        if ended.stay:
            self._stay[id] = self._stay.get(id, frozenset()) | ended.stay
        if ended.all_of_it:
            self._emptied.add(id)
        else:
            self._again[id] = now + ROOM_SECONDS

    def _without_uplink(self, up: dict[str, Host], now: float) -> dict[str, float]:
        """Those for whose instances it is better elsewhere."""
        cut = {id for id, host in up.items() if host.uplink_down}
        self._uplink = {id: self._uplink.get(id, now) for id in sorted(cut)}
        late = {id: since for id, since in self._uplink.items() if now >= since + UPLINK_SECONDS}
        self._due = min((at + UPLINK_SECONDS for id, at in self._uplink.items() if id not in late), default=0)
        late = {id: since for id, since in late.items() if self._says_so(id)}
        # Who fell silent at once with them may be behind the same cable, or the manager be cut off itself.
        others = self._others(up)
        serving = {id for id in others if self._serves(id)}
        if len(cut) > max(1, len(others)) or not _most(len(serving), len(others)):
            return {}  # most of them: elsewhere it is no better
        if not any(up[id].schedulable or up[id].wakeable for id in serving):
            return {}  # none takes anything: they would only wait, for this one as well
        return late

    def _says_so(self, id: str) -> bool:
        """Whether the host said not long ago that its uplink is down, and nothing else since."""
        view = self._observed.hosts.get(id)
        return view is not None and view.uplink_down and self._heard.heard(id, QUIET_SECONDS)

    def _others(self, up: dict[str, Host]) -> set[str]:
        """Those with an uplink that are heard now."""
        return {
            id for id, host in up.items() if not host.uplink_down and self._heard.heard(id, QUIET_SECONDS)
        }

    def _serves(self, id: str) -> bool:
        """Whether what needs the storage cluster could go on there now, if not which pool of it."""
        view = self._observed.hosts.get(id)
        if view is None or view.warden is None or view.warden.away or not view.warden.permitted:
            return False
        return any(not pool.error for pool in view.pools)

    def _away(self, up: dict[str, Host]) -> frozenset[str]:
        """The pools that most hosts with an uplink that have them do not reach: what has a volume there is no
        better off on another one. What has none does not wait for them.
        """
        views = {id: view for id in self._others(up) if (view := self._observed.hosts.get(id)) is not None}
        having = Counter(pool.name for view in views.values() for pool in view.pools)
        serving = [view for id, view in views.items() if self._serves(id)]
        reached = Counter(name for view in serving for name in _reached(view))
        return frozenset(name for name, count in having.items() if not _most(reached[name], count))

    def _changes(self, up: dict[str, Host], now: float) -> dict[str, str]:
        """By host, what is to be noted of it: why nothing new is to be put there, "" if that is over."""
        views = {
            id: view
            for id, view in sorted(self._observed.hosts.items())
            if id in up and up[id].fenceable and self._heard.heard(id)
        }
        self._unreached = unreached(views.values())
        seen = {id: why_unfit(view, self._unreached) for id, view in views.items()}
        unfit = {id: why for id, why in seen.items() if why}
        self._unfit = {id: (why, self._since(id, why, now)) for id, why in unfit.items()}
        self._elsewhere = _most(len(seen) - len(unfit), len(seen))
        changes = {id: "" for id, why in seen.items() if not why and up[id].unfit}
        for id, (why, since) in self._unfit.items():
            # Where most can't either, what is new may wait there as well as anywhere.
            if self._elsewhere and up[id].unfit != why and now > since + UNFIT_SECONDS:
                changes[id] = why
        return changes

    def _since(self, id: str, why: str, now: float) -> float:
        before, since = self._unfit.get(id, ("", now))
        return since if before == why else now

    async def _note(self, tx: Transaction, id: str, unfit: str) -> None:
        host = await tx.get(Host, id)
        if host is None or host.state is not HostState.up or host.unfit == unfit:
            return
        await tx.put(replace(host, unfit=unfit))
        if unfit:
            text = f"host {id} {unfit}: nothing new is put there"
            await events.record(tx, self._env, "HostUnfit", text, Severity.warning, host=id)
        else:
            await events.record(tx, self._env, "HostFit", f"host {id} can run instances again", host=id)


def _most(count: int, all: int) -> bool:
    """Whether so many are most of them: one that is otherwise may be alone with that."""
    return count > 0 and all - count <= max(1, count)


def unreached(views: Iterable[HostView]) -> frozenset[str]:
    """The pools that none of these hosts reaches, if one reaches any: that says nothing of a host. Some may
    not have all pools: those that joined are not told of later ones.
    """
    failing, reached = set[str](), set[str]()
    for view in views:
        failing |= _failing(view)
        reached |= _reached(view)
    return frozenset(failing - reached) if reached else frozenset()


def _failing(view: HostView) -> frozenset[str]:
    return frozenset(pool.name for pool in view.pools if pool.error)


def _reached(view: HostView) -> frozenset[str]:
    return frozenset(pool.name for pool in view.pools if not pool.error)


def why_unfit(view: HostView, unreached: Collection[str] = ()) -> str:
    """Why a host of a cloud that recovers can't run what is new, as what follows its name; "" if it can.
    ``unreached``: pools that no host reaches.
    """
    if why := why_away(view, unreached):
        return why
    if view.warden is None or not view.warden.permitted:
        return NO_PERMISSION
    return ""


def why_away(view: HostView, unreached: Collection[str] = ()) -> str:
    """The same of what is in shared pools alone."""
    away = any(pool.error and pool.name not in unreached for pool in view.pools)
    return NO_STORAGE if not view.pools or away else ""
