"""What /proc says of this very process."""

import os

from gureum.bench.processes import busy_percent, cpu_seconds, memory_mb


def test_memory_of_a_process() -> None:
    rss, pss = memory_mb(os.getpid())
    assert 0 < pss <= rss


def test_cpu_time_of_a_process_grows_with_its_work() -> None:
    before = cpu_seconds(os.getpid())
    while cpu_seconds(os.getpid()) == before:
        sum(range(10_000))
    assert busy_percent([os.getpid()], 0.01) >= 0
