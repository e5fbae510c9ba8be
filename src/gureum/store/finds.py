"""What searches found, for as long as they would find the same again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from gureum.store.search import Condition

IDS_MAX = 32_768
"""Of all that is remembered; some three MB."""
IDS_OF_ONE_MAX = 1000
VALUES_MAX = 64
"""Searches for more values than that are hardly made twice."""

Question = tuple[str, tuple[Condition, ...], str, int]
"""Kind, conditions, above which id, how many at most (-1: all)."""


class Finds:
    """Ids only, so that a change of a record which no index shows changes nothing here.

    Whoever commits says so (``changed`` or ``outdated``) before readers learn of the new revision. What a
    snapshot found is what another one would find if neither is older than the last such change of the kind.
    The store asks only for snapshots that are not newer than the last known commit.
    """

    def __init__(self, ids_max: int = IDS_MAX) -> None:
        self._found: OrderedDict[Question, tuple[int, Sequence[str]]] = OrderedDict()
        self._ids_max = ids_max
        self._count = 0
        self._changed: dict[str, int] = {}
        self._outdated = 0

    def __len__(self) -> int:
        return len(self._found)

    def get(self, question: Question, revision: int) -> Sequence[str] | None:
        """As a snapshot of ``revision`` would find them, if known."""
        found = self._found.get(question)
        if found is None:
            return None
        changed = self._last_change(question[0])
        if found[0] < changed:
            self._forget(question)
            return None
        if revision < changed:
            return None
        self._found.move_to_end(question)
        return found[1]

    def put(self, question: Question, revision: int, ids: Sequence[str]) -> None:
        """What a snapshot of ``revision`` found."""
        too_much = len(ids) > IDS_OF_ONE_MAX or sum(len(each.values) for each in question[1]) > VALUES_MAX
        if too_much or revision < self._last_change(question[0]):
            return
        self._forget(question)  # of an older snapshot
        self._found[question] = revision, ids
        self._count += _weight(ids)
        while self._count > self._ids_max:
            self._forget(next(iter(self._found)))

    def changed(self, kind: str, revision: int) -> None:
        """What indexes show of the kind is different from this revision on."""
        self._changed[kind] = max(revision, self._changed.get(kind, 0))

    def outdated(self, revision: int) -> None:
        """Anything may be different from this revision on."""
        self._outdated = revision
        self._found.clear()
        self._count = 0

    def _last_change(self, kind: str) -> int:
        return max(self._changed.get(kind, 0), self._outdated)

    def _forget(self, question: Question) -> None:
        found = self._found.pop(question, None)
        if found is not None:
            self._count -= _weight(found[1])


def _weight(ids: Sequence[str]) -> int:
    """Finding nothing is worth remembering too, and takes room for the question."""
    return len(ids) + 4
