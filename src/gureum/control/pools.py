"""The pools, held against the store (``services.operation.Pools``).

First the pool is listed, then the store is read: what is made has a record first, so that what has none then
is nobody's. To repair something, both are looked at once more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from gureum.control.calls import Calls
from gureum.errors import TransportError
from gureum.hostspec import LOCAL, source_clone
from gureum.resources import (
    Host,
    HostState,
    Image,
    Instance,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)
from gureum.resources.volume import shared
from gureum.san.ceph.audit import Action, Expected, Finding, Listing, compare
from gureum.store.base import Reader, Store

PAGE_IMAGES = 50
"""They are described in well under the time of a call."""

_listing = msgspec.msgpack.Decoder(Listing)
THERE = (VolumeState.available, VolumeState.in_use)


class PoolChecks:
    def __init__(self, store: Store, calls: Calls, cloud: str) -> None:
        self._store = store
        self._calls = calls
        self._cloud = cloud

    def hosts(self, pool: str) -> list[str]:
        """Of those that are connected, one for a shared pool."""
        found = sorted(self._calls.sessions)
        return found[:1] if shared(pool) else found

    async def check(self, pool: str, host: str, after: str) -> tuple[list[Finding], str]:
        """What is to be told of a page of images, and the name that the next begins after, "" for none."""
        answer = await self._calls.call(host, "list-pool", pool=pool, since=after, length=PAGE_IMAGES)
        try:
            listing = _listing.decode(answer)
        except msgspec.MsgspecError as error:
            raise TransportError(f"no list of what is in the pool: {error}") from error
        async with self._store.read() as reader:
            everything = await expected(reader, pool, host)
        return compare(listing, everything.between(after, listing.until), self._cloud), listing.until

    async def mend(self, pool: str, host: str, keys: Collection[str]) -> list[Finding]:
        """Repair those that are still found; they are returned."""
        done: list[Finding] = []
        after = ""
        while True:
            findings, until = await self.check(pool, host, after)
            for finding in findings:
                if finding.action is not Action.none and finding.key in keys:
                    await self._mend(pool, host, finding)
                    done.append(finding)
            if not until:
                return done
            after = until

    async def _mend(self, pool: str, host: str, finding: Finding) -> None:
        await self._calls.call(host, "mend-pool", pool=pool, data=msgspec.msgpack.encode(finding))


async def expected(reader: Reader, pool: str, host: str) -> Expected:
    """What the store says that is in the pool; of a local one, the host's.

    What is moving from one pool to another may be in both: it is nobody's only without any record.
    """
    volumes = [each for each in await reader.find(Volume) if each.state is not VolumeState.deleted]
    snapshots = await reader.find(Snapshot)
    images = {each.id for each in await reader.find(Image)}
    images |= {each.origin for each in volumes if each.origin}
    images |= {each.origin for each in snapshots if each.origin}
    hosts = await reader.find(Host)
    where = await _hosts(reader, volumes)
    here = [each for each in volumes if _here(each, pool, host)]
    made = {each.id for each in here if each.state in THERE}
    made |= {
        each.id
        for each in snapshots
        if _here(each, pool, host) and not each.image and each.state is SnapshotState.completed
    }
    clones = {source_clone(each.id) for each in volumes if each.encrypts and each.state not in THERE}
    return Expected(
        volumes={each.id: _opener(each, where) for each in volumes} | dict.fromkeys(clones, ""),
        snapshots={each.id: each.taken_of for each in snapshots},
        images=frozenset(images),
        made=frozenset(made),
        keepers={each.id: _keepers(each, where) for each in volumes},
        busy=frozenset(each.id for each in volumes if _busy(each)) | clones,
        up=frozenset(each.id for each in hosts if each.state is HostState.up),
    )


def _here(thing: Volume | Snapshot, pool: str, host: str) -> bool:
    return thing.pool == pool and (pool != LOCAL or thing.host == host)


def _opener(volume: Volume, where: Mapping[str, str]) -> str:
    """The host on which a machine may have it open, or the first of several."""
    if volume.multi_attach:
        return next((where[instance] for instance in volume.instances if instance in where), "")
    return volume.host or "" if volume.attachments else ""


def _keepers(volume: Volume, where: Mapping[str, str]) -> frozenset[str]:
    openers = [where.get(instance) for instance in volume.instances]
    return frozenset(filter(None, (volume.host, *volume.former, *openers)))


async def _hosts(reader: Reader, volumes: Iterable[Volume]) -> dict[str, str]:
    """Where the instances are that have volumes besides other instances."""
    wanted = {id for volume in volumes if volume.multi_attach for id in volume.instances}
    return {each.id: each.host for each in await reader.get_many(Instance, wanted) if each.host is not None}


def _busy(volume: Volume) -> bool:
    """Whether work is under way that has it open, or will soon not have it open any more."""
    copied = not shared(volume.pool) and bool(volume.former)
    moving = bool(volume.target or volume.leaves) or copied
    return bool(volume.staged) or volume.modifying or moving or volume.state not in THERE
