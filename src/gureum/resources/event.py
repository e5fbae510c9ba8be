"""What happened to hosts and instances, for people."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from gureum.resources.record import Record


class Severity(StrEnum):
    info = "info"
    warning = "warning"
    error = "error"


class Event(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``id`` is in the order in which they happened; ``time`` is Unix time. ``host`` and ``instance``: what
    it is about, "" for none. ``message`` is for people: what was seen, what was decided, and why.
    """

    time: float
    name: str
    severity: Severity = Severity.info
    host: str = ""
    instance: str = ""
    message: str

    kind: ClassVar[str] = "fleet-event"
