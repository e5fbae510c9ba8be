"""Machines that have managers."""

from __future__ import annotations

from typing import ClassVar

from gureum.resources.record import Record


class ManagerMachine(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One that a manager of this cloud leads or may lead on, by the machine's name."""

    agents: str
    """ADDRESS:PORT, where agents reach that manager while it leads."""
    endpoint: str
    """The URL at which it answers the API then."""

    kind: ClassVar[str] = "manager-machine"
