"""The processes of the host's machines: found by what is in their environment, whoever started them.

A process is signalled through a pidfd that was opened before it was looked at: it is that one or none. To
read an environment may take as long as a disk hangs, so a thread looks for them, also while all is well.
Nobody else waits for it: what it had found before is signalled at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import threading
import time
from collections.abc import Callable

MARKER = "GUREUM_MACHINE"
"""As hypervisors/qemu/record.py has it: a variable that names the machine's directory."""
STOPPED, STUCK = b"T", b"D"
STILL = (STOPPED, STUCK, b"Z", b"X")
SETTLE_SECONDS = 2.0
LOOK_SECONDS = 0.005
LOOK_SECONDS_MAX = 0.05
FIND_SECONDS = 10.0
"""Between looks for new ones while nothing is to be done with them."""
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_BEGAN = 19
"""The field of /proc/PID/stat, counted from its state, in clock ticks."""
READ_BYTES = 4096
"""The hypervisor's processes begin with little more than this variable."""


class Guests:
    """``machines``: the directory below which each machine has one."""

    def __init__(self, machines: str) -> None:
        self._wanted = f"{MARKER}={machines.rstrip('/')}/".encode()
        self._found: dict[int, int] = {}
        """By process, its pidfd. Only the thread that looks adds any, and only ``_left`` takes any out."""
        self._closing = threading.Lock()
        """No pidfd is closed, and its number given to another, while it is used in ``stop_known``."""
        self._strangers: dict[int, bytes] = {}
        """What is none of ours, as last looked at: its name and when it began."""
        self._asked = self._answered = 0
        """Looks that were asked for, and the last of them that is over."""
        self._due, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def pids(self) -> list[int]:
        """Of those that have not ended."""
        self.look()
        return self._left()

    def look(self) -> bool:
        """Whether all that there are were found."""
        return self._look(time.monotonic() + SETTLE_SECONDS)

    def stop(self) -> bool:
        """Stop them all where they are; whether all that there are have stopped, or end."""
        return self._until(signal.SIGSTOP, _is_still)

    def kill(self) -> bool:
        """End them all; whether none is left."""
        return self._until(signal.SIGKILL, lambda pid: False)

    def go_on(self) -> None:
        """Those that were found; at once, as it may only be for now."""
        for pid in self._left():
            if STOPPED in _states(pid):
                self._send(pid, signal.SIGCONT)

    def stop_known(self) -> None:
        """Stop those that were found, and wait for nothing; for any thread."""
        with self._closing:
            for pid in list(self._found):
                self._send(pid, signal.SIGSTOP)

    def _until(self, number: signal.Signals, is_done: Callable[[int], bool]) -> bool:
        """Signal all, until a look that began after the last signal finds none that is not done."""
        deadline = time.monotonic() + SETTLE_SECONDS
        signalled: set[int] = set()
        pause = LOOK_SECONDS
        while True:
            left = [pid for pid in self._left() if pid not in signalled or not is_done(pid)]
            for pid in left:
                self._send(pid, number)
            new = not signalled.issuperset(left)
            signalled.update(left)
            if time.monotonic() > deadline:
                return False
            if not left:
                looked = self._look(deadline)
                if looked and signalled.issuperset(self._left()):
                    return True
            elif not new:
                self._wait(left, pause)
                pause = min(2 * pause, LOOK_SECONDS_MAX)

    def _wait(self, pids: list[int], seconds: float) -> None:
        """Until one of them has ended, at most so long."""
        ends = select.poll()
        for pid in pids:
            ends.register(self._found[pid], select.POLLIN)
        ends.poll(seconds * 1000)

    def _left(self) -> list[int]:
        """Those found that have not ended, with all of their threads."""
        for pid, pidfd in list(self._found.items()):
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            if ended.poll(0):
                with self._closing:
                    del self._found[pid]
                    os.close(pidfd)
        return list(self._found)

    def _send(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._found[pid], number)

    # Looking for them

    def _look(self, deadline: float) -> bool:
        """Whether a look that began just now found all there are."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._look_forever, name="guests", daemon=True)
            self._thread.start()
        self._asked += 1
        self._due.set()
        while self._answered < self._asked:
            self._over.clear()
            if self._answered >= self._asked:
                break
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._over.wait(left)
        return True

    def _look_forever(self) -> None:
        while True:
            self._due.wait(FIND_SECONDS)
            self._due.clear()
            asked = self._asked
            try:
                self._look_at_all()
            except OSError:  # no memory, or no more open files: this look is none
                time.sleep(LOOK_SECONDS_MAX)
                continue
            self._answered = asked
            self._over.set()

    def _look_at_all(self) -> None:
        """Raises OSError."""
        strangers = {}
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            if pid in self._found:
                continue
            state, who = _stat(f"/proc/{pid}")
            # It still is none, and its environment could not be read now.
            known = state == STUCK and self._strangers.get(pid) == who
            if known or not self._is_taken(pid):
                strangers[pid] = who
        self._strangers = strangers

    def _is_taken(self, pid: int) -> bool:
        """Whether it is ours, and is held from now on."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            if error.errno in SHORT:
                raise
            return False
        ours = False
        try:
            ours = self._is_ours(pid)
        finally:
            if ours:
                self._found[pid] = pidfd
            else:
                os.close(pidfd)
        return ours

    def _is_ours(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
                environment = file.read(READ_BYTES) or b""
        except OSError as error:
            if error.errno in SHORT:
                raise
            return False
        return environment.startswith(self._wanted) or b"\0" + self._wanted in environment


def _is_still(pid: int) -> bool:
    """Whether none of its threads runs, now that it was told to stop: one that is stuck in the kernel stops
    before it comes back from there.
    """
    return all(state in STILL for state in _states(pid))


def _states(pid: int) -> list[bytes]:
    """Of its threads; none of one that is gone."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    return [_stat(f"/proc/{pid}/task/{thread}")[0] for thread in threads]


def _stat(path: str) -> tuple[bytes, bytes]:
    """The letter of a process's or thread's state, X for one that is gone; its name and when it began."""
    try:
        with open(f"{path}/stat", "rb") as file:
            name, _, rest = file.read().rpartition(b") ")
    except OSError:
        return b"X", b""
    fields = rest.split()
    return (fields[0], name + fields[_BEGAN]) if len(fields) > _BEGAN else (b"X", b"")
