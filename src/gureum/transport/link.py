"""The link between the manager and one host's agent.

A ``Link`` carries messages in order and either delivers or breaks; nothing above relies on more: the
documents that it carries are levels. Here over a UNIX socket; the simulation has one that loses and delays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from gureum.errors import TransportError
from gureum.transport.messages import MESSAGE_BYTES_MAX, Message, decode, encode

log = logging.getLogger(__name__)

SEND_SECONDS_MAX = 10.0
CLOSE_SECONDS_MAX = 1.0


class Link(Protocol):
    """Raises TransportError once the other side is gone."""

    async def send(self, message: Message) -> None: ...

    async def receive(self) -> Message: ...

    async def close(self) -> None: ...


class StreamLink:
    """A Link over an asyncio stream."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.message_bytes_max = message_bytes_max
        """Of what is received."""

    async def send(self, message: Message) -> None:
        try:
            self._writer.write(encode(message))
            async with asyncio.timeout(SEND_SECONDS_MAX):
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            raise TransportError(f"sending failed: {error or type(error).__name__}") from error

    async def receive(self) -> Message:
        try:
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            if length > self.message_bytes_max:
                raise TransportError(f"a message of {length} bytes is over the bound")
            return decode(await self._reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise TransportError("the link was closed") from error

    async def close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self.abort()

    def abort(self) -> None:
        """Break it at once, without a word."""
        self._writer.transport.abort()


async def connect(path: Path) -> StreamLink:
    """Connect to the manager's socket. Raises TransportError."""
    try:
        async with asyncio.timeout(5):
            return StreamLink(*await asyncio.open_unix_connection(path))
    except (OSError, TimeoutError) as error:
        raise TransportError(f"no manager at {path}: {error}") from error


async def listen(path: Path, serve: Callable[[Link], Awaitable[None]]) -> asyncio.Server:
    """Accept agents at a UNIX socket, of this user only: the kernel says who they are."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = StreamLink(reader, writer)
        try:
            peer = writer.get_extra_info("socket").getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
            )
            if struct.unpack("3i", peer)[1] != os.geteuid():
                log.warning("refused an agent of another user")
                return
            await serve(link)
        except TransportError as error:
            log.info("a host link ended: %s", error)
        except Exception:
            log.exception("a host link ended by a fault")
        finally:
            await link.close()

    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    server = await asyncio.start_unix_server(accept, path)
    path.chmod(0o600)
    return server
