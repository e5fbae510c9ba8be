"""A cloud that does nothing: its memory, its CPU time, and how soon it answers."""

from __future__ import annotations

import time
from pathlib import Path

from gureum.bench.clouds import Bench, bench_cloud
from gureum.bench.figures import Figure, Promise, Say, compare
from gureum.bench.processes import busy_percent, memory_mb
from gureum.bench.servers import BenchError, Server, moto

RSS_MB = 150
CPU_PERCENT = 1
UP_SECONDS = 1
SETTLE_SECONDS = 5.0


def measure(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    starts, idle_seconds = (2, 10.0) if quick else (7, 60.0)
    peer_starts: list[float] = []
    with bench_cloud(say) as bench:
        bench.up()  # the first makes the store, which the others find
        ups = []
        for number in range(1, starts + 1):
            bench.cloud.stop_processes()
            ups.append(bench.up())
            with moto(directory, 0) as server:
                peer_starts.append(server.start_seconds)
            say(f"up, {number} of {starts}: {ups[-1]:.2f} s; moto_server {peer_starts[-1]:.2f} s")
        say(f"idle for {idle_seconds:.0f} s")
        time.sleep(SETTLE_SECONDS)
        percent = busy_percent(pids(bench), idle_seconds)
        memory = [memory_mb(pid) for pid in pids(bench)]
        roles = [f"{process.name} {(process.rss_kib or 0) / 1024:.0f}" for process in bench.cloud.processes()]
    peer_percent, peer_rss = _peer(directory, idle_seconds)
    return [
        compare(
            "gureum up to its first answered call",
            "s",
            ups,
            peer_starts,
            peer_name="moto_server",
            promise=Promise(limit=UP_SECONDS),
        ),
        Figure(
            name="RSS of an idle cloud's processes",
            value=sum(rss for rss, _ in memory),
            unit="MB",
            peer=peer_rss,
            peer_name="moto_server",
            promise=Promise(limit=RSS_MB),
            remark=", ".join(roles),
        ),
        Figure(name="PSS of the same", value=sum(pss for _, pss in memory), unit="MB"),
        Figure(
            name="CPU of an idle cloud, of one core",
            value=percent,
            unit="%",
            peer=peer_percent,
            peer_name="moto_server",
            promise=Promise(limit=CPU_PERCENT),
        ),
    ]


def _peer(directory: Path, seconds: float) -> tuple[float, float]:
    with moto(directory, 0) as server:
        time.sleep(1)
        return busy_percent([server.pid], min(seconds, 10.0)), _rss(server)


def _rss(server: Server) -> float:
    return server.rss_mb


def pids(bench: Bench) -> list[int]:
    found = [process.pid for process in bench.cloud.processes() if process.pid is not None]
    if len(found) != 3:
        raise BenchError(f"{len(found)} processes of the cloud run, not 3")
    return found
