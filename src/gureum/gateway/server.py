"""The HTTP server: uvicorn, with the limits that it lacks.

Headers are bounded in bytes and number, also those that never end; headers and bodies have deadlines; the
number of connections is bounded. One timer a second looks at all connections, so that a request pays nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gureum.errors import ConfigError
from gureum.gateway.limits import Limits

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
BACKLOG = 2048
STOP_SECONDS_MAX = 5.0
JOINED_BYTES_MAX = 64 * 1024
"""Bodies up to here are written together with their heads; copying a larger one would cost more."""


class TooLarge(Exception):
    """A request's line and headers are over a limit."""


class Sweeper:
    """Once a second, while there are connections: closes those that are late, and renews the Date header."""

    def __init__(self, state: ServerState) -> None:
        self.connections: set[LimitedProtocol] = set()
        self._state = state
        self._running = False

    def add(self, connection: LimitedProtocol) -> None:
        self.connections.add(connection)
        if not self._running:
            self._running = True
            self._sweep(connection.loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._state.default_headers = [(b"date", formatdate(usegmt=True).encode("ascii"))]
        now = loop.time()
        for connection in tuple(self.connections):
            connection.check_deadline(now)
        self._running = bool(self.connections)
        if self._running:
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)


class Joined:
    """The transport of one request cycle: the head of an answer waits for the first piece of its body.

    They then are one write, so a client of a server that is killed gets all of a small answer or nothing of
    it, never a head that could pass for an empty answer.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._begun = cycle.scope["method"] == "HEAD"
        """The next write is no head, or one that nothing comes after."""
        self._head = b""

    def write(self, data: bytes) -> None:
        if not self._begun and self._cycle.response_started:
            self._begun = True
            self._head = data
        elif self._head and len(data) <= JOINED_BYTES_MAX:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._flush()
            self._transport.write(data)

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds."""

    def __init__(self, config: uvicorn.Config, state: ServerState, limits: Limits, sweeper: Sweeper) -> None:
        super().__init__(config, state, {})
        self.limits = limits
        self.sweeper = sweeper

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._in_headers = True
        self._header_bytes = 0
        self._deadline: float | None = self.loop.time() + self.limits.header_seconds_max
        self._body_bytes = 0
        self._body_from = 0.0
        self._stalled_from: float | None = None
        if len(self.sweeper.connections) >= self.limits.connections_max:
            log.warning("more than %d connections: one is refused", self.limits.connections_max)
            self._refuse(503, "Too many connections")
            return
        self.sweeper.add(self)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.transport = Joined(cycle)  # type: ignore[assignment]
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        self.sweeper.connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if self._in_headers:
            if self._header_bytes == 0:
                self._deadline = self.loop.time() + self.limits.header_seconds_max
            self._header_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # An offer (of h2c, say) that may be ignored; but what follows the request is not parsed any more.
            if self.cycle is not None:
                self.cycle.keep_alive = False
        except httptools.HttpParserError as error:
            self._refuse(431 if isinstance(error.__context__, TooLarge) else 400, "Invalid HTTP request")
        else:
            if self._in_headers and self._header_bytes > self.limits.header_bytes_max:
                self._refuse(431, "The request's headers are too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        self._counted = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)
        if len(self.headers) > self.limits.headers_max:
            raise TooLarge

    def _count(self, size: int) -> None:
        self._counted += size
        if self._counted > self.limits.header_bytes_max:
            raise TooLarge

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._header_bytes = 0
        self._body_bytes = 0
        self._body_from = self.loop.time()
        self._deadline = self._body_from + self.limits.body_idle_seconds_max
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._deadline = self.loop.time() + self.limits.body_idle_seconds_max
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._deadline = None
        self._in_headers = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        self._stalled_from = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stalled_from = None
        super().resume_writing()

    def check_deadline(self, now: float) -> None:
        """Closes the connection if the client is late. While the gateway does not read, it is not."""
        if (
            self._stalled_from is not None
            and now > self._stalled_from + self.limits.answer_stalled_seconds_max
        ):
            self.transport.abort()
            return
        if self._deadline is None or self.transport.is_closing():
            return
        if not self._in_headers and self.flow.read_paused:
            self._deadline = now + self.limits.body_idle_seconds_max
            self._body_from, self._body_bytes = now, 0
            return
        late = now > self._deadline
        if not self._in_headers and not late:
            seconds = now - self._body_from
            late = (
                seconds > self.limits.body_idle_seconds_max
                and self._body_bytes < seconds * self.limits.body_bytes_per_second_min
            )
        if late:
            self._refuse(408, "The request took too long")

    def _refuse(self, status: int, text: str) -> None:
        """Answer in plain text (no protocol is known yet) and close; only close where an answer has begun."""
        if self.cycle is None or self.cycle.response_complete:
            phrase = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
            line = f"HTTP/1.1 {status} {phrase.get(status, 'Service Unavailable')}\r\n"
            head = f"content-type: text/plain\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n"
            self.transport.write((line + head + text).encode("ascii"))
        self.transport.close()


class Server:
    """A listening gateway. Made by :func:`listen`."""

    def __init__(self, state: ServerState, server: asyncio.AbstractServer) -> None:
        self._state = state
        self._server = server

    @property
    def port(self) -> int:
        """The TCP port that it listens on; 0 for a UNIX socket."""
        for listener in getattr(self._server, "sockets", ()):
            name = listener.getsockname()
            if isinstance(name, tuple):
                return int(name[1])
        return 0

    @property
    def requests(self) -> int:
        """How many have been answered."""
        return self._state.total_requests

    async def stop(self, seconds_max: float = STOP_SECONDS_MAX) -> None:
        """Take no more connections, let what runs end, for at most ``seconds_max``; then cut off the rest."""
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            _, late = await asyncio.wait(set(self._state.tasks), timeout=seconds_max)
            for task in late:
                task.cancel()
            if late:
                log.warning("%d requests did not end within %g s and were cut off", len(late), seconds_max)
                await asyncio.wait(late, timeout=seconds_max)
        for connection in list(self._state.connections):
            connection.transport.close()
        async with asyncio.timeout(seconds_max):
            await self._server.wait_closed()


async def listen(
    app: Callable[..., Any],
    *,
    host: str = "127.0.0.1",
    port: int = 4566,
    unix_path: Path | None = None,
    ssl_context: ssl.SSLContext | None = None,
    limits: Limits | None = None,
) -> Server:
    """Listen on TCP, or on a UNIX socket (readable by the owner only) if ``unix_path`` is given.

    Raises ConfigError for an address that others can reach without TLS, and for one that is taken.
    """
    if unix_path is None and ssl_context is None and not is_loopback(host):
        raise ConfigError(
            f"refusing to listen on {host} without TLS: what is sent could be read and answers forged. "
            "Listen on 127.0.0.1, or give a certificate."
        )
    loop = asyncio.get_running_loop()
    limits = limits or Limits()
    state = ServerState()
    sweeper = Sweeper(state)
    config = uvicorn.Config(
        app,
        loop="none",
        ws="none",
        http=HttpToolsProtocol,
        interface="asgi3",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=int(limits.keep_alive_seconds),
    )
    config.load()

    def protocol() -> LimitedProtocol:
        return LimitedProtocol(config, state, limits, sweeper)

    where = str(unix_path) if unix_path else f"{host}:{port}"
    try:
        listener: asyncio.AbstractServer
        if unix_path is not None:
            listener = await loop.create_unix_server(
                protocol, str(unix_path), backlog=BACKLOG, ssl=ssl_context
            )
            unix_path.chmod(0o600)
        else:
            listener = await loop.create_server(protocol, host, port, backlog=BACKLOG, ssl=ssl_context)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {where}: {error.strerror}. Choose another port, or stop what has it."
        ) from error
    return Server(state, listener)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
