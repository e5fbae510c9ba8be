"""The store: typed records, transactions, optimistic versions, watch.

Desired state and what was last observed live here and nowhere else. A record is a frozen struct
(``gureum.resources``); it is changed by putting a replaced copy. Implementations: ``sqlite`` (one manager),
PostgreSQL (several).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, TypeVar

from gureum.resources.record import Record
from gureum.store.tally import Tally

R = TypeVar("R", bound=Record)
S = TypeVar("S", bound=Tally)
T = TypeVar("T")


class Change(NamedTuple):
    """One record's latest change. ``record`` is None when it was deleted."""

    revision: int
    kind: str
    id: str
    record: Record | None


class Reader(Protocol):
    """Reads one consistent snapshot."""

    @property
    def revision(self) -> int:
        """The revision of the snapshot: every change up to it is visible, none after it."""

    async def get(self, kind: type[R], id: str) -> R | None: ...

    async def get_many(self, kind: type[R], ids: Collection[str]) -> list[R]:
        """The records of these ids that exist, ordered by id. One query, not one per id."""

    async def find(
        self,
        kind: type[R],
        *,
        after: str | None = None,
        limit: int | None = None,
        **index: str | Collection[str],
    ) -> list[R]:
        """Records ordered by id.

        ``index`` names fields in ``kind.indexes``, all of which must match; a collection means any of its
        values (an empty collection matches nothing). ``after`` and ``limit`` page through: ids greater than
        ``after`` only.
        """

    async def count(self, kind: type[R], **index: str | Collection[str]) -> int: ...

    async def tally(self, of: type[S]) -> S:
        """What is summed up over all records of its kinds. Costs what changed since it was last asked for.

        It is the store's own: to be read before the next ``await``, and not to be changed.
        """


class Transaction(Reader, Protocol):
    """Reads and writes; sees its own writes. Committed durably or not at all."""

    async def put(self, record: R) -> R:
        """Insert (``version`` 0) or update (``version`` as read); returns it with its new version.

        The new version is the revision that this transaction commits as.

        Raises Conflict if the stored version differs (or, for version 0, if the id exists), and
        IllegalTransition if ``record.transitions`` does not allow the change of ``state``.
        """

    async def delete(self, record: Record) -> None:
        """Raises Conflict if the stored version differs or the record is gone."""


class Store(Protocol):
    def read(self) -> AbstractAsyncContextManager[Reader]: ...

    async def transact(self, work: Callable[[Transaction], Awaitable[T]], *, frees: bool = False) -> T:
        """Run ``work`` in one transaction and commit it durably; run it again on Conflict (bounded).

        An exception from ``work`` rolls back and is passed on. Raises StoreFull when the disk is full;
        ``frees``: this makes room, in the end, and may use what is kept of the disk for that.
        """

    @property
    def revision(self) -> int:
        """The last committed revision, a number that only grows."""

    async def changes(self, since: int, limit: int = 1000) -> Sequence[Change]:
        """The latest change of each record changed after ``since``, oldest first.

        Raises StoreError if deletions that old are no longer kept: read everything anew then.
        """

    def watch(self, since: int) -> AsyncIterator[Sequence[Change]]:
        """Batches of changes after ``since``, as they are committed, without end."""

    async def close(self) -> None: ...
