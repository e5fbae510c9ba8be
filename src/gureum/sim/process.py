"""A simulated process: it can be killed at any moment and at named crash points, and frozen."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from gureum.env import Env
from gureum.errors import GureumError
from gureum.sim.loop import FREEZER, Freezer

log = logging.getLogger(__name__)

T = TypeVar("T")


class Crash(BaseException):
    """A simulated process was killed here."""


class CrashPoints:
    """Which crash points kill: any with ``chance``; ``at`` when it is reached for the ``count``-th time."""

    def __init__(self, rng: random.Random) -> None:
        self.random = rng
        self.chance = 0.0
        self.at = ""
        self.count = 1
        self.reached: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()

    def kills(self, name: str) -> bool:
        self.reached[name] += 1
        chosen = name == self.at and self.reached[name] == self.count
        if not chosen and self.random.random() >= self.chance:
            return False
        self.killed[name] += 1
        return True


class Process:
    """Tasks that end together. ``now`` is the clock that it sees."""

    def __init__(
        self,
        name: str,
        main: Callable[[Env], Awaitable[None]],
        now: Callable[[], float],
        points: CrashPoints,
    ) -> None:
        self.name = name
        self.dead = False
        self.freezer = Freezer(name)
        self._points = points
        self._context = contextvars.copy_context()
        self._context.run(FREEZER.set, self.freezer)
        env = Env(now, random.Random(points.random.getrandbits(64)), self._crashpoint)
        self._task = self.spawn(self._run(main, env))

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something as a part of this process; whoever spawns it cancels it when the process died."""
        return asyncio.get_running_loop().create_task(work, context=self._context.copy())

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        """Tell the process something, as a signal or a readable socket does."""
        if not self.dead:
            asyncio.get_running_loop().call_soon(callback, *args, context=self._context.copy())

    async def _run(self, main: Callable[[Env], Awaitable[None]], env: Env) -> None:
        try:
            await main(env)
        except (Crash, asyncio.CancelledError):
            pass
        except GureumError as error:
            log.info("%s ends: %s", self.name, error)
        except BaseExceptionGroup as group:
            _, other = group.split((Crash, asyncio.CancelledError))
            if other is not None:
                raise other from None
        finally:
            self.dead = True

    def _crashpoint(self, name: str) -> None:
        if self.dead:
            raise Crash(name)
        if self._points.kills(name):
            log.info("%s is killed at %s", self.name, name)
            self.die()
            raise Crash(name)

    def freeze(self, seconds: float) -> None:
        """Let it not run for so long, while all else goes on."""
        self.freezer.freeze()
        asyncio.get_running_loop().call_later(seconds, self.freezer.thaw)

    def die(self) -> None:
        """Kill it now; ``wait`` for its last task to be gone."""
        self.dead = True
        self.freezer.thaw()
        self._task.cancel()

    def when_gone(self, act: Callable[[], None]) -> None:
        """Do this when its last task is."""
        self._task.add_done_callback(lambda _task: act())

    async def wait(self) -> None:
        """Raises what ended it, if that was a fault."""
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()
