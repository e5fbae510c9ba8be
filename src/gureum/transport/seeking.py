"""Which of several managers leads: those that stand by listen nowhere, so it is the one that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from gureum.errors import TransportError
from gureum.transport.link import StreamLink
from gureum.transport.tls import Address

SEEK_SECONDS_MAX = 5.0
AGAIN_SECONDS = 0.5
"""After a manager that may lead soon was asked in vain."""


async def first_of(
    addresses: Sequence[Address], connect: Callable[[Address], Awaitable[StreamLink]]
) -> StreamLink:
    """A link with whoever answers first. Of several one may begin to lead meanwhile, so they are asked again
    for a while. Raises TransportError.
    """
    if len(addresses) == 1:
        return await connect(addresses[0])
    failed: dict[Address, TransportError] = {}

    async def seek(address: Address) -> StreamLink:
        while True:
            try:
                return await connect(address)
            except TransportError as error:
                failed[address] = error
            await asyncio.sleep(AGAIN_SECONDS)

    seeking = [asyncio.create_task(seek(address)) for address in addresses]
    wanted = 0
    try:
        await asyncio.wait(seeking, timeout=SEEK_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
        wanted = 1
    finally:
        for task in seeking:
            task.cancel()
        results = await asyncio.gather(*seeking, return_exceptions=True)
        found = [result for result in results if isinstance(result, StreamLink)]
        for link in found[wanted:]:
            link.abort()
    if not found:
        raise TransportError("; ".join(map(str, failed.values())) or "no manager answers")
    return found[0]
