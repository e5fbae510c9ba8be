"""The life of a VPC peering connection: what time brings to one."""

from __future__ import annotations

from msgspec.structs import replace

from gureum.control.observed import Observed
from gureum.env import Env
from gureum.resources import PeeringConnection, PeeringState
from gureum.store.base import Transaction

PURGE_SECONDS = 3600.0
"""One that ended is still described for an hour; EC2 shows it for hours to days."""


async def reconcile(tx: Transaction, env: Env, observed: Observed, id: str) -> None:
    """An offer that nobody accepted in its time expires; one that ended goes when its time has come."""
    peering = await tx.get(PeeringConnection, id)
    if peering is None:
        return
    if peering.state is PeeringState.pending_acceptance:
        if env.now() >= peering.expires:
            purge_at = env.now() + PURGE_SECONDS
            await tx.put(replace(peering, state=PeeringState.expired, purge_at=purge_at))
    elif peering.state is not PeeringState.active:
        if not peering.purge_at:
            await tx.put(replace(peering, purge_at=env.now() + PURGE_SECONDS))
        elif env.now() >= peering.purge_at:
            await tx.delete(peering)
