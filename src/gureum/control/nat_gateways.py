"""The life of a NAT gateway: the next step for one, from its record and what its host's network says.

pending     its interface gets a host of the subnet's zone, and another one if that is lost before it works;
            ``available`` when that host's network has it
available   it goes to another host here when its own is being drained
deleting    its interface leaves the host; ``deleted``, and the interface and its address free, when it has
deleted     its record goes when its time has come
"""

from __future__ import annotations

from collections import Counter

from msgspec.structs import replace

from gureum.control.observed import Observed
from gureum.env import Env
from gureum.resources import (
    Host,
    HostState,
    NatGateway,
    NatGatewayState,
    NetworkInterface,
)
from gureum.services.ec2.allocation import remove_interface
from gureum.services.ec2.capacity import serves
from gureum.store.base import Transaction

PURGE_SECONDS = 3600.0
"""A deleted gateway is still described for about an hour, as in EC2."""
UNSETTLED = (NatGatewayState.pending, NatGatewayState.deleting)


def settled(nat: NatGateway) -> bool:
    """As ``instances.settled``."""
    return nat.state not in UNSETTLED


async def reconcile(tx: Transaction, env: Env, observed: Observed, id: str) -> None:
    """Take the next step for the gateway, if there is one."""
    nat = await tx.get(NatGateway, id)
    if nat is None:
        return
    interface = await tx.get(NetworkInterface, nat.interface)
    match nat.state:
        case NatGatewayState.pending:
            if not await _moved(tx, nat, interface):
                await _pending(tx, observed, nat, interface)
        case NatGatewayState.available:
            await _moved(tx, nat, interface)
        case NatGatewayState.deleting:
            await _deleting(tx, env, observed, nat, interface)
        case NatGatewayState.deleted | NatGatewayState.failed:
            if nat.purge_at and env.now() >= nat.purge_at:
                await tx.delete(nat)


async def _pending(
    tx: Transaction, observed: Observed, nat: NatGateway, interface: NetworkInterface | None
) -> None:
    if interface is None:
        return
    if nat.host is None:
        host = await _choose_host(tx, nat.zone)
        if host is not None:
            await tx.put(replace(nat, host=host.id))
            await tx.put(replace(interface, host=host.id))
    elif observed.network_revision(nat.host) >= interface.version:
        await tx.put(replace(nat, state=NatGatewayState.available))


async def _moved(tx: Transaction, nat: NatGateway, interface: NetworkInterface | None) -> bool:
    """Let a gateway leave a host that is being drained: nothing but open connections binds it there.

    One that never worked leaves also a host that is down or was removed. One that did may work there still,
    unseen, and must not work twice: it leaves when the host is fenced.
    """
    if nat.host is None or interface is None:
        return False
    host = await tx.get(Host, nat.host)
    if host is None or host.state in (HostState.down, HostState.fencing):
        leaves = nat.state is NatGatewayState.pending
    else:
        leaves = host.draining or host.state is HostState.fenced
    if not leaves:
        return False
    return await move(tx, nat, interface)


async def move(tx: Transaction, nat: NatGateway, interface: NetworkInterface) -> bool:
    """To another host, if there is one: it has no data to lose. Its own must not have it any more."""
    other = await _choose_host(tx, nat.zone)
    if other is None:
        return False
    await tx.put(replace(nat, host=other.id))
    await tx.put(replace(interface, host=other.id))
    return True


async def _choose_host(tx: Transaction, zone: str) -> Host | None:
    """The host of the zone that has the fewest gateways; None if none is up."""
    hosts = [host for host in await tx.find(Host) if host.schedulable and serves(host, zone)]
    working = (str(NatGatewayState.pending), str(NatGatewayState.available))
    used = Counter(nat.host for nat in await tx.find(NatGateway, state=working))
    return min(hosts, key=lambda host: (used[host.id], host.id), default=None)


async def _deleting(
    tx: Transaction, env: Env, observed: Observed, nat: NatGateway, interface: NetworkInterface | None
) -> None:
    if interface is not None and interface.host is not None:
        await tx.put(replace(interface, host=None))
        # As of this revision. The interface's own version may grow without another word to that host.
        await tx.put(nat)
        return
    if interface is not None:
        placed = nat.host is not None and await tx.get(Host, nat.host) is not None
        if placed and observed.network_revision(nat.host) < nat.version:
            return
        await remove_interface(tx, interface)
    await tx.put(
        replace(
            nat,
            state=NatGatewayState.deleted,
            deleted=env.utcnow(),
            purge_at=env.now() + PURGE_SECONDS,
        )
    )
