"""The life of volumes and snapshots: the next step for one, from its record and what hosts say.

A volume is made by the pool of its host (``creating`` -> ``available``, or ``in-use`` when it is made for
an instance), its attachment goes attaching -> attached and detaching -> none as the machine gets or gives up
the disk, and its record goes when the pool has deleted it.
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from gureum.control.observed import Observed
from gureum.env import Env
from gureum.hostspec import MachineState, VolumeReport
from gureum.resources import (
    Attachment,
    AttachmentState,
    Host,
    HostState,
    Instance,
    InstanceState,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)
from gureum.services.ec2.capacity import serves
from gureum.store.base import Transaction

log = logging.getLogger(__name__)

SNAPSHOT_UNSETTLED = (SnapshotState.pending, SnapshotState.deleting)
NOT_RUNNING = (InstanceState.stopped, InstanceState.terminated)


def settled(volume: Volume) -> bool:
    """As ``instances.settled``."""
    if volume.state not in (VolumeState.available, VolumeState.in_use):
        return volume.state is VolumeState.error
    attached = volume.attachment is None or volume.attachment.state is AttachmentState.attached
    return attached and (volume.modification is None or volume.modification.state != "modifying")


def snapshot_settled(snapshot: Snapshot) -> bool:
    """As ``instances.settled``."""
    return snapshot.state not in SNAPSHOT_UNSETTLED


async def reconcile(tx: Transaction, env: Env, observed: Observed, id: str) -> None:
    """Take the next step for the volume, if there is one."""
    volume = await tx.get(Volume, id)
    if volume is None:
        return
    seen = observed.volume(volume.host, id)
    if volume.state is VolumeState.deleting:
        gone = seen is not None and not seen.present and seen.revision >= volume.version
        if volume.host is None or gone:
            await tx.delete(volume)
        return
    if volume.state is VolumeState.error:
        return
    if volume.host is None:
        await _place(tx, volume)
        return
    after = volume
    if after.state is VolumeState.creating:
        after = _created(after, seen)
    if after.attachment is not None and after.state is VolumeState.in_use:
        after = await _attachment(tx, observed, after, after.attachment)
    after = _modified(env, after, seen)
    if after != volume:
        await tx.put(after)


async def _place(tx: Transaction, volume: Volume) -> None:
    """A volume goes where its source is, else to the emptiest pool of its zone.

    One that is made with an instance is placed with it.
    """
    if volume.instance is not None:
        return
    hosts = [
        host
        for host in await tx.find(Host)
        if serves(host, volume.zone) and host.state is HostState.up and not host.draining
    ]
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
        await tx.put(replace(volume, host=best.id))


def _created(volume: Volume, seen: VolumeReport | None) -> Volume:
    if seen is None:
        return volume
    if seen.error and seen.revision >= volume.version:
        log.warning("%s could not be made: %s", volume.id, seen.error)
        return replace(volume, state=VolumeState.error, message=seen.error)
    if seen.present and not seen.error and seen.size_bytes >= volume.size_bytes:
        state = VolumeState.available if volume.attachment is None else VolumeState.in_use
        return replace(volume, state=state, message="")
    return volume


async def _attachment(tx: Transaction, observed: Observed, volume: Volume, attachment: Attachment) -> Volume:
    instance = await tx.get(Instance, attachment.instance)
    if instance is None:
        return _detached(volume)
    seen = observed.machine(instance.host, instance.id, instance.generation)
    has = seen is not None and seen.state is not MachineState.starting and volume.id in seen.disks
    if attachment.state is AttachmentState.attaching:
        if has or instance.state is InstanceState.stopped:
            return replace(volume, attachment=replace(attachment, state=AttachmentState.attached))
    elif attachment.state is AttachmentState.detaching:
        gone = seen is not None and volume.id not in seen.disks and seen.revision >= volume.version
        if gone or instance.state in NOT_RUNNING or instance.host is None:
            devices = tuple(device for device in instance.devices if device.volume != volume.id)
            if devices != instance.devices:
                await tx.put(replace(instance, devices=devices))
            return _detached(volume)
    return volume


def _detached(volume: Volume) -> Volume:
    return replace(volume, state=VolumeState.available, attachment=None, instance=None)


def _modified(env: Env, volume: Volume, seen: VolumeReport | None) -> Volume:
    """Finish a modification once the host has made the volume so; one that failed leaves it as it was."""
    modification = volume.modification
    if modification is None or modification.state != "modifying" or seen is None:
        return volume
    if seen.error and seen.revision >= volume.version:
        log.warning("%s could not be modified: %s", volume.id, seen.error)
        failed = replace(modification, state="failed", ended=env.utcnow(), message=seen.error)
        return replace(
            volume,
            modification=failed,
            size_bytes=modification.original_size_bytes,
            type=modification.original_type,
            iops=modification.original_iops,
            throughput=modification.original_throughput,
        )
    if seen.size_bytes >= volume.size_bytes and seen.revision >= volume.version:
        return replace(volume, modification=replace(modification, state="completed", ended=env.utcnow()))
    return volume


async def reconcile_snapshot(tx: Transaction, env: Env, observed: Observed, id: str) -> None:
    """Take the next step for the snapshot, if there is one."""
    snapshot = await tx.get(Snapshot, id)
    if snapshot is None:
        return
    seen = observed.snapshot(snapshot.host, id)
    if snapshot.state is SnapshotState.deleting:
        gone = seen is not None and not seen.present and seen.revision >= snapshot.version
        if snapshot.host is None or gone:
            await tx.delete(snapshot)
    elif snapshot.state is SnapshotState.pending:
        if seen is not None and seen.present:
            await tx.put(replace(snapshot, state=SnapshotState.completed))
        elif seen is not None and seen.error and seen.revision >= snapshot.version:
            log.warning("%s could not be taken: %s", snapshot.id, seen.error)
            await tx.put(replace(snapshot, state=SnapshotState.error, message=seen.error))
        else:
            await _find_volume(tx, snapshot)


async def _find_volume(tx: Transaction, snapshot: Snapshot) -> None:
    """A snapshot is taken where its volume is, and can't be of one that never came to be."""
    volume = await tx.get(Volume, snapshot.volume)
    if volume is None or volume.state is VolumeState.error:
        message = volume.message if volume is not None else ""
        lost = message or "the volume was deleted before the snapshot could be taken"
        await tx.put(replace(snapshot, state=SnapshotState.error, message=lost))
    elif snapshot.host is None and volume.host is not None:
        await tx.put(replace(snapshot, host=volume.host))
