"""An event loop on virtual time: waiting costs nothing, and the same seed gives the same run."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(Exception):
    """Everything waits for something that no timer will bring."""


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

    def run_in_executor(self, *_: Any) -> Any:
        raise AssertionError("threads are not deterministic: not in the simulation")


def run(main: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``, on virtual time. Raises Deadlock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
