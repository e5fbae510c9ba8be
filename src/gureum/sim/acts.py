"""What the commands of scenarios are. Those who make some are ``asks``, ``mishaps`` and ``expectations``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from gureum.sim.stage import Stage
from gureum.sim.words import Names

Words = Sequence[str]
Options = Mapping[str, str]
Action = Callable[[Stage, Words, Options], Awaitable[bool]]
"""Says whether it was answered; what is no call is. Raises Violation or ApiError."""


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """``asks``: it is a call, which may be refused or not answered. ``check`` raises Wrong of its words."""

    pattern: str
    help: str
    act: Action
    asks: bool = False
    check: Callable[[Names, Words, Options], None] | None = None


ACTS: list[Act] = []


def act(
    pattern: str,
    help: str,
    asks: bool = False,
    check: Callable[[Names, Words, Options], None] | None = None,
) -> Callable[[Action], Action]:
    def register(action: Action) -> Action:
        ACTS.append(Act(pattern=pattern, help=help, act=action, asks=asks, check=check))
        return action

    return register
