"""Which spec revision each thing on the host is known to agree with."""

from __future__ import annotations

from typing import Generic, TypeVar

S = TypeVar("S")


class Settled(Generic[S]):
    """The specs of one kind of thing by id, and the revision each was last found in agreement with.

    A thing whose spec stays the same agrees with each newer revision too, without any work.
    """

    def __init__(self) -> None:
        self.specs: dict[str, S] = {}
        self.revision = 0
        self._settled: dict[str, int] = {}

    def take(self, specs: dict[str, S], revision: int) -> list[str]:
        """Take new specs in; returns the ids that may need work: changed, new, gone or not yet settled."""
        work = []
        for id in sorted(specs.keys() | self.specs.keys()):
            same = id in specs and id in self.specs and specs[id] == self.specs[id]
            if same and self._settled.get(id) == self.revision:
                self._settled[id] = revision
            else:
                work.append(id)
        self.specs = specs
        self.revision = revision
        return work

    def settle(self, id: str, spec: S) -> bool:
        """The thing agrees with ``spec``; False if that is no longer its spec, so there is more to do."""
        if self.specs.get(id) != spec:
            return False
        self._settled[id] = self.revision
        return True

    def unsettle(self, id: str) -> None:
        """The thing changed by itself: look again before claiming agreement."""
        self._settled.pop(id, None)

    def settled(self, id: str) -> int:
        """The revision that the thing agrees with, 0 for none."""
        return self._settled.get(id, 0)

    def forget(self, id: str) -> None:
        self._settled.pop(id, None)
