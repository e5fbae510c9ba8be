"""What tests do with a store of their own."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec.structs import replace

from gureum.resources import NatGateway, NatGatewayState, Record
from gureum.store.base import Store, Transaction


class Records:
    """Whoever has a ``store`` puts in records and looks at them."""

    store: Store

    async def put(self, *records: Record) -> None:
        async def work(tx: Transaction) -> None:
            for record in records:
                await tx.put(record)

        await self.store.transact(work)

    async def find(self, kind: Any) -> list[Any]:
        async with self.store.read() as reader:
            return list(await reader.find(kind))

    async def change(self, kind: Any, id: str, **values: Any) -> None:
        async def work(tx: Transaction) -> None:
            record = await tx.get(kind, id)
            await tx.put(replace(record or kind(id=id), **values))

        await self.store.transact(work)


def nat_gateway(host: str, created: datetime) -> NatGateway:
    """One that works there."""
    return NatGateway(
        id="nat-1",
        state=NatGatewayState.available,
        host=host,
        vpc="vpc-1",
        subnet="subnet-1",
        zone="",
        interface="eni-1",
        created=created,
    )
