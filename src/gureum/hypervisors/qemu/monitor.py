"""A connection to one QEMU process by its machine protocol, QMP (docs/interop/qmp-spec in QEMU's source).

Closing is synchronous and final here, whatever is under way, since a QEMU process may end at any moment, and
its agent lets go of it at any moment.
"""

from __future__ import annotations

import array
import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import msgspec

from gureum.errors import HypervisorError

log = logging.getLogger(__name__)

COMMAND_SECONDS = 10.0
CONNECT_SECONDS = 10.0
MESSAGE_BYTES_MAX = 16 * 1024 * 1024

Answer = Mapping[str, object]


class CommandError(HypervisorError):
    """QEMU answered with an error. ``kind`` is QMP's error class."""

    def __init__(self, command: str, kind: str, text: str) -> None:
        super().__init__(f"{command}: {text}")
        self.kind = kind


def connect_socket(path: Path) -> socket.socket:
    """Connect to the UNIX socket at ``path``; does not block, as somebody listens or nobody does.

    Goes by the open directory: a path may be longer than sockaddr_un's 108 bytes.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection


class Wire(asyncio.Protocol):
    """Messages, one a line. ``received`` gets each; ``ended`` is called when there will be no more."""

    def __init__(self, received: Callable[[Answer], None], ended: Callable[[], None]) -> None:
        self._received = received
        self._ended = ended
        self._rest = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                self._received(msgspec.json.decode(line, type=dict[str, object]))
            except msgspec.MsgspecError as error:
                log.error("nonsense from QEMU: %s", error)
                self.abort()
        if len(self._rest) > MESSAGE_BYTES_MAX:
            log.error("a message from QEMU is too long")
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._ended()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Monitor:
    """Commands with a deadline, and ``event(name, data)`` for what QEMU tells.

    ``lost()`` is called once when the connection ends, other than by ``close``.
    """

    def __init__(
        self, id: str, path: Path, event: Callable[[str, Answer], None], lost: Callable[[], None]
    ) -> None:
        self.id = id
        self._path = path
        self._event = event
        self._lost = lost
        self._wire = Wire(self._received, self._ended)
        self._socket: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._greeted = asyncio.get_running_loop().create_future()
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._open = False

    async def connect(self, seconds: float = CONNECT_SECONDS) -> None:
        """The socket exists from before the process on: what takes time is QEMU getting to answer."""
        try:
            connection = connect_socket(self._path)
            self._socket = connection.dup()
            self._open = True
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(seconds):
                await loop.create_unix_connection(lambda: self._wire, sock=connection)
                await self._greeted
            await self.execute("qmp_capabilities")
        except OSError as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise HypervisorError(f"{self.id}: its QEMU did not answer in {seconds:g} s") from None
            raise HypervisorError(f"{self.id}: no connection to its QEMU: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, seconds: float = COMMAND_SECONDS
    ) -> object:
        transport = self._wire.transport
        if not self._open or transport is None:
            raise HypervisorError(f"{self.id}: {command}: no connection to its QEMU")
        number = next(self._numbers)
        future = self._pending[number] = asyncio.get_running_loop().create_future()
        message = {"execute": command, "id": number, "arguments": arguments or {}}
        transport.write(msgspec.json.encode(message) + b"\n")
        try:
            async with asyncio.timeout(seconds):
                reply = await future
        except TimeoutError:
            raise HypervisorError(f"{self.id}: {command}: no answer in {seconds:g} s") from None
        finally:
            self._pending.pop(number, None)
        failure = reply.get("error")
        if isinstance(failure, Mapping):
            raise CommandError(f"{self.id}: {command}", str(failure.get("class")), str(failure.get("desc")))
        return reply.get("return")

    async def send_file(self, number: int, fd: int, label: str) -> int:
        """Put an open file into QEMU's fdset ``number``; returns its descriptor there. ``fd`` stays open
        here.
        """
        self._pass(fd)
        answer = await self.execute("add-fd", {"fdset-id": number, "opaque": label})
        there = answer.get("fd") if isinstance(answer, Mapping) else None
        return there if isinstance(there, int) else -1

    async def send_named_file(self, name: str, fd: int) -> None:
        """Give QEMU an open file, for a later command that takes it by its name. ``fd`` stays open here."""
        self._pass(fd)
        await self.execute("getfd", {"fdname": name})

    def _pass(self, fd: int) -> None:
        if self._socket is None:
            raise HypervisorError(f"{self.id}: no connection to its QEMU")
        files = array.array("i", [fd])
        try:
            # QEMU keeps the files that came with the last bytes; a blank is no message.
            self._socket.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        except OSError as error:
            raise HypervisorError(f"{self.id}: cannot pass a file: {error.strerror}") from error

    def close(self) -> None:
        """Let go; QEMU goes on."""
        self._open = False
        self._wire.abort()
        self._fail_pending()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _received(self, message: Answer) -> None:
        if "event" in message:
            data = message.get("data")
            self._event(str(message["event"]), data if isinstance(data, Mapping) else {})
        elif "QMP" in message:
            if not self._greeted.done():
                self._greeted.set_result(None)
        else:
            number = message.get("id")
            future = self._pending.get(number) if isinstance(number, int) else None
            if future is not None and not future.done():
                future.set_result(message)

    def _ended(self) -> None:
        was_open, self._open = self._open, False
        was_greeted = self._greeted.done()
        self._fail_pending()
        if was_open and was_greeted:
            self._lost()

    def _fail_pending(self) -> None:
        gone = HypervisorError(f"{self.id}: the connection to its QEMU ended")
        for future in (*self._pending.values(), self._greeted):
            if not future.done():
                future.set_exception(gone)
                future.exception()  # somebody may wait for it, or nobody
