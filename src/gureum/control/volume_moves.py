"""The next step of a volume on its way to another pool: the manager decides when it is there.

Its host says that the target has all of it and goes on having it. From the decision on, whoever opens the
volume opens the target's copy; a machine that has the other one open is brought over by the host.
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from gureum.env import Env
from gureum.hostspec import LOCAL, VolumeReport
from gureum.resources import Host, Snapshot, SnapshotState, Volume
from gureum.services.ec2 import volume_moves
from gureum.services.ec2.capacity import serves
from gureum.store.base import Transaction

log = logging.getLogger(__name__)


def settled(volume: Volume) -> bool:
    return not volume.target and not volume.leaves


async def step(tx: Transaction, env: Env, volume: Volume, seen: VolumeReport | None) -> Volume:
    """The volume as it is to be now. ``seen``: what its host says of it."""
    if settled(volume) or seen is None or seen.revision < volume.version:
        return volume
    if volume.leaves:
        left = tuple(pool for pool in volume.leaves if pool in seen.leaves)
        if left != volume.leaves:
            return replace(volume, leaves=left)
    if not volume.target:
        return volume
    if seen.stuck or (fault := await _misplaced(tx, volume)):
        message = seen.stuck or fault
        log.warning("%s is not moved to %s: %s", volume.id, volume.target, message)
        return volume_moves.ended(volume, "failed", message, env.utcnow())
    if seen.copied == volume.target and not seen.error and not await _snapshots_wait(tx, volume):
        return volume_moves.arrived(volume, env.utcnow())
    return volume


async def _misplaced(tx: Transaction, volume: Volume) -> str:
    """Why it can't be in its host's own pool: what it was made from may be anywhere."""
    host = await tx.get(Host, volume.host) if volume.host and volume.target == LOCAL else None
    if host is None or serves(host, volume.zone):
        return ""
    return f"host {host.id}, which looks after it, is not of zone {volume.zone}"


async def _snapshots_wait(tx: Transaction, volume: Volume) -> bool:
    """Whether snapshots are still to be taken where it is."""
    pending = await tx.find(Snapshot, volume=volume.id)
    return any(each.state is SnapshotState.pending and each.pool == volume.pool for each in pending)
