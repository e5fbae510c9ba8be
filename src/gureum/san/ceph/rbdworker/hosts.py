"""Fencing another host of the cloud."""

from __future__ import annotations

from typing import Any

from . import fences
from .session import Refused, Session

LEASE_SECONDS = 5
"""As a warden's."""


def mark(session: Session, host: str, number: int) -> None:
    """From now on the host's warden, where it reaches the cluster, ends all machines and lets none start."""
    _write(session, host, fence=number)


def lift(session: Session, host: str, number: int) -> None:
    """The host's fences up to this one are over."""
    _write(session, host, lifted=number)


def fence_state(session: Session, host: str, number: int) -> dict[str, Any]:
    found = fences.state(session.io, session.cloud, host, number, session.host, LEASE_SECONDS)
    return found._asdict()


def _write(session: Session, host: str, **numbers: int) -> None:
    try:
        fences.write(session.io, session.cloud, host, **numbers)
    except fences.Contended as error:
        raise Refused(f"{error} is written by others all the time: try again", "busy") from None
