"""Decoded records, the most recently used ones; and what else is remembered of a store."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from gureum.resources.record import Record
from gureum.store.finds import Finds
from gureum.store.tally import Tallies

RECORDS_MAX = 8192
BODY_BYTES_MAX = 8 << 20
"""Of the encoded bodies; the decoded records take about four times as much."""


class RecordCache:
    """Holds, for some records, the latest committed state.

    Whoever commits writes through (``put`` or ``drop``) before readers learn of the new revision. So an entry
    serves every snapshot that is at least as new as the entry and not newer than the last known commit; the
    store checks the latter.
    """

    def __init__(self, records_max: int = RECORDS_MAX, body_bytes_max: int = BODY_BYTES_MAX) -> None:
        self._entries: OrderedDict[tuple[str, str], tuple[Record, int]] = OrderedDict()
        self._records_max = records_max
        self._bytes_max = body_bytes_max
        self._bytes = 0
        self.finds = Finds()
        self.tallies = Tallies()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, kind: str, id: str, revision: int) -> Record | None:
        """The record as a snapshot of ``revision`` sees it, if known."""
        key = (kind, id)
        entry = self._entries.get(key)
        if entry is None or entry[0].version > revision:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def get_many(self, kind: str, ids: Iterable[str], revision: int) -> dict[str, Record | None]:
        """The same of many."""
        entries, found = self._entries, dict[str, Record | None]()
        for id in ids:
            key = (kind, id)
            entry = entries.get(key)
            if entry is None or entry[0].version > revision:
                found[id] = None
            else:
                entries.move_to_end(key)
                found[id] = entry[0]
        return found

    def put(self, record: Record, size: int) -> None:
        """``size`` is that of the encoded body, in bytes."""
        entries, key = self._entries, (record.kind, record.id)
        before = entries.pop(key, None)
        if before is not None:
            self._bytes -= before[1]
        entries[key] = (record, size)
        self._bytes += size
        while self._bytes > self._bytes_max or len(entries) > self._records_max:
            self._bytes -= entries.popitem(last=False)[1][1]

    def drop(self, kind: str, id: str) -> None:
        entry = self._entries.pop((kind, id), None)
        if entry is not None:
            self._bytes -= entry[1]

    def clear(self) -> None:
        self._entries.clear()
        self._bytes = 0
