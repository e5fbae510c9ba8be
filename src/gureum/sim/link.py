"""A host link that is slow, loses messages and breaks, as told."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Callable

from gureum.errors import TransportError
from gureum.transport.messages import Message, decode, encode

QUEUE_MAX = 10_000


class Weather:
    """How links behave: delays in seconds, the chance that a message is lost, repeated, or cuts the link."""

    def __init__(self, rng: random.Random) -> None:
        self.random = rng
        self.delay = (0.0005, 0.01)
        self.loss = 0.0
        self.repeat = 0.0
        self.cut = 0.0


class _Closed:
    pass


class SimLink:
    """One end of a link. Messages are encoded and decoded as on the wire."""

    def __init__(self, weather: Weather) -> None:
        self._weather = weather
        self._inbox: deque[bytes | _Closed] = deque()
        self._waiting: asyncio.Future[None] | None = None
        """Who receives waits for the next message."""
        self._peer: SimLink | None = None
        self._arrives = 0.0
        self._wire = contextvars.Context()
        """What was sent arrives also while the sender's process does not run."""
        self.closed = False
        self.cut: Callable[[], bool] = lambda: False
        """Whether nothing that is sent from here arrives now."""

    async def send(self, message: Message) -> None:
        if self.closed or self._peer is None:
            raise TransportError("the link was closed")
        weather, frame = self._weather, encode(message)[4:]
        if weather.random.random() < weather.cut:
            self._break()
            raise TransportError("the link was cut")
        if weather.random.random() < weather.loss:
            return
        loop = asyncio.get_running_loop()
        if self.cut():
            return
        copies = 2 if weather.random.random() < weather.repeat else 1
        for _ in range(copies):
            self._arrives = max(self._arrives, loop.time() + weather.random.uniform(*weather.delay))
            loop.call_at(self._arrives, self._peer._arrive, frame, context=self._wire)

    def _arrive(self, frame: bytes) -> None:
        if not self.closed:
            self._put(frame)

    def _put(self, frame: bytes | _Closed) -> None:
        assert len(self._inbox) < QUEUE_MAX
        self._inbox.append(frame)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def receive(self) -> Message:
        if self.closed and not self._inbox:
            raise TransportError("the link was closed")
        while not self._inbox:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        frame = self._inbox.popleft()
        if isinstance(frame, _Closed):
            raise TransportError("the link was closed")
        return decode(frame)

    async def close(self) -> None:
        self._break()

    def _break(self) -> None:
        for end in (self, self._peer):
            if end is not None and not end.closed:
                end.closed = True
                end._put(_Closed())


def pair(weather: Weather) -> tuple[SimLink, SimLink]:
    """Both ends of a new link."""
    one, other = SimLink(weather), SimLink(weather)
    one._peer, other._peer = other, one
    return one, other
