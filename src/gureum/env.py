"""What is not deterministic: time, randomness, and where a process may die.

Production, simulation and tests each make their own ``Env``. Waiting is asyncio's (``asyncio.sleep``,
``asyncio.timeout``): the simulation runs the same code on an event loop whose clock is virtual.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime

log = logging.getLogger(__name__)

CRASH_VARIABLE = "GUREUM_CRASH_AT"
CRASH_MARK_VARIABLE = "GUREUM_CRASH_MARK"


class Env:
    """Time in Unix seconds, a random source, and named crash points.

    ``crashpoint(name)`` marks a place where the process may be killed: between two effects that no
    transaction joins. In production it does nothing unless GUREUM_CRASH_AT names it (several are separated
    by commas): then the process kills itself with SIGKILL there (fault tests); with GUREUM_CRASH_MARK once
    only, since the file MARK.NAME is made first. The simulation raises out of it instead.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        crashpoint: Callable[[str], None] | None = None,
    ) -> None:
        self._clock = clock
        self.random = rng or random.SystemRandom()
        self._crash_at = frozenset(filter(None, os.environ.get(CRASH_VARIABLE, "").split(",")))
        self.crashpoint: Callable[[str], None] = crashpoint or self._crashpoint

    def now(self) -> float:
        """Unix time in seconds."""
        return self._clock()

    def utcnow(self) -> datetime:
        """The present as an aware UTC datetime, whole milliseconds (what AWS shows)."""
        return datetime.fromtimestamp(round(self._clock(), 3), UTC)

    def token(self, length: int) -> str:
        """``length`` random lower-case hexadecimal digits."""
        return f"{self.random.getrandbits(4 * length):0{length}x}"

    def secret(self, length: int) -> bytes:
        """``length`` random bytes."""
        return self.random.getrandbits(8 * length).to_bytes(length, "big")

    def new_id(self, prefix: str) -> str:
        """A resource id as EC2 makes them: ``prefix-`` and 17 hexadecimal digits."""
        return f"{prefix}-{self.token(17)}"

    def uuid(self) -> str:
        """A random UUID (version 4) in its text form."""
        digits = self.token(32)
        variant = "89ab"[int(digits[16], 16) & 3]
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"

    def _crashpoint(self, name: str) -> None:
        if name in self._crash_at and _first_time(name):
            log.warning("crash point %s reached: killing this process", name)
            os.kill(os.getpid(), signal.SIGKILL)


def _first_time(name: str) -> bool:
    mark = os.environ.get(CRASH_MARK_VARIABLE)
    if not mark:
        return True
    try:
        os.close(os.open(f"{mark}.{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True
