"""What was on a host that will not come back: given up, as if its owners had terminated and deleted it.

The reconcilers then do the rest as always. They wait for no host: these things are on none any more. What is
in shared pools is not lost, nor is a NAT gateway, if its zone has another host.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from msgspec.structs import replace

from gureum.control.nat_gateways import move
from gureum.control.restarts import whole
from gureum.resources import (
    Host,
    Instance,
    InstanceState,
    NatGateway,
    NatGatewayState,
    NetworkInterface,
    Snapshot,
    SnapshotState,
    StateReason,
    Volume,
)
from gureum.resources.volume import shared
from gureum.services.ec2 import keepers, volume_moves
from gureum.store.base import Reader, Transaction

CODE = "Server.InternalError"
NAT_ENDED = (NatGatewayState.deleting, NatGatewayState.deleted)


async def give_up(tx: Transaction, host: Host, now: datetime) -> None:
    """An instance whose volumes are all in shared pools is only stopped: it can start elsewhere."""
    reason = StateReason(CODE, f"{CODE}: host {host.id} is lost")
    for instance in await tx.find(Instance, host=host.id):
        if instance.state in (InstanceState.stopped, InstanceState.terminated) and await _keeps(tx, instance):
            continue
        await keepers.lose(tx, instance.id, host.id)
        ending = instance.state in (InstanceState.pending, InstanceState.running, InstanceState.stopping)
        lost = not (ending and await _keeps(tx, instance))
        await tx.put(
            replace(
                instance,
                state=InstanceState.shutting_down if lost else InstanceState.stopping,
                state_reason=reason,
                transition_reason=reason.message,
                host=None,
            )
        )
    for interface in await tx.find(NetworkInterface, host=host.id):
        await tx.put(replace(interface, host=None))
    for volume in await tx.find(Volume, host=host.id):
        after = volume_moves.without_host(volume, now)
        if after != volume:
            await tx.put(after)
    for snapshot in await tx.find(Snapshot, host=host.id):
        if not shared(snapshot.pool):
            await tx.put(replace(snapshot, state=SnapshotState.deleting, host=None))
    for nat in await tx.find(NatGateway, host=host.id):
        if nat.state in NAT_ENDED:
            continue
        port = await tx.get(NetworkInterface, nat.interface)
        if port is None or not await move(tx, nat, port):
            await tx.put(replace(nat, state=NatGatewayState.deleting))


async def _keeps(tx: Transaction, instance: Instance) -> bool:
    """Whether it has lost nothing with its host."""
    volumes = await tx.find(Volume, instances=instance.id)
    whole = bool(volumes) and all(shared(volume.pool) for volume in volumes)
    return instance.state is InstanceState.terminated or whole


async def bound(tx: Reader, instance: Instance) -> list[Volume]:
    """Those of its volumes that are, with a part at least, on its host's own disk."""
    volumes = await tx.find(Volume, instances=instance.id)
    return [volume for volume in volumes if not whole(volume)]


async def leave(tx: Transaction, instance: Instance, host: str, keeps: Collection[str] = ()) -> None:
    """The instance has lost its host, and nothing with it: what it has there is for another host to take.

    ``keeps``: volumes that the host goes on with, which lives, for what else it runs.
    """
    for interface in await tx.find(NetworkInterface, instance=instance.id):
        if interface.host is not None:
            await tx.put(replace(interface, host=None))
    for volume in await tx.find(Volume, instances=instance.id):
        if volume.host == host and volume.id not in keeps:
            await tx.put(keepers.lost(volume, host, tx.revision))
    await keepers.lose(tx, instance.id, host, keeps)


async def hand_over(tx: Transaction, host: Host) -> None:
    """The host leaves the cloud: others look after what it had of shared pools.

    What it may still have open is taken from it before another host opens it (``VolumeSpec.evict``).
    """
    for instance in await tx.find(Instance, host=host.id, state=str(InstanceState.stopped)):
        await tx.put(replace(instance, host=None))
    for volume in await tx.find(Volume, host=host.id):
        if shared(volume.pool):
            await tx.put(keepers.given(volume, None))
    for snapshot in await tx.find(Snapshot, host=host.id):
        if shared(snapshot.pool):
            await tx.put(keepers.given_snapshot(snapshot, None))
