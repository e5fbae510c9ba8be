"""The Fleet API: the hosts and pools of the cloud, what moves between them, and what happens to them.

Not AWS's; its model is in ``gateway/models/fleet``.
"""

from gureum.services.fleet import (
    autosize,
    balance,
    events,
    hosts,
    joining,
    managers,
    migrations,
    placement,
    pools,
    power,
    recovery,
    resizes,
    survival,
    tracing,
    upgrades,
    volumes,
)

__all__ = [
    "autosize",
    "balance",
    "events",
    "hosts",
    "joining",
    "managers",
    "migrations",
    "placement",
    "pools",
    "power",
    "recovery",
    "resizes",
    "survival",
    "tracing",
    "upgrades",
    "volumes",
]
