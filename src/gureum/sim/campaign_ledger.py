"""What a campaign has done, so that it can go on: in a file that is whole at any moment, or in memory."""

from __future__ import annotations

import fcntl
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from gureum.files import write_atomically
from gureum.sim.campaign import Done
from gureum.sim.modes import Seeded

FORMAT = 1
SESSIONS_MAX = 1000
"""The last ones are kept."""
CHANGED = "+changed"
"""After the commit of a checkout in which something is not committed."""

Range = tuple[int, int]
"""From a seed to a last one."""


class LedgerError(Exception):
    """The file is none, is of another version, or another campaign writes it."""


class Build(NamedTuple):
    """What code runs. ``commit``: "" if that is not known."""

    version: str
    commit: str

    @property
    def certain(self) -> bool:
        """Whether two of these are the same code if they are equal."""
        return bool(self.commit) and not self.commit.endswith(CHANGED)


class _Saved(msgspec.Struct, kw_only=True, rename="pascal"):
    pass


class Tally(_Saved, kw_only=True):
    """The runs of a mode with one build in which nothing was violated. Seconds are of runs."""

    version: str
    commit: str
    seeds: list[Range] = []
    runs: int = 0
    virtual_seconds: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    calls: int = 0
    faults: int = 0
    writes: int = 0

    def add(self, done: Done) -> None:
        include(self.seeds, done.seed)
        self.runs += 1
        self.virtual_seconds += done.virtual_seconds
        self.seconds += done.seconds
        self.cpu_seconds += done.cpu_seconds
        self.calls += done.calls
        self.faults += done.faults
        self.writes += done.writes


class Found(_Saved, kw_only=True):
    """A violation. ``right``: the commit with which the same run found nothing any more, "" for none."""

    mode: str
    seed: int
    message: str
    again: str
    version: str
    commit: str
    cpu_seconds: float
    right: str = ""


class Session(_Saved, kw_only=True):
    """From a start to an end, as UTC times in ISO 8601."""

    command: str
    version: str
    commit: str
    jobs: int
    nice: int
    began: str
    ended: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    runs: int = 0


class Book(_Saved, kw_only=True):
    format: int = FORMAT
    modes: dict[str, list[Tally]] = {}
    violations: list[Found] = []
    sessions: list[Session] = []


def include(ranges: list[Range], seed: int) -> None:
    """Add a seed to ranges that are in order and apart."""
    at = bisect_right(ranges, (seed, seed))
    if at and ranges[at - 1][1] >= seed:
        return
    low = high = seed
    if at and ranges[at - 1][1] == seed - 1:
        at -= 1
        low = ranges.pop(at)[0]
    if at < len(ranges) and ranges[at][0] <= seed + 1:
        high = max(seed, ranges.pop(at)[1])
    ranges.insert(at, (low, high))


def includes(ranges: list[Range], seed: int) -> bool:
    at = bisect_right(ranges, (seed, float("inf")))
    return bool(at) and ranges[at - 1][1] >= seed


class CampaignLedger:
    """``path``: None for one in memory. Reading needs no more than that; to write, ``open`` it."""

    def __init__(self, path: Path | None = None) -> None:
        """Raises LedgerError, OSError."""
        self._path = path
        self._lock = -1
        self.book = Book()
        if path is not None:
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            self.book = msgspec.json.decode(path.read_bytes(), type=Book)
        except FileNotFoundError:
            return
        except msgspec.MsgspecError as error:
            raise LedgerError(f"{path} is no ledger of a campaign: {error}") from None
        if self.book.format != FORMAT:
            raise LedgerError(f"{path} is of another version of gureum (format {self.book.format})")

    def open(self) -> None:
        """Let nobody else write it. Raises LedgerError, OSError."""
        if self._path is None:
            return
        lock = self._path.with_name(f".{self._path.name}.lock")
        self._lock = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise LedgerError(f"another campaign writes {self._path}") from None
        self._read(self._path)

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def save(self) -> None:
        if self._path is not None:
            data = msgspec.json.format(msgspec.json.encode(self.book), indent=1)
            write_atomically(self._path, data + b"\n", mode=0o644)

    def begin(self, session: Session) -> None:
        self.book.sessions = [*self.book.sessions, session][-SESSIONS_MAX:]

    def add(self, done: Done, build: Build, again: str) -> None:
        """``again``: the command that replays the run."""
        known = self._found(Seeded(done.mode, done.seed))
        if done.violation:
            found = Found(
                mode=done.mode,
                seed=done.seed,
                message=done.violation,
                again=again,
                version=build.version,
                commit=build.commit,
                cpu_seconds=done.cpu_seconds,
            )
            self.book.violations = [*(each for each in self.book.violations if each is not known), found]
            return
        if known is not None:
            known.right = build.commit or build.version
        tallies = self.book.modes.setdefault(done.mode, [])
        tally = next((each for each in tallies if (each.version, each.commit) == build), None)
        if tally is None:
            tally = Tally(version=build.version, commit=build.commit)
            tallies.append(tally)
        tally.add(done)

    def _found(self, run: Seeded) -> Found | None:
        """The violation of this run, if there is one that is not over."""
        return next((each for each in self.open_violations() if (each.mode, each.seed) == run), None)

    def open_violations(self) -> Iterator[Found]:
        return (each for each in self.book.violations if not each.right)

    def has(self, run: Seeded) -> bool:
        """Whether it was done, and nothing was violated."""
        return any(includes(tally.seeds, run.seed) for tally in self.book.modes.get(run.mode, ()))

    def left(self, runs: Iterable[Seeded], build: Build) -> Iterator[Seeded]:
        """Those of the runs that are to be done: not those that found something with this very build."""
        same = {
            Seeded(each.mode, each.seed)
            for each in self.open_violations()
            if build.certain and (each.version, each.commit) == build
        }
        return (run for run in runs if not self.has(run) and run not in same)
