"""What is summed up over all records of some kinds, kept up by what changed since it was last asked for.

A store has one of each kind of tally, at a committed state, and puts on top what a view sees besides: the
writes of transactions whose commit is under way, and its own. So asking costs what changed, not what there
is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeVar

from gureum.resources.record import Record

Key = tuple[str, str]
"""Kind and id of a record."""


class Tally(ABC):
    """Made empty; then told of records, each as the part of it that counts."""

    kinds: ClassVar[tuple[type[Record], ...]]

    @abstractmethod
    def digest(self, record: Record) -> object | None:
        """What is kept of the record, None if it does not count."""

    @abstractmethod
    def add(self, kind: str, id: str, kept: object) -> None: ...

    @abstractmethod
    def remove(self, kind: str, id: str, kept: object) -> None: ...


T = TypeVar("T", bound=Tally)

Changed = Iterable[tuple[Key, Record | None]]
"""Records as they are now; None: not there."""


class Snapshot(Protocol):
    """The committed state that a view reads, and what the view has on top of it."""

    @property
    def snapshot_revision(self) -> int: ...

    @property
    def overlay(self) -> Mapping[str, Mapping[str, Record | None]]: ...

    def every(self, kind: type[Record]) -> AsyncIterator[Record]:
        """The records of a kind, without what is on top."""

    async def changed(self, kinds: Iterable[type[Record]], since: int) -> Changed | None:
        """What changed after ``since``, without what is on top; None if that is not known any more."""


class Covered(NamedTuple):
    """``record`` is in the place of what is committed, ``kept``."""

    record: Record | None
    kept: object | None


class Keeper(Generic[T]):
    """One tally of a store."""

    def __init__(self, of: type[T]) -> None:
        self._of = of
        self._tally: T | None = None
        self._revision = -1
        self._kept: dict[Key, object] = {}
        self._covered: dict[Key, Covered] = {}

    async def seen(self, view: Snapshot) -> T:
        """The tally as the view sees it, until the caller lets another task have its turn.

        A snapshot that others have overtaken sees what is committed meanwhile, too.
        """
        while self._tally is None or self._revision < view.snapshot_revision:
            since = self._revision
            changed = None if self._tally is None else await view.changed(self._of.kinds, since)
            if changed is None:
                await self._begin(view)
            elif self._revision == since:
                self._uncover()
                for key, record in changed:
                    self._put(key, record)
                self._revision = view.snapshot_revision
        self._cover(view)
        return self._tally

    async def _begin(self, view: Snapshot) -> None:
        fresh = Keeper(self._of)
        fresh._tally = self._of()
        for kind in self._of.kinds:
            async for record in view.every(kind):
                fresh._put((kind.kind, record.id), record)
        if self._revision < view.snapshot_revision:
            self._tally, self._kept, self._covered = fresh._tally, fresh._kept, {}
            self._revision = view.snapshot_revision

    def _cover(self, view: Snapshot) -> None:
        wanted = {
            (kind.kind, id): record
            for kind in self._of.kinds
            for id, record in view.overlay.get(kind.kind, {}).items()
        }
        for key in [key for key in self._covered if key not in wanted]:
            self._set(key, self._covered.pop(key).kept)
        for key, record in wanted.items():
            covered = self._covered.get(key)
            if covered is None:
                self._covered[key] = Covered(record, self._put(key, record))
            elif covered.record is not record:
                self._put(key, record)
                self._covered[key] = Covered(record, covered.kept)

    def _uncover(self) -> None:
        for key, covered in self._covered.items():
            self._set(key, covered.kept)
        self._covered.clear()

    def _put(self, key: Key, record: Record | None) -> object | None:
        """Returns what was in its place."""
        assert self._tally is not None
        return self._set(key, None if record is None else self._tally.digest(record))

    def _set(self, key: Key, kept: object | None) -> object | None:
        assert self._tally is not None
        before = self._kept.get(key)
        if before == kept:
            return before
        if before is not None:
            self._tally.remove(*key, before)
        if kept is None:
            del self._kept[key]
        else:
            self._tally.add(*key, kept)
            self._kept[key] = kept
        return before


class Tallies:
    """All of a store."""

    def __init__(self) -> None:
        self._keepers: dict[type[Tally], Keeper[Tally]] = {}

    async def seen(self, of: type[T], view: Snapshot) -> T:
        keeper = self._keepers.setdefault(of, Keeper(of))
        tally = await keeper.seen(view)
        assert isinstance(tally, of)
        return tally
