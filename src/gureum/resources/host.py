"""Compute hosts."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from gureum.resources.record import Record, Transitions, table


class HostState(StrEnum):
    up = "up"
    down = "down"


class Host(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A machine that runs an agent. Capacities are the host's own, before overcommit. ``zone`` "": all zones.

    ``pool_*`` describe the local pool. The lease is the manager's, in memory.
    """

    state: HostState = HostState.down
    zone: str
    cpus: int = 0
    memory_bytes: int = 0
    pool_bytes: int = 0
    pool_free_bytes: int = 0
    accelerator: str = ""
    boot_id: str = ""

    kind: ClassVar[str] = "host"
    transitions: ClassVar[Transitions] = table(HostState, up="down", down="up")
