"""What the specs of hosts say of shared pools, besides what the records of volumes and snapshots do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gureum.resources import Host, Image, ImageState, Snapshot, SnapshotState, Volume, VolumeState
from gureum.resources.volume import shared
from gureum.services.operation import Cloud
from gureum.store.base import Reader


def shared_pools(cloud: Cloud) -> tuple[str, ...]:
    """Those that new volumes are made in."""
    pools = {cloud.pool, *(pool for _, pool in cloud.type_pools)}
    return tuple(sorted(filter(shared, pools)))


class Shares(NamedTuple):
    """``hosts``: all of the cloud; ``volumes``: by snapshot that a volume here is made of, what it is of.

    ``images``: those to be brought into ``image_pools`` by this host, and those to be taken out of them.
    """

    hosts: frozenset[str]
    volumes: Mapping[str, str]
    image_pools: tuple[str, ...] = ()
    images: tuple[Image, ...] = ()

    @classmethod
    async def load(
        cls,
        reader: Reader,
        cloud: Cloud,
        host: str,
        volumes: Sequence[Volume],
        snapshots: Sequence[Snapshot],
    ) -> Shares:
        things: list[Volume | Snapshot] = [*volumes, *snapshots]
        if not shared_pools(cloud) and not any(shared(thing.pool) for thing in things):
            return cls(frozenset(), {})
        hosts = await reader.find(Host)
        sources = {volume.source for volume in volumes if volume.source.startswith("snap-")}
        taken_of = {each.id: each.taken_of for each in await reader.get_many(Snapshot, sources)}
        present = frozenset(each.id for each in hosts)
        up = [each.id for each in hosts if each.schedulable]
        if not shared(cloud.pool) or not up or host != min(up):
            return cls(present, taken_of)
        return cls(present, taken_of, (cloud.pool,), await _images(reader))

    def awaited(self, thing: Volume | Snapshot) -> bool:
        """Whether another host may still be making it: what is made after its deletion would stay."""
        deleting = thing.state in (VolumeState.deleting, SnapshotState.deleting)
        return deleting and not self.hosts.isdisjoint(thing.former)

    def lost(self, volume: Volume) -> tuple[str, ...]:
        """Hosts that are no more, and may have had it open."""
        return tuple(host for host in volume.former if host not in self.hosts)


async def _images(reader: Reader) -> tuple[Image, ...]:
    """Those that instances can be made of, and those that are not needed any more."""
    wanted = []
    for image in await reader.find(Image):
        gone = image.state is ImageState.deregistered
        needed = gone and await reader.count(Volume, source=image.id, state=str(VolumeState.creating))
        if image.disk and (image.state is ImageState.available or (gone and not needed)):
            wanted.append(image)
    return tuple(wanted)
