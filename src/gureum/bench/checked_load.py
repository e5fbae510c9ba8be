"""A guest's writes to one of its disks, of which it is known afterwards whether each one holds.

In the guest a shell loop, over one ssh session, writes block after block, flushes each, and says its number
when that was answered. Block N goes to slot N modulo SLOTS, and says N at its beginning and at its end. So
each slot has to hold the last of its numbers that was said, or the one that was under way at the end.
"""

from __future__ import annotations

import itertools
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from gureum.bench.servers import BenchError

BLOCK_BYTES = 4096
SLOTS = 256
AREA_BYTES = SLOTS * BLOCK_BYTES
END_SECONDS = 30.0
ERROR = "error"

_WRITE = (
    "printf '%-2048d%2047d\\n' $i $i"
    " | dd of={device} bs={block} seek=$((i % {slots})) iflag=fullblock conv=notrunc,fsync 2>/dev/null"
    " && echo $i || echo {error} $i"
)


def write_command(device: str) -> str:
    """For a guest's shell: writes block $i, and says that it has or that it could not."""
    return _WRITE.format(device=device, block=BLOCK_BYTES, slots=SLOTS, error=ERROR)


class Acknowledged(NamedTuple):
    """``at``: by the monotonic clock."""

    number: int
    at: float


def block(number: int) -> bytes:
    return f"{number:<2048d}{number:2047d}\n".encode()


def wrong_slots(area: bytes, held: Mapping[int, Sequence[int]]) -> list[str]:
    """What is wrong with slots of which each holds one of these numbers, the first of them as a rule."""
    wrong = []
    for slot, numbers in held.items():
        found = area[slot * BLOCK_BYTES : (slot + 1) * BLOCK_BYTES]
        if found not in map(block, numbers):
            wrong.append(f"slot {slot} is to hold {numbers[0]}, and holds {found[:16]!r}...{found[-16:]!r}")
    return wrong


class CheckedLoad:
    """Runs from ``with`` to ``stop``. ``ssh``: what runs one more word, a command, in the guest."""

    def __init__(self, ssh: Sequence[str], device: str) -> None:
        self._argv = [*ssh, f"i=0; while :; do {write_command(device)}; i=$((i + 1)); done"]
        self.acknowledged: list[Acknowledged] = []
        self.errors: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            now = time.monotonic()
            if line.strip().isdecimal():
                self.acknowledged.append(Acknowledged(int(line), now))
            else:
                self.errors.append(line.strip())

    def stop(self) -> None:
        """What was answered before is known afterwards."""
        if self._process is None or self._reader is None:
            return
        self._process.terminate()
        self._process.wait(END_SECONDS)
        self._reader.join(END_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    @property
    def written(self) -> int:
        """How many blocks were acknowledged."""
        return len(self.acknowledged)

    def wait_written(self, count: int, seconds_max: float) -> None:
        """Until so many more are acknowledged. Raises BenchError."""
        wanted, deadline = self.written + count, time.monotonic() + seconds_max
        while self.written < wanted:
            if self.errors:
                raise BenchError(f"the guest's writes fail: {self.errors[:3]}")
            if time.monotonic() > deadline:
                raise BenchError(f"the guest wrote {self.written - wanted + count} of {count} blocks in time")
            time.sleep(0.05)

    def waits(self, seconds: float) -> bool:
        """Whether the last answer is as old as that."""
        return bool(self.acknowledged) and time.monotonic() - self.acknowledged[-1].at > seconds

    def stall(self, since: float = 0.0) -> float:
        """The longest time in seconds between two answers, of those that ended after ``since``."""
        times = [each.at for each in self.acknowledged]
        gaps = [after - before for before, after in itertools.pairwise(times) if after >= since]
        return max(gaps, default=0.0)

    def check(self, area: bytes) -> list[str]:
        """What is wrong with the first AREA_BYTES of the disk, read after the load's end."""
        wrong = list(self.errors)
        numbers = [each.number for each in self.acknowledged]
        if not numbers or numbers != list(range(len(numbers))):
            wrong.append(f"{len(numbers)} numbers were said, not in order")
        last = {number % SLOTS: number for number in numbers}
        # After the last that was said there may be more: written, and not said any more.
        return wrong + wrong_slots(area, {slot: [n, *self._unsaid(slot)] for slot, n in last.items()})

    def _unsaid(self, slot: int) -> list[int]:
        end = len(self.acknowledged)
        return [number for number in range(end, end + SLOTS) if number % SLOTS == slot]
