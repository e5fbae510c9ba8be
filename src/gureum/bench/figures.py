"""A figure: what was measured, what its peer needs for the same, and what was promised."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

Say = Callable[[str], None]
"""Progress, a line at a time."""


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """A bound of the figure itself, or of its ratio to the peer."""

    limit: float
    of: Literal["value", "ratio"] = "value"
    at: Literal["most", "least"] = "most"

    def holds(self, figure: Figure) -> bool:
        """What was not measured does not hold."""
        number = figure.value if self.of == "value" else figure.ratio
        if number is None:
            return False
        return number <= self.limit if self.at == "most" else number >= self.limit

    def text(self, unit: str) -> str:
        sign = "<=" if self.at == "most" else ">="
        return f"{sign} {self.limit:g} x" if self.of == "ratio" else f"{sign} {self.limit:g} {unit}".rstrip()


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """``value`` and ``peer`` are in ``unit``, medians of ``samples`` and ``peer_samples``.

    ``paired``: each sample was taken right beside the peer's of the same place, and the ratio is the median
    of those of the pairs. What else the machine does hits both of a pair, but not all pairs.
    """

    name: str
    value: float
    unit: str
    peer: float | None = None
    peer_name: str = ""
    promise: Promise | None = None
    samples: tuple[float, ...] = ()
    peer_samples: tuple[float, ...] = ()
    remark: str = ""
    paired: bool = False

    @property
    def ratio(self) -> float | None:
        if self.paired:
            pairs = zip(self.samples, self.peer_samples, strict=True)
            return statistics.median(sample / peer for sample, peer in pairs)
        return self.value / self.peer if self.peer else None

    @property
    def is_met(self) -> bool | None:
        """None where nothing was promised."""
        return None if self.promise is None else self.promise.holds(self)

    def document(self) -> dict[str, object]:
        """For ``--json``."""
        fields = msgspec.to_builtins(self)
        return {**fields, "ratio": self.ratio, "met": self.is_met}


def compare(
    name: str,
    unit: str,
    samples: Sequence[float],
    peer_samples: Sequence[float] = (),
    *,
    peer_name: str = "",
    promise: Promise | None = None,
    remark: str = "",
    paired: bool = False,
) -> Figure:
    """A figure of the medians of both; see ``Figure``."""
    return Figure(
        name=name,
        value=statistics.median(samples),
        unit=unit,
        peer=statistics.median(peer_samples) if peer_samples else None,
        peer_name=peer_name,
        promise=promise,
        samples=tuple(samples),
        peer_samples=tuple(peer_samples),
        remark=remark,
        paired=paired,
    )


HEADER = ("FIGURE", "MEASURED", "PEER", "", "RATIO", "PROMISED", "MET")


def rows(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """The table's lines, as ``HEADER`` names them."""
    return [
        (
            figure.name,
            _with_unit(figure.value, figure.unit),
            "-" if figure.peer is None else _with_unit(figure.peer, figure.unit),
            figure.peer_name,
            "-" if figure.ratio is None else f"{figure.ratio:.2f}",
            "-" if figure.promise is None else figure.promise.text(figure.unit),
            {None: "", True: "yes", False: "NO"}[figure.is_met],
        )
        for figure in figures
    ]


def _with_unit(number: float, unit: str) -> str:
    digits = 0 if number >= 1000 else 1 if number >= 100 else 2
    return f"{number:,.{digits}f} {unit}".rstrip()


def machine() -> dict[str, object]:
    """What the figures were taken on, as far as they depend on it."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": os.cpu_count(),
        "cpu": model,
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }
