"""What went wrong with a volume, snapshot or image, and whether it is tried again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from gureum.agent.pool_volumes import Lost
from gureum.errors import PoolError, PoolFull, PoolUnavailable

ATTEMPTS_MAX = 4
"""A pool operation that fails so often is reported as failed for good; a deletion never is."""

Key = tuple[str, str]
"""What work is on: "volume", "snapshot", "compact", "release" or "image", and the id."""


class Failure(NamedTuple):
    """``final``: it is not tried again, but reported as failed."""

    attempts: int
    error: PoolError
    final: bool


@contextmanager
def needed(made: bool) -> Iterator[None]:
    """What nobody else could do for something that was ``made``: tried again and again, it never fails for
    good. Raises PoolUnavailable instead of other errors that may pass.
    """
    try:
        yield
    except (PoolUnavailable, PoolFull, Lost):
        raise
    except PoolError as error:
        if not made:
            raise
        raise PoolUnavailable(str(error)) from error


class Failures:
    def __init__(self) -> None:
        self._failures: dict[Key, Failure] = {}

    def note(self, key: Key, error: PoolError, present: bool) -> Failure:
        """It failed once more. What is to be ``present`` fails for good, at last."""
        before = self._failures.get(key)
        # A pool that is away comes back: that counts for nothing.
        attempts = (before.attempts if before is not None else 0) + (not isinstance(error, PoolUnavailable))
        lasting = isinstance(error, PoolFull | Lost) or attempts >= ATTEMPTS_MAX
        failure = self._failures[key] = Failure(attempts, error, present and lasting)
        return failure

    def forget(self, key: Key) -> None:
        self._failures.pop(key, None)

    def known(self) -> list[Key]:
        return list(self._failures)

    def error(self, kind: str, id: str) -> PoolError | None:
        """Why it failed last."""
        failure = self._failures.get((kind, id))
        return failure.error if failure is not None else None

    def final(self, kind: str, id: str) -> PoolError | None:
        """Why it failed for good."""
        failure = self._failures.get((kind, id))
        return failure.error if failure is not None and failure.final else None

    def texts(self) -> Iterator[str]:
        for (kind, id), failure in self._failures.items():
            yield f"{kind} {id}: {failure.error} ({failure.attempts} attempts)"
