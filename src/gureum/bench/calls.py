"""Calls a second: signed GetCallerIdentity and DescribeInstances, against moto_server."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from gureum.bench import requests
from gureum.bench.figures import Figure, Promise, Say, compare
from gureum.bench.servers import BenchError, Server, moto, seeded

INSTANCES = 20
PROMISED = Promise(limit=5, of="ratio", at="least")
CALLS: dict[str, Callable[[requests.Endpoint], bytes]] = {
    "GetCallerIdentity": requests.identity,
    f"DescribeInstances ({INSTANCES})": requests.instances,
}
CLIENT_SECONDS_OVER = 60.0


def measure(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    """One client process per core, rounds by turns on either server; medians of the rounds."""
    rounds, seconds = (2, 1.0) if quick else (5, 4.0)
    clients = os.cpu_count() or 1
    figures: list[Figure] = []
    cloud = seeded(directory / "calls", INSTANCES)
    with cloud.manager() as ours, moto(directory, INSTANCES) as theirs:
        for name, make in CALLS.items():
            mine, peers = [], []
            for number in range(1, rounds + 1):
                mine.append(load(ours, make(ours.endpoint), clients, seconds))
                peers.append(load(theirs, make(theirs.endpoint), clients, seconds))
                say(
                    f"{name}, round {number} of {rounds}: {mine[-1]['per_second']:,.0f} calls/s, "
                    f"moto {peers[-1]['per_second']:,.0f}"
                )
            for key, unit, title in (
                ("per_second", "/s", "a second"),
                ("p50_ms", "ms", "p50"),
                ("p99_ms", "ms", "p99"),
            ):
                figures.append(
                    compare(
                        f"{name}, {title}",
                        unit,
                        [each[key] for each in mine],
                        [each[key] for each in peers],
                        peer_name="moto_server",
                        promise=PROMISED if key == "per_second" else None,
                    )
                )
    return figures


def load(server: Server, request: bytes, clients: int, seconds: float) -> dict[str, float]:
    """So many client processes at once: answers a second of all, medians of their p50 and p99 in ms."""
    script = Path(__file__).with_name("client.py")
    command = [sys.executable, "-I", "-S", str(script), "127.0.0.1", str(server.endpoint.port), str(seconds)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(clients)
    ]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(request)
            process.stdin.close()
            process.stdin = None
        answers = [json.loads(_output(process, seconds)) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return {
        "per_second": sum(answer["count"] / answer["seconds"] for answer in answers),
        "p50_ms": statistics.median(answer["p50_ms"] for answer in answers),
        "p99_ms": statistics.median(answer["p99_ms"] for answer in answers),
    }


def _output(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    output, _ = process.communicate(timeout=2 * seconds + CLIENT_SECONDS_OVER)
    if process.returncode != 0:
        raise BenchError(f"a load client ended with code {process.returncode}")
    return output
