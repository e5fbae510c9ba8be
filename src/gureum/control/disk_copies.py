"""Volumes in hosts' own pools that migrate with their instance: two copies, of which one is the volume.

Which one says the volume's record (``host``): it changes with the migration's switch alone. The other one is
removed on the word of specs that come of the migration's record, which has not ended before its host has said
that it is gone. Until then that host is among the volume's former ones: nothing else is begun that could make
a copy there, and the record of a volume that is deleted stays.
"""

from __future__ import annotations

from msgspec.structs import replace

from gureum.control.observed import Observed
from gureum.resources import Host, Instance, InstanceMigration, Snapshot, SnapshotState, Volume, VolumeState
from gureum.store.base import Reader, Transaction


async def bound(reader: Reader, instance: Instance) -> list[Volume]:
    """The instance's volumes that are to be copied when it migrates."""
    return [volume for volume in await reader.find(Volume, instances=instance.id) if volume.bound]


async def untaken(reader: Reader, volumes: list[Volume]) -> list[Snapshot]:
    """Snapshots of the volumes that are not taken yet."""
    found = [each for volume in volumes for each in await reader.find(Snapshot, volume=volume.id)]
    return [snapshot for snapshot in found if snapshot.state is SnapshotState.pending]


def error(observed: Observed, migration: InstanceMigration) -> str:
    """Why the destination can't have its copies, "" if it can."""
    for id in migration.copies:
        seen = observed.volume(migration.destination, id)
        if seen is not None and seen.error and seen.revision >= migration.version:
            return seen.error
    return ""


async def owned(reader: Reader, observed: Observed, migration: InstanceMigration) -> bool:
    """Whether the destination says that it has each as the volume itself."""
    for volume in await reader.get_many(Volume, set(migration.copies)):
        if volume.host != migration.destination or volume.state is VolumeState.deleting:
            continue
        seen = observed.volume(volume.host, volume.id)
        if seen is None or not seen.present or seen.error or seen.revision < migration.version:
            return False
    return True


async def removed(reader: Reader, observed: Observed, migration: InstanceMigration, host: str) -> bool:
    """Whether the host has none of the copies any more."""
    if not migration.copies or await reader.get(Host, host) is None:
        return True
    seen = [observed.volume(host, id) for id in migration.copies]
    return all(each is not None and not each.present and each.revision >= migration.version for each in seen)


async def forget(tx: Transaction, migration: InstanceMigration, host: str) -> None:
    """There is nothing of the volumes on the host any more."""
    for volume in await tx.get_many(Volume, set(migration.copies)):
        former = tuple(each for each in volume.former if each != host)
        if former != volume.former:
            await tx.put(replace(volume, former=former))
