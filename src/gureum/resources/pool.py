"""Shared block pools, as the hosts last saw them."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gureum.resources.record import Record


class Pool(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``id`` is its name, as in ``Volume.pool``. ``full``: nothing new is made in it; ``message`` says why.

    ``away``: by host that can't use it now, why.
    """

    size_bytes: int = 0
    free_bytes: int = 0
    full: bool = False
    message: str = ""
    away: dict[str, str] = msgspec.field(default_factory=dict)

    kind: ClassVar[str] = "pool"
