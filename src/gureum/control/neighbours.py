"""Where the interfaces of whole VPCs are, as every host of a VPC has to know it of all others.

A change of one interface concerns all hosts of its VPC. So that their specs are not read and built anew from
tens of thousands of records each time, this is kept in memory and follows the store (``Following``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import NamedTuple

from gureum.errors import StoreError
from gureum.hostspec import AddressSpec, RemoteSpec
from gureum.resources import NetworkInterface
from gureum.store.base import Reader, Store

PAGE = 1000
ATTEMPTS_MAX = 10


class Neighbour(NamedTuple):
    """An interface that has a port somewhere."""

    remote: RemoteSpec
    groups: tuple[str, ...]
    addresses: tuple[str, ...]


class Neighbours:
    """Interfaces that have a port on some host, by VPC and by group."""

    def __init__(self, interfaces: Iterable[NetworkInterface] = ()) -> None:
        self._all: dict[str, Neighbour] = {}
        self._vpcs: dict[str, dict[str, Neighbour]] = {}
        self._groups: dict[str, dict[str, Neighbour]] = {}
        self._sorted: dict[str, tuple[RemoteSpec, ...]] = {}
        self._members: dict[str, tuple[str, ...]] = {}
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
        self._sorted.pop(changed.remote.vpc, None)
        for group in changed.groups:
            self._members.pop(group, None)

    def remotes(self, vpcs: Collection[str], host: str) -> tuple[RemoteSpec, ...]:
        """The interfaces of these VPCs that are on other hosts, by id."""
        found = [each for vpc in sorted(vpcs) for each in self._of(vpc) if each.host != host]
        return tuple(found if len(vpcs) < 2 else sorted(found, key=_ID))

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
                if isinstance(change.record, NetworkInterface):
                    self._neighbours.put(change.record)
                elif change.kind == NetworkInterface.kind:
                    self._neighbours.remove(change.id)
            self._revision = changes[-1].revision

    async def _load(self) -> None:
        neighbours, after = Neighbours(), ""
        async with self._store.read() as reader:
            while page := await reader.find(NetworkInterface, after=after, limit=PAGE):
                for interface in page:
                    neighbours.put(interface)
                after = page[-1].id
            self._neighbours, self._revision = neighbours, reader.revision
