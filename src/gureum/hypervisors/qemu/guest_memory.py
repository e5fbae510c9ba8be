"""How much of its memory a guest uses. Only the guest can tell caches, which it would give up for programs,
from what is used; its driver tells its virtio-balloon device so, if it is asked to do so again and again.
"""

from __future__ import annotations

from collections.abc import Mapping

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.monitor import Monitor

PATH = "/machine/peripheral/balloon"
POLL_SECONDS = 10
"""The guest is asked so often, as by OpenStack."""
STALE_SECONDS = 60.0
ANSWER_SECONDS = 2.0
NOT_SAID = 1 << 63
"""What was not said is -1, in 64 bits without a sign."""


class GuestMemory:
    """Of one machine, as long as its monitor is connected."""

    def __init__(self, env: Env, monitor: Monitor) -> None:
        self._env = env
        self._monitor = monitor
        self._polled = False

    async def used_bytes(self) -> int:
        """-1: it has no driver, or one that does not say it (Linux before 4.6), or it has not for a while."""
        try:
            if not self._polled:
                wanted = {"path": PATH, "property": "guest-stats-polling-interval", "value": POLL_SECONDS}
                await self._monitor.execute("qom-set", wanted, ANSWER_SECONDS)
                self._polled = True
            asked = {"path": PATH, "property": "guest-stats"}
            answer = await self._monitor.execute("qom-get", asked, ANSWER_SECONDS)
        except HypervisorError:
            return -1  # it is ending, or busy with itself
        return _used(answer, self._env.now())


def _used(answer: object, now: float) -> int:
    if not isinstance(answer, Mapping):
        return -1
    told, stats = answer.get("last-update"), answer.get("stats")
    if not isinstance(told, int) or abs(now - told) > STALE_SECONDS or not isinstance(stats, Mapping):
        return -1
    total, available = stats.get("stat-total-memory"), stats.get("stat-available-memory")
    if not isinstance(total, int) or not isinstance(available, int):
        return -1
    return total - available if 0 <= available <= total < NOT_SAID else -1
