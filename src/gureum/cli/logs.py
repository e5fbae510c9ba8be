"""`gureum logs`: the logs of a cloud's processes, together or one by one."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from gureum.cli.cloud import last_lines

POLL_S = 0.25


def show(log_dir: Path, names: Sequence[str], count: int, write: Callable[[str], None]) -> None:
    """The last `count` lines of each log, marked by its name where there is more than one."""
    for name in names:
        for line in last_lines(log_dir / f"{name}.log", count):
            write(_marked(name, line, names))


def _marked(name: str, line: str, names: Sequence[str]) -> str:
    return line if len(names) == 1 else f"{name:<10} | {line}"


class Follower:
    """Reads what is added to one log. A log that was cut or made anew is read from its start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: IO[bytes] | None = None
        self.rest = b""
        self._open(at_end=True)

    def _open(self, *, at_end: bool) -> None:
        try:
            self.file = open(self.path, "rb")  # noqa: SIM115 - stays open while it is followed
        except FileNotFoundError:
            return
        if at_end:
            self.file.seek(0, os.SEEK_END)

    def new_lines(self) -> list[str]:
        if self.file is None:
            self._open(at_end=False)
            if self.file is None:
                return []
        if os.fstat(self.file.fileno()).st_size < self.file.tell():
            self.file.seek(0)
            self.rest = b""
        *whole, self.rest = (self.rest + self.file.read()).split(b"\n")
        return [line.decode(errors="replace") for line in whole]

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def follow(log_dir: Path, names: Sequence[str], count: int, write: Callable[[str], None]) -> None:
    """Shows the last lines, then what is added, until the process is interrupted."""
    followers = {name: Follower(log_dir / f"{name}.log") for name in names}
    try:
        show(log_dir, names, count, write)
        while True:
            for name, follower in followers.items():
                for line in follower.new_lines():
                    write(_marked(name, line, names))
            time.sleep(POLL_S)
    finally:
        for follower in followers.values():
            follower.close()
