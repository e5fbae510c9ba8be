"""What came of a run."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from gureum.bench.figures import Figure


class Violation(msgspec.Struct, frozen=True):
    """``at``: seconds since the run's beginning."""

    at: float
    words: str


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """A step and what came of it.

    ``again``: by instance that was on a host that it took away, or was killed, seconds until a process of it
    was there again. ``waits``: by guest, the longest time without an acknowledged write.
    ``well``: seconds until all hosts were up and all guests wrote; None: that was not waited for.
    """

    at: float
    kinds: tuple[str, ...]
    words: str
    again: dict[str, float]
    waits: dict[str, float]
    well: float | None

    def came(self) -> str:
        came = [f"{id} runs again after {seconds:.1f} s" for id, seconds in self.again.items()]
        came.append(f"writes waited {max(self.waits.values()):.1f} s at most")
        came.append("" if self.well is None else f"all well after {self.well:.0f} s")
        return ", ".join(filter(None, came))


class Report(msgspec.Struct, kw_only=True):
    """``bytes_verified``: of blocks that were compared, each as often as it was."""

    seed: int
    seconds: float = 0.0
    happenings: list[Happening] = []
    violations: list[Violation] = []
    calls: dict[str, int] = {}
    refused: dict[str, int] = {}
    unanswered: int = 0
    looks: int = 0
    writes: int = 0
    checks: int = 0
    bytes_verified: int = 0
    longest_waits: dict[str, float] = {}
    settled: float | None = None
    """Seconds from the end of the last fault until all was as it was asked for."""

    def figures(self) -> list[Figure]:
        """By kind of fault, of those steps that were of that kind alone."""
        again: dict[str, list[float]] = defaultdict(list)
        waits: dict[str, list[float]] = defaultdict(list)
        well: dict[str, list[float]] = defaultdict(list)
        for each in self.happenings:
            if len(each.kinds) == 1:
                [kind] = each.kinds
                again[kind] += each.again.values()
                waits[kind].append(max(each.waits.values(), default=0.0))
                well[kind] += [] if each.well is None else [each.well]
        told = []
        for kind in sorted(waits):
            times = f"{kind}, {len(waits[kind])} times alone"
            told.append(_longest(f"{times}: longest without an acknowledged write", waits[kind]))
            if again[kind]:
                told.append(_longest("the same, until its instances' processes run again", again[kind]))
            if well[kind]:
                told.append(_longest("the same, until all was well", well[kind]))
        return [
            *told,
            Figure(name="writes acknowledged, each flushed", value=self.writes, unit=""),
            Figure(
                name="bytes compared with what was acknowledged",
                value=self.bytes_verified / 1e6,
                unit="MB",
                remark=f"in {self.checks} looks at a volume",
            ),
            Figure(name="calls that were granted", value=sum(self.calls.values()), unit=""),
        ]


def _longest(name: str, samples: list[float]) -> Figure:
    return Figure(name=name, value=max(samples), unit="s", samples=tuple(samples))
