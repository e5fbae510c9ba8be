"""Leases in memory, with the rules of those in a cluster. ``clock`` is the cluster's: no host's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gureum.agent.warden.custody import LEASE_SECONDS, Marks
from gureum.errors import PoolUnavailable
from gureum.san.leases import FenceState

BY_FENCE = "fence/"


class FakeLeaseStore:
    """What the cluster keeps; its methods are what wardens ask of it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._leases: dict[str, tuple[str, float]] = {}
        """By host, who has its lease, and until when."""
        self.marks: dict[str, Marks] = {}

    def read(self, host: str) -> Marks:
        return self.marks.get(host, Marks())

    def write(self, host: str, marks: Marks) -> Marks:
        """Have each number be at least that."""
        self.marks[host] = self.read(host).merged(marks)
        return self.marks[host]

    def holder(self, host: str) -> str:
        """ "" for nobody."""
        who, until = self._leases.get(host, ("", 0.0))
        return who if self._clock() < until else ""

    def expires(self, host: str) -> float:
        return self._leases[host][1]

    def renew(self, host: str, who: str) -> bool:
        """Whether nobody else has it."""
        if self.holder(host) not in ("", who):
            return False
        self._leases[host] = who, self._clock() + LEASE_SECONDS
        return True

    def give_up(self, host: str, who: str) -> None:
        if self.holder(host) == who:
            del self._leases[host]


class FakeLeases:
    """What the agent of ``host`` has of it. ``reach``: returns when the store is reached, or raises."""

    def __init__(
        self, store: FakeLeaseStore, host: str, reach: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._store = store
        self._host = host
        self._reach = reach
        self.away = False

    async def mark(self, host: str, number: int) -> None:
        await self._reached()
        self._store.write(host, Marks(fence=number))

    async def lift(self, host: str, number: int) -> None:
        await self._reached()
        self._store.write(host, Marks(lifted=number))

    async def fenced(self, host: str, number: int) -> FenceState:
        await self._reached()
        if number:
            marks = self._store.read(host)
            if marks.fence < number:
                return FenceState(message=f"the mark of fence {number} is not written")
            if marks.killed >= number:
                return FenceState(done=True, message="its warden has ended all its machines")
            if self._store.renew(host, f"{BY_FENCE}{number}/{self._host}"):
                return FenceState(done=True, message="its lease has expired")
        holder = self._store.holder(host)
        if not holder:
            return FenceState(done=not number, message="nobody has its lease")
        if not holder.startswith(BY_FENCE):
            expires = f"{holder} {self._store.expires(host)}"
            return FenceState(expires=expires, message="its lease has not expired")
        taken = int(holder.removeprefix(BY_FENCE).partition("/")[0])
        return FenceState(done=taken >= number, message="its lease has expired, and was taken")

    async def _reached(self) -> None:
        if self._reach is not None:
            await self._reach()
        if self.away:
            raise PoolUnavailable("the storage cluster does not answer")
