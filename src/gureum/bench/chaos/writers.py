"""Guests that write as long as a run lasts, whatever becomes of their hosts.

Each block's number is asked for from outside, by ssh, one at a time, so that at most one is written of which
nobody here knows. A session ends with its connection; the next one first ends what is left of it in the
guest, and has the volume's blocks compared with what was acknowledged before.
"""

from __future__ import annotations

import itertools
import select
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from gureum.bench.checked_load import BLOCK_BYTES, ERROR, SLOTS, write_command, wrong_slots
from gureum.bench.servers import BenchError
from gureum.hypervisors.qemu.disks import serial

READY = "ready"
READY_SECONDS = 30.0
PAUSE_SECONDS = 0.1
AGAIN_SECONDS = 1.0
END_SECONDS = 10.0
ALIVE = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6")
"""ssh ends a connection on which nothing was heard for 30 s."""
_SESSION = (
    "kill $(cat /dev/writer) 2>/dev/null; echo $$ >/dev/writer; "
    'for d in /sys/block/vd*; do [ "$(cat $d/serial)" = {serial} ] && disk=/dev/${{d##*/}}; done; '
    '[ -n "$disk" ] && echo {ready} && while read i; do {write}; done'
)


class Writer(threading.Thread):
    """``read``: the beginning of the volume as others see it; it raises BenchError where it cannot be had."""

    def __init__(
        self,
        instance: str,
        volume: str,
        ssh: Sequence[str],
        read: Callable[[], bytes],
        say: Callable[[str], None],
    ) -> None:
        super().__init__(name=instance, daemon=True)
        session = _SESSION.format(serial=serial(volume), ready=READY, write=write_command("$disk"))
        self._argv = [ssh[0], *ALIVE, *ssh[1:], session]
        self._read_volume = read
        self._say = say
        self._ends = threading.Event()
        self.instance = instance
        self.volume = volume
        self.answered: list[float] = []
        self.held: dict[int, list[int]] = {}
        self.sessions = self.checks = self.bytes_checked = 0
        self._next = 0

    def run(self) -> None:
        while not self._ends.is_set():
            with subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            ) as process:
                try:
                    if self._line(process, READY_SECONDS) == READY:
                        self.sessions += 1
                        self._check()
                        self._write(process)
                except OSError:
                    pass  # the connection has ended
                finally:
                    process.kill()
            self._ends.wait(AGAIN_SECONDS)

    def _line(self, process: subprocess.Popen[bytes], seconds: float) -> str:
        """What the guest says next; "" if it says nothing more, or not in time."""
        assert process.stdout is not None
        said, deadline = b"", time.monotonic() + seconds
        while not said.endswith(b"\n") and not self._ends.is_set():
            left = deadline - time.monotonic()
            if left < 0:
                return ""
            if select.select([process.stdout], [], [], min(left, 1.0))[0]:
                byte = process.stdout.read(1)
                if not byte:
                    return ""
                said += byte
        return said.decode(errors="replace").strip()

    def _write(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        while not self._ends.wait(PAUSE_SECONDS):
            number, self._next = self._next, self._next + 1
            # Until it is acknowledged, the slot may hold it, or what it held.
            self.held.setdefault(number % SLOTS, [-1]).append(number)
            process.stdin.write(f"{number}\n".encode())
            said = self._line(process, float("inf"))
            if said == str(number):
                self.held[number % SLOTS] = [number]
                self.answered.append(time.monotonic())
            else:
                if said.startswith(ERROR):
                    self._say(f"{self.instance}: the guest was refused a write ({said})")
                return

    def _check(self) -> None:
        # A slot of which no write was acknowledged may hold anything.
        known = {slot: numbers for slot, numbers in self.held.items() if numbers[0] >= 0}
        with suppress(BenchError, subprocess.TimeoutExpired):
            wrong = wrong_slots(self._read_volume(), known)
            self.checks += 1
            self.bytes_checked += len(known) * BLOCK_BYTES
            for each in wrong:
                self._say(f"{self.instance}: {self.volume}: what the guest wrote is not there: {each}")

    def close(self) -> None:
        """Ends the writing, and compares once more."""
        if self._ends.is_set():
            return
        self._ends.set()
        self.join()
        before = self.checks
        self._check()
        if self.checks == before:
            self._say(f"{self.instance}: {self.volume} cannot be read at the end")

    def longest_wait(self, since: float, until: float) -> float:
        """Seconds without an answer within that time."""
        times = [since, *(at for at in self.answered if since <= at <= until), until]
        return max(after - before for before, after in itertools.pairwise(times))

    def longest_wait_of_all(self) -> float:
        return max((after - before for before, after in itertools.pairwise(self.answered)), default=0.0)
