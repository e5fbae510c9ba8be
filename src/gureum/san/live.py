"""What a pool asks the machine that runs with one of its volumes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from gureum.errors import HostError, PoolError

LIVE_SECONDS = 30.0

T = TypeVar("T")


async def answered(volume: str, answer: Awaitable[T], silent: type[PoolError] = PoolError) -> T:
    """What the running machine answers, in time; raises ``silent`` if it does not, PoolError if it cannot."""
    try:
        async with asyncio.timeout(LIVE_SECONDS):
            return await answer
    except TimeoutError as error:
        raise silent(f"{volume}: the machine did not answer within {LIVE_SECONDS:.0f} s") from error
    except PoolError:
        raise
    except HostError as error:
        raise PoolError(f"{volume}: {error}") from error
