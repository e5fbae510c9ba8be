"""`rbd bench`, a peer beside qemu-img bench: what librbd does with the same requests, without QEMU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from gureum.bench.disk_guest import Load
from gureum.bench.disk_io import DISK_BYTES, FIRST_REQUESTS, LOADS, rbd
from gureum.bench.figures import Figure, Say
from gureum.bench.servers import BenchError
from gureum.san.settings import SanSettings

IMAGE = "bench-peer"
_RATE = re.compile(r"ops/sec:\s*([0-9.]+)")


def measure(settings: SanSettings, say: Say, *, quick: bool) -> list[Figure]:
    """Requests a second, of each load that guests are measured with. Blocks."""
    seconds, rounds = (1.0, 1) if quick else (4.0, 3)
    found = []
    with _image(settings):
        for load in LOADS:
            rates = [_rate(settings, load, seconds) for _ in range(rounds)]
            say(f"ceph, {load.name}: {median(rates):,.0f} by rbd bench")
            name = f"ceph: {load.name}, by rbd bench"
            found.append(Figure(name=name, value=median(rates), unit="requests/s", samples=tuple(rates)))
    return found


@contextmanager
def _image(settings: SanSettings) -> Iterator[None]:
    """Written all over: what was never written is read without asking a disk."""
    rbd(settings, "create", IMAGE, "--size", f"{DISK_BYTES}B")
    try:
        _bench(settings, LOADS[-1], DISK_BYTES // LOADS[-1].block_bytes)
        yield
    finally:
        rbd(settings, "rm", IMAGE, "--no-progress")


def _rate(settings: SanSettings, load: Load, seconds: float) -> float:
    first = _bench(settings, load, FIRST_REQUESTS[load.block_bytes])
    return _bench(settings, load, max(FIRST_REQUESTS[load.block_bytes], int(first * seconds)))


def _bench(settings: SanSettings, load: Load, count: int) -> float:
    """Requests a second, of so many. Without librbd's cache, as QEMU opens images."""
    said = rbd(
        settings,
        *("bench", "--rbd-cache", "false", "--io-type", load.operation, "--io-size", str(load.block_bytes)),
        *("--io-threads", str(load.depth), "--io-total", str(count * load.block_bytes)),
        *("--io-pattern", "rand" if load.random else "seq", IMAGE),
    )
    found = _RATE.findall(said)
    if not found:
        raise BenchError(f"rbd bench said no rate: {said.strip()[-200:]}")
    return float(found[-1])
