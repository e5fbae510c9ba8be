"""Commits transactions in the order they were submitted, as many at a time as are waiting.

As with SQLite, a transaction begins while its predecessors are still being committed, and sees their writes.
Here it also shares their snapshot of the database for a moment, with all that was written since on top: so
its beginning costs no round trip, and what others committed meanwhile is found out by the commit, which names
the revision that it builds on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gureum.errors import StoreError
from gureum.store.outcomes import Outcome, Submitted, Superseded, resolve
from gureum.store.postgres.snapshots import Snapshots
from gureum.store.postgres.view import Snapshot, WriteView
from gureum.store.postgres.writer import Writer
from gureum.store.view import Overlay, Writes, merge

SNAPSHOT_SECONDS_MAX = 0.5
"""That transactions share one: an old one keeps the server from tidying up."""
SNAPSHOT_WRITES_MAX = 128
"""On top of a snapshot: searches go through them all."""
BATCH_WRITES_MAX = 5000


class _Shared:
    """A snapshot and what was written since."""

    def __init__(self, snapshot: Snapshot, submitted: list[Submitted]) -> None:
        self.snapshot = snapshot
        self.tail = snapshot.revision
        self.size = 0
        self.overlay: Overlay = {}
        self.replaced: Overlay = {}
        self.valid = True
        """Whether nobody else has committed since, as far as is known."""
        self.worn = False
        for each in submitted:
            if each.revision > snapshot.revision:
                self.add(each)

    def add(self, submitted: Submitted) -> None:
        for (kind, id), write in submitted.writes.items():
            self.overlay.setdefault(kind, {})[id] = write.after
            self.replaced.setdefault(kind, {}).setdefault(id, write.before)
        self.size += len(submitted.writes)
        self.tail = submitted.revision

    @property
    def usable(self) -> bool:
        return self.valid and not self.worn and self.size <= SNAPSHOT_WRITES_MAX and self.snapshot.sound


class Committer:
    """``committed`` is called after each commit with what it wrote, the revision that it built on and its
    own, before anybody learns of it.
    """

    def __init__(
        self,
        writer: Writer,
        snapshots: Snapshots,
        view: Callable[[Snapshot], WriteView],
        committed: Callable[[Writes, int, int], Awaitable[None]],
    ) -> None:
        self._writer = writer
        self._snapshots = snapshots
        self._view = view
        self._committed = committed
        self._waiting: list[Submitted] = []
        self._under_way: list[Submitted] = []
        self._recent: list[Submitted] = []
        """What was committed while a snapshot is being taken, which may lack it."""
        self._taking = False
        self._shared: _Shared | None = None
        self._at_work = False
        self._task: asyncio.Task[None] | None = None
        self._failed: StoreError | None = None
        """Why the writes that the transaction at work builds on were lost, if they were."""

    async def begin(self) -> WriteView:
        """A new transaction. One is at work at a time; it ends with ``end``. Raises StoreError."""
        self._failed = None
        self._at_work = True
        try:
            shared = self._shared
            if shared is None or not shared.usable:
                shared = await self._share()
        except BaseException:
            self._at_work = False
            raise
        view = self._view(shared.snapshot)
        view.share(shared.overlay, shared.replaced, lambda: shared.valid)
        view.begin((), shared.tail)
        return view

    def end(self, view: WriteView) -> None:
        view.close()
        self._at_work = False
        if self._shared is not None and not self._shared.usable:
            self._drop()

    async def _share(self) -> _Shared:
        self._drop()
        self._taking = True
        try:
            snapshot = await self._snapshots.take()
            shared = self._shared = _Shared(snapshot, self._recent + self._pending)
        finally:
            self._taking = False
            self._recent = []
        asyncio.get_running_loop().call_later(SNAPSHOT_SECONDS_MAX, self._wear_out, shared)
        return shared

    def _wear_out(self, shared: _Shared) -> None:
        shared.worn = True
        if shared is self._shared and not self._at_work:
            self._drop()

    def _drop(self) -> None:
        if self._shared is not None:
            self._snapshots.release(self._shared.snapshot)
            self._shared = None

    def others_committed(self) -> None:
        """What is shared is not the latest state."""
        if self._shared is not None:
            self._shared.valid = False
            if not self._at_work:
                self._drop()

    def submit(self, view: WriteView) -> Outcome | None:
        """Start to commit the writes of the transaction at work. None: there is nothing to wait for.

        Raises Superseded if the transaction is to be run again.
        """
        if self._failed is not None:
            raise Superseded(self._failed)
        if not view.writes:
            # What it read must be durable before its caller acts on it.
            return self._pending[-1].outcome if self._pending else None
        outcome: Outcome = asyncio.get_running_loop().create_future()
        submitted = Submitted(view.writes, view.commits_as, outcome)
        self._waiting.append(submitted)
        if self._shared is not None:
            self._shared.add(submitted)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._commit_all())
        return outcome

    async def drain(self) -> None:
        """Wait until everything submitted has its outcome."""
        while self._pending:
            await asyncio.wait([self._pending[-1].outcome])

    @property
    def _pending(self) -> list[Submitted]:
        return self._under_way + self._waiting

    async def _commit_all(self) -> None:
        while self._waiting:
            batch = self._under_way = self._next_batch()
            base, last = batch[0].revision - 1, batch[-1].revision
            failure: StoreError | None = None
            try:
                writes = merge(each.writes for each in batch)
                await self._writer.commit(writes, base, last)
                if self._taking:
                    self._recent += batch
                await self._committed(writes, base, last)
            except StoreError as error:
                failure = error
            except BaseException as error:
                self._lose(batch, StoreError(f"a commit was broken off: {error!r}"))
                if not isinstance(error, Exception):
                    raise
                continue
            if failure is not None:
                self._lose(batch, failure)
                continue
            self._under_way = []
            for each in batch:
                resolve(each.outcome, None)

    def _next_batch(self) -> list[Submitted]:
        """Those that build on each other, of a bounded size but for the first."""
        size, count = 0, 0
        for each in self._waiting:
            size += len(each.writes)
            gap = count and each.revision != self._waiting[count - 1].revision + 1
            if count and (gap or size > BATCH_WRITES_MAX):
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    def _lose(self, batch: list[Submitted], failure: StoreError) -> None:
        """And all that builds on it."""
        self._failed = failure
        lost, self._waiting, self._under_way = self._waiting, [], []
        self._recent = []
        self.others_committed()
        for submitted in batch:
            resolve(submitted.outcome, failure)
        for submitted in lost:
            resolve(submitted.outcome, Superseded(failure))
