"""Waiting for something to happen, or for so long: what heartbeats and ticks do."""

from __future__ import annotations

import asyncio


class Bell:
    """As ``asyncio.Event``, except that every wait has its bound.

    An event under ``asyncio.timeout`` ends by a cancellation of who waits; this does not, and costs a third.
    """

    def __init__(self) -> None:
        self._rung = False
        self._waiting: dict[asyncio.Future[None], None] = {}
        """In the order in which they came."""

    def is_set(self) -> bool:
        return self._rung

    def set(self) -> None:
        self._rung = True
        for waiting in self._waiting:
            _end(waiting)

    def clear(self) -> None:
        self._rung = False

    async def wait(self, seconds: float) -> bool:
        """Until it is set, or for so long; whether it is set."""
        if self._rung:
            return True
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _end, waiting)
        self._waiting[waiting] = None
        try:
            await waiting
        finally:
            timer.cancel()
            del self._waiting[waiting]
        return self._rung


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
