"""What managers that stand by say of themselves, for the one that leads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from gureum.store.postgres import queries
from gureum.store.postgres.address import Address
from gureum.store.postgres.connection import Connection, connect, discard, explained

T = TypeVar("T")


class Sign(NamedTuple):
    """Of a machine: how many seconds ago, by the server's clock, and the fingerprint of its managers' key."""

    machine: str
    age: float
    key: str


class Signs:
    """On a connection of its own."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection: Connection | None = None

    async def heard(self) -> list[Sign]:
        """Raises StoreError."""
        return [Sign(*row) for row in await self._ask(lambda asked: asked.fetch(queries.STANDBYS))]

    async def forget(self, sign: Sign) -> None:
        """Raises StoreError."""
        await self._ask(lambda asked: asked.execute(queries.FORGET_STANDBY, sign.machine, sign.key))

    async def _ask(self, question: Callable[[Connection], Awaitable[T]]) -> T:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._address)
        try:
            with explained(self._address.place):
                return await question(self._connection)
        except BaseException:
            self._connection.terminate()
            raise

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await discard(connection)
