"""What the specs of hosts say of shared pools, besides what the records of volumes and snapshots do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gureum.resources import Host, Image, ImageState, Snapshot, SnapshotState, Volume, VolumeState
from gureum.resources.volume import BOOT_TYPES, shared
from gureum.services.operation import Cloud
from gureum.store.base import Reader


def shared_pools(cloud: Cloud) -> tuple[str, ...]:
    """Those that volumes are in, or may be made in."""
    pools = {cloud.pool, *(pool for _, pool in cloud.type_pools), *cloud.kept_pools}
    return tuple(sorted(filter(shared, pools)))


def boot_pools(cloud: Cloud) -> tuple[str, ...]:
    """Those of root disks: into others an image is brought only when a volume there is made of it."""
    return tuple(sorted(filter(shared, {cloud.pool_of(type) for type in BOOT_TYPES})))


class Shares(NamedTuple):
    """``hosts``: all of the cloud; ``volumes``: by snapshot that a volume here is made of, what it is of.

    ``images``: those to be brought into ``image_pools`` by this host, and those to be taken out of ``pools``.
    """

    hosts: frozenset[str]
    volumes: Mapping[str, str]
    image_pools: tuple[str, ...] = ()
    images: tuple[Image, ...] = ()
    pools: tuple[str, ...] = ()

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
        pools = shared_pools(cloud)
        if not pools and not any(shared(thing.pool) for thing in things):
            return cls(frozenset(), {})
        hosts = await reader.find(Host)
        sources = {volume.source for volume in volumes if volume.source.startswith("snap-")}
        taken_of = {each.id: each.taken_of for each in await reader.get_many(Snapshot, sources)}
        present = frozenset(each.id for each in hosts)
        up = [each.id for each in hosts if each.schedulable]
        if not pools or not up or host != min(up):
            return cls(present, taken_of)
        return cls(present, taken_of, boot_pools(cloud), await _images(reader), pools)

    def pools_of(self, image: Image) -> tuple[str, ...]:
        """Where this host is to bring it, or to take it out."""
        if image not in self.images:
            return ()
        return self.image_pools if image.state is not ImageState.deregistered else self.pools

    def awaited(self, thing: Volume | Snapshot) -> bool:
        """Whether another host may still be making it: what is made after its deletion would stay. A snapshot
        that failed is deleted, too.
        """
        goes = thing.state in (VolumeState.deleting, SnapshotState.deleting, SnapshotState.error)
        return goes and not self.hosts.isdisjoint(thing.former)

    def lost(self, volume: Volume, but: str) -> tuple[str, ...]:
        """Hosts that are no more, or were lost, and may have had it open; ``but`` for one that has it now,
        and has to let go of what is left of before itself.
        """
        removed = {host for host in volume.former if host not in self.hosts}
        return tuple(sorted(removed.union(volume.lost) - {but}))


async def _images(reader: Reader) -> tuple[Image, ...]:
    """Those that instances can be made of, and those that are not needed any more."""
    wanted = []
    for image in await reader.find(Image):
        gone = image.state is ImageState.deregistered
        needed = gone and await reader.count(Volume, source=image.id, state=str(VolumeState.creating))
        if image.disk and (image.state is ImageState.available or (gone and not needed)):
            wanted.append(image)
    return tuple(wanted)
