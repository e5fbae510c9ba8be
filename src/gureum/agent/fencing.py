"""Fencing other hosts: each step may be repeated, here or by another host at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gureum.agent.workers import Workers
from gureum.errors import PoolError
from gureum.fencespec import FenceReport, FenceSpec
from gureum.hostspec import HostSpec
from gureum.san.leases import Leases

LOOK_SECONDS = 0.25
AT_ONCE_MAX = 8


class Fencing:
    """``host``: this one. ``changed()`` is called when a report may differ."""

    def __init__(self, leases: Leases, host: str, changed: Callable[[], None]) -> None:
        self._leases = leases
        self._host = host
        self._changed = changed
        self._wanted: dict[str, FenceSpec] = {}
        self._reports: dict[str, FenceReport] = {}
        self._to_lift = 0
        self._lifted = 0
        self._workers = Workers[str](self._work, AT_ONCE_MAX)

    def take(self, spec: HostSpec) -> None:
        wanted = {fence.host: fence for fence in spec.fences}
        before, self._wanted = self._wanted, wanted
        for host in before.keys() | wanted.keys():
            if before.get(host) != wanted.get(host):
                self._reports.pop(host, None)
                self._workers.kick(host)

    def lift(self, number: int) -> None:
        """This host's fences up to this number are over, and all here is as the spec that said so says."""
        if number > max(self._lifted, self._to_lift):
            self._to_lift = number
            self._workers.kick(self._host)

    def reports(self) -> Iterator[FenceReport]:
        for host in sorted(self._reports):
            yield self._reports[host]

    async def close(self) -> None:
        await self._workers.close()

    async def _work(self, host: str) -> None:
        if host == self._host:
            await self._lift()
        while (fence := self._wanted.get(host)) is not None:
            try:
                done = await self._fence(fence)
            except PoolError as error:
                self._note(fence, FenceReport(host=host, number=fence.number, message=str(error)))
                raise
            if done:
                break
        if host == self._host:
            # One bell is rung for both: the wait for the end of the fence may have heard it.
            await self._lift()

    async def _lift(self) -> None:
        number = self._to_lift
        if number > self._lifted:
            await self._leases.lift(self._host, number)
            self._lifted = number

    async def _fence(self, fence: FenceSpec) -> bool:
        """To its end; False if it is not wanted any more."""
        if fence.number:
            await self._leases.mark(fence.host, fence.number)
        expires, alive = "", False
        while self._wanted.get(fence.host) == fence:
            state = await self._leases.fenced(fence.host, fence.number)
            alive = not state.done and (alive or bool(expires and state.expires not in ("", expires)))
            expires = state.expires
            self._note(
                fence,
                FenceReport(
                    host=fence.host,
                    number=fence.number,
                    done=state.done,
                    alive=alive,
                    message=state.message,
                ),
            )
            if state.done and fence.number:
                return True
            await self._workers.wait_kick(fence.host, LOOK_SECONDS)
        return False

    def _note(self, fence: FenceSpec, report: FenceReport) -> None:
        if self._wanted.get(fence.host) == fence and self._reports.get(fence.host) != report:
            self._reports[fence.host] = report
            self._changed()
