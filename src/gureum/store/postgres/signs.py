"""What managers that stand by say of themselves, for the one that leads."""

from __future__ import annotations

from typing import NamedTuple

from gureum.store.postgres import queries
from gureum.store.postgres.address import Address
from gureum.store.postgres.connection import Connection, connect, discard, explained


class Sign(NamedTuple):
    """Of a machine: how many seconds ago, by the server's clock, and the fingerprint of its managers' key."""

    machine: str
    age: float
    key: str


class Signs:
    """On a connection of its own, which changes nothing."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._connection: Connection | None = None

    async def heard(self) -> list[Sign]:
        """Raises StoreError."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._address)
        try:
            with explained(self._address.place):
                return [Sign(*row) for row in await self._connection.fetch(queries.STANDBYS)]
        except BaseException:
            self._connection.terminate()
            raise

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await discard(connection)
