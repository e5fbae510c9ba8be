"""The supervisor of one cloud: starts manager and agents, again when they die, and bounds their logs.

It lives as long as the cloud, so it is kept tiny: little of the standard library, no threads, no event loop.
It sleeps in sigtimedwait until a child ends or a signal comes. It knows nothing of what they do.
On SIGTERM it stops them, and leaves alone the guests, the wardens that look after them, and the daemons of
the cloud's Ceph cluster, on which the guests' disks are: those belong to the machine, not to it. Such daemons
that it finds it takes over; a warden that it finds it replaces.

Each child has a name: manager; manager-K, if several are to take over from each other; agent, or agent-K for
host K of several on this machine; warden or warden-K; mon.a, mgr.x, osd.N.
Files in STATE/run: supervisor.lock (held while it lives), NAME.pid, NAME.ready (written by manager and agents
themselves when they answer, removed before each start), NAME.restarts (what `status` shows).
STATE/run/NAME.off: while it is there, that child is not started: its host is off (``cli.machine_power``).
STATE/run/daemons, read on SIGHUP and removed: the names of the daemons to run from then on.
Files in STATE/log: NAME.log, NAME.log.1.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from time import localtime, monotonic, strftime

from gureum.cli.processes import (
    Identity,
    find,
    identify,
    is_alive,
    read_pid_file,
    stop,
    write_pid_file,
    write_whole,
)

SYSTEM_PYTHON = "/usr/bin/python3"
"""Has the modules of Ceph, as in san/ceph/commands.py."""
WARDEN = "warden"
WARDEN_SCRIPT = (
    "import sys; sys.path.append({root!r}); from gureum.agent.warden.__main__ import main; main(sys.argv[1:])"
)
MODULES = {"manager": "gureum.control", "agent": "gureum.agent"}
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 15.0
HEALTHY_AFTER_S = 60.0
STOP_TIMEOUT_S = 10.0
TICK_S = 5.0
TICK_ADOPTED_S = 0.5
TICK_OFF_S = 1.0
"""How often it is looked whether one that is off may be started."""
LOG_BYTES_MAX = 8 * 1024 * 1024
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})


def backoff_s(failures: int) -> float:
    """Delay before the next start after so many ends in a row: 0.2, 0.4, 0.8 ... 15 s."""
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 16))


def describe_end(status: int) -> str:
    """Words for a wait status."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with code {code}"
    return f"was killed by {signal.Signals(-code).name}"


def rotate(log: str, bytes_max: int = LOG_BYTES_MAX) -> bool:
    """Moves a log that has grown too large to LOG.1, of which there is one. Says whether it did.

    Copies and truncates, so that the writer keeps its O_APPEND descriptor and needs no signal. Lines written
    in the instant between the last read and the truncation are lost.
    """
    try:
        if os.stat(log).st_size <= bytes_max:
            return False
    except FileNotFoundError:
        return False
    with open(log, "rb") as source, open(f"{log}.1", "wb") as target:
        os.fchmod(target.fileno(), 0o600)
        offset = 0
        while sent := os.sendfile(target.fileno(), source.fileno(), offset, 1 << 20):
            offset += sent
        os.truncate(log, 0)
    return True


class attempt:
    """Goes on after an OSError: a full disk or a removed directory must not end the supervision."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, OSError)


class Child:
    """One supervised process: how to start it, and how it has fared."""

    def __init__(self, name: str, command: list[str], state_dir: str) -> None:
        self.name = name
        self.command = command
        self.is_daemon = is_daemon(name)
        self.stays = self.is_daemon or is_warden(name)
        self.is_adopted = False
        self.log = f"{state_dir}/log/{name}.log"
        self.pid_file = f"{state_dir}/run/{name}.pid"
        self.ready_file = f"{state_dir}/run/{name}.ready"
        self.restarts_file = f"{state_dir}/run/{name}.restarts"
        self.identity: Identity | None = None
        self.started_at = 0.0
        self.start_next_at: float | None = 0.0
        self.failures = 0
        self.restarts = 0

    def start(self) -> int:
        """Starts it in a session of its own. Returns its pid; raises OSError."""
        self.forget()
        self.is_adopted = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawnp(
            self.command[0],
            self.command,
            daemon_environment() if self.stays else os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, self.log, flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )
        self.started_at = monotonic()
        self.start_next_at = None
        self.identity = identify(pid)
        if self.identity is not None:
            with attempt():
                write_pid_file(self.pid_file, self.identity)
        else:
            # Ended already: known by its pid until it is reaped.
            self.identity = Identity(pid, 0, "")
        return pid

    def adopt(self) -> Identity | None:
        """Takes over a daemon that an earlier supervisor started and that runs."""
        self.identity = read_pid_file(self.pid_file) or find(self.command)
        if self.identity is not None:
            write_pid_file(self.pid_file, self.identity)
            self.is_adopted = True
            self.started_at = monotonic()
            self.start_next_at = None
        return self.identity

    def failed(self, why: str) -> float:
        """Notes an end or a failed start. Returns the delay before the next start."""
        now = monotonic()
        if self.identity is not None and now - self.started_at >= HEALTHY_AFTER_S:
            self.failures = 0
        self.failures += 1
        self.restarts += 1
        self.identity = None
        self.forget()
        delay = backoff_s(self.failures)
        self.start_next_at = now + delay
        with attempt():
            write_whole(self.restarts_file, f"{self.restarts} {why}\n")
        return delay

    def forget(self) -> None:
        for path in (self.pid_file, self.ready_file):
            with attempt():
                os.unlink(path)


class Supervisor:
    def __init__(self, state_dir: str, children: list[Child]) -> None:
        self.state_dir = state_dir
        self.children = children
        self.log = f"{state_dir}/log/supervisor.log"
        self.stopping = False

    def say(self, text: str) -> None:
        line = f"{strftime('%Y-%m-%dT%H:%M:%S%z', localtime())} {text}\n"
        with attempt():
            descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)

    def run(self) -> None:
        while not self.stopping:
            self.reap()
            self.look_after_adopted()
            self.start_due()
            for log in (self.log, *(child.log for child in self.children)):
                with attempt():
                    rotate(log)
            self.sleep()
        ending = [child for child in self.children if not child.stays]
        for identity in stop([child.identity for child in ending if child.identity], STOP_TIMEOUT_S):
            self.say(f"pid {identity.pid} did not stop within {STOP_TIMEOUT_S:.0f} s and was killed")
        for child in ending:
            child.forget()
        self.say("stopped")

    def reap(self) -> None:
        by_pid = {child.identity.pid: child for child in self.children if child.identity}
        while by_pid:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = by_pid.pop(pid, None)
            if child is not None:
                self.note_end(child, pid, describe_end(status))

    def look_after_adopted(self) -> None:
        """Their end is reported to nobody."""
        for child in self.children:
            if child.is_adopted and child.identity and not is_alive(child.identity):
                self.note_end(child, child.identity.pid, "ended")

    def note_end(self, child: Child, pid: int, end: str) -> None:
        delay = child.failed(end)
        self.say(f"{child.name} (pid {pid}) {end}; starting it again in {delay:.1f} s")

    def start_due(self) -> None:
        for child in self.children:
            if child.start_next_at is None or child.start_next_at > monotonic():
                continue
            if os.path.exists(off_file(self.state_dir, child.name)):
                child.start_next_at = monotonic() + TICK_OFF_S
                continue
            try:
                self.say(f"{child.name} started, pid {child.start()}")
            except OSError as error:
                delay = child.failed(f"could not be started: {error}")
                self.say(f"{child.name} could not be started: {error}; trying again in {delay:.1f} s")

    def reload(self) -> None:
        """Looks after other daemons from now on. Those no longer named go on: who asked for it ends them."""
        path = daemons_file(self.state_dir)
        with attempt():
            with open(path) as file:
                names = file.read().split()
            known = {child.name for child in self.children}
            for child in [child for child in self.children if child.is_daemon and child.name not in names]:
                self.children.remove(child)
                child.forget()
                self.say(f"{child.name} is let go")
            for name in names:
                if name not in known:
                    child = Child(name, command(name, self.state_dir), self.state_dir)
                    child.adopt()
                    self.children.append(child)
            os.unlink(path)

    def sleep(self) -> None:
        due = [
            child.start_next_at - monotonic() for child in self.children if child.start_next_at is not None
        ]
        tick = TICK_ADOPTED_S if any(child.is_adopted for child in self.children) else TICK_S
        received = signal.sigtimedwait(SIGNALS, max(0.0, min([tick, *due])))
        if received is None:
            return
        if received.si_signo in (signal.SIGTERM, signal.SIGINT):
            self.stopping = True
        elif received.si_signo == signal.SIGHUP:
            self.reload()


def daemons_file(state_dir: str) -> str:
    return f"{state_dir}/run/daemons"


def off_file(state_dir: str, name: str) -> str:
    return f"{state_dir}/run/{name}.off"


def is_daemon(name: str) -> bool:
    """Whether it is a daemon of the cloud's Ceph cluster: mon.a, mgr.x, osd.0 ..."""
    return "." in name


def is_warden(name: str) -> bool:
    return name.partition("-")[0] == WARDEN


def daemon_environment() -> dict[str, str]:
    """What is for our Python is not for that in Ceph's manager."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def command(name: str, state_dir: str) -> list[str]:
    """What starts the child of this name."""
    if is_daemon(name):
        kind, _, id = name.partition(".")
        return [f"ceph-{kind}", "-f", "--id", id, "--conf", f"{state_dir}/san/daemons.conf"]
    role, _, number = name.partition("-")
    if role == WARDEN:
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        return [
            *(SYSTEM_PYTHON, "-I", "-c", WARDEN_SCRIPT.format(root=root), "--state-dir", state_dir),
            *(("--host", number) if number else ()),
        ]
    return [
        *(sys.executable, "-P", "-m", MODULES[role], "--state-dir", state_dir),
        *(("--host" if role == "agent" else "--number", number) if number else ()),
    ]


def supervise(state_dir: str, names: list[str]) -> int:
    """Runs until SIGTERM. Exit code 1 where the cloud has a supervisor already."""
    lock = os.open(f"{state_dir}/run/supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write("another supervisor runs this cloud\n")
        return 1
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    children = [Child(name, command(name, state_dir), state_dir) for name in names]
    # Left by a supervisor that was killed: there must not be two of any.
    ours = [child for child in children if not child.is_daemon]
    for wardens in (False, True):
        # Wardens last: machines need one, and what hangs would keep it from being started again.
        files = [child.pid_file for child in ours if is_warden(child.name) is wardens]
        stop([identity for file in files if (identity := read_pid_file(file))], STOP_TIMEOUT_S)
    adopted = [child for child in children if child.is_daemon and child.adopt()]
    # Only now: whoever waits for this supervisor must not take those that it replaces for its own.
    pid_file = f"{state_dir}/run/supervisor.pid"
    own = identify(os.getpid())
    if own is not None:
        with attempt():
            write_pid_file(pid_file, own)
    with attempt():
        os.unlink(daemons_file(state_dir))  # meant for an earlier one: the names given are newer
    supervisor = Supervisor(state_dir, children)
    supervisor.say(f"supervisor started, pid {os.getpid()}")
    for child in adopted:
        supervisor.say(f"{child.name} taken over, pid {child.identity.pid if child.identity else 0}")
    try:
        supervisor.run()
    finally:
        with attempt():
            os.unlink(pid_file)
        os.close(lock)
    return 0


def main(arguments: list[str]) -> int:
    if len(arguments) < 3 or arguments[0] != "--state-dir":
        sys.stderr.write("usage: supervisor --state-dir DIRECTORY NAME...\n")
        return 2
    os.chdir("/")  # not to keep a file system busy
    return supervise(arguments[1], arguments[2:])
