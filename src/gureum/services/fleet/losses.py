"""What was on a host that will not come back: given up, as if its owners had terminated and deleted it.

The reconcilers then do the rest as always. They wait for no host: these things are on none any more.
"""

from __future__ import annotations

from msgspec.structs import replace

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
    VolumeState,
)
from gureum.store.base import Transaction

CODE = "Server.InternalError"
NAT_ENDED = (NatGatewayState.deleting, NatGatewayState.deleted)


async def give_up(tx: Transaction, host: Host) -> None:
    reason = StateReason(CODE, f"{CODE}: host {host.id} is lost")
    for instance in await tx.find(Instance, host=host.id):
        if instance.state is not InstanceState.terminated:
            ended = replace(
                instance,
                state=InstanceState.shutting_down,
                state_reason=reason,
                transition_reason=reason.message,
                host=None,
            )
            await tx.put(ended)
    for interface in await tx.find(NetworkInterface, host=host.id):
        await tx.put(replace(interface, host=None))
    for volume in await tx.find(Volume, host=host.id):
        await tx.put(replace(volume, state=VolumeState.deleting, host=None, attachment=None, instance=None))
    for snapshot in await tx.find(Snapshot, host=host.id):
        await tx.put(replace(snapshot, state=SnapshotState.deleting, host=None))
    for nat in await tx.find(NatGateway, host=host.id):
        if nat.state not in NAT_ENDED:
            await tx.put(replace(nat, state=NatGatewayState.deleting))
