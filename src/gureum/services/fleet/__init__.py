"""The Fleet API: the hosts and pools of the cloud. Not AWS's; its model is in ``gateway/models/fleet``."""

from gureum.services.fleet import hosts, joining, pools, tracing

__all__ = ["hosts", "joining", "pools", "tracing"]
