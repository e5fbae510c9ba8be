"""What becomes of submitted transactions: each has an outcome, and may build on others that have none yet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gureum.errors import Conflict, StoreError
from gureum.store.view import Writes


class Superseded(Conflict):
    """The transaction built on writes whose commit failed, for ``cause``: it is to be run again."""

    def __init__(self, cause: StoreError) -> None:
        super().__init__(str(cause))
        self.cause = cause


Outcome = asyncio.Future[StoreError | None]


@dataclass(frozen=True)
class Submitted:
    writes: Writes
    revision: int
    outcome: Outcome


async def settled(outcome: Outcome | None, *, wrote: bool) -> None:
    """Wait for the outcome of a submitted transaction; raise it if it is an error.

    The commit goes on if the waiting task is cancelled. A transaction that wrote nothing waits for those
    whose writes it saw, and is run again where these fail.
    """
    error = None if outcome is None else await asyncio.shield(outcome)
    if error is None:
        return
    cause = error.cause if isinstance(error, Superseded) else error
    if not wrote or isinstance(error, Superseded):
        raise Superseded(cause)
    raise type(cause)(*cause.args) from cause


def resolve(outcome: Outcome, error: StoreError | None) -> None:
    if not outcome.done():
        outcome.set_result(error)
