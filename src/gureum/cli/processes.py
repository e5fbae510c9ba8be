"""Processes that outlive their starter: pid files that never name the wrong process.

Standard library only, and little of it (no dataclasses, pathlib, json: 3 MB of RSS): the supervisor lives on
this for as long as the cloud does.
"""

from __future__ import annotations

import os
import select
import signal
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    StrPath = str | os.PathLike[str]


class Identity:
    """A process for certain: the kernel reuses a pid, but not with the same start time in the same boot.

    `start_ticks` is field 22 of /proc/PID/stat: clock ticks after boot.
    """

    __slots__ = ("boot_id", "pid", "start_ticks")

    def __init__(self, pid: int, start_ticks: int, boot_id: str) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self.boot_id = boot_id

    def __str__(self) -> str:
        return f"{self.pid} {self.start_ticks} {self.boot_id}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def start_ticks(pid: int) -> int | None:
    """When the process started, or None where it is gone or only waits to be reaped."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold spaces and parentheses itself.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def identify(pid: int) -> Identity | None:
    ticks = start_ticks(pid)
    return None if ticks is None else Identity(pid, ticks, boot_id())


def is_alive(identity: Identity) -> bool:
    return identity.boot_id == boot_id() and start_ticks(identity.pid) == identity.start_ticks


def find(command: list[str]) -> Identity | None:
    """A process with exactly this command line: its starter may have been killed before it wrote the pid."""
    wanted = b"".join(os.fsencode(word) + b"\0" for word in command)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                found = file.read(len(wanted) + 1) == wanted
        except OSError:
            continue
        if found and (identity := identify(int(pid))) is not None:
            return identity
    return None


def write_whole(path: StrPath, text: str) -> None:
    """Replaces a file in one step: a reader sees the old text or the new."""
    scratch = f"{os.fspath(path)}.new"
    with open(scratch, "w") as file:
        file.write(text)
    os.replace(scratch, path)


def write_pid_file(path: StrPath, identity: Identity) -> None:
    write_whole(path, f"{identity}\n")


def read_pid_file(path: StrPath) -> Identity | None:
    """The process that the file names if that very process still runs, else None."""
    try:
        with open(path) as file:
            pid, ticks, boot = file.read(200).split()
        identity = Identity(int(pid), int(ticks), boot)
    except (OSError, ValueError):
        return None
    return identity if is_alive(identity) else None


def send(identity: Identity, number: signal.Signals) -> bool:
    """Signals that very process, through a pidfd so that it cannot be another one. False where it is gone."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(identity):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait_gone(identity: Identity, timeout_s: float) -> bool:
    """Whether the process ended (or became a zombie) in time."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return not is_alive(identity) or bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(descriptor)


def stop(identities: Iterable[Identity], timeout_s: float) -> list[Identity]:
    """SIGTERM to all, SIGKILL to those left after the deadline. Returns those that had to be killed."""
    waiting = [identity for identity in identities if send(identity, signal.SIGTERM)]
    deadline = monotonic() + timeout_s
    killed = []
    for identity in waiting:
        if not wait_gone(identity, max(0.0, deadline - monotonic())) and send(identity, signal.SIGKILL):
            killed.append(identity)
            wait_gone(identity, 5.0)
    return killed


def rss_kib(pid: int) -> int | None:
    """Resident memory of a process, in KiB."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"VmRSS:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return None
