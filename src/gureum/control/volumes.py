"""The life of volumes and snapshots: the next step for one, from its record and what hosts say.

A volume is made by the pool of its host (``creating`` -> ``available``, or ``in-use`` when it is made for
an instance), its attachment goes attaching -> attached and detaching -> none as the machine gets or gives up
the disk, and its record goes when the pool has deleted it.
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from gureum.control import captures, disk_copies, volume_moves
from gureum.control.keys import forget_key
from gureum.control.observed import Observed
from gureum.env import Env
from gureum.hostspec import MachineState, VolumeReport
from gureum.resources import (
    Attachment,
    AttachmentState,
    Host,
    Instance,
    InstanceState,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)
from gureum.resources.volume import shared
from gureum.services.ec2 import keepers
from gureum.services.ec2.capacity import serves
from gureum.services.ec2.volume_moves import ended, unmodified
from gureum.store.base import Transaction

log = logging.getLogger(__name__)

SNAPSHOT_UNSETTLED = (SnapshotState.pending, SnapshotState.deleting)


def settled(volume: Volume) -> bool:
    """As ``instances.settled``."""
    attached = all(each.state is AttachmentState.attached for each in volume.attachments)
    if volume.state not in (VolumeState.available, VolumeState.in_use):
        return volume.state is VolumeState.error and attached
    settled = not (volume.modifying or volume.former or volume.lost or volume.strays)
    return attached and settled and volume_moves.settled(volume)


def snapshot_settled(snapshot: Snapshot) -> bool:
    """As ``instances.settled``."""
    return snapshot.state not in SNAPSHOT_UNSETTLED and not snapshot.former


async def reconcile(tx: Transaction, env: Env, observed: Observed, id: str) -> None:
    """Take the next step for the volume, if there is one."""
    volume = await tx.get(Volume, id)
    if volume is None:
        return
    if volume.strays:
        volume = await disk_copies.cleared(tx, observed, volume)
    if shared(volume.pool) and volume.state is not VolumeState.error:
        volume = await _kept(tx, observed, volume)
    seen = observed.volume(volume.host, id)
    if volume.state is VolumeState.deleting:
        gone = seen is not None and not seen.present and seen.revision >= volume.version
        if not (volume.former or volume.strays) and (gone or (volume.host is None and not volume.lost)):
            await tx.delete(volume)
            await forget_key(tx, volume)
        return
    if volume.state is VolumeState.error:
        # Nothing more comes of it, but of who has it.
        after = await _attached(tx, observed, volume)
        if after != volume:
            await tx.put(after)
        return
    if volume.host is None:
        await _place(tx, volume)
        return
    after = volume
    if after.state is VolumeState.creating:
        after = _created(env, after, seen)
    if after.state is VolumeState.in_use:
        after = await _attached(tx, observed, after)
    after = _modified(env, after, seen)
    if after == volume:
        # On what is said of the record as it is.
        after = await volume_moves.step(tx, env, volume, seen)
    if after != volume:
        after = await tx.put(after)
    await captures.follow(tx, after)


async def _kept_snapshot(tx: Transaction, observed: Observed, snapshot: Snapshot) -> Snapshot:
    """As ``_kept``. One that is not taken yet is where its volume is; one that is, nobody looks after."""
    after = snapshot
    gone = snapshot.state is SnapshotState.deleting and not snapshot.image
    if gone and not await keepers.can_keep(tx, snapshot.host):
        host = await keepers.choose(tx)
        if host is not None:
            after = await tx.put(keepers.given_snapshot(snapshot, host))
    if after is snapshot and snapshot.former:
        former = await _working(tx, observed, snapshot)
        if former != snapshot.former:
            after = await tx.put(replace(snapshot, former=former))
    return after


async def _kept(tx: Transaction, observed: Observed, volume: Volume) -> Volume:
    """See to it that a host looks after a volume of a shared pool, and that those before it have let go."""
    after = volume
    never = volume.host is None and not volume.former and not volume.lost
    never = never and volume.state is VolumeState.deleting
    movable = not never and not (volume.bound and volume.host) and await _may_change_hands(tx, volume)
    if movable and not await keepers.can_keep(tx, volume.host):
        host = await keepers.choose(tx, volume.zone)
        if host is not None:
            after = await keepers.give(tx, volume, host)
    # Of one that nobody looks after, that somebody did tells that it may have been made.
    if after is volume and volume.host is not None and (volume.former or volume.lost):
        former = await _working(tx, observed, volume)
        done = _done(observed, volume)
        lost, lost_at = ((), {}) if done else (volume.lost, volume.lost_at)
        if (former, lost) != (volume.former, volume.lost):
            after = await tx.put(replace(volume, former=former, lost=lost, lost_at=lost_at))
    return after


def _done(observed: Observed, volume: Volume) -> bool:
    """Whether its host has done all that is said of it, and so taken it from those that are lost."""
    seen = observed.volume(volume.host, volume.id)
    return seen is not None and seen.revision >= volume.version and not seen.error


async def _may_change_hands(tx: Transaction, volume: Volume) -> bool:
    """Whether no machine can have it open, or several may.

    One that is made with an instance is placed with it.
    """
    if volume.multi_attach:
        return True
    instances = await tx.get_many(Instance, volume.instances)
    return all(instance.state in keepers.NOT_RUNNING for instance in instances)


async def _working(tx: Transaction, observed: Observed, thing: Volume | Snapshot) -> tuple[str, ...]:
    """Of the hosts that looked after it before, those that may still be at some work on it.

    A host that is no more counts until the present one has taken from it what it may have had open. The
    present one, to which it came back, does its work in order.
    """
    done = isinstance(thing, Snapshot) or _done(observed, thing)
    holders = thing.holders if isinstance(thing, Volume) else ()
    present = {host.id for host in await tx.get_many(Host, thing.former)}

    def over(host: str) -> bool:
        if host not in present:
            return done
        return observed.let_go(host, thing) if host in holders else observed.left(host, thing)

    return tuple(host for host in thing.former if host != thing.host and not over(host))


async def _place(tx: Transaction, volume: Volume) -> None:
    """A volume goes where its source is, else to the emptiest pool of its zone; any host for a shared pool.

    One that is made with an instance is placed with it.
    """
    if volume.attachments or shared(volume.pool):
        return
    hosts = [host for host in await tx.find(Host) if host.schedulable and serves(host, volume.zone)]
    if volume.source.startswith("snap-"):
        snapshot = await tx.get(Snapshot, volume.source)
        home = await tx.get(Host, snapshot.host) if snapshot is not None and snapshot.host else None
        if home is not None and not serves(home, volume.zone):
            message = f"snapshot {volume.source} is in a pool of zone {home.zone} and can't be used elsewhere"
            await tx.put(replace(volume, state=VolumeState.error, message=message))
            return
        if home is not None and home.draining:
            message = (
                f"snapshot {volume.source} is on {home.id}, which takes nothing while it is being drained"
            )
            await tx.put(replace(volume, state=VolumeState.error, message=message))
            return
        if home is not None:
            hosts = [host for host in hosts if host.id == home.id]
    if hosts:
        best = max(hosts, key=lambda host: (host.pool_free_bytes, host.id))
        await captures.follow(tx, await tx.put(replace(volume, host=best.id)))


def _created(env: Env, volume: Volume, seen: VolumeReport | None) -> Volume:
    """One that can't be made is not moved either."""
    if seen is None:
        return volume
    if seen.error and seen.revision >= volume.version:
        log.warning("%s could not be made: %s", volume.id, seen.error)
        failed = replace(volume, state=VolumeState.error, message=seen.error)
        return ended(failed, "failed", seen.error, env.utcnow()) if volume.target else failed
    if seen.present and not seen.error and seen.size_bytes >= volume.size_bytes:
        state = VolumeState.in_use if volume.attachments else VolumeState.available
        return replace(volume, state=state, message="")
    return volume


async def _attached(tx: Transaction, observed: Observed, volume: Volume) -> Volume:
    for attachment in volume.attachments:
        volume = await _attachment(tx, observed, volume, attachment)
    return volume


async def _attachment(tx: Transaction, observed: Observed, volume: Volume, attachment: Attachment) -> Volume:
    instance = await tx.get(Instance, attachment.instance)
    if instance is None:
        return _detached(volume, attachment.instance)
    seen = observed.machine(instance.host, instance.id, instance.generation)
    has = seen is not None and seen.state is not MachineState.starting and volume.id in seen.disks
    if attachment.state is AttachmentState.attaching:
        if has or instance.state is InstanceState.stopped:
            return volume.with_attachment(replace(attachment, state=AttachmentState.attached))
    elif attachment.state is AttachmentState.detaching:
        gone = seen is not None and volume.id not in seen.disks and seen.revision >= volume.version
        if gone or instance.state in keepers.NOT_RUNNING or instance.host is None:
            devices = tuple(device for device in instance.devices if device.volume != volume.id)
            if devices != instance.devices:
                await tx.put(replace(instance, devices=devices))
            return _detached(volume, instance.id)
    return volume


def _detached(volume: Volume, instance: str) -> Volume:
    """Without the instance; with the last one it is free again."""
    left = volume.without_attachment(instance)
    free = not left.attachments and left.state is VolumeState.in_use
    return replace(left, state=VolumeState.available) if free else left


def _modified(env: Env, volume: Volume, seen: VolumeReport | None) -> Volume:
    """Finish a modification once the host has made the volume so; one that failed leaves it as it was."""
    modification = volume.modification
    if modification is None or modification.state != "modifying" or seen is None:
        return volume
    if seen.error and seen.revision >= volume.version:
        log.warning("%s could not be modified: %s", volume.id, seen.error)
        now = env.utcnow()
        if volume.target:
            failed = ended(volume, "failed", seen.error, now)
        else:
            failed = unmodified(volume, seen.error, now)
        return replace(failed, size_bytes=modification.original_size_bytes)
    done = seen.size_bytes >= volume.size_bytes and not volume.target
    if done and seen.revision >= volume.version:
        return replace(volume, modification=replace(modification, state="completed", ended=env.utcnow()))
    return volume


async def reconcile_snapshot(tx: Transaction, env: Env, observed: Observed, id: str) -> None:
    """Take the next step for the snapshot, if there is one."""
    snapshot = await tx.get(Snapshot, id)
    if snapshot is None:
        return
    if shared(snapshot.pool):
        snapshot = await _kept_snapshot(tx, observed, snapshot)
    seen = observed.snapshot(snapshot.host, id)
    if snapshot.state is SnapshotState.deleting:
        gone = seen is not None and not seen.present and seen.revision >= snapshot.version
        nowhere = snapshot.host is None and (snapshot.image or not shared(snapshot.pool))
        if nowhere or (gone and not snapshot.former):
            await tx.delete(snapshot)
            await forget_key(tx, snapshot)
        await captures.ended(tx, snapshot)
    elif snapshot.state is SnapshotState.pending:
        if seen is not None and seen.present:
            host = None if shared(snapshot.pool) else snapshot.host
            done = replace(snapshot, state=SnapshotState.completed, host=host, completed=env.utcnow())
            await captures.ended(tx, await tx.put(done))
        elif seen is not None and seen.error and seen.revision >= snapshot.version:
            log.warning("%s could not be taken: %s", snapshot.id, seen.error)
            failed = replace(snapshot, state=SnapshotState.error, message=seen.error)
            await captures.ended(tx, await tx.put(failed))
        elif snapshot.held:
            await captures.expire(tx, env, snapshot)
        else:
            await _find_volume(tx, snapshot)


async def _find_volume(tx: Transaction, snapshot: Snapshot) -> None:
    """A snapshot is taken where its volume is, and can't be of one that never came to be."""
    volume = await tx.get(Volume, snapshot.taken_of)
    if volume is None or volume.state is VolumeState.error:
        message = volume.message if volume is not None else ""
        lost = message or "the volume was deleted before the snapshot could be taken"
        failed = replace(snapshot, state=SnapshotState.error, message=lost)
        await captures.ended(tx, await tx.put(failed))
    elif snapshot.host is None and volume.host is not None:
        await tx.put(replace(snapshot, host=volume.host))
