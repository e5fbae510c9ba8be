"""Leases of hosts in a shared pool: who fences a host waits for its lease's end, or its warden's word."""

from __future__ import annotations

from typing import Protocol

import msgspec


class FenceState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a fence is. ``expires`` differs whenever the host has renewed its lease; "" for no lease."""

    done: bool = False
    expires: str = ""
    message: str = ""


class Leases(Protocol):
    """All raise PoolError; PoolUnavailable while the pool does not answer. All may be repeated."""

    async def mark(self, host: str, number: int) -> None:
        """From now on the host's warden, where it reaches the pool, ends all machines and lets none start.

        A number that is not above the last one has no effect.
        """

    async def fenced(self, host: str, number: int) -> FenceState:
        """``done``: none of its machines runs, nor will before the fence, which was marked, is lifted.

        Number 0: ``done`` says that nobody has its lease now, and nothing is changed.
        """

    async def lift(self, host: str, number: int) -> None:
        """Its fences up to this number are over."""
