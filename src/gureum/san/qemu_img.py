"""Running qemu-img: with limits, without our environment, and never longer than it should take."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence

from gureum import subprocesses
from gureum.errors import PoolError, PoolFull

MEMORY_BYTES = 2 << 30
RBD_MEMORY_BYTES = 8 << 30
"""Addresses, not memory: librbd has a few dozen threads, each with room for a stack."""
CPU_SECONDS = 3600
FILES = 4096
"""In a storage cluster each daemon is a connection."""
OUTPUT_BYTES = 16 << 10
PRINTED_BYTES_MAX = 16 << 20
_PERCENT = re.compile(rb"\(([0-9.]+)/100%\)")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


async def run(
    arguments: Sequence[str],
    timeout_seconds: float,
    memory_bytes: int = MEMORY_BYTES,
    pass_fds: Sequence[int] = (),
    cpu_seconds: int = CPU_SECONDS,
    progress: Callable[[float], None] | None = None,
) -> bytes:
    """``qemu-img`` and its arguments; what it printed, at most PRINTED_BYTES_MAX.

    ``progress`` is told percents, of a command with ``-p`` among its arguments.
    PoolError with what it said; PoolFull where that was lack of space.
    """
    command = (
        "prlimit",
        f"--as={memory_bytes}",
        f"--cpu={cpu_seconds}",
        "--core=0",
        f"--nofile={FILES}",
        "qemu-img",
    )
    try:
        process = await subprocesses.start(
            *command,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=ENVIRONMENT,
            pass_fds=pass_fds,
        )
    except OSError as error:
        raise PoolError(f"qemu-img cannot be started: {error}") from error
    try:
        async with asyncio.timeout(timeout_seconds):
            said, printed = await asyncio.gather(_end_of(process), _printed(process, progress))
            await process.wait()
    except TimeoutError as error:
        raise PoolError(f"qemu-img {arguments[0]} took longer than {timeout_seconds:.0f} s") from error
    finally:
        if process.returncode is None:
            await subprocesses.end(process)
    if process.returncode:
        message = said.decode(errors="replace").strip() or f"ended with {process.returncode}"
        kind = PoolFull if "No space left" in message or "Disk quota exceeded" in message else PoolError
        raise kind(f"qemu-img {arguments[0]}: {message}")
    if len(printed) > PRINTED_BYTES_MAX:
        raise PoolError(f"qemu-img {arguments[0]} printed more than {PRINTED_BYTES_MAX} bytes")
    return printed


async def _printed(process: asyncio.subprocess.Process, progress: Callable[[float], None] | None) -> bytes:
    assert process.stdout is not None
    printed = bytearray()
    while chunk := await process.stdout.read(OUTPUT_BYTES):
        if progress is not None and (found := _PERCENT.findall(chunk)):
            progress(float(found[-1]))
        if len(printed) <= PRINTED_BYTES_MAX:
            printed += chunk
    return bytes(printed)


async def _end_of(process: asyncio.subprocess.Process) -> bytes:
    """The last OUTPUT_BYTES that the process wrote to its standard error."""
    assert process.stderr is not None
    said = b""
    while chunk := await process.stderr.read(OUTPUT_BYTES):
        said = (said + chunk)[-OUTPUT_BYTES:]
    return said
