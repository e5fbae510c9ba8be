"""The move of an instance from one host to another, with its addresses and volumes: one transaction.

So no spec ever has a port on both hosts. The new host makes it, all others replace a route, the old one
passes late packets on.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from gureum.resources import Host, HostState, Instance, InstanceState, NetworkInterface, Volume
from gureum.services.ec2 import keepers
from gureum.services.ec2.capacity import serves
from gureum.store.base import Transaction


class CannotMove(Exception):
    """The instance can't be on that host; the text says why, for people."""


async def move_instance(tx: Transaction, id: str, to: str, copies: Collection[str] = ()) -> Instance:
    """Let the instance, its interfaces and volumes be on the host ``to``. CannotMove: nothing is moved.

    ``copies``: volumes of the host's own pool of which that host has all in its own.
    """
    instance, host = await tx.get(Instance, id), await tx.get(Host, to)
    if instance is None or instance.state is not InstanceState.running:
        raise CannotMove(f"{id} is not running")
    if host is None or host.state is not HostState.up:
        raise CannotMove(f"host {to} is not up")
    if not serves(host, instance.zone):
        raise CannotMove(f"host {to} is not in zone {instance.zone}")
    if instance.host == to:
        return instance
    if host.draining:
        raise CannotMove(f"host {to} is being drained")
    volumes = await tx.find(Volume, instances=id)
    for volume in volumes:
        # Before anything is moved: the caller may commit what else it has to say of it.
        if volume.bound and not (volume.id in copies and volume.host == instance.host):
            raise CannotMove(
                f"{volume.id} is in the local pool of host {instance.host}, or on its way to another pool"
            )
    for interface in await tx.find(NetworkInterface, instance=id):
        if interface.host is not None:
            await tx.put(replace(interface, host=to))
    for volume in volumes:
        if volume.id in copies:
            await tx.put(replace(volume, host=to))
        else:
            await keepers.follow(tx, volume, to)
    return await tx.put(replace(instance, host=to))
