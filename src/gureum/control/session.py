"""A connected host, as the manager sees it."""

from __future__ import annotations

import asyncio

from gureum.errors import TransportError
from gureum.transport.link import Link
from gureum.transport.messages import Call, Reply

CALL_SECONDS_MAX = 5.0


class Session:
    """What a host was sent, what it last said, and the calls it has not answered yet.

    A session is one connection of one agent. Its reports are numbered from 1, so ``sequence`` tells which
    ones come a second time; those of another session say nothing about the order here.
    """

    def __init__(self, host: str, link: Link) -> None:
        self.host = host
        self.link = link
        self.sequence = 0
        self.dirty = asyncio.Event()
        self.dirty.set()
        self.sent_revision = 0
        self.sent = 0.0
        """When the last spec was sent, on the event loop's clock."""
        self._calls: dict[int, asyncio.Future[Reply]] = {}
        self._next_call = 0

    async def call(self, method: str, machine: str, max_bytes: int) -> bytes:
        """Ask the agent. Raises TransportError."""
        self._next_call += 1
        id = self._next_call
        future = self._calls[id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                await self.link.send(Call(id=id, method=method, machine=machine, max_bytes=max_bytes))
                reply: Reply = await future
        except TimeoutError as error:
            raise TransportError(f"host {self.host} did not answer in {CALL_SECONDS_MAX:g} s") from error
        finally:
            del self._calls[id]
        if reply.error:
            raise TransportError(reply.error)
        return reply.data

    def answer(self, reply: Reply) -> None:
        future = self._calls.get(reply.id)
        if future is not None and not future.done():
            future.set_result(reply)

    def close(self) -> None:
        for future in self._calls.values():
            if not future.done():
                future.set_exception(TransportError(f"the link to host {self.host} was closed"))
