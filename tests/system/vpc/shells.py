"""Commands in guests, and what they reach."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO

from ..realcloud import OPTIONS, GuestError, RealCloud
from .guests import PORT, Guest

TRY_SECONDS = 2
PATIENT_SECONDS = 30
"""For what must be there: a busy machine takes its time, and who finds it does not wait."""
STREAM_PORT = 9000
GOING = "/tmp/going"
"""In a guest: the file that says that a command is to go on."""


class Shells:
    """Logins to guests, each over one connection that stays open: key exchanges cost emulated guests much."""

    def __init__(self, cloud: RealCloud) -> None:
        self._cloud = cloud
        self._paths: dict[str, str] = {}

    def _argv(self, guest: Guest, *options: str) -> list[str]:
        path = self._paths.setdefault(guest.id, str(self._cloud.directory / f"s{len(self._paths)}"))
        control = {"ControlMaster": "auto", "ControlPath": path, "ControlPersist": "120"}
        flags = [word for pair in {**OPTIONS, **control}.items() for word in ("-o", "=".join(pair))]
        if guest.jump is not None:
            proxy = " ".join(self._argv(guest.jump, "-W", "%h:%p"))
            flags += ["-o", f"ProxyCommand={proxy}"]
        address = guest.private if guest.jump else guest.public
        return ["ssh", "-F", "none", *flags, "-i", str(self._cloud.key_file), *options, f"root@{address}"]

    def run(self, guest: Guest, command: str, seconds: float = 60) -> str:
        """What the command prints. Raises GuestError."""
        try:
            done = subprocess.run(
                [*self._argv(guest), command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise GuestError(f"{guest.name}: {command!r} did not end") from None
        if done.returncode:
            raise GuestError(f"{guest.name}: {command!r}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    @contextlib.contextmanager
    def running(self, guest: Guest, command: str) -> Iterator[Running]:
        """The command while the block runs; it has to end once the file GOING is not there."""
        argv = [*self._argv(guest), f"touch {GOING}; {command}"]
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            running = Running(process.stdout)
            try:
                yield running
            finally:
                self.run(guest, f"rm {GOING}")
                running.join()

    def reached(
        self, guest: Guest, targets: Iterable[str], seconds: int = TRY_SECONDS
    ) -> dict[str, tuple[str, str]]:
        """Of these addresses those that a page comes from: who served it, and whom it saw. All at once."""
        tries = " ".join(targets)
        answers = self.run(
            guest,
            f"for to in {tries}; do (timeout {seconds} wget -q -O - http://$to:{PORT}/cgi-bin/who "
            '| sed "s/^/$to /") 2>/dev/null & done; wait',
        )
        found = {}
        for line in answers.splitlines():
            target, name, saw = line.split()
            found[target] = name, saw
        return found

    def sees(self, guest: Guest, target: str) -> tuple[str, str] | None:
        return self.reached(guest, [target]).get(target)

    def finds(self, guest: Guest, target: str) -> tuple[str, str] | None:
        """As ``sees``, of what is there."""
        return self.reached(guest, [target], PATIENT_SECONDS).get(target)

    def pings(self, guest: Guest, target: str, options: str = "") -> bool:
        """Whether one of two echo requests is answered."""
        shown = self.run(guest, f"ping -c 2 -i 0.3 -W {TRY_SECONDS} {options} {target} 2>&1 || true")
        return " packets received" in shown and " 0 packets received" not in shown

    def close(self) -> None:
        for path in self._paths.values():
            argv = ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "nowhere"]
            subprocess.run(argv, capture_output=True, timeout=10, check=False)


@contextlib.contextmanager
def shells(cloud: RealCloud) -> Iterator[Shells]:
    opened = Shells(cloud)
    try:
        yield opened
    finally:
        opened.close()


class Running:
    """What a command prints, with the moments at which its lines came."""

    def __init__(self, output: IO[str]) -> None:
        self.lines: list[tuple[float, str]] = []
        self._output = output
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._output:
            self.lines.append((time.monotonic(), line))

    def join(self) -> None:
        self._reader.join(30)

    def after(self, moment: float) -> list[float]:
        """When lines came after this moment, in seconds."""
        return [when - moment for when, _ in self.lines if when > moment]

    @property
    def text(self) -> str:
        return "".join(line for _, line in self.lines)


def new_pings(target: str) -> str:
    """A command that begins a new flow ten times a second, and prints a line for each that is answered."""
    once = f"ping -c 1 -W 1 {target} 2>/dev/null | grep -q ' 1 packets received' && echo answered"
    return f"while [ -e {GOING} ]; do ({once}) & usleep 100000; done"


def take_stream(sh: Shells, guest: Guest) -> None:
    """Have the guest wait for one stream at STREAM_PORT, and keep what comes."""
    # An end of its input would end the stream.
    sh.run(guest, f"(sleep 1000 </dev/null | nc -l -p {STREAM_PORT}) >/tmp/stream 2>/dev/null &")


def stream_to(address: str) -> str:
    """A command that sends numbers, twenty a second, while GOING is there."""
    count = f"i=0; while [ -e {GOING} ]; do i=$((i+1)); echo $i; usleep 50000; done"
    return f"({count}) | nc {address} {STREAM_PORT}"


def streamed(sh: Shells, guest: Guest) -> list[int]:
    """The numbers that have come."""
    return [int(line) for line in sh.run(guest, "cat /tmp/stream; echo").splitlines()[:-1]]
