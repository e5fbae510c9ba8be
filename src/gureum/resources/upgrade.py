"""Upgrades of hosts, one after the other."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

import msgspec

from gureum.resources.record import Record, Transitions, table


class UpgradeState(StrEnum):
    """``failed``: a host did not come back as it should; those after it were not begun."""

    running = "running"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"


class UpgradeStep(StrEnum):
    """Of one host. ``leaving``: it is drained. ``changing``: the operator's command is carried out.
    ``returning``: it is waited for until it is as it should be.
    """

    waiting = "waiting"
    leaving = "leaving"
    changing = "changing"
    returning = "returning"
    done = "done"
    failed = "failed"


UNDER_WAY = (UpgradeStep.leaving, UpgradeStep.changing, UpgradeStep.returning)


class HostUpgrade(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How far one host is, ``since`` when (Unix time). ``message``: what is waited for, or has failed.

    ``started``: as in HostReport, of the agent that is to end. ``boot_id`` and ``problems``: the host's when
    it began. ``drained``: it took instances before, and is to take them again.
    """

    host: str
    step: UpgradeStep = UpgradeStep.waiting
    since: float = 0.0
    message: str = ""
    started: float = 0.0
    boot_id: str = ""
    problems: tuple[str, ...] = ()
    drained: bool = False


class Upgrade(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``evacuate``: each host is drained, and the operator's command called. ``reboots``: the command
    restarts the host. ``at_once``: how many hosts may be under way. ``wait_seconds``: for each step of a
    host. Times are Unix times.
    """

    state: UpgradeState = UpgradeState.running
    hosts: tuple[HostUpgrade, ...]
    evacuate: bool = False
    reboots: bool = False
    at_once: int = 1
    wait_seconds: float
    message: str = ""
    began: float
    ended: float = 0.0

    kind: ClassVar[str] = "upgrade"
    indexes: ClassVar[tuple[str, ...]] = ("state",)
    transitions: ClassVar[Transitions] = table(UpgradeState, running="completed failed cancelled")
