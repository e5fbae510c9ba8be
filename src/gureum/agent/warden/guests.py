"""The processes of the host's machines: found by what they carry in their environment, whoever started them.

A process is signalled through a pidfd that was opened before it was looked at: it is that one or none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

MARKER = "GUREUM_MACHINE"
"""As hypervisors/qemu/record.py has it: a variable that names the machine's directory."""
STOPPED = b"T"
ENDED = (b"Z", b"X")
SETTLE_SECONDS = 2.0
LOOK_SECONDS = 0.005
READ_BYTES = 4096
"""The hypervisor's processes begin with little more than this variable."""


class Guests:
    """``machines``: the directory below which each machine has one."""

    def __init__(self, machines: str) -> None:
        self._wanted = f"{MARKER}={machines.rstrip('/')}/".encode()

    def pids(self) -> list[int]:
        """Of those that have not ended."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_ours(pid)]

    def stop(self) -> bool:
        """Stop them all where they are; whether all that there are have stopped, or end."""
        return self._until(signal.SIGSTOP, (STOPPED, *ENDED))

    def kill(self) -> bool:
        """End them all; whether none is left."""
        return self._until(signal.SIGKILL, ENDED)

    def go_on(self) -> None:
        for pid in self.pids():
            with self._held(pid) as pidfd:
                if pidfd is not None and _state(pid) == STOPPED:
                    _send(pidfd, signal.SIGCONT)

    def _until(self, number: signal.Signals, states: tuple[bytes, ...]) -> bool:
        """Signal all that are in none of these states, until a look finds no such process."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            left = [pid for pid in self.pids() if _state(pid) not in states]
            if not left:
                return True
            for pid in left:
                with self._held(pid) as pidfd:
                    if pidfd is not None:
                        _send(pidfd, number)
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS)

    def _is_ours(self, pid: int) -> bool:
        try:
            file = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            environment = os.read(file, READ_BYTES)
        except OSError:
            return False
        finally:
            os.close(file)
        return environment.startswith(self._wanted) or b"\0" + self._wanted in environment

    @contextlib.contextmanager
    def _held(self, pid: int) -> Iterator[int | None]:
        """A pidfd of the process, None if it is none of ours (any more)."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            yield None
            return
        try:
            yield pidfd if self._is_ours(pid) else None
        finally:
            os.close(pidfd)


def _send(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def _state(pid: int) -> bytes:
    """The letter of /proc/PID/stat; X for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1]
    except OSError:
        return b"X"
