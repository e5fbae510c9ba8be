"""25,000 instances in the store: start, pages, one by its id, and memory. moto's peer has a thousand."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from gureum.bench import requests
from gureum.bench.client import Connection
from gureum.bench.figures import Figure, Promise, Say, compare
from gureum.bench.processes import cpu_seconds
from gureum.bench.servers import BenchError, Server, moto, seeded

INSTANCES = 25_000
PEER_INSTANCES = 1_000
PAGE = 1_000
PAGE_MS = 100
BY_ID_MS = 5
START_SECONDS = 2
RSS_MB = 300
TOKEN = re.compile(rb"<nextToken>([^<]+)</nextToken>")


def measure(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    starts, lookups = (2, 50) if quick else (5, 300)
    say(f"putting {INSTANCES:,} instances into a store")
    began = time.monotonic()
    cloud = seeded(directory / "fleet", INSTANCES)
    say(f"    in {time.monotonic() - began:.1f} s")
    start_seconds, first_pages = [], []
    for number in range(1, starts + 1):
        with cloud.manager() as server:
            start_seconds.append(server.start_seconds)
            first_pages.append(timed(server, [requests.instances(server.endpoint, MaxResults=PAGE)])[0])
            say(f"start {number} of {starts}: {start_seconds[-1]:.2f} s, first page {first_pages[-1]:.0f} ms")
    with cloud.manager() as server:
        cpu_before = cpu_seconds(server.pid)
        pages = walk(server)
        cpu_ms = 1000 * (cpu_seconds(server.pid) - cpu_before) / len(pages)
        say(f"{len(pages)} pages, one after another: median {sorted(pages)[len(pages) // 2]:.0f} ms")
        again = timed(server, [requests.instances(server.endpoint, MaxResults=PAGE)] * 10)[1:]
        by_id = look_up(server, lookups)
        rss = server.rss_mb
    peer_page, peer_by_id, peer_rss, peer_start = _peer(directory, lookups, say)
    against = f"moto_server, {PEER_INSTANCES:,}"
    limit = Promise(limit=PAGE_MS)
    return [
        compare(
            f"manager start, {INSTANCES:,} instances",
            "s",
            start_seconds,
            [peer_start],
            peer_name="moto_server, none",
            promise=Promise(limit=START_SECONDS),
        ),
        compare(
            f"page of {PAGE:,}: first after a start",
            "ms",
            first_pages,
            peer_page,
            peer_name=against,
            promise=limit,
        ),
        compare(
            f"page of {PAGE:,}: each of the {len(pages)} once",
            "ms",
            pages,
            peer_page,
            peer_name=against,
            promise=limit,
        ),
        Figure(name=f"page of {PAGE:,}: each once, CPU time of the manager", value=cpu_ms, unit="ms"),
        compare(
            f"page of {PAGE:,}: the same again", "ms", again, peer_page, peer_name=against, promise=limit
        ),
        compare(
            "one by its id",
            "ms",
            by_id,
            peer_by_id,
            peer_name=against,
            promise=Promise(limit=BY_ID_MS),
        ),
        Figure(
            name="one by its id, p99",
            value=percentile(by_id, 0.99),
            unit="ms",
            peer=percentile(peer_by_id, 0.99),
            peer_name=against,
        ),
        Figure(
            name="manager RSS after all that",
            value=rss,
            unit="MB",
            peer=peer_rss,
            peer_name=against,
            promise=Promise(limit=RSS_MB),
        ),
    ]


def _peer(directory: Path, lookups: int, say: Say) -> tuple[list[float], list[float], float, float]:
    say(f"moto_server with {PEER_INSTANCES:,} instances")
    with moto(directory, PEER_INSTANCES) as server:
        request = requests.instances(server.endpoint, MaxResults=PAGE)
        page = timed(server, [request] * 4)[1:]
        by_id = look_up(server, min(lookups, 50))
        return page, by_id, server.rss_mb, server.start_seconds


def walk(server: Server) -> list[float]:
    """Milliseconds of each page from the first to the last; a page is asked for with the token before it."""
    connection = Connection("127.0.0.1", server.endpoint.port)
    times: list[float] = []
    more: dict[str, str] = {}
    seen = 0
    for _ in range(2 * INSTANCES // PAGE):
        request = requests.instances(server.endpoint, MaxResults=PAGE, **more)
        began = time.monotonic()
        answer = connection.exchange(request)
        times.append(1000 * (time.monotonic() - began))
        seen += answer.count(b"<instanceId>i-") - answer.count(b"<attachment><instanceId>")
        token = TOKEN.search(answer)
        if token is None:
            break
        more = {"NextToken": token[1].decode()}
    connection.close()
    if seen < INSTANCES:
        raise BenchError(f"the pages have {seen} instances, not {INSTANCES}")
    return times


def look_up(server: Server, count: int) -> list[float]:
    """Milliseconds of DescribeInstances by id, for so many instances at random."""
    chosen = random.Random(1).choices(server.instances, k=count)
    return timed(server, (requests.instances(server.endpoint, InstanceId_1=id) for id in chosen))


def timed(server: Server, made: Iterable[bytes], clock: Callable[[], float] = time.monotonic) -> list[float]:
    """Milliseconds of each request, over one connection, one after another."""
    connection = Connection("127.0.0.1", server.endpoint.port)
    times = []
    for request in made:
        began = clock()
        connection.exchange(request)
        times.append(1000 * (clock() - began))
    connection.close()
    return times


def percentile(numbers: Iterable[float], share: float) -> float:
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
