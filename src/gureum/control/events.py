"""Events: what happened and what was decided about it, kept for a while, for people."""

from __future__ import annotations

import logging

from gureum.env import Env
from gureum.resources import Event, Severity
from gureum.store.base import Transaction

log = logging.getLogger(__name__)

EVENTS_MAX = 2000
"""How many are kept; somewhat more until the next sweep."""
SWEPT_MAX = 500
_LEVELS = {Severity.info: logging.INFO, Severity.warning: logging.WARNING, Severity.error: logging.ERROR}


async def record(
    tx: Transaction,
    env: Env,
    name: str,
    message: str,
    severity: Severity = Severity.info,
    *,
    host: str = "",
    instance: str = "",
) -> None:
    """At most one of each ``name`` is told of a host and instance in one transaction."""
    id = f"event-{tx.revision:016d}-{name}-{host or '_'}-{instance or '_'}"
    if await tx.get(Event, id) is not None:
        return
    await tx.put(
        Event(
            id=id,
            time=env.now(),
            name=name,
            severity=severity,
            host=host,
            instance=instance,
            message=message,
        )
    )


def happened(event: Event) -> None:
    """It is committed: say so in the log."""
    log.log(_LEVELS[event.severity], "%s", event.message)


async def sweep(tx: Transaction) -> None:
    """Forget the oldest."""
    surplus = await tx.count(Event) - EVENTS_MAX
    if surplus > 0:
        for event in await tx.find(Event, limit=min(surplus, SWEPT_MAX)):
            await tx.delete(event)
