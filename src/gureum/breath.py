"""Long work on the event loop, done in slices, so that others have their turn between them."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple
from weakref import WeakKeyDictionary

WORK_SECONDS = 0.01
"""Of processor time, after which a loop rests."""
REST_SHARE = 0.2
"""Of the work before it."""
REST_SECONDS_MAX = 0.01


class _Rest(NamedTuple):
    """Of a loop, the last one: when it is over, and the processor time that its thread had used."""

    until: float = 0.0
    used: float = 0.0


_RESTS: WeakKeyDictionary[asyncio.AbstractEventLoop, _Rest] = WeakKeyDictionary()


async def breathe() -> None:
    """Between two slices.

    A loop that always has something to do hardly lets other threads have the interpreter lock: it gives it up
    for a moment in each round and has it back before they are awake, and so a commit to the disk waits for
    many slices. What is done in several steps has to wait for a slice at each of them. So now and then the
    loop really rests, all long work together. One on virtual time has no threads.
    """
    loop = asyncio.get_running_loop()
    if not getattr(loop, "threads", True):
        await asyncio.sleep(0)
        return
    rest, now, used = _RESTS.get(loop, _Rest()), loop.time(), time.thread_time()
    if now >= rest.until:
        work = used - rest.used
        if work < WORK_SECONDS:
            await asyncio.sleep(0)
            return
        rest = _RESTS[loop] = _Rest(now + min(REST_SHARE * work, REST_SECONDS_MAX), used)
    await asyncio.sleep(rest.until - now)
