"""Work on the pool that nobody waits for: data of what was deleted, long chains, what crashes left.

One host of all does it at a time, one thing after the other, with a worker of its own that has the lowest
priority, and may be killed at any moment: all of it is found again by looking.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from gureum.env import Env
from gureum.errors import PoolError, PoolUnavailable
from gureum.san.ceph import client as workers
from gureum.san.ceph.client import Client, Purged
from gureum.san.ceph.process import Worker
from gureum.san.settings import SanSettings

log = logging.getLogger(__name__)

EVERY_SECONDS = 300.0
OPEN_SECONDS = 30.0
"""So long the cluster takes a client for alive that was killed: until then what it had open stays."""
SETTLE_SECONDS = 1.0
"""After a deletion: more may follow, and are done in one go."""
LEAD_SECONDS = 120
NICE = 19
CHILDREN_MAX = 4
"""A deleted parent's data is copied to at most so many clones. With more of them, the copies would take much
more room than the parent that they share, and it stays until enough of them are gone."""
LONG_MAX = 1000
KILLED_MAX = 32


class Making:
    """What this host is making now, and who died of that and other work beside the agent's own worker."""

    def __init__(self) -> None:
        self.tokens: set[str] = set()
        """In the names of what is being made: not to be taken for what a crash has left."""
        self.killed: deque[str] = deque(maxlen=KILLED_MAX)
        """Addresses of workers that were killed, and may hold what they had open for 30 s, or longer."""

    @contextmanager
    def token(self, env: Env) -> Iterator[str]:
        token = env.token(8)
        self.tokens.add(token)
        try:
            yield token
        finally:
            self.tokens.discard(token)

    @asynccontextmanager
    async def client(self, command: Sequence[str]) -> AsyncIterator[Client]:
        """A worker for one piece of work, which ends with it."""
        client = Client(Worker(command))
        try:
            yield client
        finally:
            await client.close()
            self.killed.extend(client.killed)


class Upkeep:
    def __init__(self, settings: SanSettings, cloud: str, host: str, making: Making) -> None:
        self._command = workers.command(settings, cloud, host, NICE)
        self._making = making
        self._loop: asyncio.Task[None] | None = None
        self._round: asyncio.Task[None] | None = None
        self._kicked = asyncio.Event()
        self._any_open = False
        self._long: dict[str, None] = {}
        self._flattening = ""

    def begin(self) -> None:
        """From now on, until ``close``."""
        if self._loop is None:
            self._kicked.set()
            self._loop = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        tasks = [task for task in (self._loop, self._round) if task is not None]
        self._loop = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def kick(self) -> None:
        """There is something to do."""
        self.begin()
        self._kicked.set()

    def shorten(self, volume: str) -> None:
        """Give the volume what it shares with others."""
        if len(self._long) < LONG_MAX:
            self._long[volume] = None
            self.kick()

    async def leave(self, volume: str) -> list[str]:
        """Stop what is done to the volume. Addresses of clients that may hold it, and have ended."""
        self._long.pop(volume, None)
        if self._flattening == volume and self._round is not None:
            self._round.cancel()
            await asyncio.wait((self._round,))
            self._kicked.set()
        return list(self._making.killed)

    async def check(self, repair: bool) -> list[str]:
        async with self._making.client(self._command) as client:
            found = await client.survey(sorted(self._making.tokens), repair)
        if repair:
            self.kick()
        return found

    # --- the work

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OPEN_SECONDS if self._any_open else EVERY_SECONDS):
                    await self._kicked.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._kicked.clear()
            self._round = asyncio.ensure_future(self._once())
            await asyncio.wait((self._round,))

    async def _once(self) -> None:
        try:
            async with self._making.client(self._command) as client:
                if await client.lead(LEAD_SECONDS):
                    await self._fence(client)
                    await self._work(client)
                    await client.follow()
                else:
                    self._any_open = True  # the other host's round may be past what is to be done: look soon
        except PoolError as error:
            log.warning("upkeep of the pool is left for later: %s", error)

    async def _fence(self, client: Client) -> None:
        """Who was killed holds nothing any more."""
        killed = list(self._making.killed)
        await client.fence(killed)
        for address in killed:
            with contextlib.suppress(ValueError):  # others took its place
                self._making.killed.remove(address)

    async def _work(self, client: Client) -> None:
        for line in await client.survey(sorted(self._making.tokens), repair=True):
            log.info("pool: %s", line)
        while children := await self._purge(client):
            if not await self._flatten_all(client, children):
                break
        await self._flatten_all(client, list(self._long))

    async def _purge(self, client: Client) -> list[str]:
        """Empty the trash as far as it goes; the volumes that hold what is left there."""
        removed, waiting = True, list[Purged]()
        while removed:
            removed, waiting, self._any_open = False, [], False
            for trashed in await client.trash():
                if not await client.lead(LEAD_SECONDS):
                    return []
                try:
                    purged = await client.purge(trashed)
                except PoolUnavailable:
                    raise
                except PoolError as error:
                    log.warning("%s stays in the trash: %s", trashed.name, error)
                    continue
                if purged.why:
                    self._any_open = self._any_open or purged.open
                    waiting.append(purged)
                    log.info("%s stays in the trash: %s", trashed.name, purged.why)
                removed = removed or not purged.why
        return sorted({c for p in waiting if len(p.children) <= CHILDREN_MAX for c in p.children})

    async def _flatten_all(self, client: Client, volumes: list[str]) -> bool:
        """Whether at least one of them let go of its parents."""
        any_done = False
        for volume in volumes:
            if not await client.lead(LEAD_SECONDS):
                return False
            self._flattening = volume
            try:
                if await client.flatten(volume, lambda share: None):
                    log.info("%s shares nothing with others any more", volume)
                    any_done = True
                self._long.pop(volume, None)
            except PoolError as error:
                log.warning("%s keeps its parents: %s", volume, error)
            finally:
                self._flattening = ""
        return any_done
