"""The store of a simulated cloud: the real one in memory, which tells of every commit."""

from __future__ import annotations

import logging

from gureum.store.sqlite import SqliteStore
from gureum.store.view import Writes

log = logging.getLogger(__name__)


class SimStore(SqliteStore):
    """Logs each record that a commit changed, with ``before`` and ``after`` on the log's entry."""

    def _committed(self, writes: Writes) -> None:
        super()._committed(writes)
        if not log.isEnabledFor(logging.INFO):
            return
        for (kind, id), write in writes.items():
            log.info("%s %s", kind, id, extra={"before": write.before, "after": write.after})


def open_store() -> SimStore:
    store = SimStore.open(":memory:", threaded=False)
    assert isinstance(store, SimStore)
    return store
