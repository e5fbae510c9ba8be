"""The connection that a machine's state passes through, between the agents of two hosts.

Made here, and handed to both QEMUs as an open socket: those need no right to any network. A QEMU that waits
for its guest takes one connection in its life. So who connects first proves to know the migration's secret,
and is shown that the other end does: each has the other's random challenge authenticated by the secret
(HMAC-SHA256). What passes after that is QEMU's TLS, with the same secret as its pre-shared key.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from gureum.errors import HypervisorError

log = logging.getLogger(__name__)

CHALLENGE_BYTES = 32
PROOF_BYTES = 32
CONNECT_SECONDS = 5.0
PROVE_SECONDS = 5.0
HEAR_SECONDS = 2.0
"""How long one who has connected may take to prove to know the secret: it is an answer to one message."""
CALLERS_MAX, CALLERS_EACH_MAX = 64, 4
"""Who is being listened to at the same time, in all and of one address. Who comes beyond that takes the place
of the one that has been silent longest, of its own address first: so nobody keeps the source out.
"""
WARNINGS_MAX = 8
"""Of those without the secret, so many are told of."""
SILENCE_SECONDS = 20
"""After which a host that answers nothing is given up, by both ends."""


def parse_address(text: str) -> tuple[str, int]:
    """ "ADDRESS:PORT" or "[ADDRESS]:PORT"; a name is none."""
    host, _, port = text.rpartition(":")
    try:
        return str(ipaddress.ip_address(host.strip("[]"))), int(port)
    except ValueError:
        raise HypervisorError(f"{text!r} is no address of a host and port") from None


def format_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def connect(address: str, secret: bytes, migration: str) -> socket.socket:
    """A connection to who listens there for this migration."""
    connection = await open_connection(address)
    try:
        async with asyncio.timeout(PROVE_SECONDS):
            theirs = await _receive(connection, CHALLENGE_BYTES)
            ours = os.urandom(CHALLENGE_BYTES)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(connection, ours + _proof(secret, "source", migration, theirs, ours))
            answer = await _receive(connection, PROOF_BYTES)
        if not hmac.compare_digest(answer, _proof(secret, "destination", migration, theirs, ours)):
            raise HypervisorError(f"who listens at {address} does not know the secret of {migration}")
    except (OSError, EOFError) as error:
        connection.close()
        raise _no_connection(address, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


async def beside(connecting: Coroutine[Any, Any, socket.socket], *work: Awaitable[None]) -> socket.socket:
    """The connection, once the work that is done meanwhile is done, too."""
    connected = asyncio.create_task(connecting)
    try:
        await asyncio.gather(*work)
        return await connected
    except BaseException:
        connected.cancel()
        connected.add_done_callback(_close)
        raise


def _close(connected: asyncio.Task[socket.socket]) -> None:
    if not connected.cancelled() and connected.exception() is None:
        connected.result().close()


async def open_connection(address: str) -> socket.socket:
    """A connection on which nothing was said."""
    host, port = parse_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(connection, (host, port))
        _give_up_in_time(connection)
    except OSError as error:
        connection.close()
        raise _no_connection(address, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _no_connection(address: str, error: Exception) -> HypervisorError:
    reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
    return HypervisorError(f"no connection to {address}: {reason}")


class Listener:
    """Listens for the one that knows ``secret``. ``came(socket)`` gets that connection, and only one ever.

    ``listen``: an address, or an address and port, to be had again if it is free.
    """

    def __init__(
        self, listen: str, secret: bytes, migration: str, came: Callable[[socket.socket], Awaitable[None]]
    ) -> None:
        self._secret = secret
        self._migration = migration
        self._came = came
        self._callers: dict[asyncio.Task[None], str] = {}
        """By task, the address of who has connected, oldest first."""
        self._proved: asyncio.Task[Any] | None = None
        self._warnings = 0
        self._socket = listening(listen)
        host, port = self._socket.getsockname()[:2]
        self.address = format_address(host, port)
        self._accepting = asyncio.create_task(self._accept())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, (address, *_) = await loop.sock_accept(self._socket)
            except OSError as error:
                self._warn(error)
                await asyncio.sleep(0.1)
                continue
            self._make_room(address)
            caller = asyncio.create_task(self._hear(connection))
            self._callers[caller] = address
            caller.add_done_callback(partial(self._heard, connection))

    def _heard(self, connection: socket.socket, caller: asyncio.Task[None]) -> None:
        self._callers.pop(caller, None)
        connection.close()  # it may not even have begun

    def _make_room(self, address: str) -> None:
        silent = [caller for caller, of in self._callers.items() if of == address]
        if len(silent) < CALLERS_EACH_MAX:
            if len(self._callers) < CALLERS_MAX:
                return
            silent = list(self._callers)
        del self._callers[silent[0]]
        silent[0].cancel()

    def _warn(self, why: object) -> None:
        self._warnings += 1
        if self._warnings <= WARNINGS_MAX:
            log.warning("%s: %s", self._migration, why)

    async def _hear(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection:
            try:
                connection.setblocking(False)
                ours = os.urandom(CHALLENGE_BYTES)
                async with asyncio.timeout(HEAR_SECONDS):
                    await loop.sock_sendall(connection, ours)
                    heard = await _receive(connection, CHALLENGE_BYTES + PROOF_BYTES)
                theirs, proof = heard[:CHALLENGE_BYTES], heard[CHALLENGE_BYTES:]
                if not hmac.compare_digest(
                    proof, _proof(self._secret, "source", self._migration, ours, theirs)
                ):
                    self._warn("somebody without its secret has connected")
                    return
                if self._proved is not None or self._accepting.cancelled() or self._accepting.cancelling():
                    return  # another one was quicker
                self._proved = asyncio.current_task()
                self._accepting.cancel()
                _give_up_in_time(connection)
                await self._came(connection)
                answer = _proof(self._secret, "destination", self._migration, ours, theirs)
                async with asyncio.timeout(PROVE_SECONDS):
                    await loop.sock_sendall(connection, answer)
            except (OSError, EOFError, HypervisorError) as error:
                self._warn(error)

    def close(self) -> None:
        """Who is past the proof is served to the end."""
        self._accepting.cancel()
        self._socket.close()
        for caller in self._callers:
            if caller is not self._proved:
                caller.cancel()

    def abandon(self) -> None:
        self.close()
        if self._proved is not None:
            self._proved.cancel()


def listening(listen: str) -> socket.socket:
    try:
        host, port = str(ipaddress.ip_address(listen)), 0
    except ValueError:
        host, port = parse_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            if not port:
                raise
            listener.bind((host, 0))
        listener.listen(CALLERS_MAX)
    except OSError as error:
        listener.close()
        raise HypervisorError(f"cannot listen at {host}: {error.strerror}") from error
    return listener


async def _receive(connection: socket.socket, count: int) -> bytes:
    """Exactly so many bytes: what follows is QEMU's."""
    data = b""
    while len(data) < count:
        part = await asyncio.get_running_loop().sock_recv(connection, count - len(data))
        if not part:
            raise EOFError("the other end has closed the connection")
        data += part
    return data


def _proof(secret: bytes, role: str, migration: str, first: bytes, second: bytes) -> bytes:
    text = b"\0".join((role.encode(), migration.encode(), first + second))
    return hmac.digest(secret, text, "sha256")


def _give_up_in_time(connection: socket.socket) -> None:
    """Let the kernel notice a host that is gone; QEMU waits for ever."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_SECONDS // 4)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE_SECONDS // 4)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
