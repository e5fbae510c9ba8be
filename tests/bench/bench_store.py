"""Measures the SQLite store with 25,000 instances, volumes and interfaces.

Run: ``python tests/bench/bench_store.py [--directory DIR] [--instances 25000]``. Prints one line a number.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gureum.resources import (
    Attachment,
    AttachmentState,
    BlockDevice,
    Instance,
    InstanceState,
    NetworkInterface,
    Record,
    Volume,
    VolumeState,
)
from gureum.store.base import Transaction
from gureum.store.sqlite import SqliteStore

BATCH = 1000
CREATED = datetime(2026, 1, 1, tzinfo=UTC)


def fleet(count: int) -> Iterator[tuple[Instance, Volume, NetworkInterface]]:
    """``count`` running instances in 5 accounts on 50 hosts, each with its root volume and interface."""
    rng = random.Random(1)

    def new_id(prefix: str) -> str:
        return f"{prefix}-{rng.getrandbits(68):017x}"

    for number in range(count):
        instance, volume, interface = new_id("i"), new_id("vol"), new_id("eni")
        account = f"{number % 5:012}"
        host, zone = f"host-{number % 50:02}", f"local-1{'abc'[number % 3]}"
        vpc, subnet = f"vpc-{number % 5:017x}", f"subnet-{number % 15:017x}"
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        tags = {"Name": f"machine-{number}", "team": "blue"}
        yield (
            Instance(
                id=instance,
                account=account,
                tags=tags,
                state=InstanceState.running,
                reservation=new_id("r"),
                type="t3.micro",
                image="ami-0123456789abcdef0",
                zone=zone,
                host=host,
                key_name="operator",
                public_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUz0e0nmZzTqCbPvGyVYvZbmqKpXc1Rz1Lw0fWZ6Ee1",
                user_data=b"#!/bin/sh\necho hello\n",
                launched=CREATED,
                vpc=vpc,
                subnet=subnet,
                private_ip=address,
                interfaces=(interface,),
                devices=(BlockDevice(device="/dev/xvda", volume=volume, delete_on_termination=True),),
            ),
            Volume(
                id=volume,
                account=account,
                tags=tags,
                state=VolumeState.in_use,
                size_bytes=8 << 30,
                zone=zone,
                host=host,
                source="ami-0123456789abcdef0",
                created=CREATED,
                attachments=(
                    Attachment(
                        instance=instance,
                        device="/dev/xvda",
                        state=AttachmentState.attached,
                        attached=CREATED,
                    ),
                ),
            ),
            NetworkInterface(
                id=interface,
                account=account,
                vpc=vpc,
                subnet=subnet,
                zone=zone,
                mac=f"02:00:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}",
                private_ip=address,
                groups=("sg-0123456789abcdef0",),
                instance=instance,
                attached=CREATED,
            ),
        )


async def fill(path: Path, count: int) -> None:
    store = SqliteStore.open(path)
    records: list[Record] = [record for trio in fleet(count) for record in trio]
    started = time.perf_counter()
    for first in range(0, len(records), BATCH):

        async def work(tx: Transaction, first: int = first) -> None:
            for record in records[first : first + BATCH]:
                await tx.put(record)

        await store.transact(work)
    seconds = time.perf_counter() - started
    report("bulk load", len(records) / seconds, "records/s")
    await store.close()
    report("file size", path.stat().st_size / len(records), "bytes/record")


def report(what: str, value: float, unit: str) -> None:
    sys.stdout.write(f"{what:<58}{value:>10.1f} {unit}\n")


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def best(action: Callable[[], Awaitable[object]], times: int = 5) -> float:
    """The fastest of some runs, in seconds."""
    took = []
    for _ in range(times):
        gc.collect()
        started = time.perf_counter()
        await action()
        took.append(time.perf_counter() - started)
    return min(took)


async def measure_opening(path: Path) -> None:
    async def reopen() -> None:
        store = SqliteStore.open(path)
        await store.close()

    report("open and close", await best(reopen) * 1e3, "ms")


async def measure_reads(path: Path, count: int) -> None:
    def everything(kind: int) -> list[Record]:
        return [trio[kind] for trio in fleet(count)]

    ids = sorted(record.id for record in everything(0))
    some = random.Random(2).sample(ids, min(BATCH, count))

    async def uncached(read: Callable[[SqliteStore], Awaitable[object]]) -> float:
        took = []
        for _ in range(5):
            store = SqliteStore.open(path)
            started = time.perf_counter()
            await read(store)
            took.append(time.perf_counter() - started)
            await store.close()
        return min(took)

    async def gets(store: SqliteStore) -> None:
        async with store.read() as reader:
            for id in some:
                await reader.get(Instance, id)

    async def page(store: SqliteStore) -> None:
        async with store.read() as reader:
            assert await reader.find(Instance, account="000000000002", after=ids[count // 2], limit=1000)

    async def page_of_running(store: SqliteStore) -> None:
        async with store.read() as reader:
            await reader.find(Instance, account="000000000002", state="running", after=ids[9], limit=1000)

    async def volumes(store: SqliteStore) -> None:
        async with store.read() as reader:
            assert len(await reader.find(Volume, instances=some)) == len(some)

    async def rare(store: SqliteStore) -> None:
        async with store.read() as reader:
            await reader.find(Instance, account="000000000002", state=["pending", "stopping"])

    async def host(store: SqliteStore) -> None:
        async with store.read() as reader:
            assert await reader.find(Instance, host="host-07")

    async def count_all(store: SqliteStore) -> None:
        async with store.read() as reader:
            assert await reader.count(Instance) == count

    async def scan(store: SqliteStore) -> None:
        async with store.read() as reader:
            assert len(await reader.find(Instance)) == count

    report("get by id, uncached", await uncached(gets) / len(some) * 1e6, "µs")
    for name, read in {
        "page of 1000 instances by account": page,
        "page of 1000 by account and state": page_of_running,
        "account and rare states": rare,
        "1000 volumes by instance": volumes,
        f"{count // 50} instances of a host": host,
        "count of instances": count_all,
        f"all {count} instances": scan,
    }.items():
        report(f"find {name}, uncached", await uncached(read) * 1e3, "ms")
    store = SqliteStore.open(path)
    await gets(store)
    report("get by id, cached", await best(lambda: gets(store)) / len(some) * 1e6, "µs")

    async def snapshot() -> None:
        for _ in range(BATCH):
            async with store.read():
                pass

    report("begin and end a read", await best(snapshot) / BATCH * 1e6, "µs")
    await page(store)
    report("find page of 1000 instances by account, cached", await best(lambda: page(store)) * 1e3, "ms")
    await volumes(store)
    report("find 1000 volumes by instance, cached", await best(lambda: volumes(store)) * 1e3, "ms")
    await store.close()


async def measure_writes(path: Path, count: int) -> None:
    store = SqliteStore.open(path)
    ids = [trio[0].id for trio in fleet(min(count, 2000))]

    async def touch(id: str) -> None:
        async def work(tx: Transaction) -> None:
            record = await tx.get(Instance, id)
            assert record is not None
            await tx.put(msgspec.structs.replace(record, reboots=record.reboots + 1))

        await store.transact(work)

    async def one_by_one() -> None:
        for id in ids[:300]:
            await touch(id)

    def at_once(writers: int) -> Callable[[], Awaitable[None]]:
        async def writer(mine: list[str]) -> None:
            for id in mine:
                await touch(id)

        async def run() -> None:
            await asyncio.gather(*(writer(ids[number::writers]) for number in range(writers)))

        return run

    report("durable transactions, one at a time", 300 / await best(one_by_one), "/s")
    for writers in (8, 64):
        report(f"durable transactions, {writers} writers", len(ids) / await best(at_once(writers), 3), "/s")

    late: list[float] = []

    async def ticker() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - started - 0.001)

    ticking = asyncio.create_task(ticker())
    await at_once(8)()
    ticking.cancel()
    report("event loop late while 8 write: worst", max(late) * 1e3, "ms")
    await store.close()


async def measure_memory_of_store(path: Path) -> None:
    store = SqliteStore.open(path)
    before = rss_mib()
    for kind in (Instance, Volume, NetworkInterface):
        after: str | None = None
        while True:
            async with store.read() as reader:
                page = await reader.find(kind, after=after, limit=1000)
            if not page:
                break
            after = page[-1].id
    report("RSS before reading everything in pages", before, "MiB")
    report("RSS after", rss_mib(), "MiB")
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="where the store is made (a disk, not a tmpfs)")
    parser.add_argument("--instances", type=int, default=25_000)
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        asyncio.run(measure_memory_of_store(options.memory_of))
        return
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="bench-store-") as directory:
        path = Path(directory) / "store.db"
        asyncio.run(fill(path, options.instances))
        asyncio.run(measure_opening(path))
        asyncio.run(measure_reads(path, options.instances))
        asyncio.run(measure_writes(path, options.instances))
        sys.stdout.flush()
        # A process of its own, so that what was measured before does not count.
        subprocess.run([sys.executable, __file__, "--memory-of", str(path)], check=True, timeout=120)


if __name__ == "__main__":
    main()
