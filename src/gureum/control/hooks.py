"""Commands of the operator's that the manager calls: files in the cloud's state directory, root's alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from gureum import subprocesses

HOOKS = "hooks"
"""Their directory in the state directory."""
UPGRADE_HOST = "upgrade-host"
HOOK_SECONDS = 3600.0
OUTPUT_BYTES_MAX = 64 * 1024
SHOWN = 500
"""Characters of what a command said that are shown."""
HIDDEN_MIN = 4
"""Characters of a secret that is looked for there."""


class Hook(Protocol):
    """A command that changes a host."""

    def missing(self) -> str:
        """Why it can't be called, "" if it can."""

    async def run(self, host: str, address: str) -> str:
        """Call it for a host; why it failed, "" if it did not. It may be called again for the same host."""


class NoHook:
    def missing(self) -> str:
        return "this manager has no command for hosts"

    async def run(self, host: str, address: str) -> str:
        return self.missing()


class FileHook:
    """An executable file, called with the host's name and its address among the hosts."""

    def __init__(self, path: Path, seconds: float = HOOK_SECONDS) -> None:
        self._path = path
        self._seconds = seconds

    def missing(self) -> str:
        return "" if os.access(self._path, os.X_OK) else f"there is no command {self._path}: see operating.md"

    async def run(self, host: str, address: str) -> str:
        return (await execute([self._path, host, address], self._seconds)).error


class Ended(NamedTuple):
    """``code`` None: it was not started, or did not end by itself. ``error``: what went wrong, "" if nothing
    did; with the end of what it said.
    """

    code: int | None
    error: str = ""


async def execute(
    command: Sequence[str | Path],
    seconds: float,
    input: bytes = b"",
    environment: Mapping[str, str] | None = None,
    secrets: Collection[str] = (),
) -> Ended:
    """Call a command, with no shell; it ends after so long. ``input``: what it reads, at most 64 KiB.
    ``environment``: None for this process's. ``secrets``: not shown if it says them.
    """
    with contextlib.closing(_Output()) as output, _readable(input) as source:
        code, error = await _execute(command, seconds, source, output, environment)
        if code in (None, 0):
            return Ended(code, error)
        output.take()
        said = output.said.decode(errors="replace").strip()
        for secret in sorted(secrets, key=len, reverse=True):
            said = said.replace(secret, "***") if len(secret) >= HIDDEN_MIN else said
        return Ended(code, f"it ended with {code}: {said[-SHOWN:]}")


async def _execute(
    command: Sequence[str | Path],
    seconds: float,
    source: int,
    output: _Output,
    environment: Mapping[str, str] | None,
) -> Ended:
    try:
        process = await subprocesses.start(
            *command,
            stdin=source,
            stdout=output.end,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )
    except OSError as error:
        return Ended(None, f"{command[0]}: {error.strerror}")
    try:
        async with asyncio.timeout(seconds):
            code = await process.wait()
    except TimeoutError:
        return Ended(None, f"it did not end in {seconds:g} s")
    finally:
        if process.returncode is None:
            await subprocesses.end(process)
    return Ended(code)


@contextlib.contextmanager
def _readable(input: bytes) -> Iterator[int]:
    """A pipe with this in it, or nothing to read."""
    if not input:
        yield asyncio.subprocess.DEVNULL
        return
    source, end = os.pipe()
    try:
        os.set_blocking(end, False)
        try:
            os.write(end, input)
        finally:
            os.close(end)
        yield source
    finally:
        os.close(source)


class _Output:
    """The end of what is written to the pipe ``end``. A process that a command left behind may have the pipe
    for as long as it likes: nobody waits for its end.
    """

    def __init__(self) -> None:
        self.said = b""
        self._source, self.end = os.pipe()
        os.set_blocking(self._source, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._source, self.take)

    def take(self) -> None:
        """What there is: a pipe holds no more than that."""
        with contextlib.suppress(BlockingIOError):
            self.said = (self.said + os.read(self._source, OUTPUT_BYTES_MAX))[-OUTPUT_BYTES_MAX:]

    def close(self) -> None:
        self._loop.remove_reader(self._source)
        os.close(self._source)
        os.close(self.end)
