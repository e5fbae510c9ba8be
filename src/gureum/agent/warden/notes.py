"""What agent and warden tell each other: a block of JSON each, in memory, of which the last one counts.

In /run, which is no disk: neither of them may wait for one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import zlib
from typing import Any

DIRECTORY = "/run/gureum"
CONFIG = "warden.json"
"""A file in the host's run directory that its agent writes: lease.Settings but ``which``, and ``machines``
(their directory), ``netns`` ("" for the machine's own network), ``network`` (a silence.Place).
"""
WORD, STATE = "word", "state"
"""Written by the agent, and by the warden."""
BYTES = 4096
TRIES = 3
BOOT_ID = "/proc/sys/kernel/random/boot_id"


def now() -> float:
    """Seconds of the clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    with open(BOOT_ID) as file:
        return file.read().strip()


def directory(host_directory: str) -> str:
    """Of the host whose files are there."""
    digest = hashlib.sha256(os.path.realpath(host_directory).encode()).hexdigest()
    return f"{DIRECTORY}/warden-{digest[:16]}"


def remove(directory: str) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
        os.rmdir(DIRECTORY)  # if this was the last one


class Note:
    """One file. Whoever reads while it is written reads again; what another boot left is nothing."""

    def __init__(self, directory: str, name: str) -> None:
        self._path = f"{directory}/{name}"
        self._boot_id = boot_id()
        self._file = -1

    def write(self, **values: Any) -> None:
        """Raises OSError."""
        if self._file >= 0 and not os.fstat(self._file).st_nlink:  # removed by a warden that ended
            self.close()
        if self._file < 0:
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        text = json.dumps({**values, "boot": self._boot_id}, separators=(",", ":")).encode()
        block = b"%08x" % zlib.crc32(text) + text
        if len(block) > BYTES:
            raise ValueError(f"a note of {len(block)} bytes is too long")
        os.pwrite(self._file, block.ljust(BYTES), 0)

    def read(self) -> dict[str, Any]:
        """{} if there is none."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return {}
        try:
            for _ in range(TRIES):
                block = os.pread(file, BYTES, 0).rstrip()
                if block[:8] == b"%08x" % zlib.crc32(block[8:]):
                    found = json.loads(block[8:])
                    return found if found.get("boot") == self._boot_id else {}
        except (OSError, ValueError):
            return {}
        finally:
            os.close(file)
        return {}

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
