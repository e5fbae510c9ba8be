"""An event loop on virtual time: waiting costs nothing, and the same seed gives the same run."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

RESOLUTION_SECONDS = 1e-9
TIMERS_MIN, CANCELLED_MAX = 100, 0.5
"""Above so many timers, of which more than this part are cancelled, those are forgotten; as asyncio does."""


class Deadlock(Exception):
    """Everything waits for something that no timer will bring."""


class Freezer:
    """What can be held as by SIGSTOP: nothing that runs in its context does, until it is let go on."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.frozen = False
        self._held: list[asyncio.Handle] = []

    def hold(self, handle: asyncio.Handle) -> None:
        self._held.append(handle)

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        """What was due meanwhile runs now, in its order."""
        self.frozen = False
        held, self._held = self._held, []
        for handle in held:
            handle._loop._ready.append(handle)  # type: ignore[attr-defined]


FREEZER: contextvars.ContextVar[Freezer | None] = contextvars.ContextVar("freezer", default=None)


class NoSelector(selectors.SelectSelector):
    """There is no I/O, and nothing to wait for."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        raise AssertionError("the virtual loop moves its clock instead")


def _popped(scheduled: list[asyncio.TimerHandle]) -> asyncio.TimerHandle:
    timer = heapq.heappop(scheduled)
    timer._scheduled = False  # type: ignore[attr-defined]
    return timer


class SimTask(asyncio.Task[T]):
    """A task whose place in a set does not depend on its address: asyncio keeps tasks in sets."""

    _made = itertools.count()

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._hash = next(self._made)
        super().__init__(*arguments, **named)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualLoop(asyncio.SelectorEventLoop):
    """``time()`` starts at 0 and moves only when every task waits. There are no threads and no I/O."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool
    _timer_cancelled_count: int

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(NoSelector())
        SimTask._made = itertools.count()
        self.set_task_factory(lambda loop, work, **named: SimTask(work, loop=loop, **named))

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        """As asyncio's, which asks a selector in between: simulations spend a tenth of their time there."""
        self._forget_cancelled()
        ready, scheduled = self._ready, self._scheduled
        if not ready and not self._stopping:
            if not scheduled:
                raise Deadlock
            self._now += max(0.0, scheduled[0].when() - self._now)
        # Timers that are due within the clock's resolution fire together; virtual time is exact.
        end = self._now + RESOLUTION_SECONDS
        while scheduled and scheduled[0].when() < end:
            ready.append(_popped(scheduled))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            freezer = handle._context.get(FREEZER)  # type: ignore[attr-defined]
            if freezer is not None and freezer.frozen:
                freezer.hold(handle)
            else:
                handle._run()

    def _forget_cancelled(self) -> None:
        """All of them, where they are most; else those that would be next."""
        count = len(self._scheduled)
        if count > TIMERS_MIN and self._timer_cancelled_count / count > CANCELLED_MAX:
            for timer in self._scheduled:
                timer._scheduled = not timer._cancelled  # type: ignore[attr-defined]
            self._scheduled = [timer for timer in self._scheduled if not timer._cancelled]
            heapq.heapify(self._scheduled)
            self._timer_cancelled_count = 0
        while self._scheduled and self._scheduled[0]._cancelled:
            self._timer_cancelled_count -= 1
            _popped(self._scheduled)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def run_in_executor(self, *_: Any) -> Any:  # type: ignore[override]
        raise AssertionError("threads are not deterministic: not in the simulation")


def run(main: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``, on virtual time. Raises Deadlock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
