"""What hangs together with a snapshot: the volume that it is made by way of, and the images made of it.

A copy, or what is uploaded in blocks, is a snapshot of a volume that nobody sees (``Volume.staged``). That is
made like any other, and goes when the snapshot is taken, has failed or is deleted. An image of an instance is
pending until its snapshots are taken; if these wait for the machine to be off (``Instance.capturing``), it
starts again after that.
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from gureum.env import Env
from gureum.resources import Image, ImageState, Instance, Snapshot, SnapshotState, Volume, VolumeState
from gureum.services.ec2.uploads import UPLOADS
from gureum.store.base import Reader, Transaction

log = logging.getLogger(__name__)

_KEPT = (VolumeState.creating, VolumeState.available, VolumeState.error)


async def follow(tx: Transaction, volume: Volume) -> None:
    """A snapshot is taken where the volume is that was made for it; of one that failed there is none."""
    snapshot = await tx.get(Snapshot, volume.staged) if volume.staged else None
    if snapshot is None or snapshot.state is not SnapshotState.pending:
        return
    if volume.state is VolumeState.error:
        await ended(tx, await tx.put(replace(snapshot, state=SnapshotState.error, message=volume.message)))
    elif volume.host != snapshot.host and snapshot.host is None and not snapshot.held:
        await tx.put(replace(snapshot, host=volume.host))


async def expire(tx: Transaction, env: Env, snapshot: Snapshot) -> None:
    """Give up an upload in which nothing was written for too long."""
    if snapshot.timeout_seconds and UPLOADS.expired(snapshot, env.now()):
        log.info("%s: no block was written for %g s: given up", snapshot.id, snapshot.timeout_seconds)
        message = (
            "the snapshot was not completed: no block was written for "
            f"{snapshot.timeout_seconds / 60:g} minutes"
        )
        failed = replace(snapshot, state=SnapshotState.error, message=message, timeout_seconds=0.0)
        await ended(tx, await tx.put(failed))


async def ended(tx: Transaction, snapshot: Snapshot) -> None:
    """The snapshot is not pending any more: its own volume goes, and its images have one less to wait for."""
    UPLOADS.forget(snapshot.id)
    volume = await tx.get(Volume, snapshot.staging) if snapshot.staging else None
    if volume is not None and volume.state in _KEPT:
        await tx.put(replace(volume, state=VolumeState.deleting))
    for image in await tx.find(Image, snapshots=snapshot.id):
        if image.state is ImageState.pending:
            await _settle(tx, image, snapshot)


async def _settle(tx: Transaction, image: Image, ended: Snapshot) -> None:
    """An image is available with the last of its snapshots, and has failed with the first that failed."""
    snapshots = await tx.get_many(Snapshot, set(image.snapshots))
    bad = [each for each in snapshots if each.state in (SnapshotState.error, SnapshotState.deleting)]
    if bad or len(snapshots) < len(set(image.snapshots)):
        message = bad[0].message if bad else "a snapshot was deleted"
        image = replace(image, state=ImageState.failed, message=message or f"{bad[0].id} was deleted")
    elif all(each.state is SnapshotState.completed for each in snapshots):
        image = replace(image, state=ImageState.available)
    else:
        return
    if image.cancelled:
        image = replace(image, state=ImageState.deregistered)
    await tx.put(image)
    instance = await tx.get(Instance, image.source_instance) if image.source_instance else None
    is_off = not any(each.after for each in (ended, *snapshots))
    if instance is not None and image.id in instance.capturing and is_off:
        await tx.put(_without(instance, image.id))


async def captured(reader: Reader) -> list[Instance]:
    """The instances whose machines are, or will be, off for an image."""
    pending = await reader.find(Image, state=str(ImageState.pending))
    sources = await reader.get_many(Instance, {image.source_instance for image in pending})
    return [instance for instance in sources if instance.capturing]


def _without(instance: Instance, *images: str) -> Instance:
    """The image is made; with the last of them the machine, which is off, starts again."""
    left = tuple(id for id in instance.capturing if id not in images)
    if left:
        return replace(instance, capturing=left)
    return replace(instance, capturing=(), generation=instance.next_generation, reboots=0)


async def step(tx: Transaction, instance: Instance, off: bool) -> None:
    """For an instance that runs but for images that are made of it; ``off``: its machine is."""
    if not off:
        return
    await release(tx, instance)
    images = await tx.get_many(Image, instance.capturing)
    pending = {image.id for image in images if image.state is ImageState.pending}
    if done := set(instance.capturing) - pending:
        await tx.put(_without(instance, *done))


async def release(tx: Transaction, instance: Instance) -> None:
    """The machine is off: the snapshots that wait for that can be taken."""
    images = await tx.get_many(Image, instance.capturing)
    for snapshot in await tx.get_many(Snapshot, {id for image in images for id in image.snapshots}):
        if snapshot.after == instance.id:
            volume = await tx.get(Volume, snapshot.taken_of)
            host = volume.host if volume is not None else None
            await tx.put(replace(snapshot, after="", host=host))
