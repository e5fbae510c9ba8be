"""A machine's process: how it is started, watched and ended."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.record import MARKER, Identity, MachineFiles, process_identity

log = logging.getLogger(__name__)

KILL_SECONDS = 10.0
IDENTITY_SECONDS = 5.0
GRACE_SECONDS = 1.0
OPEN_FILES_MAX = 4096
OOM_SCORE_ADJUST = 200
"""Machines go before the processes that manage all machines."""

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# The stage between us and QEMU, in the process that becomes QEMU. $1 lock, $2 oom score, $3 open files, $4 a
# device node to see as /dev/kvm or "", $5 whether it keeps our network namespace ("--net" if it does not),
# then cgroup.procs files up to "--". Any failure ends it.
STAGE = """set -e
umask 077
read -r stat </proc/$$/stat
echo "$stat" >"$1"
echo "$2" >/proc/self/oom_score_adj
ulimit -c 0 -n "$3" 2>/dev/null || { ulimit -c 0; ulimit -n "$3"; }
kvm=$4
net=$5
shift 5
while [ "$1" != -- ]; do echo 0 >"$1"; shift; done
shift
if [ -n "$kvm" ]; then
  exec unshare $net --ipc --uts --mount sh -ec 'mount --bind "$0" /dev/kvm; exec "$@"' "$kvm" "$@"
fi
exec unshare $net --ipc --uts -- "$@"
"""


def confined(uid: int, groups: Sequence[int], command: Sequence[str]) -> list[str]:
    """The command as an unprivileged user that can never gain a privilege."""
    supplementary = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    return [
        *("setpriv", "--reuid", str(uid), "--regid", str(uid), *supplementary),
        *("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--", *command),
    ]


def spawn(
    files: MachineFiles,
    command: Sequence[str],
    joins: Sequence[Path],
    fds: Sequence[int],
    kvm_node: str = "",
    network: bool = False,
) -> int:
    """Start ``command`` detached, with only ``fds`` and its log open. Returns the pid, a child of ours.

    ``network``: in our network namespace, instead of one without anything.
    """
    output = os.open(files.qemu_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR)
    stage = [str(files.lock), str(OOM_SCORE_ADJUST), str(OPEN_FILES_MAX), kvm_node]
    stage += ["" if network else "--net", *map(str, joins), "--"]
    try:
        return os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", STAGE, "gureum-stage", *stage, *command],
            {"PATH": PATH, MARKER: str(files.directory)},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
                *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds),  # onto itself: inherited
                *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable() - set(fds)),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD],
        )
    except OSError as error:
        raise HypervisorError(f"{files.id}: cannot start a process: {error}") from error
    finally:
        os.close(output)
        os.close(nothing)


def _inheritable() -> set[int]:
    """Descriptors that would be inherited: not ours, which close at exec (PEP 446), but our parent's
    left-overs.
    """
    found: set[int] = set()
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and os.get_inheritable(fd):
                found.add(fd)
        except OSError:
            continue
    return found


class Process:
    """A process that is ours, known by a pidfd: signals reach it or nobody.

    ``ended(status)`` is called on the event loop when it has ended: a wait status as
    ``os.waitstatus_to_exitcode`` gives, or None if it was not our child.
    """

    def __init__(self, identity: Identity, pidfd: int, ended: Callable[[int | None], None]) -> None:
        self.pid = identity.pid
        self.identity = identity
        self._pidfd = pidfd
        self._ended = ended
        self.finished = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, self._readable)

    @classmethod
    def open(cls, identity: Identity, ended: Callable[[int | None], None]) -> Process | None:
        """None if it has ended."""
        try:
            pidfd = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return None
        if process_identity(identity.pid) != identity:
            os.close(pidfd)
            return None
        return cls(identity, pidfd, ended)

    @property
    def has_network(self) -> bool:
        """Whether it is in our network namespace. Raises FileNotFoundError when it has just ended."""
        return os.readlink(f"/proc/{self.pid}/ns/net") == os.readlink("/proc/self/ns/net")

    @property
    def held(self) -> bool:
        """Whether it is stopped where it is, and so cannot answer: by the host's warden."""
        try:
            with open(f"/proc/{self.pid}/stat") as file:
                return file.read().rpartition(") ")[2].startswith("T")
        except OSError:
            return False

    def kill(self) -> None:
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return

    async def kill_and_wait(self) -> None:
        self.kill()
        try:
            async with asyncio.timeout(KILL_SECONDS):
                await self.finished.wait()
        except TimeoutError:
            raise HypervisorError(
                f"process {self.pid} did not end in {KILL_SECONDS:g} s of SIGKILL"
            ) from None

    async def outlives(self, work: Coroutine[None, None, None]) -> bool:
        """Await ``work``, but not longer than the process lives; whether it still does."""
        if self.finished.is_set():
            return False
        task = asyncio.ensure_future(work)
        end = asyncio.ensure_future(self.finished.wait())
        try:
            await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
            if end.done() or task.exception() is not None:
                # When a process ends, its connections do so too, in either order: let both be seen.
                await asyncio.wait({task, end}, timeout=GRACE_SECONDS)
            if self.finished.is_set():
                return False
            await task
            return True
        finally:
            for each in (task, end):
                each.cancel()
            await asyncio.gather(task, end, return_exceptions=True)

    def close(self) -> None:
        """Stop watching; the process goes on."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _readable(self) -> None:
        status: int | None = None
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            if result is not None:
                exited = result.si_code == os.CLD_EXITED
                status = result.si_status if exited else -result.si_status
        except ChildProcessError:
            pass
        self.close()
        self.finished.set()
        self._ended(status)


async def kill_identity(identity: Identity) -> None:
    """End a process that is not watched."""
    process = Process.open(identity, lambda status: None)
    if process is not None:
        try:
            await process.kill_and_wait()
        finally:
            process.close()


async def wait_identity(files: MachineFiles) -> Identity | None:
    """Who holds the machine's lock; waits for a process that was only just started to say so."""
    deadline = asyncio.get_running_loop().time() + IDENTITY_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        identity = files.holder()
        if identity is not None:
            return identity
        if not files.locked():
            return None
        await asyncio.sleep(0.005)
    return None


def marked_processes(machines: Path) -> dict[Identity, str]:
    """All processes that carry our marker with a directory in ``machines``, and the machine's id."""
    found: dict[Identity, str] = {}
    wanted = f"{MARKER}={machines}/".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        for variable in environment.split(b"\0"):
            if variable.startswith(wanted):
                identity = process_identity(int(entry.name))
                if identity is not None:
                    found[identity] = variable[len(wanted) :].decode(errors="replace")
    return found
