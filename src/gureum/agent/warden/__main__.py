"""The warden's process: looks after the host's machines until it is told to end.

Its main thread waits for nothing but time: not for the cluster (``lease``), a disk, or whoever reads its log.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import math
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from typing import Any

from gureum.agent.warden import notes
from gureum.agent.warden.custody import Custody, Decision, Marks
from gureum.agent.warden.guests import Guests
from gureum.agent.warden.lease import Lease, Settings, Told
from gureum.network.silence import Place, Silence
from gureum.niceness import set_niceness

WAIT_CONFIG_SECONDS = 0.5
IDLE_SECONDS = 1.0
HELD_SECONDS = 0.25
"""Between looks while nothing may run: for machines that were being started."""
LATE_SECONDS = 0.25
"""How late the main thread may be when machines are to be stopped, before another one does it."""
HEARD_SECONDS = 8.0
"""For which the host is heard after a look: when everything of it is killed but its kernel, that is silent by
the time that its instances have booted elsewhere. Long enough for a warden to be started again.
"""
END_SECONDS = 2.0
OOM_SCORE = "-999"
NICE = -15
LINES_MAX = 1000
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CLONE_NEWNET = 0x40000000


class Log:
    """Lines for people, written by a thread: the disk they go to may be gone."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES_MAX)
        self._due = threading.Event()
        self.idle = threading.Event()
        """All is written."""
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def say(self, text: str) -> None:
        self.idle.clear()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        self._lines.append(f"{stamp}Z warden: {text}\n")
        self._due.set()

    def _write(self) -> None:
        while self._due.wait():
            self._due.clear()
            while self._lines:
                with contextlib.suppress(OSError):
                    os.write(2, self._lines.popleft().encode(errors="replace"))
            self.idle.set()


class Deputy:
    """A thread that stops the machines that are known when the main thread does not: it waits for nothing.

    Were it only that the lease is not renewed any more, they would run on while they are given up.
    """

    def __init__(self, guests: Guests) -> None:
        self._guests = guests
        self._until = math.inf
        self.acted = False
        """Machines may be stopped."""

    def start(self) -> None:
        threading.Thread(target=self._run, name="deputy", daemon=True).start()

    def allow(self, until: float) -> None:
        """Machines may run so long, as far as the main thread knows; or it sees to them itself: inf."""
        self._until = until

    def _run(self) -> None:
        while True:
            if self.is_due():
                self.act()
            time.sleep(HELD_SECONDS)

    def is_due(self) -> bool:
        return notes.now() > self._until + LATE_SECONDS

    def act(self) -> None:
        self.acted = True
        self._guests.stop_known()
        self.acted = True  # the main thread may have looked meanwhile


class Warden:
    """``look`` does what is due, and says how long until the next look."""

    def __init__(
        self, lease: Lease, guests: Guests, silence: Silence, deputy: Deputy, directory: str, log: Log
    ) -> None:
        self._lease = lease
        self._guests = guests
        self._silence = silence
        self._deputy = deputy
        self._log = log
        self._word = notes.Note(directory, notes.WORD)
        self._state = notes.Note(directory, notes.STATE)
        earlier = self._state.read()
        self._custody = Custody(float(earlier.get("lease", 0.0)))
        # What the last one had done for a fence is done again: perhaps it is written nowhere yet.
        self._custody.marked(Marks(*map(int, earlier.get("marks", ()))))
        self._held = True
        """Machines may be stopped; until they go on. At first: the last warden may have ended just then."""
        if earlier.get("proxied"):
            self._silence.proxy()
        self._stopped = False
        """None runs, as far as a last look went."""
        self._why = self._complaint = ""
        self._error = "the storage cluster was not reached yet"
        self._recorded = Marks()
        """As last read in the cluster."""

    def look(self) -> float:
        self._lease.looked = notes.now()
        self._listen()
        now = notes.now()
        decision = self._custody.decide(now)
        self._lease.wanted = decision is not Decision.kill
        self._deputy.allow(self._custody.until if decision is Decision.run else math.inf)
        if self._deputy.acted:
            self._deputy.acted, self._held = False, True
        match decision:
            case Decision.run:
                self._run()
            case Decision.freeze:
                self._freeze(now)
            case Decision.kill:
                self._kill()
        self._note()
        self._lease.looked = notes.now()
        left = self._custody.until - notes.now()
        return max(0.0, min(IDLE_SECONDS, left)) if decision is Decision.run else HELD_SECONDS

    def _listen(self) -> None:
        sent = self._word.read().get("sent")
        if sent is not None:
            self._custody.heard(float(sent), notes.now())
        while (told := self._lease.news()) is not None:
            self._take(told)

    def _take(self, told: Told) -> None:
        custody = self._custody
        self._error = told.error
        if told.marks is None:
            return
        self._recorded = told.marks
        if told.renewed:
            self._lease.may_break = False
            custody.renewed(told.began, told.marks)
        else:
            custody.marked(told.marks)
        if told.foreign:
            self._error = f"its lease is held by {told.foreign}"
            if not self._lease.may_break and custody.may_take_over(notes.now(), self._stopped):
                # In this order: what is broken counts no more.
                custody.lost_lease()
                self._lease.may_break = True
                self._lease.hurry()

    def _run(self) -> None:
        self._stopped = False
        self._be_heard()
        if self._held:
            whole = self._guests.look()
            if notes.now() < self._custody.until:
                self._guests.go_on()
                self._held = not whole
                self._explain("" if whole else "machines may run, but not all could be looked for")

    def _freeze(self, now: float) -> None:
        self._held = True
        if not self._stopped:
            self._note()
        whole = self._guests.stop()
        self._be_silent()
        if not self._stopped:
            which = "may not run" if whole else "are being stopped"
            self._explain(f"{self._custody.silence(now)}: machines {which}", self._error)
        self._stopped = whole

    def _kill(self) -> None:
        self._held = True
        marks = self._custody.marks
        whole = self._guests.kill()
        self._stopped = whole
        # Before it is said that they are: others answer for them then.
        self._be_silent()
        self._explain(
            f"this host was given up (fence {marks.fence}): machines are ended, and none is started"
        )
        if whole and marks.killed < marks.fence:
            self._custody.marked(Marks(killed=marks.fence))
            self._lease.acknowledge(marks.fence)

    def _be_silent(self) -> None:
        try:
            self._silence.keep()
        except OSError as error:
            self._complain(f"this host goes on answering for its instances' addresses: {error}")

    def _be_heard(self) -> None:
        try:
            self._silence.lift(HEARD_SECONDS)
        except OSError as error:
            self._complain(f"this host's network cannot be opened: {error}")

    def _complain(self, what: str) -> None:
        if what != self._complaint:
            self._complaint = what
            self._log.say(what)

    def _explain(self, why: str, detail: str = "") -> None:
        if why != self._why:
            self._why = why
            self._log.say((why or "machines may run") + (f" ({detail})" if detail else ""))

    def _note(self) -> None:
        custody = self._custody
        self._state.write(
            lease=custody.lease_until,
            held=self._held,
            until=0.0 if self._held else custody.until,
            fence=self._recorded.killed,
            why=self._why[:200],
            error=self._error[:200],
            marks=custody.marks._replace(killed=self._recorded.killed),
            pid=os.getpid(),
        )

    def close(self) -> bool:
        """Give the lease back, unless machines are left that need it; whether none are."""
        if not self._guests.look() or self._guests.pids():
            self._log.say("ends, and leaves machines to the next warden")
            return False
        self._silence.leave()
        self._lease.end()
        self._lease.ended.wait(END_SECONDS)
        return True


def protect(log: Log) -> None:
    """From lack of memory, from being swapped out, and from those that want the CPU."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        log.say(f"its memory cannot be locked: {os.strerror(ctypes.get_errno())}")
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(OOM_SCORE)
        set_niceness(NICE)
    except OSError as error:
        log.say(f"it is not preferred to other processes: {error.strerror}")


def enter(namespace: str) -> None:
    """Before any thread is started. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    file = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(file, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(file)


def read_config(path: str) -> tuple[dict[str, Any], int]:
    """It, and when it was written; ({}, 0) while there is none."""
    try:
        with open(path) as file:
            return json.load(file), os.fstat(file.fileno()).st_mtime_ns
    except (OSError, ValueError):
        return {}, 0


def changed(path: str, since: int) -> bool:
    try:
        return os.stat(path).st_mtime_ns != since
    except OSError:
        return False


def look_after(host_directory: str, config_path: str, signals: int, wake: int) -> int:
    """Until a signal comes: 0; another number when it is to begin anew, with another configuration."""
    config, written = read_config(config_path)
    while not config:
        if select.select([signals], [], [], WAIT_CONFIG_SECONDS)[0]:
            return 0
        config, written = read_config(config_path)
    if config["netns"]:
        enter(config["netns"])
    directory = notes.directory(host_directory)
    os.makedirs(directory, 0o700, exist_ok=True)
    lock = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    log = Log()
    protect(log)
    fields = {name: config[name] for name in Settings._fields if name != "which"}
    which = f"{notes.boot_id()[:8]}.{os.getpid()}.{notes.now():.3f}"
    lease = Lease(Settings(**fields, which=which), lambda: wake_up(wake))
    guests = Guests(config["machines"])
    guests.look()
    deputy = Deputy(guests)
    deputy.start()
    # An agent of before this was there did not say where.
    silence = Silence(Place(**config.get("network", {})))
    warden = Warden(lease, guests, silence, deputy, directory, log)
    log.say(f"looks after the machines of host {config['host']}, cloud {config['cloud']}")
    lease.wanted = True
    lease.start()
    seconds = warden.look()
    while True:
        if select.select([signals], [], [], seconds)[0] and signal.SIGTERM in os.read(signals, 4096):
            if warden.close():
                notes.remove(directory)
            log.idle.wait(END_SECONDS)
            return 0
        seconds = warden.look()
        if changed(config_path, written):
            log.say("its configuration has changed: it begins anew")
            log.idle.wait(END_SECONDS)
            return 1


def wake_up(pipe: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.write(pipe, b"\0")


def main(arguments: list[str]) -> int:
    """--state-dir DIRECTORY [--host NUMBER]"""
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    state_dir, number = options["--state-dir"], options.get("--host", "")
    name = f"warden-{number}" if number else "warden"
    host_directory = f"{state_dir}/hosts/{number}" if number not in ("", "0") else state_dir
    os.chdir("/")  # not to keep a file system busy
    signals, wake = os.pipe()
    for end in (signals, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: None)
    with open(f"{state_dir}/run/{name}.ready", "w") as file:
        file.write(f'{{"pid": {os.getpid()}}}\n')
    code = look_after(host_directory, f"{host_directory}/run/{notes.CONFIG}", signals, wake)
    if code:
        os.execv(sys.executable, sys.orig_argv)
    os._exit(0)  # librados' threads may never end


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
