"""How hosts are switched on and off."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gureum.resources.record import Record

WAKE_SECONDS = 600.0


class Setback(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """When (Unix time) the host was woken, or could not be emptied, and the how many-th time that was for the
    hosts that can stand in for each other.
    """

    count: int
    at: float


class HostPower(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Of the host with the same id. ``agent``: the name of a fence agent, told its ``options`` and what is in
    ``sealed`` (JSON, an object of strings), which only the cloud's master key opens.

    ``wake_seconds``: how long it may take to report once it is switched on. ``doubted``: the agent said that
    the host is off, and the host went on reporting, so another one may have been switched.
    """

    agent: str
    options: dict[str, str] = msgspec.field(default_factory=dict)
    sealed: bytes = b""
    wake_seconds: float = WAKE_SECONDS
    doubted: bool = False
    setback: Setback | None = None

    kind: ClassVar[str] = "host-power"
