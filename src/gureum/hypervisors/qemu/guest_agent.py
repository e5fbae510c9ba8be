"""The QEMU guest agent of a machine, where its guest runs one: for file systems that are in order in a
snapshot.

It is asked through a serial port of the machine, a socket on our side (docs/interop/qemu-ga in QEMU's
source). Nothing that it answers is believed beyond yes and no, and it is never waited for for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.monitor import connect_socket
from gureum.san.base import THAW_SECONDS

log = logging.getLogger(__name__)

PORT = "org.qemu.guest_agent.0"

SYNC_SECONDS = 0.4
"""How long an agent has to show that it listens."""
FREEZE_SECONDS = 4.0
"""How long the guest may take to write what it has in memory."""
THAW_ANSWER_SECONDS = 10.0
THAW_PAUSE_SECONDS_MIN = 0.5
THAW_PAUSE_SECONDS_MAX = 15.0
ANSWER_BYTES_MAX = 64 * 1024

_DELIMITER = b"\xff"


class Conversation:
    """With an agent that has answered already."""

    def __init__(self, id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._id = id
        self._reader = reader
        self._writer = writer

    async def sync(self, number: int) -> None:
        """Skip what was answered to others. Does not end while nobody answers."""
        self._send("guest-sync-delimited", {"id": number}, _DELIMITER)
        while True:
            await self._reader.readuntil(_DELIMITER)
            if (await self._answer()).get("return") == number:
                return

    async def ask(self, command: str, arguments: dict[str, object] | None = None) -> object:
        self._send(command, arguments)
        answer = await self._answer()
        if "error" in answer:
            raise HypervisorError(f"{self._id}: {command}: the guest's agent answers {answer['error']}")
        return answer.get("return")

    def _send(self, command: str, arguments: dict[str, object] | None = None, before: bytes = b"") -> None:
        message: dict[str, object] = {"execute": command}
        if arguments is not None:
            message["arguments"] = arguments
        self._writer.write(before + msgspec.json.encode(message) + b"\n")

    async def _answer(self) -> dict[str, object]:
        line = await self._reader.readuntil(b"\n")
        try:
            return msgspec.json.decode(line, type=dict[str, object])
        except msgspec.MsgspecError:
            raise HypervisorError(f"{self._id}: the guest's agent answers nonsense") from None


@asynccontextmanager
async def conversation(env: Env, id: str, path: Path) -> AsyncIterator[Conversation]:
    """With the agent that listens at ``path``. Raises HypervisorError when none answers in SYNC_SECONDS."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(SYNC_SECONDS):
            reader, writer = await asyncio.open_connection(sock=connect_socket(path), limit=ANSWER_BYTES_MAX)
            agent = Conversation(id, reader, writer)
            await agent.sync(env.random.getrandbits(31))
        yield agent
    except TimeoutError:
        raise HypervisorError(f"{id}: the guest's agent does not answer") from None
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise HypervisorError(f"{id}: the guest's agent cannot be talked to: {error}") from error
    finally:
        if writer is not None:
            writer.transport.abort()


class Freezer:
    """Freezes and thaws the file systems of one guest.

    ``listens()``: whether the guest has the agent's port open. ``note(frozen)`` keeps whether the guest may
    be frozen, for another process of ours that has to thaw it if this one ends.
    """

    def __init__(
        self,
        env: Env,
        id: str,
        path: Path,
        listens: Callable[[], Awaitable[bool]],
        note: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._env = env
        self._id = id
        self._path = path
        self._listens = listens
        self._note = note
        self._holders = 0
        self._asking = asyncio.Lock()
        self._limit: asyncio.Task[None] | None = None

    async def freeze(self) -> bool:
        """Whether the guest's file systems are frozen now. Each call that says so needs a ``thaw``."""
        async with self._asking:
            if self._holders == 0 and not await self._freeze():
                return False
            self._holders += 1
            return True

    async def _freeze(self) -> bool:
        if self._limit is not None and not self._limit.done():
            return False  # it is being thawed, for all that is known
        try:
            if not await self._listens():
                return False
            await self._note(True)
        except (HypervisorError, OSError) as error:
            log.warning("%s: its file systems are not frozen for a snapshot: %s", self._id, error)
            return False
        self._env.crashpoint("qemu.freeze.noted")
        try:
            async with conversation(self._env, self._id, self._path) as agent:
                async with asyncio.timeout(FREEZE_SECONDS):
                    await agent.ask("guest-fsfreeze-freeze")
        except HypervisorError as error:
            log.warning("%s: its file systems are not frozen for a snapshot: %s", self._id, error)
            self._limit = asyncio.create_task(self._thaw())
            return False
        self._env.crashpoint("qemu.freeze.done")
        self._limit = asyncio.create_task(self._thaw_in_time())
        return True

    async def thaw(self) -> None:
        """The last of those who had it frozen lets it go on."""
        async with self._asking:
            if self._holders == 0:
                return  # its time was over
            self._holders -= 1
            if self._holders == 0:
                self.close()
                self._limit = asyncio.create_task(self._thaw())
                await asyncio.wait({self._limit}, timeout=THAW_ANSWER_SECONDS)

    async def _thaw_in_time(self) -> None:
        await asyncio.sleep(THAW_SECONDS)
        log.warning("%s: its file systems were frozen for %g s: thawing them", self._id, THAW_SECONDS)
        self._holders = 0
        await self._thaw()

    async def _thaw(self) -> None:
        """Until the agent says that it is done: a freeze that took too long may come only now."""
        pause = THAW_PAUSE_SECONDS_MIN
        while True:
            try:
                if await self._listens():
                    async with conversation(self._env, self._id, self._path) as agent:
                        async with asyncio.timeout(THAW_ANSWER_SECONDS):
                            await agent.ask("guest-fsfreeze-thaw")
                await self._note(False)
            except (HypervisorError, OSError) as error:
                log.warning("%s: its file systems may be frozen still: %s", self._id, error)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, THAW_PAUSE_SECONDS_MAX)

    def thaw_later(self, seconds: float | None = None) -> None:
        """Another process of ours may have left it frozen; ``seconds``: until it is taken not to be."""
        self._limit = asyncio.create_task(self._thaw() if seconds is None else self._thaw_within(seconds))

    async def _thaw_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._thaw()
        except TimeoutError:
            log.warning("%s: its agent has not answered for %g s", self._id, seconds)
            with contextlib.suppress(OSError):
                await self._note(False)

    async def settled(self) -> None:
        """Wait a moment for a thaw that is under way."""
        if self._limit is not None and self._holders == 0:
            await asyncio.wait({self._limit}, timeout=THAW_ANSWER_SECONDS)

    def close(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
