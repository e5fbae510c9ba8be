"""The host's time stamp counter, which under TCG is the guest's.

A microvm has nothing but the PIT to calibrate it with, and under TCG on a busy host that fails: Linux then
waits for timer interrupts that never come. So it is told the frequency.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import platform
import time

MEASURE_SECONDS = 0.05
_READ = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret


async def frequency_khz() -> int:
    """Measured over 50 ms; 0 if this CPU has no such counter."""
    if platform.machine() != "x86_64":
        return 0
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_READ)
    code = ctypes.c_char.from_buffer(page)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(code))
    try:
        ticks, start = int(read()), time.perf_counter_ns()
        await asyncio.sleep(MEASURE_SECONDS)
        ticks, elapsed = int(read()) - ticks, time.perf_counter_ns() - start
    finally:
        del read, code
        page.close()
    return round(ticks * 1_000_000 / elapsed)
