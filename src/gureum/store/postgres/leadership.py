"""Which of several managers leads: one at a time, each under an epoch of its own.

The leader says that it is there by counting ``beat`` up in the database. Whoever sees no change of it for a
lease, on a clock of its own, takes over: that begins the next epoch, in the same row that every commit
checks. So no clocks need to agree, and whoever believes wrongly that it still leads can commit nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from gureum.errors import StoreError
from gureum.store.postgres import queries
from gureum.store.postgres.address import Address
from gureum.store.postgres.connection import (
    Connection,
    Deposed,
    Revoked,
    Unreachable,
    connect,
    discard,
    explained,
    prepare,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

BEAT_SECONDS = 0.8
LEASE_SECONDS = 3.0
"""A leader that was not seen for so long has ended."""
STAND_DOWN_SECONDS = 2.5
"""A leader that could not say so for so long ends itself: before another begins."""
LOOK_SECONDS = 0.4
SIGN_SECONDS = 3.0
"""How often who stands by says so. Nothing hangs on it: it is for people, and for the key."""
SIGN_SECONDS_MAX = 1.0
RETRY_SECONDS = 0.3
NEVER = -math.inf


def _clock() -> float:
    """It goes on while the machine is suspended, as others' clocks do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Leader(NamedTuple):
    """``name`` is empty if nobody leads: none ever did, or the last one resigned."""

    epoch: int
    beat: int
    cloud: str
    name: str
    endpoint: str


class Leadership:
    """A manager's part in it. ``cloud``: whose; a store is one cloud's. ``name`` is this manager's, which no
    other has; ``endpoint`` is for people. ``machine``, ``key``: as in ManagerMachine, "" if there is but one.
    Who has no key, as a command, says nothing while it waits.
    """

    def __init__(
        self, address: Address, cloud: str, name: str, endpoint: str = "", machine: str = "", key: str = ""
    ) -> None:
        self._machine = machine
        self._key = key
        self._address = address
        self._cloud = cloud
        self._name = name
        self._endpoint = endpoint
        self._connection: Connection | None = None
        self._proven = NEVER
        """When it last certainly led, by ``_clock``."""
        self._mute = False
        self.epoch = 0

    async def acquire(self, seen: Callable[[Leader], Awaitable[None]] | None = None) -> int:
        """Wait until this one leads; its epoch. ``seen`` is called for each other leader that says that it is
        there.

        Waits, too, for a server that does not answer. Raises StoreError if the database is not this cloud's,
        or this machine was revoked.
        """
        last: Leader | None = None
        known = since = 0.0
        said = NEVER
        while True:
            asked = _clock()
            try:
                leader = await self._look()
                beats = False
                if last is None or leader[:2] != last[:2]:
                    beats = last is not None and leader.epoch == last.epoch
                    if beats and known != leader.epoch:
                        known = leader.epoch
                        if seen is not None:
                            await seen(leader)
                    last, since = leader, _clock()
                # One of its own name is what a supervisor has started it anew for.
                over = leader.name in ("", self._name) or asked >= since + LEASE_SECONDS
                if over and await self._take_over(leader):
                    self._proven = asked
                    return self.epoch
                # Only after a beat: so nothing that such a sign waits for is in the way of a take-over.
                if beats and asked >= said + SIGN_SECONDS:
                    said = asked
                    await self._say()
            except Unreachable as error:
                if last is not None or since == 0.0:
                    log.error("store: %s", error)
                last, since = None, _clock()  # who cannot reach it either is not dead for that
            await asyncio.sleep(LOOK_SECONDS)

    async def _say(self) -> None:
        """That this manager stands by, if that can be said. Raises Revoked."""

        async def say(connection: Connection) -> None:
            async with asyncio.timeout(SIGN_SECONDS_MAX):
                if await connection.fetchval(queries.CAN_STAND_BY):
                    await connection.execute(queries.STAND_BY, self._key)

        if not (self._machine and self._key):
            return
        try:
            await self._ask(say)
            self._mute = False
        except Revoked:
            raise
        except StoreError as error:
            if not self._mute:
                log.warning("store: could not say that this manager stands by: %s", error)
            self._mute = True

    async def _take_over(self, seen: Leader) -> bool:
        epoch: int | None = await self._ask(
            lambda connection: connection.fetchval(
                queries.TAKE_OVER, seen.epoch, seen.beat, self._cloud, self._name, self._endpoint
            )
        )
        if epoch is None:
            return False
        self.epoch = epoch
        log.info("%s leads, in epoch %d", self._name, epoch)
        return True

    async def hold(self) -> None:
        """Say again and again that it leads. Raises Deposed when that is over, or may be."""
        try:
            await self._hold()
        finally:
            self._proven = NEVER

    async def _hold(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            asked = _clock()
            left = self._proven + STAND_DOWN_SECONDS - asked
            if left <= 0:
                raise Deposed(f"{self._address.place}: this manager could not say that it leads for too long")
            try:
                async with asyncio.timeout(left):
                    beat = await self._ask(lambda connection: connection.fetchval(queries.BEAT, self.epoch))
            except (TimeoutError, Unreachable) as error:
                log.warning("store: could not say that this manager leads: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if beat is None:
                raise Deposed(f"{self._address.place}: another manager leads")
            self._proven = asked

    def certain(self) -> bool:
        """Whether no other can lead yet, even if this process stood still until now."""
        return _clock() < self._proven + STAND_DOWN_SECONDS

    async def resign(self) -> None:
        """Let another lead at once, if this one does."""
        self._proven = NEVER
        try:
            if self.epoch:
                await self._ask(lambda connection: connection.execute(queries.RESIGN, self.epoch))
        except StoreError as error:
            log.warning("store: could not resign: %s", error)
        await self.close()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await discard(connection)

    async def _look(self) -> Leader:
        row = await self._ask(lambda connection: connection.fetchrow(queries.LEADER))
        return Leader(*row)

    async def _ask(self, question: Callable[[Connection], Awaitable[T]]) -> T:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._address, self._machine)
            # A leader of an earlier gureum may be at work: whoever leads upgrades.
            await prepare(self._connection, self._address.place, upgrade=False)
        connection = self._connection
        try:
            with explained(self._address.place):
                return await question(connection)
        except BaseException:
            connection.terminate()
            self._connection = None
            raise
