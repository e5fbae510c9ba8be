"""What the kernel counts, as a load: over files like those of /proc, and of the process itself."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from gureum.agent.load import PAGE_BYTES, TICKS, Count, Counts, ProcGauge, load

GIB = 1 << 30


async def said() -> dict[str, int]:
    """What guests say that they use of their memory."""
    return {"i-1": 5, "i-gone": 7}


def fake_proc(path: Path, busy: float, waited: int = 0, seconds: float = 0.0, stalled: float = 0.0) -> Path:
    """``busy``: seconds of all processors; the rest is of the process 7, and its only thread."""
    ticks = int(busy * TICKS)
    (path / "pressure").mkdir(parents=True, exist_ok=True)
    (path / "7/task/7").mkdir(parents=True, exist_ok=True)
    (path / "stat").write_text(f"cpu  {ticks} 0 0 99 99 0 0 500 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    (path / "meminfo").write_text(
        "MemTotal: 4194304 kB\nMemFree: 1 kB\nMemAvailable: 3145728 kB\n"
        "SwapTotal: 2097152 kB\nSwapFree: 1048576 kB\n"
    )
    some = f"some avg10=0.00 avg60=0.00 avg300=0.00 total={int(stalled * 1e6)}\n"
    (path / "pressure/cpu").write_text(some + some.replace("some", "full"))
    used = int(seconds * TICKS)
    (path / "7/stat").write_text(f"7 (qemu (x) y) S {' '.join(['0'] * 10)} {used} 0 0 0 20\n")
    (path / "7/statm").write_text("9999 1000 1 1 1 1 1\n")
    (path / "7/task/7/schedstat").write_text(f"1 {waited} 5\n")
    return path


async def test_what_was_used_between_two_measurements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0], raising=False)
    gauge = ProcGauge(lambda: {"i-1": 7, "i-gone": 99}, said, proc=fake_proc(tmp_path, 10, 10**9, 1.0, 1.0))
    assert await gauge.measure() is None
    now[0] += 10
    fake_proc(tmp_path, 25, 6 * 10**9, 13.0, 3.0)
    found = await gauge.measure()
    assert found is not None
    assert found.number == 1
    assert found.cpus == pytest.approx(1.5)
    assert found.memory_bytes == 2 * GIB
    assert found.cpu_pressure == pytest.approx(0.2)
    assert found.memory_pressure == 0.0
    machine = found.machines["i-1"]
    assert (machine.cpus, machine.waiting) == (pytest.approx(1.2), pytest.approx(0.5))
    assert (machine.memory_bytes, machine.used_bytes) == (1000 * PAGE_BYTES, 5)
    assert found.machines.keys() == {"i-1"}


def counts(time: float, busy: float, pid: int, seconds: float, **waited: int) -> Counts:
    return Counts(time, busy, GIB, (0.0, 0.0), {"i-1": Count(pid, seconds, waited, GIB)})


def test_a_machine_that_has_just_begun_is_not_told_of() -> None:
    assert load(1, counts(0, 0, 7, 5), counts(10, 5, 8, 1), {}, whole=True).machines == {}


def test_threads_come_and_go() -> None:
    """One that ended does not make the sum less, and one that begins counts from then on."""
    before, now = counts(0, 0, 7, 5, a=9 * 10**9, b=10**9), counts(10, 5, 7, 6, b=2 * 10**9, c=10**12)
    assert load(1, before, now, {}, whole=True).machines["i-1"].waiting == pytest.approx(0.1)


def test_a_host_that_shares_its_computer_counts_its_machines_only() -> None:
    found = load(3, counts(0, 0, 7, 5), counts(10, 500, 7, 15), {}, whole=False)
    assert found.machines["i-1"].used_bytes == -1
    assert (found.number, found.cpus, found.memory_bytes, found.cpu_pressure) == (3, 1.0, GIB, 0.0)


async def test_this_kernel_can_be_asked() -> None:
    gauge = ProcGauge(lambda: {"i-1": os.getpid()}, said)
    assert await gauge.measure() is None
    start = time.process_time()
    while time.process_time() < start + 5 / TICKS:
        pass
    found = await gauge.measure()
    assert found is not None
    assert found.cpus > 0
    assert found.memory_bytes > 0
    assert found.machines["i-1"].memory_bytes > 0
