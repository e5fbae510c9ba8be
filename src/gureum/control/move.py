"""The move of an instance's network from one host to another, addresses and open connections included.

Live migration carries it out while the guest is held, after its memory and before it goes on. In the store it
is one transaction, so no spec ever has the port on both hosts. The new host makes it, all others replace a
route, the old one passes late packets on.
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from gureum.control.manager import Manager
from gureum.errors import TransportError
from gureum.resources import Host, HostState, Instance, InstanceState, NetworkInterface, Volume
from gureum.services.ec2 import keepers
from gureum.services.ec2.capacity import serves
from gureum.store.base import Transaction

log = logging.getLogger(__name__)


class CannotMove(Exception):
    """The instance can't be on that host; the text says why, for people."""


async def move_instance(tx: Transaction, id: str, to: str) -> Instance:
    """Let the instance and its interfaces be on the host ``to``. Raises CannotMove."""
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
    for interface in await tx.find(NetworkInterface, instance=id):
        if interface.host is not None:
            await tx.put(replace(interface, host=to))
    for volume in await tx.find(Volume, instances=id):
        if volume.bound:
            raise CannotMove(
                f"{volume.id} is in the local pool of host {instance.host}, or on its way to another pool"
            )
        await keepers.follow(tx, volume, to)
    return await tx.put(replace(instance, host=to))


async def move(manager: Manager, id: str, to: str) -> None:
    """Move the held instance's network to the host ``to``; returns when it is in effect there.

    Raises CannotMove, StoreError, or TransportError if the new host does not make it so in time; from the
    change in the store on, that will come true nonetheless, as everything. Connections are carried over as
    far as both hosts answer: this must work also if the old one is lost.
    """
    async with manager.store.read() as reader:
        before = await reader.get(Instance, id)
        interfaces = [each.id for each in await reader.find(NetworkInterface, instance=id)]
    flows: dict[str, bytes] = {}
    for interface in interfaces:
        try:
            source = before.host if before is not None and before.host is not None else to
            flows[interface] = await manager.calls.call(source, "export-flows", interface=interface)
        except TransportError as error:
            log.warning("open connections of %s may end: %s", interface, error)
    moved = await manager.store.transact(lambda tx: move_instance(tx, id, to))
    await manager.calls.in_effect(to, moved.version)
    for interface, data in flows.items():
        try:
            await manager.calls.call(to, "import-flows", interface=interface, data=data)
        except TransportError as error:
            log.warning("open connections of %s may end: %s", interface, error)
