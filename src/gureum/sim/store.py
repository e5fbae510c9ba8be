"""The store of a simulated cloud: the real one in memory, which tells of every commit."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gureum.store.sqlite import SqliteStore
from gureum.store.view import Writes

log = logging.getLogger(__name__)


class SimStore(SqliteStore):
    """Tells ``judge`` of each commit, and logs each record that it changed, with ``before`` and ``after`` on
    the log's entry.
    """

    judge: Callable[[Writes], None]

    def _committed(self, writes: Writes) -> None:
        super()._committed(writes)
        self.judge(writes)
        if not log.isEnabledFor(logging.INFO):
            return
        for (kind, id), write in writes.items():
            log.info("%s %s", kind, id, extra={"before": write.before, "after": write.after})


def open_store(judge: Callable[[Writes], None] = lambda _writes: None) -> SimStore:
    """``judge`` is shown each commit, and raises if it must not be."""
    store = SimStore.open(":memory:", threaded=False)
    assert isinstance(store, SimStore)
    store.judge = judge
    return store
