"""Where the interfaces of whole VPCs are, as every host of a VPC has to know it of all others.

A change of one interface concerns all hosts of its VPC. So that their specs are not read and built anew from
tens of thousands of records each time, this is kept in memory and follows the store (``Following``).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import NamedTuple

from gureum.errors import StoreError
from gureum.hostspec import AddressSpec, GroupSpec, RemoteSpec, RuleSpec
from gureum.resources import (
    Address,
    ClientToken,
    DhcpOptions,
    EgressGateway,
    FlowLog,
    HostToken,
    Instance,
    InstanceMigration,
    InternetGateway,
    KeyPair,
    NatGateway,
    NetworkAcl,
    NetworkInterface,
    PeeringConnection,
    Permission,
    PrefixList,
    RouteTable,
    SecurityGroup,
    Snapshot,
    Volume,
)
from gureum.resources.volume import shared
from gureum.store.base import Change, Reader, Store

PAGE = 1000
ATTEMPTS_MAX = 10
CHANGES_MAX = 64
"""So many are remembered one by one: what a host was told before that is put together anew."""
TOUCHES_MAX = 1024
NETWORK_KINDS = frozenset(
    kind.kind
    for kind in (
        DhcpOptions,
        EgressGateway,
        FlowLog,
        InternetGateway,
        NatGateway,
        NetworkAcl,
        PeeringConnection,
        PrefixList,
        RouteTable,
    )
)
"""Of these nothing but networks are made; so of security groups: their names do not change."""
IDLE_KINDS = frozenset(kind.kind for kind in (ClientToken, Address, HostToken, KeyPair))
"""No host is told anything of these."""


class Neighbour(NamedTuple):
    """An interface that has a port somewhere."""

    remote: RemoteSpec
    groups: tuple[str, ...]
    addresses: tuple[str, ...]


class _Touch(NamedTuple):
    """A change of something that only these hosts may be told of, and those that know one of these ids."""

    revision: int
    hosts: frozenset[str | None]
    ids: frozenset[str]


class _Told(NamedTuple):
    vpcs: frozenset[str]
    changed: int
    remotes: tuple[RemoteSpec, ...]


class Neighbours:
    """Interfaces that have a port on some host, by VPC and by group."""

    def __init__(self, interfaces: Iterable[NetworkInterface] = ()) -> None:
        self._all: dict[str, Neighbour] = {}
        self._vpcs: dict[str, dict[str, Neighbour]] = {}
        self._groups: dict[str, dict[str, Neighbour]] = {}
        self._sorted: dict[str, tuple[RemoteSpec, ...]] = {}
        self._members: dict[str, tuple[str, ...]] = {}
        self._rules: dict[str, tuple[int, GroupSpec]] = {}
        # By host, what it was told last; and what changed since, to say the same with as few new objects.
        self._told: dict[str, _Told] = {}
        self._changes: deque[tuple[int, str]] = deque(maxlen=CHANGES_MAX)
        self._changed = 0
        for interface in interfaces:
            self.put(interface)

    def put(self, interface: NetworkInterface) -> None:
        """As the interface is now."""
        self.remove(interface.id)
        if interface.host is None:
            return
        found = Neighbour(_remote(interface), interface.groups, interface.addresses)
        self._all[interface.id] = found
        self._vpcs.setdefault(interface.vpc, {})[interface.id] = found
        for group in interface.groups:
            self._groups.setdefault(group, {})[interface.id] = found
        self._forget(found)

    def remove(self, id: str) -> None:
        found = self._all.pop(id, None)
        if found is None:
            return
        self._forget(found)
        del self._vpcs[found.remote.vpc][id]
        if not self._vpcs[found.remote.vpc]:
            del self._vpcs[found.remote.vpc]
        for group in found.groups:
            del self._groups[group][id]
            if not self._groups[group]:
                del self._groups[group]

    def _forget(self, changed: Neighbour) -> None:
        self._changed += 1
        self._changes.append((self._changed, changed.remote.id))
        self._sorted.pop(changed.remote.vpc, None)
        for group in changed.groups:
            self._members.pop(group, None)

    def where(self, id: str) -> str | None:
        """The host that has the interface's port; None if there is none."""
        found = self._all.get(id)
        return found.remote.host if found is not None else None

    def remotes(self, vpcs: Collection[str], host: str) -> tuple[RemoteSpec, ...]:
        """The interfaces of these VPCs that are on other hosts, by id."""
        wanted = frozenset(vpcs)
        told = self._told.get(host)
        if told is None or told.vpcs != wanted or self._changed - told.changed > CHANGES_MAX:
            found = [each for vpc in sorted(wanted) for each in self._of(vpc) if each.host != host]
            remotes = tuple(found if len(wanted) < 2 else sorted(found, key=_ID))
        else:
            remotes = told.remotes
            for id in {id for number, id in self._changes if number > told.changed}:
                remotes = self._renewed(remotes, id, wanted, host)
        self._told[host] = _Told(wanted, self._changed, remotes)
        return remotes

    def _renewed(
        self, remotes: tuple[RemoteSpec, ...], id: str, vpcs: frozenset[str], host: str
    ) -> tuple[RemoteSpec, ...]:
        """With the interface as it is now."""
        now = self._all.get(id)
        come = (now.remote,) if now is not None and now.remote.vpc in vpcs and now.remote.host != host else ()
        at = bisect_left(remotes, id, key=_ID)
        gone = remotes[at : at + 1] if at < len(remotes) and remotes[at].id == id else ()
        return remotes if come == gone else (*remotes[:at], *come, *remotes[at + len(gone) :])

    def rules(self, group: SecurityGroup) -> GroupSpec:
        """The same for all hosts."""
        found = self._rules.get(group.id)
        if found is None or found[0] != group.version:
            rules = tuple(_rule(rule) for rule in group.rules)
            found = self._rules[group.id] = group.version, GroupSpec(id=group.id, rules=rules)
        return found[1]

    def has_rules(self, group: str) -> bool:
        """Whether some host was told of the group."""
        return group in self._rules

    def forget_rules(self, group: str) -> None:
        self._rules.pop(group, None)

    def _of(self, vpc: str) -> tuple[RemoteSpec, ...]:
        if vpc not in self._sorted:
            here = self._vpcs.get(vpc, {}).values()
            self._sorted[vpc] = tuple(sorted((each.remote for each in here), key=_ID))
        return self._sorted[vpc]

    def members(self, group: str, vpcs: Collection[str]) -> tuple[str, ...]:
        """The addresses of the group's members, in order; none if its VPC is not one of these."""
        if group not in self._members:
            here = self._groups.get(group, {}).values()
            self._members[group] = tuple(sorted(address for each in here for address in each.addresses))
        first = next(iter(self._groups.get(group, {}).values()), None)
        return self._members[group] if first is not None and first.remote.vpc in vpcs else ()


_ID = attrgetter("id")


def _rule(rule: Permission) -> RuleSpec:
    return RuleSpec(
        egress=rule.egress,
        protocol=rule.protocol,
        from_port=rule.from_port,
        to_port=rule.to_port,
        cidr=rule.cidr or rule.cidr6,
        group=rule.group,
        prefix_list=rule.prefix_list,
    )


def _remote(interface: NetworkInterface) -> RemoteSpec:
    return RemoteSpec(
        id=interface.id,
        vpc=interface.vpc,
        host=str(interface.host),
        addresses=(
            AddressSpec(private_ip=interface.private_ip, public_ip=interface.public_ip),
            *secondary(interface),
        ),
        ipv6=interface.ipv6,
    )


def secondary(interface: NetworkInterface) -> tuple[AddressSpec, ...]:
    if not interface.secondary:
        return ()
    return tuple(
        AddressSpec(private_ip=each.private_ip, public_ip=each.public_ip) for each in interface.secondary
    )


class Following:
    """The neighbours of all VPCs as of one revision of the store, brought up to date before each use."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._neighbours: Neighbours | None = None
        self._revision = 0
        self._lock = asyncio.Lock()
        # What may be told to hosts, but with their networks; and the last change that may be so anywhere.
        self._touches: deque[_Touch] = deque(maxlen=TOUCHES_MAX)
        self._all_touched = 0

    def only_networks_since(self, host: str, revision: int, things: Collection[str]) -> bool:
        """Whether what the host shall have is at the revision that was read as it was at this one, but for
        its network, and there for its ports. ``things``: what it was told of then, interfaces included.
        """
        if self._all_touched > revision:
            return False
        for touch in reversed(self._touches):
            if touch.revision <= revision:
                break
            if host in touch.hosts or not touch.ids.isdisjoint(things):
                return False
        return True

    @asynccontextmanager
    async def read(self) -> AsyncIterator[tuple[Reader, Neighbours | None]]:
        """A snapshot of the store, and the neighbours at its revision; None if others write too fast."""
        async with self._lock:
            for attempt in range(ATTEMPTS_MAX + 1):
                await self._catch_up()
                async with self._store.read() as reader:
                    same = reader.revision == self._revision
                    if same or attempt == ATTEMPTS_MAX:
                        yield reader, self._neighbours if same else None
                        return

    async def _catch_up(self) -> None:
        committed = self._store.revision
        if self._neighbours is None:
            await self._load()
        assert self._neighbours is not None
        while True:
            try:
                changes = await self._store.changes(self._revision)
            except StoreError:
                # Deletions as old as that are forgotten.
                await self._load()
                continue
            if not changes:
                self._revision = max(self._revision, committed)
                return
            for change in changes:
                self._touch(self._neighbours, change)
                if isinstance(change.record, NetworkInterface):
                    self._neighbours.put(change.record)
                elif change.kind == NetworkInterface.kind:
                    self._neighbours.remove(change.id)
                elif change.kind == SecurityGroup.kind and change.record is None:
                    self._neighbours.forget_rules(change.id)
            self._revision = changes[-1].revision

    def _touch(self, neighbours: Neighbours, change: Change) -> None:
        """In doubt, it is more than a network, and of all hosts."""
        if change.kind == SecurityGroup.kind:
            # One that comes or goes has a name that machines may be told.
            networks = change.record is not None and neighbours.has_rules(change.id)
        else:
            networks = change.kind in NETWORK_KINDS or change.kind in IDLE_KINDS
        if networks:
            return
        record = change.record
        hosts = {neighbours.where(change.id)}
        if isinstance(record, NetworkInterface | Instance) or (
            isinstance(record, Volume | Snapshot) and not shared(record.pool)
        ):
            hosts.add(record.host)
        elif isinstance(record, InstanceMigration):
            hosts.update(record.hosts)
        elif change.kind not in (NetworkInterface.kind, Instance.kind):
            self._all_touched = change.revision
            return
        if len(self._touches) == TOUCHES_MAX:
            self._all_touched = max(self._all_touched, self._touches[0].revision)
        ids = {change.id, str(getattr(record, "instance", None))}
        self._touches.append(_Touch(change.revision, frozenset(hosts), frozenset(ids)))

    async def _load(self) -> None:
        neighbours, after = Neighbours(), ""
        async with self._store.read() as reader:
            while page := await reader.find(NetworkInterface, after=after, limit=PAGE):
                for interface in page:
                    neighbours.put(interface)
                after = page[-1].id
            self._neighbours, self._revision = neighbours, reader.revision
            self._all_touched = reader.revision
