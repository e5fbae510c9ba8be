"""What an earlier version of gureum left in the store, made as this one expects it."""

from __future__ import annotations

from msgspec.structs import replace

from gureum.control.instances import WANT_PORT, plug
from gureum.resources import Host, Instance
from gureum.store.base import Transaction


async def upgrade(tx: Transaction) -> None:
    """Before hosts had numbers, interfaces did not say on which host they are."""
    hosts = await tx.find(Host)
    old = [host for host in hosts if not host.number]
    if not old:
        return
    for instance in await tx.find(Instance, state=[str(state) for state in WANT_PORT]):
        if instance.host is not None:
            await plug(tx, instance)
    first = max(host.number for host in hosts) + 1
    for number, host in enumerate(old, first):
        await tx.put(replace(host, number=number))
