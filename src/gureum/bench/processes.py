"""What processes take: CPU time and memory, from /proc."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def busy_percent(watched: list[int], seconds: float) -> float:
    """CPU time of the processes and of the children they waited for, in % of one core."""
    before, began = sum(map(cpu_seconds, watched)), time.monotonic()
    time.sleep(seconds)
    return 100 * (sum(map(cpu_seconds, watched)) - before) / (time.monotonic() - began)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def memory_mb(pid: int) -> tuple[float, float]:
    """RSS and PSS: the latter counts a page that several processes share by its share."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(Rss|Pss): +(\d+) kB", text, re.MULTILINE))
    return int(found["Rss"]) / 1024, int(found["Pss"]) / 1024
