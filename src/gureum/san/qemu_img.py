"""Running qemu-img: with limits, without our environment, and never longer than it should take."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from gureum.errors import PoolError, PoolFull

MEMORY_BYTES = 2 << 30
CPU_SECONDS = 3600
OUTPUT_BYTES = 16 << 10
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


async def run(arguments: Sequence[str], timeout_seconds: float) -> None:
    """``qemu-img`` and its arguments. PoolError with what it said; PoolFull where that was lack of space."""
    command = (
        "prlimit",
        f"--as={MEMORY_BYTES}",
        f"--cpu={CPU_SECONDS}",
        "--core=0",
        "--nofile=256",
        "qemu-img",
    )
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=ENVIRONMENT,
            start_new_session=True,
        )
    except OSError as error:
        raise PoolError(f"qemu-img cannot be started: {error}") from error
    try:
        async with asyncio.timeout(timeout_seconds):
            said = await _end_of(process)
            await process.wait()
    except TimeoutError as error:
        raise PoolError(f"qemu-img {arguments[0]} took longer than {timeout_seconds:.0f} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        message = said.decode(errors="replace").strip() or f"ended with {process.returncode}"
        kind = PoolFull if "No space left" in message or "Disk quota exceeded" in message else PoolError
        raise kind(f"qemu-img {arguments[0]}: {message}")


async def _end_of(process: asyncio.subprocess.Process) -> bytes:
    """The last OUTPUT_BYTES that the process wrote to its standard error."""
    assert process.stderr is not None
    said = b""
    while chunk := await process.stderr.read(OUTPUT_BYTES):
        said = (said + chunk)[-OUTPUT_BYTES:]
    return said
