"""The base of every record in the store."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

import msgspec

from gureum.errors import IllegalTransition

Transitions = Mapping[Any, frozenset[Any]]

KINDS: dict[str, type[Record]] = {}


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A resource as it stands in the store.

    Frozen: change one with ``msgspec.structs.replace`` and put the copy. Sequences are tuples; dicts are
    never changed in place. ``version`` is the store's: the store's revision at which the record last changed
    (so an observation made at a revision not below it has seen this change), 0 for one not yet stored.
    """

    id: str
    account: str = ""
    tags: dict[str, str] = {}
    version: int = 0

    kind: ClassVar[str] = ""
    indexes: ClassVar[tuple[str, ...]] = ()
    """Fields that ``find`` can look up: str, None (not indexed) or a tuple of str (one entry each)."""
    transitions: ClassVar[Transitions | None] = None
    """Legal changes of ``state``, where the record has one. A state may always stay as it is."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__dict__.get("kind"):
            KINDS[cls.kind] = cls

    def check_transition(self, old: Record) -> None:
        """Raise IllegalTransition if ``old`` may not become this record."""
        if self.transitions is None:
            return
        before, after = getattr(old, "state", None), getattr(self, "state", None)
        if before != after and after not in self.transitions.get(before, frozenset()):
            raise IllegalTransition(f"{self.kind} {self.id}: {before} -> {after} is not allowed")


def table(states: type[StrEnum], **allowed: str) -> Transitions:
    """A transition table, written as ``from_state="to other"`` with the members' names."""
    unknown = set(allowed) - set(states.__members__)
    assert not unknown, unknown
    return {
        states[before]: frozenset(states[after] for after in text.split()) for before, text in allowed.items()
    }
