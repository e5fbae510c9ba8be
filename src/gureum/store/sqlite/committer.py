"""Commits transactions in the order they were submitted, as many at a time as are waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

from gureum.errors import StoreError
from gureum.store.outcomes import Outcome, Submitted, Superseded, resolve
from gureum.store.sqlite.view import WriteView
from gureum.store.sqlite.writer import Writer
from gureum.store.view import Horizon, Writes, merge

APPLIED_AT_ONCE_MAX = 100
"""Writes given to SQLite before other tasks get their turn: about 5 ms.

They are not given to it in the thread: each statement there would have to win the interpreter lock back,
which on a busy event loop takes milliseconds each time. Only waits for the disk or a lock are in the thread.
"""


Steps = Generator[asyncio.Future[Any] | None, None, None]


class Committer:
    """``committed`` is called after each commit with what it wrote, before anybody learns of it."""

    def __init__(
        self,
        writer: Writer,
        horizon: Horizon,
        executor: ThreadPoolExecutor | None,
        committed: Callable[[Writes], None],
    ) -> None:
        self._writer = writer
        self._horizon = horizon
        self._executor = executor
        self._committed = committed
        self._waiting: list[Submitted] = []
        self._under_way: list[Submitted] = []
        self._failed: StoreError | None = None
        """Why the writes that the transaction at work builds on were lost, if they were."""

    def begin(self, view: WriteView) -> None:
        """Give a new transaction the state it starts from. One transaction is at work at a time."""
        self._failed = None
        pending = [submitted for submitted in self._pending if submitted.revision > view.revision]
        last = pending[-1].revision if pending else view.revision
        view.begin([submitted.writes for submitted in pending], last)

    def submit(self, view: WriteView) -> Outcome | None:
        """Commit the writes of the transaction at work, or start to. None: it is committed.

        Raises StoreError if that failed, Superseded if the transaction is to be run again.
        """
        if self._failed is not None:
            raise Superseded(self._failed)
        if not view.writes:
            # What it read must be durable before its caller acts on it.
            return self._pending[-1].outcome if self._pending else None
        if self._executor is None:
            self._writer.begin(wait=True)
            self._writer.apply(view.writes)
            self._writer.seal(view.commits_as)
            self._writer.commit()
            self._publish(view.writes, view.commits_as)
            return None
        outcome: Outcome = asyncio.get_running_loop().create_future()
        self._waiting.append(Submitted(view.writes, view.commits_as, outcome))
        if not self._under_way:
            self._start(self._executor)
        return outcome

    async def drain(self) -> None:
        """Wait until everything submitted has its outcome."""
        while self._pending:
            await asyncio.wait([self._pending[-1].outcome])

    @property
    def _pending(self) -> list[Submitted]:
        return self._under_way + self._waiting

    def _start(self, executor: ThreadPoolExecutor) -> None:
        batch, self._waiting = self._waiting, []
        self._under_way = batch
        writes = merge(submitted.writes for submitted in batch)
        self._advance(executor, self._steps(executor, writes, batch[-1].revision))

    def _steps(self, executor: ThreadPoolExecutor, writes: Writes, revision: int) -> Steps:
        """Commit a batch. Yields what to wait for; None is the event loop's next round."""
        loop = asyncio.get_running_loop()
        if not self._writer.begin(wait=False):
            yield loop.run_in_executor(executor, partial(self._writer.begin, wait=True))
        for first in range(0, len(writes), APPLIED_AT_ONCE_MAX):
            if first:
                yield None
            self._writer.apply(dict(islice(writes.items(), first, first + APPLIED_AT_ONCE_MAX)))
        self._writer.seal(revision)
        yield loop.run_in_executor(executor, self._writer.commit)
        self._publish(writes, revision)

    def _advance(
        self, executor: ThreadPoolExecutor, steps: Steps, done: asyncio.Future[Any] | None = None
    ) -> None:
        """Take the next step. Not a task: what has begun must not end with the cancellation of all tasks."""
        try:
            if done is not None:
                done.result()
            awaited = next(steps)
        except StopIteration:
            self._finish(executor, None)
        except Exception as error:
            self._finish(executor, error)
        else:
            advance = partial(self._advance, executor, steps)
            if awaited is None:
                asyncio.get_running_loop().call_soon(advance)
            else:
                awaited.add_done_callback(advance)

    def _finish(self, executor: ThreadPoolExecutor, error: Exception | None) -> None:
        batch, self._under_way = self._under_way, []
        failure: StoreError | None = None
        if error is not None:
            failure = error if isinstance(error, StoreError) else StoreError(f"a commit failed: {error!r}")
            self._failed = failure
            lost, self._waiting = self._waiting, []
            for submitted in lost:
                resolve(submitted.outcome, Superseded(failure))
        for submitted in batch:
            resolve(submitted.outcome, failure)
        if self._waiting:
            self._start(executor)

    def _publish(self, writes: Writes, revision: int) -> None:
        self._committed(writes)
        self._horizon.revision = revision
