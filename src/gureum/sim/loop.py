"""An event loop on virtual time: waiting costs nothing, and the same seed gives the same run."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

Due = tuple[float, int, "SimTimer"]
"""When, the how-manieth timer of its loop, and the timer: what is due at once happens in their order."""

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


class SimHandle(asyncio.Handle):
    """As asyncio's, without what only its debug mode needs: there are a hundred of them a virtual second."""

    __slots__ = ()
    _repr = _source_traceback = None

    def __init__(
        self,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = False


class SimTimer(asyncio.TimerHandle):
    """The same of a timer."""

    __slots__ = ()
    _repr = _source_traceback = None

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = contextvars.copy_context() if context is None else context
        self._scheduled = True
        self._cancelled = False

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._callback = self._args = None  # type: ignore[assignment]
            if self._scheduled:
                self._loop._timer_cancelled_count += 1  # type: ignore[attr-defined]


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
    """``time()`` starts at 0 and moves only when every task waits. There are no threads and no I/O.

    What is due at the same time happens in the order in which it was asked for, as messages of one link
    arrive in that in which they were sent; and no timer that ends unused changes the order of the others.
    """

    threads = False
    _ready: deque[asyncio.Handle]
    _scheduled: list[Due]
    _stopping: bool
    _timer_cancelled_count: int

    def __init__(self) -> None:
        self._now = 0.0
        self._timers = itertools.count()
        super().__init__(NoSelector())
        SimTask._made = itertools.count()
        # Asked for each future: by functions that are not Python's.
        self.create_future = partial(asyncio.Future, loop=self)  # type: ignore[method-assign]
        self.set_task_factory(lambda loop, work, **named: SimTask(work, loop=loop, **named))

    get_debug = staticmethod(bool)

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        """As asyncio's, which asks a selector in between; all the rounds until it is to stop."""
        ready = self._ready
        while True:
            scheduled = self._forget_cancelled() if self._timer_cancelled_count else self._scheduled
            if not ready and not self._stopping:
                if not scheduled:
                    raise Deadlock
                self._now = max(self._now, scheduled[0][0])
            # Timers that are due within the clock's resolution fire together; virtual time is exact.
            end = self._now + RESOLUTION_SECONDS
            while scheduled and scheduled[0][0] < end:
                timer = heapq.heappop(scheduled)[2]
                timer._scheduled = False
                ready.append(timer)
            for _ in range(len(ready)):
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                context = handle._context  # type: ignore[attr-defined]
                freezer = context.get(FREEZER)
                if freezer is not None and freezer.frozen:
                    freezer.hold(handle)
                    continue
                try:
                    context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    self.call_exception_handler({"message": f"exception in {handle!r}", "exception": error})
            if self._stopping:
                return

    def _forget_cancelled(self) -> list[Due]:
        """All of them, where they are most; else those that would be next."""
        scheduled = self._scheduled
        count = len(scheduled)
        if count > TIMERS_MIN and self._timer_cancelled_count / count > CANCELLED_MAX:
            for _, _, timer in scheduled:
                timer._scheduled = not timer._cancelled
            scheduled = self._scheduled = [due for due in scheduled if not due[2]._cancelled]
            heapq.heapify(scheduled)
            self._timer_cancelled_count = 0
        while scheduled and scheduled[0][2]._cancelled:
            self._timer_cancelled_count -= 1
            heapq.heappop(scheduled)[2]._scheduled = False
        return scheduled

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = SimHandle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = SimTimer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, (when, next(self._timers), timer))
        return timer

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        when = self._now + delay
        timer = SimTimer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, (when, next(self._timers), timer))
        return timer

    def run_in_executor(self, *_: Any) -> Any:  # type: ignore[override]
        raise AssertionError("threads are not deterministic: not in the simulation")


def run(main: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``, on virtual time. Raises Deadlock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
