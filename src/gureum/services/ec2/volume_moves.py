"""Volumes on their way from one pool to another: what may begin to move, and how a move ends.

A volume that moves is bound to its host until it has, and until nothing of it is on the host's own disk: one
host has both copies in hand. What is in shared pools when it has come to its end or was cancelled is removed
by whoever looks after the volume then.
"""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.hostspec import LOCAL
from gureum.resources import (
    Host,
    HostState,
    Instance,
    Move,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)
from gureum.resources.volume import shared
from gureum.services.ec2 import keepers, migrating
from gureum.services.ec2.capacity import homes, require_room_in, serves
from gureum.services.ec2.faults import incorrect_state, unsupported
from gureum.store.base import Reader, Transaction

TAKEN = (SnapshotState.completed, SnapshotState.deleting)


def begun(volume: Volume, target: str, now: datetime) -> Volume:
    return replace(volume, move=Move(state="moving", source=volume.pool, target=target, started=now))


def arrived(volume: Volume, now: datetime) -> Volume:
    """Its data is in the target, and what is where it was is not needed any more."""
    move = volume.move
    assert move is not None
    done = replace(move, state="completed", ended=now, message="")
    return replace(volume, pool=move.target, move=done, leaves=(*volume.leaves, volume.pool))


def ended(volume: Volume, state: str, message: str, now: datetime) -> Volume:
    """It stays where it is. A modification that was to bring it there has failed: its type is as before."""
    move = volume.move
    assert move is not None
    # One that was never made was not copied.
    begun = () if volume.state is VolumeState.error else (move.target,)
    after = replace(
        volume,
        move=replace(move, state=state, ended=now, message=message),
        leaves=tuple(dict.fromkeys((*volume.leaves, *begun))),
    )
    return unmodified(after, message, now)


def unmodified(volume: Volume, message: str, now: datetime) -> Volume:
    """With the modification that is under way, if any, failed. What the volume has grown it keeps."""
    modification = volume.modification
    if modification is None or modification.state != "modifying":
        return volume
    return replace(
        volume,
        modification=replace(modification, state="failed", ended=now, message=message),
        type=modification.original_type,
        iops=modification.original_iops,
        throughput=modification.original_throughput,
        multi_attach=modification.original_multi_attach,
    )


def without_host(volume: Volume, now: datetime) -> Volume:
    """What is left of it when its host is lost with all on its own disk."""
    if volume.target == LOCAL or (volume.target and not shared(volume.pool)):
        volume = ended(volume, "failed", f"host {volume.host} is lost", now)
    left = tuple(pool for pool in volume.leaves if shared(pool))
    if shared(volume.pool):
        return replace(volume, leaves=left)
    gone = replace(volume, state=VolumeState.deleting, host=None, attachments=())
    if not left:
        return replace(gone, leaves=())
    # Another host removes what was copied already, once this one can write to it no more.
    former = tuple(sorted({*volume.former, str(volume.host)}))
    return replace(gone, pool=left[0], leaves=left[1:], former=former)


async def prepared(tx: Transaction, volume: Volume, target: str, host: str = "") -> Volume:
    """The volume with the host that is to move it. Raises ApiError if it can't be moved there now.

    ``host``: where it is to be, if the target is a host's own pool; "" for any.
    """
    await migrating.require_volume_settled(tx, volume)
    _require_still(volume, target)
    await require_room_in(tx, target)
    for snapshot in await tx.find(Snapshot, volume=volume.id):
        if snapshot.state is SnapshotState.pending and not shared(volume.pool):
            raise incorrect_state(
                f"Snapshot {snapshot.id} of volume {volume.id} is not taken yet: wait until it is completed, "
                "and try again."
            )
        if snapshot.pool == target and shared(target) and snapshot.state in TAKEN:
            raise incorrect_state(
                f"The pool '{target}' still has snapshot {snapshot.id} of volume {volume.id}, from when the "
                "volume was there: delete it, or copy it (CopySnapshot) and delete it, and try again."
            )
    volume = await _at_home(tx, volume, target, host)
    home = await tx.get(Host, volume.host) if volume.host else None
    if home is None or home.state is not HostState.up:
        raise incorrect_state(
            f"Volume {volume.id} is looked after by host {volume.host}, which is not up: try again when it "
            "is."
        )
    if target == LOCAL and not home.pool_free_bytes:
        raise ApiError(
            "InsufficientVolumeCapacity",
            f"The disk of host {home.id} is full: delete volumes and snapshots there, and try again.",
            status=500,
        )
    return volume


def _require_still(volume: Volume, target: str) -> None:
    if volume.state not in (VolumeState.available, VolumeState.in_use) or volume.staged:
        raise incorrect_state(f"Volume {volume.id} is in the '{volume.state}' state.")
    if not shared(volume.pool) and (copies := (*volume.former, *volume.strays)):
        raise incorrect_state(
            f"Host {', '.join(copies)} still has a copy of volume {volume.id}, from a migration of its "
            "instance: try again when the host has removed that, or remove the host."
        )
    if volume.former:
        raise incorrect_state(
            f"Volume {volume.id} may still be being made by host {', '.join(volume.former)}, which does not "
            "answer: try again when it does, or remove the host."
        )
    if volume.multi_attach:
        raise unsupported(
            f"Volume {volume.id} can be attached to several instances (Multi-Attach): such volumes can't be "
            "moved between pools."
        )
    if volume.target:
        raise incorrect_state(
            f"Volume {volume.id} is on its way to the pool '{volume.target}' already: wait until it is "
            "there, or cancel that (CancelVolumeMove)."
        )
    if volume.pool == target:
        raise incorrect_state(f"Volume {volume.id} is in the pool '{target}' already.")
    if target in volume.leaves:
        raise incorrect_state(
            f"What volume {volume.id} left in the pool '{target}' is still being removed: try again in a "
            "moment."
        )


async def _at_home(tx: Transaction, volume: Volume, target: str, host: str) -> Volume:
    """Looked after by the host whose own pool it is to go to; if it goes to a shared one by any, or by the
    one that its instance is bound to."""
    bound: set[str] = set()
    for instance in await tx.get_many(Instance, volume.instances):
        others = [each for each in await tx.find(Volume, instances=instance.id) if each.id != volume.id]
        bound |= await homes(tx, others)
        if instance.state not in keepers.NOT_RUNNING and instance.host:
            bound.add(instance.host)
    if target != LOCAL and (not bound or volume.host in bound):
        return volume
    wanted = host or next(iter(sorted(bound)), "") or (volume.host or "")
    if bound - {wanted}:
        raise incorrect_state(
            f"Volume {volume.id} belongs to an instance on host {', '.join(sorted(bound))}, and can be in no "
            "other host's own pool."
        )
    if not await _fits(tx, volume, wanted):
        if host or bound:
            raise incorrect_state(
                f"Host {wanted} is not up, is being drained, or is of another zone than volume {volume.id}."
            )
        wanted = await keepers.choose(tx, volume.zone) or ""
        if not await _fits(tx, volume, wanted):
            raise incorrect_state(f"No host of zone {volume.zone} is up to take volume {volume.id}.")
    if wanted == volume.host:
        return volume
    if volume.bound:
        raise incorrect_state(
            f"Volume {volume.id} is bound to host {volume.host} until what it left there is removed: try "
            "again in a moment."
        )
    return await keepers.give(tx, volume, wanted)


async def _fits(reader: Reader, volume: Volume, host: str) -> bool:
    record = await reader.get(Host, host) if host else None
    return record is not None and serves(record, volume.zone) and await keepers.can_keep(reader, host)
