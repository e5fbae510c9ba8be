"""The Fleet API: the hosts of the cloud. Not AWS's; its model is in ``gateway/models/fleet``."""

from gureum.services.fleet import hosts, joining, tracing

__all__ = ["hosts", "joining", "tracing"]
