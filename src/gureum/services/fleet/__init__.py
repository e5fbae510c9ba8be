"""The Fleet API: the hosts and pools of the cloud, what moves between them, and what happens to them.

Not AWS's; its model is in ``gateway/models/fleet``.
"""

from gureum.services.fleet import (
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
    volumes,
)

__all__ = [
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
    "volumes",
]
