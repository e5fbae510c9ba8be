"""Which host looks after what is in a shared pool: one at a time, and any will do.

The keeper of an attached volume is its instance's host; of one that several instances may have, it is any
host, and theirs open it besides. Whoever makes another host the keeper has to know
that no machine has the volume open any more. The host that was it before may still be at work on it: that
does no harm, since each step finds its end done, but what was to be made there is deleted only when that work
is over (``former``).
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from gureum.resources import (
    Host,
    Instance,
    InstanceState,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)
from gureum.services.ec2.capacity import serves
from gureum.store.base import Reader, Transaction

NOT_RUNNING = (InstanceState.stopped, InstanceState.terminated)
"""States in which no machine has the instance's volumes open."""


def given(volume: Volume, host: str | None) -> Volume:
    """The volume with another keeper. Snapshots have to follow: see ``give``.

    A host that was lost with it and gets it back itself stays among the lost until it has said that all is
    done: it may be gone again before it knows of it.
    """
    former = _former(volume, host) if _half_done(volume) or host is None else volume.former
    return replace(volume, host=host, former=former)


def _half_done(volume: Volume) -> bool:
    # Also what the present host removes of it elsewhere: done late, that would be of a copy made since.
    return volume.state in (VolumeState.creating, VolumeState.deleting) or bool(volume.leaves)


def lost(volume: Volume, host: str, revision: int) -> Volume:
    """The host is lost, and may have it open: whoever opens it next takes it from that host first.
    ``revision``: of the transaction, which is not below that of any spec by which the host has it.
    """
    gone, at = tuple(sorted({*volume.lost, host})), {**volume.lost_at, host: revision}
    if volume.host != host:
        return replace(volume, lost=gone, lost_at=at)
    former = _former(volume, None) if _half_done(volume) else volume.former
    return replace(volume, host=None, former=former, lost=gone, lost_at=at)


async def lose_anew(tx: Transaction) -> None:
    """When a manager begins to lead: the store may be one of before, and in the time that is undone a lost
    host may have got a volume again, by a revision below the present one. Where by this store none of the
    volume's instances is, nothing is open by right.
    """
    for volume in await tx.find(Volume):
        if not volume.lost:
            continue
        hosts = {each.host for each in await tx.get_many(Instance, volume.instances)}
        anew = dict.fromkeys((host for host in volume.lost if host not in hosts), tx.revision)
        if anew:
            await tx.put(replace(volume, lost_at={**volume.lost_at, **anew}))


def given_snapshot(snapshot: Snapshot, host: str | None) -> Snapshot:
    return replace(snapshot, host=host, former=_former(snapshot, host))


def _former(thing: Volume | Snapshot, host: str | None) -> tuple[str, ...]:
    """What is made already can't be made once more, so only of what is not who else worked on it matters."""
    old = {thing.host} if thing.host is not None else set()
    return tuple(sorted({*thing.former, *old} - {host}))


async def give(tx: Transaction, volume: Volume, host: str | None) -> Volume:
    """Let the host look after the volume, and take the snapshots of it that are not taken yet."""
    if (volume.bound and volume.host is not None) or volume.host == host:
        return volume
    of_it = await tx.find(Snapshot, volume=volume.id)
    if volume.staged:
        of_it += await tx.get_many(Snapshot, [volume.staged])
    for snapshot in of_it:
        if snapshot.state is SnapshotState.pending and snapshot.host != host and not snapshot.held:
            await tx.put(given_snapshot(snapshot, host))
    return await tx.put(given(volume, host))


async def follow(tx: Transaction, volume: Volume, host: str | None) -> Volume:
    """The host of the instance that gets the volume looks after it.

    Of one that several instances may have, any host does, and the present one goes on.
    """
    if volume.multi_attach and volume.host is not None:
        return volume
    return await give(tx, volume, host)


async def lose(tx: Transaction, instance: str, host: str, keeps: Collection[str] = ()) -> None:
    """The host is lost, with a machine that may still run: of what others look after, too, it is shut out,
    but of what it ``keeps``.
    """
    for volume in await tx.find(Volume, instances=instance):
        if volume.multi_attach and volume.host != host and volume.id not in keeps:
            await tx.put(lost(volume, host, tx.revision))


async def choose(reader: Reader, zone: str = "") -> str | None:
    """The host that looks after the fewest volumes, of the zone if one is up there; None if none is up."""
    up = [host for host in await reader.find(Host) if host.schedulable]
    near = [host for host in up if zone and serves(host, zone)]
    counts = [(await reader.count(Volume, host=host.id), host.id) for host in near or up]
    return min(counts)[1] if counts else None


async def can_keep(reader: Reader, host: str | None) -> bool:
    if host is None:
        return False
    record = await reader.get(Host, host)
    return record is not None and record.schedulable
