"""The Fleet API: the hosts and pools of the cloud, and what moves between them.

Not AWS's; its model is in ``gateway/models/fleet``.
"""

from gureum.services.fleet import hosts, joining, placement, pools, tracing, volumes

__all__ = ["hosts", "joining", "placement", "pools", "tracing", "volumes"]
