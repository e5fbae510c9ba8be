"""Work of which a fault must not end the manager, again and again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from gureum.errors import StoreError


async def attempt(log: logging.Logger, what: str, work: Awaitable[None]) -> bool:
    """Whether it went well. What did not is said, "``what``: why", and is to be tried again later."""
    try:
        await work
    except Exception as error:
        expected = isinstance(error, StoreError)
        log.error("%s: %s", what, error, exc_info=None if expected else error)
        return False
    return True
