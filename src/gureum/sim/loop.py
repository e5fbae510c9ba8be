"""An event loop on virtual time: waiting costs nothing, and the same seed gives the same run."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


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


class _Gate:
    """Runs a handle's callback unless the process that it belongs to is frozen."""

    __slots__ = ()

    def _run(self) -> None:
        freezer = self._context.get(FREEZER)  # type: ignore[attr-defined]
        if freezer is not None and freezer.frozen:
            freezer.hold(self)
        else:
            super()._run()  # type: ignore[misc]


class SimHandle(_Gate, asyncio.Handle):
    __slots__ = ()


class SimTimerHandle(_Gate, asyncio.TimerHandle):
    __slots__ = ()


class VirtualSelector(selectors.SelectSelector):
    """Instead of waiting for I/O, moves the clock to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock
        self.now += max(timeout, 0.0)
        return []


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

    def __init__(self) -> None:
        self._virtual = VirtualSelector()
        super().__init__(self._virtual)
        # Timers that are due within the clock's resolution fire together; virtual time is exact.
        self._clock_resolution = 1e-9
        SimTask._made = itertools.count()
        self.set_task_factory(lambda loop, work, **named: SimTask(work, loop=loop, **named))

    def time(self) -> float:
        return self._virtual.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = SimHandle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = SimTimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def run_in_executor(self, *_: Any) -> Any:  # type: ignore[override]
        raise AssertionError("threads are not deterministic: not in the simulation")


def run(main: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``, on virtual time. Raises Deadlock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
