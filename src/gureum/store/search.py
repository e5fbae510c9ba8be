"""What ``find`` and ``count`` look for. How a store finds it is its own business."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from gureum.errors import StoreError
from gureum.resources.record import Record
from gureum.store import codec


class Condition(NamedTuple):
    """``field`` has one of ``values``."""

    field: str
    values: tuple[str, ...]

    def admits(self, record: Record) -> bool:
        """As ``codec.entries`` has the field."""
        value = getattr(record, self.field)
        if isinstance(value, str):
            return str(value) in self.values
        return value is not None and any(str(each) in self.values for each in value)


class Search:
    """A kind of record and the conditions on its indexed fields."""

    def __init__(self, kind: type[Record], index: Mapping[str, str | Collection[str]]) -> None:
        self.kind = kind.kind
        self.conditions: list[Condition] = []
        self.hopeless = False
        """A condition has no value."""
        for field, wanted in index.items():
            if field not in kind.indexes:
                raise StoreError(f"{kind.kind} has no index on {field!r}")
            values = [str(wanted)] if isinstance(wanted, str) else sorted({str(value) for value in wanted})
            sought = tuple(filter(codec.storable, values))
            self.conditions.append(Condition(field, sought))
            self.hopeless = self.hopeless or not sought

    def matches(self, record: Record) -> bool:
        return all(condition.admits(record) for condition in self.conditions)
