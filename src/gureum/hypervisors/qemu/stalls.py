"""Which disks of a running machine wait for their storage.

librbd waits for a cluster that is away without end, and so does the guest: nothing fails, and QEMU says
nothing. It shows in requests that the guest has made, and none of which has ended between two looks.
"""

from __future__ import annotations

from gureum.hypervisors.qemu.live_nodes import item, items
from gureum.hypervisors.qemu.monitor import CommandError, Monitor

QUEUES_MAX = 64
_ENDED = tuple(
    f"{failed}{kind}_operations" for failed in ("", "failed_") for kind in ("rd", "wr", "flush", "unmap")
)


class Stalls:
    """By QEMU's paths of block backends, what the last look saw: how many requests had ended, and which had
    some under way since the look before.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._ended: dict[str, int] = {}
        self._waiting: dict[str, int] = {}

    async def look(self) -> frozenset[str]:
        """The paths of the block backends that have done nothing since the last look, with requests to do."""
        ended = await self._requests_ended()
        same = [backend for backend, count in ended.items() if self._ended.get(backend) == count]
        waiting = {backend: ended[backend] for backend in same if await self._has_requests(backend)}
        stalled = frozenset(waiting.items() & self._waiting.items())
        self._ended, self._waiting = ended, waiting
        return frozenset(backend for backend, _ in stalled)

    async def _requests_ended(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for block in items(await self._monitor.execute("query-blockstats")):
            if block.get("qdev"):
                stats = item(block.get("stats"))
                counts[str(block["qdev"])] = sum(int(str(stats.get(name, 0))) for name in _ENDED)
        return counts

    async def _has_requests(self, backend: str) -> bool:
        for queue in range(QUEUES_MAX):
            try:
                answer = await self._monitor.execute(
                    "x-query-virtio-queue-status", {"path": backend, "queue": queue}
                )
            except CommandError:
                return False  # no more queues
            if int(str(item(answer).get("inuse", 0))) > 0:
                return True
        return False
