"""Volumes in hosts' own pools that migrate with their instance: two copies, of which one is the volume.

Which one says the volume's record (``host``): it changes with the migration's switch alone. The other one is
removed on the word of specs that come of the migration's record, which has not ended before its host has said
that it is gone. Until then that host is among the volume's former ones: nothing else is begun that could make
a copy, and the record of a volume that is deleted stays.

A host that is lost meanwhile is not waited for. What it has is no volume, whatever becomes of it: it is a
stray, told to the host when it is back, to which nothing of the volume goes before it has removed that.
"""

from __future__ import annotations

from msgspec.structs import replace

from gureum.control.observed import Observed
from gureum.resources import (
    Host,
    HostState,
    Instance,
    InstanceMigration,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)
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
    return all(_gone(observed, host, id, migration.version) for id in migration.copies)


def _gone(observed: Observed, host: str, id: str, version: int) -> bool:
    seen = observed.volume(host, id)
    return seen is not None and not seen.present and seen.revision >= version


def lost(host: Host, migration: InstanceMigration) -> bool:
    """Whether what the host has of the migration is not waited for: nothing of it runs.

    Where hosts can't be fenced it may, but held: nobody is to tell it to go on. So that counts where nothing
    that it has open is any other host's to have.
    """
    alone = set(migration.volumes) <= set(migration.copies)
    return host.state is HostState.fenced or (host.state is HostState.down and not host.fenceable and alone)


async def over(reader: Reader, observed: Observed, migration: InstanceMigration, host: str) -> bool:
    """Whether the host has removed its copies; or it is lost, and does when it is back."""
    known = await reader.get(Host, host)
    return (known is not None and lost(known, migration)) or await removed(reader, observed, migration, host)


async def forget(tx: Transaction, observed: Observed, migration: InstanceMigration, host: str) -> None:
    """There is nothing of the volumes on the host any more; or strays, since it is lost."""
    left = set() if await removed(tx, observed, migration, host) else {host}
    for volume in await tx.get_many(Volume, set(migration.copies)):
        former = tuple(each for each in volume.former if each != host)
        after = replace(volume, former=former, strays=tuple(sorted({*volume.strays, *left})))
        if after != volume:
            await tx.put(after)


async def cleared(tx: Transaction, observed: Observed, volume: Volume) -> Volume:
    """Without the strays that their hosts have removed, or that went with their hosts."""
    present = {host.id for host in await tx.get_many(Host, volume.strays)}
    left = tuple(
        host
        for host in volume.strays
        if host in present and not _gone(observed, host, volume.id, volume.version)
    )
    return await tx.put(replace(volume, strays=left)) if left != volume.strays else volume
