"""Starting and ending other programs, so that no cancellation leaves one behind that nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from typing import Any

KILLED_SECONDS = 20.0
"""Killed, a process ends when the disk has done what it was asked for."""


async def outlast(work: Iterable[asyncio.Future[Any]], seconds: float) -> None:
    """Wait until all of it is done, at most so long. However often this is cancelled meanwhile, that counts
    afterwards only. What fails in it is not raised.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    cancelled = False
    while (pending := {each for each in work if not each.done()}) and (left := until - loop.time()) > 0:
        try:
            await asyncio.wait(pending, timeout=left)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


async def start(*command: Any, **options: Any) -> asyncio.subprocess.Process:
    """As ``asyncio.create_subprocess_exec``, in a session of its own.

    That leaves open pipes if it is cancelled before all are connected, and the process if it is twice. This
    lets it come, and ends it.
    """
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(*command, **options, start_new_session=True)
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(asyncio.CancelledError):
            await outlast((starting,), KILLED_SECONDS)
        if starting.done() and not starting.cancelled() and starting.exception() is None:
            await end(starting.result())
        raise


async def end(process: asyncio.subprocess.Process) -> None:
    """Unless it has ended, kill it and all that it began; wait for its end and that of what it says."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await outlast((asyncio.ensure_future(process.communicate()),), KILLED_SECONDS)
