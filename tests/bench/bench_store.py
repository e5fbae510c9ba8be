"""Measures the stores with 25,000 instances, volumes and interfaces.

Run: ``PYTHONPATH=src:tests python tests/bench/bench_store.py [--directory DIR] [--instances N] [STORE...]``.
STORE: sqlite, postgres (a server of its own, which waits for the disk as real ones do); both without. Prints
one line a number. A PostgreSQL read that is "uncached" also makes a connection.
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
import uvloop

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
from gureum.store.base import Store, Transaction
from gureum.store.sqlite import SqliteStore
from support.postgres import server

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


async def fill(path: str, count: int) -> None:
    store = await open_store(path)
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
    if os.path.exists(path):
        report("file size", os.stat(path).st_size / len(records), "bytes/record")


async def open_store(place: str) -> Store:
    """``place``: a file, or a PostgreSQL database's URL."""
    if "://" not in place:
        return SqliteStore.open(place)
    from gureum.store.postgres import Address, PostgresStore

    return await PostgresStore.open(Address.parse(place))


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


async def measure_opening(path: str) -> None:
    async def reopen() -> None:
        store = await open_store(path)
        await store.close()

    report("open and close", await best(reopen) * 1e3, "ms")


async def measure_reads(path: str, count: int) -> None:
    def everything(kind: int) -> list[Record]:
        return [trio[kind] for trio in fleet(count)]

    ids = sorted(record.id for record in everything(0))
    some = random.Random(2).sample(ids, min(BATCH, count))

    async def uncached(read: Callable[[Store], Awaitable[object]]) -> float:
        took = []
        for _ in range(5):
            store = await open_store(path)
            started = time.perf_counter()
            await read(store)
            took.append(time.perf_counter() - started)
            await store.close()
        return min(took)

    async def gets(store: Store) -> None:
        async with store.read() as reader:
            for id in some:
                await reader.get(Instance, id)

    async def page(store: Store) -> None:
        async with store.read() as reader:
            assert await reader.find(Instance, account="000000000002", after=ids[count // 2], limit=1000)

    async def page_of_running(store: Store) -> None:
        async with store.read() as reader:
            await reader.find(Instance, account="000000000002", state="running", after=ids[9], limit=1000)

    async def volumes(store: Store) -> None:
        async with store.read() as reader:
            assert len(await reader.find(Volume, instances=some)) == len(some)

    async def rare(store: Store) -> None:
        async with store.read() as reader:
            await reader.find(Instance, account="000000000002", state=["pending", "stopping"])

    async def host(store: Store) -> None:
        async with store.read() as reader:
            assert await reader.find(Instance, host="host-07")

    async def count_all(store: Store) -> None:
        async with store.read() as reader:
            assert await reader.count(Instance) == count

    async def scan(store: Store) -> None:
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
    store = await open_store(path)
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


async def measure_writes(path: str, count: int) -> None:
    store = await open_store(path)
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


async def measure_memory_of_store(path: str) -> None:
    store = await open_store(path)
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
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("stores", nargs="*", default=["sqlite", "postgres"])
    options = parser.parse_args()
    if options.memory_of:
        uvloop.run(measure_memory_of_store(options.memory_of))
        return
    for store in options.stores:
        sys.stdout.write(f"--- {store}\n")
        if store == "sqlite":
            with tempfile.TemporaryDirectory(dir=options.directory, prefix="bench-store-") as directory:
                measure(f"{directory}/store.db", options.instances)
        else:
            with server(durable=True, parent=options.directory) as running:
                measure(running.create_database("bench"), options.instances)


def measure(place: str, instances: int) -> None:
    uvloop.run(fill(place, instances))
    uvloop.run(measure_opening(place))
    uvloop.run(measure_reads(place, instances))
    uvloop.run(measure_writes(place, instances))
    sys.stdout.flush()
    # A process of its own, so that what was measured before does not count.
    subprocess.run([sys.executable, __file__, "--memory-of", place], check=True, timeout=120)


if __name__ == "__main__":
    main()
