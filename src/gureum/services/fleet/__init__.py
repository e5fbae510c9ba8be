"""The Fleet API: the hosts and pools of the cloud, what moves between them, and what happens to them.

Not AWS's; its model is in ``gateway/models/fleet``.
"""

from gureum.services.fleet import (
    balance,
    events,
    hosts,
    joining,
    migrations,
    placement,
    pools,
    recovery,
    resizes,
    survival,
    tracing,
    upgrades,
    volumes,
)

__all__ = [
    "balance",
    "events",
    "hosts",
    "joining",
    "migrations",
    "placement",
    "pools",
    "recovery",
    "resizes",
    "survival",
    "tracing",
    "upgrades",
    "volumes",
]
