"""What is particular to the pool in a storage cluster: several hosts, machines that run, what dies."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from contracts.pools import BLOCK, BOOT, IMAGE_BYTES, MIB, Ids, block
from gureum.errors import PoolError, PoolFull, PoolUnavailable
from gureum.san import qemu_img
from gureum.san.base import RbdDisk
from gureum.san.ceph import upkeep
from gureum.san.ceph.pool import RbdPool

from .rbd import Cluster, Live, kill_workers, tidied, workers_of

pytestmark = pytest.mark.ceph
WAIT_SECONDS = 60.0


@pytest.fixture
async def pool(cluster: Cluster) -> AsyncIterator[RbdPool]:
    pool = cluster.pool()
    yield pool
    await tidied(cluster, pool)
    await pool.close()
    assert workers_of(cluster) == []


@pytest.fixture
async def other(cluster: Cluster) -> AsyncIterator[RbdPool]:
    """The pool as another host has it."""
    other = cluster.pool("h2")
    yield other
    await other.close()


@pytest.fixture
def ids() -> Ids:
    return Ids()


HELD_OVER = """
with session.image(arguments[0], read_only=True) as image:
    object = locks.header(image)
mine = locks.cookie(session)
found, since = locks.seen(session, object, locks.NAME), locks.opened(session, object, mine)
locks.note(session, object, 2)
locks.take(session, arguments[0], object)
print(locks.take_away(session, object, found, mine), locks.release(session, object, mine, since), end=" ")
print(locks.holder(session, object) is not None, locks.release(session, object, mine), end=" ")
print(locks.holder(session, object) is not None)
"""
"""One that has looked at a lock to take it away, and hung while the volume was opened once more."""

OPEN_BESIDE = """
from rbdworker import blocks
from rbdworker.session import Refused
values = {name: value for name, value in json.loads(settings).items() if name != "nice"}
writer = Session(**values | {"host": "h1"})
with session.image(arguments[0]):
    print(locks.lead(session, 60), end=" ")
    blocks.write(writer, arguments[0], 0, b"9" * 512)
    print(blocks.read(writer, "", arguments[0], 0, 1).decode(), end=" ")
    locks.follow(session)
    try:
        blocks.write(writer, arguments[0], 0, b"0" * 512)
    except Refused as error:
        print(error.kind)
writer.close()
"""
"""Who looks after the pool, and then does not any more, with a volume open."""


@pytest.fixture
def image_disk(tmp_path: Path) -> str:
    path = tmp_path / "image.raw"
    with open(path, "wb") as file:
        file.write(BOOT)
        file.seek(40 * MIB)
        file.write(block("far"))
        file.truncate(IMAGE_BYTES)
    return str(path)


@pytest.fixture
async def image(pool: RbdPool, image_disk: str, ids: Ids) -> str:
    await pool.add_image(ids("ami-1"), image_disk, "raw", IMAGE_BYTES)
    return ids("ami-1")


async def until(question: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            if await question():
                return
            await asyncio.sleep(0.2)


async def eventually(operation: Callable[[], Awaitable[object]]) -> object:
    """As an agent does: again, while it is told that the pool is not available now."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                return await operation()
            except PoolUnavailable:
                await asyncio.sleep(0.2)


async def look(pool: RbdPool, volume: str, at: int = 0) -> bytes:
    snapshot = volume.replace("vol-", "snap-look")
    await pool.create_snapshot(snapshot, volume)
    data = await pool.read_snapshot(snapshot, volume, at, BLOCK)
    await pool.delete_snapshot(snapshot, volume)
    return data


# Hosts


async def test_an_attach_excludes_other_hosts(pool, other, cluster, ids):
    vol = ids("vol-1")
    await pool.create_volume(vol, 64 * MIB)
    disk = await pool.open_volume(vol)
    assert disk == RbdDisk(
        pool=cluster.settings.pool,
        image=vol,
        conf=str(cluster.settings.conf),
        user=cluster.settings.user,
        keyring=str(cluster.settings.keyring),
    )
    assert await pool.open_volume(vol) == disk
    with pytest.raises(
        PoolUnavailable, match=f"{vol} is in use by another host: host h1, since .*, cloud {cluster.cloud}"
    ):
        await other.open_volume(vol)
    with pytest.raises(PoolUnavailable, match="in use by another host"):
        await other.delete_volume(vol)
    await other.release_volume(vol)
    with pytest.raises(PoolUnavailable):
        await other.open_volume(vol)
    await pool.release_volume(vol)
    await other.open_volume(vol)
    with pytest.raises(PoolUnavailable, match="host h2"):
        await pool.open_volume(vol)
    await other.release_volume(vol)


async def test_the_next_process_of_a_host_has_what_the_host_has(pool, other, cluster, ids):
    vol = ids("vol-1")
    await pool.create_volume(vol, 64 * MIB)
    await pool.open_volume(vol)
    assert kill_workers(cluster)
    await eventually(lambda: pool.open_volume(vol))
    with pytest.raises(PoolUnavailable, match="in use by another host"):
        await other.open_volume(vol)
    await pool.release_volume(vol)
    await other.open_volume(vol)
    await other.release_volume(vol)


async def test_who_has_a_copy_open_says_alone_whether_it_is_complete(pool, other, ids):
    vol = ids("vol-1")
    await pool.create_volume(vol, 64 * MIB, partial=True)
    await pool.open_volume(vol)
    await pool.mark_partial(vol, False)
    with pytest.raises(PoolUnavailable, match="in use by another host"):
        await other.mark_partial(vol, True)
    assert not (await other.find_volume(vol)).partial
    await pool.release_volume(vol)
    await other.mark_partial(vol, True)
    assert (await pool.find_volume(vol)).partial


async def test_a_lock_is_taken_from_a_certain_host_only(pool, other, cluster, ids):
    vol = ids("vol-1")
    await pool.create_volume(vol, 64 * MIB)
    await pool.open_volume(vol)
    client = cluster.client("h3")
    assert not await client.release_volume(vol, f"{cluster.cloud}/h2")
    assert (await client.describe(vol)).holder == f"{cluster.cloud}/h1"
    assert await client.release_volume(vol, f"{cluster.cloud}/h1")
    assert (await client.describe(vol)).holder == ""
    await client.close()
    await other.open_volume(vol)
    await other.release_volume(vol)


async def test_a_lost_hosts_machine_writes_no_more(pool, other, ids, start):
    vol = ids("vol-1")
    await pool.create_volume(vol, 64 * MIB)
    lost = start(await pool.open_volume(vol))
    lost.write(7, 0)
    await other.evict(vol, "h9")
    with pytest.raises(PoolUnavailable, match="in use by another host"):
        await other.open_volume(vol)
    for _ in range(2):
        await other.evict(vol, "h1")
    machine = start(await other.open_volume(vol))
    machine.read(7, 0)
    machine.write(8, 0)
    assert "write failed" in lost._ask("write -P 9 0 4096")
    machine.read(8, 0)
    lost.kill()
    machine.close()
    await other.release_volume(vol)


async def test_who_has_opened_it_anew_keeps_it(pool, other, ids, start):
    """An eviction that comes late: the host that it is about is back, and has the volume by a later word."""
    vol = ids("vol-1")
    await pool.create_volume(vol, 64 * MIB)
    machine = start(await pool.open_volume(vol, 5))
    machine.write(7, 0)
    await other.evict(vol, "h1", 4)
    machine.write(8, 0)
    with pytest.raises(PoolUnavailable, match="in use by another host"):
        await other.open_volume(vol, 6)
    await other.evict(vol, "h1", 5)
    assert "write failed" in machine._ask("write -P 9 0 4096")
    machine.kill()
    await other.open_volume(vol, 6)
    await pool.release_volume(vol)
    with pytest.raises(PoolUnavailable, match="in use by another host: host h2"):
        await pool.open_volume(vol, 7)
    await other.release_volume(vol)


async def test_a_lock_is_taken_from_nobody_who_opened_the_volume_meanwhile(pool, cluster, ids):
    vol = ids("vol-1")
    await pool.create_volume(vol, 64 * MIB)
    await pool.open_volume(vol, 1)
    assert cluster.as_worker("h1", HELD_OVER, vol) == "False False True True False"


async def test_two_hosts_bring_in_one_image(pool, other, cluster, ids, image_disk):
    image = ids("ami-1")
    await asyncio.gather(*(each.add_image(image, image_disk, "raw", IMAGE_BYTES) for each in (pool, other)))

    async def alone() -> bool:
        """The other's work goes at once, or with its next check if something still has it open."""
        for each in (pool, other):
            await each.check(repair=True)
        return [name for name in cluster.names() if image in name] == [image]

    await until(alone)
    await pool.create_volume(ids("vol-1"), IMAGE_BYTES, image)
    assert await look(pool, ids("vol-1")) == BOOT


async def test_two_hosts_make_one_volume(pool, other, cluster, ids, image):
    vol = ids("vol-1")
    await asyncio.gather(*(each.create_volume(vol, IMAGE_BYTES, image) for each in (pool, other)))
    assert [name for name in cluster.names() if vol in name] == [vol]
    assert await look(pool, vol) == BOOT


# Images


async def test_an_image_has_no_zeros_and_a_digest(pool, cluster, ids, image):
    used = cluster.run("rbd", "du", "--format", "json", f"{cluster.settings.pool}/{image}@base")
    assert '"used_size":8388608' in used  # two objects
    assert '"sha256"' in cluster.run("rbd", "image-meta", "get", f"{cluster.settings.pool}/{image}", "gureum")


async def test_a_qcow2_image_is_what_it_contains(pool, ids, image_disk, tmp_path):
    path = str(tmp_path / "image.qcow2")
    await qemu_img.run(("convert", "-c", "-f", "raw", "-O", "qcow2", image_disk, path), 30)
    await pool.add_image(ids("ami-2"), path, "qcow2", IMAGE_BYTES)
    await pool.create_volume(ids("vol-1"), IMAGE_BYTES, ids("ami-2"))
    assert await look(pool, ids("vol-1")) == BOOT
    assert await look(pool, ids("vol-1"), 40 * MIB) == block("far")
    assert await look(pool, ids("vol-1"), 20 * MIB) == bytes(BLOCK)


async def test_a_disk_that_is_not_what_was_said_is_refused(pool, cluster, ids, image_disk):
    with pytest.raises(PoolError, match="has 67108864 bytes, not"):
        await pool.add_image(ids("ami-2"), image_disk, "raw", 2 * IMAGE_BYTES)
    with pytest.raises(PoolError, match="no qcow2 file"):
        await pool.add_image(ids("ami-2"), image_disk, "qcow2", IMAGE_BYTES)
    assert not [name for name in cluster.names() if ids("ami-2") in name]


# Machines


async def test_a_running_machine_keeps_its_volume(pool, ids, start):
    vol = ids("vol-1")
    await pool.create_volume(vol, 64 * MIB)
    machine = start(await pool.open_volume(vol))
    machine.write(7, 0)
    with pytest.raises(PoolUnavailable, match=rf"{vol} is open in a running machine \(client "):
        await pool.delete_volume(vol)
    with pytest.raises(PoolUnavailable, match="is open in a running machine"):
        await pool.write_volume(vol, 0, bytes(512))
    machine.read(7, 0)
    machine.close()
    await pool.release_volume(vol)
    await pool.delete_volume(vol)


async def test_a_running_machine_sees_its_volume_grow(pool, ids, start):
    vol = ids("vol-1")
    await pool.create_volume(vol, 64 * MIB)
    machine = start(await pool.open_volume(vol))
    live = Live(machine=machine)
    machine.write(7, 0)
    await pool.resize_volume(vol, 128 * MIB, live)
    assert live.log == ["128 MiB"]
    machine.write(8, 127 * MIB)


@pytest.mark.parametrize("freezes", [False, True])
async def test_a_snapshot_of_a_running_machine_is_one_moment(pool, ids, start, freezes):
    """Block after block is written, each when the one before is acknowledged: a snapshot has a beginning."""
    vol, snap, live = ids("vol-1"), ids("snap-1"), Live(freezes)
    await pool.create_volume(vol, 64 * MIB)
    machine = start(await pool.open_volume(vol))
    written = 0
    over = False

    def write() -> None:
        nonlocal written
        while not over and written < 10_000:
            machine.write(1 + written % 250, written * 4096)
            written += 1

    writer = asyncio.create_task(asyncio.to_thread(write))
    await asyncio.sleep(0.5)
    before = written
    await pool.create_snapshot(snap, vol, live)
    after = written
    await asyncio.sleep(0.2)
    over = True
    await writer
    assert before < after < written
    assert live.log == (["freeze", "thaw"] if freezes else ["freeze"])
    data = b"".join(
        [
            await pool.read_snapshot(snap, vol, at, BLOCK)
            for at in range(0, 48 * MIB, BLOCK)
            if at < written * 4096
        ]
    )
    kept = next((n for n in range(written) if data[n * 4096] != 1 + n % 250), written)
    assert before <= kept <= after + 1
    assert not any(data[kept * 4096 :])


async def test_a_snapshot_that_a_guest_would_wait_for_too_long(pool, ids, monkeypatch):
    vol, snap, live = ids("vol-1"), ids("snap-1"), Live(freezes=True)
    await pool.create_volume(vol, 64 * MIB)
    create = pool._client.create_snapshot

    async def slow(id: str, volume: str) -> bool:
        await asyncio.sleep(0.5)
        live.log.append("taken")
        return await create(id, volume)

    monkeypatch.setattr(pool._client, "create_snapshot", slow)
    monkeypatch.setattr("gureum.san.ceph.pool.FROZEN_SECONDS", 0.1)
    await pool.create_snapshot(snap, vol, live)
    assert live.log == ["freeze", "thaw", "taken"]
    assert await pool.has_snapshot(snap, vol)


# What goes


async def test_a_deleted_volume_stays_for_its_snapshots_only(pool, cluster, ids):
    vol, one, two = ids("vol-1"), ids("snap-1"), ids("snap-2")
    await pool.create_volume(vol, 64 * MIB)
    await pool.write_volume(vol, 0, block("one"))
    await pool.create_snapshot(one, vol)
    await pool.create_snapshot(two, vol)
    await pool.open_volume(vol)
    await pool.delete_volume(vol)
    client = cluster.client()
    found = await client.describe(vol)
    await client.close()
    assert (found.deleted, found.size, found.holder, set(found.snapshots)) == (True, 0, "", {one, two})
    for refused in (
        pool.open_volume(vol),
        pool.resize_volume(vol, 128 * MIB),
        pool.create_snapshot(ids("snap-3"), vol),
    ):
        with pytest.raises(PoolError, match=f"there is no volume {vol}"):
            await refused
    with pytest.raises(PoolError, match="was deleted, and only its snapshots are left"):
        await pool.create_volume(vol, 64 * MIB)
    await pool.delete_snapshot(one, vol)
    assert await pool.read_snapshot(two, vol, 0, BLOCK) == block("one")
    await pool.delete_snapshot(two, vol)
    assert vol not in cluster.names()


async def found(pool: RbdPool, cluster: Cluster, repair: bool = False) -> list[str]:
    """What is in the pool and should not be."""
    return cluster.own(await pool.check(repair))


async def gone(pool: RbdPool, cluster: Cluster) -> bool:
    return await found(pool, cluster) == []


async def repaired(pool: RbdPool, cluster: Cluster) -> bool:
    """Who was killed is shut out by then, and what it had open goes."""
    return await found(pool, cluster, repair=True) == []


async def test_a_parent_goes_when_its_clones_have_its_data(pool, cluster, ids, image, start):
    """One of the clones is in use by a machine meanwhile."""
    vol, snap, copy = ids("vol-1"), ids("snap-1"), ids("vol-2")
    await pool.create_volume(vol, IMAGE_BYTES, image)
    machine = start(await pool.open_volume(vol))
    await pool.create_snapshot(snap, vol, Live())
    await pool.create_volume(copy, IMAGE_BYTES, snap, vol)
    await pool.remove_image(image)
    await pool.delete_snapshot(snap, vol)
    await until(lambda: gone(pool, cluster))
    assert cluster.own(cluster.trash()) == []
    machine.read(ord("."), 4096)
    machine.write(9, 0)
    assert await look(pool, copy) == BOOT
    assert await look(pool, copy, 40 * MIB) == block("far")


async def test_a_snapshot_outlives_its_volume_and_their_image(pool, cluster, ids, image):
    """What is left of the volume gets the image's data, and gives back what the snapshot does not need."""
    vol, snap = ids("vol-1"), ids("snap-1")
    await pool.create_volume(vol, IMAGE_BYTES, image)
    await pool.create_snapshot(snap, vol)
    await pool.delete_volume(vol)
    assert cluster.size(vol) == IMAGE_BYTES
    await pool.remove_image(image)
    await until(lambda: gone(pool, cluster))
    assert cluster.size(vol) == 0
    assert await pool.read_snapshot(snap, vol, 0, BLOCK) == BOOT
    await pool.delete_snapshot(snap, vol)
    await until(lambda: gone(pool, cluster))


async def test_a_volume_whose_object_map_tells_too_much_gets_all_that_it_shared(pool, cluster, ids, image):
    """As when a client dies between an object's entry and the object, also in a flatten."""
    vol, snap = ids("vol-1"), ids("snap-1")
    await pool.create_volume(vol, IMAGE_BYTES, image)
    await pool.create_snapshot(snap, vol)
    cluster.map_all(vol, IMAGE_BYTES // (4 * MIB))
    await pool.remove_image(image)
    await until(lambda: gone(pool, cluster))
    assert await look(pool, vol) == BOOT
    assert await pool.read_snapshot(snap, vol, 0, BLOCK) == BOOT
    assert "invalid" not in cluster.run("rbd", "info", f"{cluster.settings.pool}/{vol}")


async def test_blocks_are_written_while_another_host_copies_what_they_were(pool, cluster, ids):
    """A parent that goes is copied to its clone just when an upload, or a copy of a disk, writes to that."""
    vol, snap, copy = ids("vol-1"), ids("snap-1"), ids("vol-2")
    size, step = 128 * MIB, 4 * MIB
    await pool.create_volume(vol, size)
    for at in range(0, size, step):
        await pool.write_volume(vol, at, block(f"old {at}") * (step // BLOCK))
    await pool.create_snapshot(snap, vol)
    await pool.create_volume(copy, size, snap, vol)
    keeper = cluster.client("h2")
    try:
        assert await keeper.lead(60)
        copying = asyncio.ensure_future(keeper.flatten(copy, lambda share: None))
        beside = 0
        for at in range(0, size, step):
            await pool.write_volume(copy, at, block(f"new {at}"))
            assert await pool.read_volume(copy, at, BLOCK) == block(f"new {at}")
            beside += not copying.done()
        assert beside > 1
        assert await copying
        await keeper.follow()
    finally:
        await keeper.close()
    for at in range(0, size, step):
        assert await pool.read_volume(copy, at, BLOCK) == block(f"new {at}")
        assert await pool.read_volume(copy, at + step - BLOCK, BLOCK) == block(f"old {at}")
    assert "parent" not in cluster.run("rbd", "info", f"{cluster.settings.pool}/{copy}")


async def test_nobody_writes_beside_who_is_not_the_upkeep(pool, cluster, ids):
    vol = ids("vol-1")
    await pool.create_volume(vol, 64 * MIB)
    assert cluster.as_worker("h2", OPEN_BESIDE, vol) == "True 9 busy"


async def test_a_parent_of_many_stays(pool, cluster, ids, image, monkeypatch, caplog):
    monkeypatch.setattr(upkeep, "CHILDREN_MAX", 1)
    volumes = [ids("vol-1"), ids("vol-2")]
    for vol in volumes:
        await pool.create_volume(vol, IMAGE_BYTES, image)
    await pool.remove_image(image)

    async def told() -> bool:
        return f"{image} stays in the trash: 2 clones need it" in caplog.text

    caplog.set_level("INFO")
    await until(told)
    assert await found(pool, cluster) == [f"{image} waits in the trash"]
    await pool.delete_volume(volumes[0])
    await until(lambda: gone(pool, cluster))
    assert await look(pool, volumes[1]) == BOOT


async def test_long_chains_become_short(pool, cluster, ids, image, monkeypatch):
    monkeypatch.setattr("gureum.san.ceph.pool.DEPTH_MAX", 2)
    names = [ids(f"vol-{number}x") for number in range(4)]
    await pool.create_volume(names[0], IMAGE_BYTES, image)
    for before, name in pairwise(names):
        snap = name.replace("vol-", "snap-")
        await pool.create_snapshot(snap, before)
        await pool.create_volume(name, IMAGE_BYTES, snap, before)
    assert [(await pool._client.find_volume(name)).depth for name in names] == [1, 2, 3, 4]
    await pool.compact(names[1])
    await pool.open_volume(names[3])

    async def short() -> bool:
        return (await pool._client.find_volume(names[3])).depth == 0

    await until(short)
    assert (await pool._client.find_volume(names[1])).depth == 2
    assert "parent" not in cluster.run("rbd", "info", f"{cluster.settings.pool}/{names[3]}")
    assert await look(pool, names[3]) == BOOT


# What is full


async def test_a_full_pool_refuses_what_is_new_only(pool, cluster, ids, image, image_disk):
    vol, snap = ids("vol-1"), ids("snap-1")
    await pool.create_volume(vol, IMAGE_BYTES, image)
    await pool.create_snapshot(snap, vol)
    cluster.run("ceph", "osd", "pool", "set-quota", cluster.settings.pool, "max_bytes", str(100 * MIB))
    try:

        async def full() -> bool:
            return (await pool.inventory()).full != ""

        await until(full)
        assert "left in its quota" in (await pool.inventory()).full
        for refused in (
            pool.create_volume(ids("vol-2"), 64 * MIB),
            pool.create_volume(ids("vol-2"), IMAGE_BYTES, image),
            pool.create_snapshot(ids("snap-2"), vol),
            pool.resize_volume(vol, 2 * IMAGE_BYTES),
            pool.add_image(ids("ami-2"), image_disk, "raw", IMAGE_BYTES),
        ):
            with pytest.raises(PoolFull, match="nothing new is made in the pool"):
                await refused
        await pool.create_volume(vol, IMAGE_BYTES, image)
        await pool.create_snapshot(snap, vol)
        await pool.write_volume(vol, 0, block("still"))
        await pool.delete_snapshot(snap, vol)
        await pool.delete_volume(vol)
    finally:
        cluster.run("ceph", "osd", "pool", "set-quota", cluster.settings.pool, "max_bytes", "0")

    async def room() -> bool:
        return (await pool.inventory()).full == ""

    await until(room)


# What is away, and what dies


async def test_a_cluster_that_is_not_there_is_told_in_time(cluster, tmp_path):
    conf = tmp_path / "ceph.conf"
    conf.write_text("[global]\nmon_host = v2:127.0.0.1:1\n")
    cluster.settings = replace(cluster.settings, conf=conf)
    pool = cluster.pool()
    started = time.monotonic()
    with pytest.raises(PoolUnavailable, match="the storage cluster does not answer"):
        await pool.inventory()
    with pytest.raises(PoolUnavailable, match="the storage cluster does not answer"):
        await pool.create_volume("vol-1", MIB)
    assert time.monotonic() - started < 2 * WAIT_SECONDS
    await pool.close()
    assert workers_of(cluster) == []


async def test_a_pool_that_is_not_there_is_told(cluster):
    cluster.settings = replace(cluster.settings, pool="nosuchpool")
    pool = cluster.pool()
    with pytest.raises(PoolError, match="the storage cluster has no pool nosuchpool"):
        await pool.inventory()
    await pool.close()


async def killing(cluster: Cluster, chance: random.Random, work: Awaitable[object], longest: float) -> bool:
    """Kill the workers at some moment of the work; whether it was done nonetheless."""
    task = asyncio.ensure_future(work)
    await asyncio.wait((task,), timeout=chance.uniform(0, longest))
    kill_workers(cluster)
    try:
        await task
    except PoolUnavailable:
        return False
    return True


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(6 if "GUREUM_TEST_LONG" in os.environ else 2))
async def test_killed_workers_leave_nothing_half_made(pool, cluster, ids, image, image_disk, seed):
    chance = random.Random(seed)
    for number in range(2):
        image2, vol, copy = ids(f"ami-{number}y"), ids(f"vol-{number}a"), ids(f"vol-{number}b")
        snap = ids(f"snap-{number}")

        def steps(image2=image2, vol=vol, copy=copy, snap=snap):
            yield 0.2, lambda: pool.add_image(image2, image_disk, "raw", IMAGE_BYTES)
            yield 0.15, lambda: pool.create_volume(vol, 2 * IMAGE_BYTES, image2)
            yield 0.1, lambda: pool.create_snapshot(snap, vol)
            yield 0.15, lambda: pool.create_volume(copy, 3 * IMAGE_BYTES, snap, vol)
            yield 0.05, lambda: pool.resize_volume(vol, 3 * IMAGE_BYTES)
            yield 0.1, lambda: pool.remove_image(image2)
            yield 0.1, lambda: pool.delete_volume(vol)
            yield 0.1, lambda: pool.delete_snapshot(snap, vol)

        for longest, step in steps():
            await eventually(pool.inventory)  # a worker is there
            if not await killing(cluster, chance, step(), longest):
                await eventually(step)
        info = await eventually(lambda copy=copy: pool.find_volume(copy))
        assert info.size_bytes == 3 * IMAGE_BYTES
        assert await look(pool, copy) == BOOT
        assert await pool.find_volume(vol) is None
        await eventually(lambda copy=copy: pool.delete_volume(copy))
    await until(lambda: repaired(pool, cluster))


async def test_a_flattening_that_was_cut_short_before_its_last_step(pool, cluster, ids, image):
    """The volume has all, its parent has gone, and it still names it. What is over it is opened first."""
    vol, snap, copy, left = ids("vol-1"), ids("snap-1"), ids("vol-2"), ids("vol-3")
    over, under = ids("vol-0"), ids("snap-2")
    await pool.create_volume(vol, IMAGE_BYTES, image)
    await pool.create_snapshot(snap, vol)
    for each in (copy, left):
        await pool.create_volume(each, IMAGE_BYTES, snap, vol)
        for at in range(0, IMAGE_BYTES, 4 * MIB):
            await pool.write_volume(each, at, BOOT if at == 0 else bytes(BLOCK))
    await pool.create_snapshot(under, copy)
    await pool.create_volume(over, IMAGE_BYTES, under, copy)
    for each in (copy, left):
        cluster.disown(vol, snap, each)
    await pool.delete_snapshot(snap, vol)
    await pool.delete_volume(vol)
    await until(lambda: repaired(pool, cluster))
    for each in (over, copy):
        assert await look(pool, each) == BOOT
    await pool.delete_volume(over)
    await pool.delete_snapshot(under, copy)
    cluster.distrust_map(copy)
    await pool.open_volume(copy)

    async def done():
        found = await pool._client.find_volume(copy)
        return found.depth == 0 and not cluster.flags(copy)

    await until(done)
    await pool.release_volume(copy)
    for each in (copy, left):
        await pool.delete_volume(each)
    await until(lambda: repaired(pool, cluster))


async def test_renaming_that_was_cut_short_is_completed(pool, cluster, ids, image, tmp_path):
    """The state after librbd's first step: two names of one image."""
    vol, other = ids("vol-1"), ids("vol-2")
    rados = ("rados", "-p", cluster.settings.pool)
    for name, repair in ((vol, "again"), (other, "check")):
        await pool.create_volume(name, IMAGE_BYTES, image)
        temporary = f"new.00000000.00000000.{name}"
        cluster.run(
            "rbd", "rename", f"{cluster.settings.pool}/{name}", f"{cluster.settings.pool}/{temporary}"
        )
        cluster.run(*rados, "get", f"rbd_id.{temporary}", str(tmp_path / "id"))
        cluster.run(*rados, "put", f"rbd_id.{name}", str(tmp_path / "id"))
        assert name not in cluster.names()
        if repair == "again":
            await pool.create_volume(name, IMAGE_BYTES, image)
        else:
            said = await found(pool, cluster, repair=True)
            assert said == [f"{name} is still called {temporary}, too"]
        assert name in cluster.names()
        assert temporary not in cluster.names()
        assert f"rbd_id.{temporary}" not in cluster.run(*rados, "ls")
        assert await look(pool, name) == BOOT


@pytest.mark.parametrize("listed", [False, True], ids=["last step", "last but one"])
async def test_a_move_to_the_trash_that_was_cut_short_is_completed(pool, cluster, ids, listed):
    """Before librbd's last step, or the one before it: that of the last snapshot of a deleted volume is not
    asked for again.
    """
    vol, snap = ids("vol-1"), ids("snap-1")
    await pool.create_volume(vol, 64 * MIB)
    await pool.create_snapshot(snap, vol)
    await pool.delete_volume(vol)
    cluster.run("rbd", "snap", "rm", f"{cluster.settings.pool}/{vol}@{snap}")
    cluster.move_halfway(vol, listed)
    await pool.delete_snapshot(snap, vol)
    await until(lambda: repaired(pool, cluster))
    assert vol not in cluster.trash()


async def test_what_others_keep_in_the_pool_is_left_alone(pool, cluster, ids):
    foreign = f"{cluster.settings.pool}/{ids('precious')}"
    cluster.run("rbd", "create", foreign, "--size", "64M")
    mine = f"{cluster.settings.pool}/{ids('vol-1')}"
    cluster.run("rbd", "create", mine, "--size", "64M")
    cluster.run("rbd", "image-meta", "set", mine, "gureum", '{"cloud": "another"}')
    try:
        name = foreign.partition("/")[2]
        said = await found(pool, cluster, repair=True)
        assert said == [f"{name} is not an image of the cloud's; kept"]
        cluster.run("rbd", "trash", "mv", mine)
        await pool.check(repair=True)
        await asyncio.sleep(3)
        assert ids("vol-1") in cluster.trash()
    finally:
        cluster.run("rbd", "rm", foreign, "--no-progress")
        listed = cluster.run("rbd", "trash", "ls", cluster.settings.pool)
        id = next(line.split()[0] for line in listed.splitlines() if ids("vol-1") in line)
        cluster.run("rbd", "trash", "rm", f"{cluster.settings.pool}/{id}", "--no-progress")


async def test_a_worker_that_was_shut_out_begins_anew(pool, cluster, ids):
    """As its host was, while it was held for lost."""
    await pool.create_volume(ids("vol-1"), MIB)
    address = (await pool._client.hello())["address"]
    cluster.shut_out(address)
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            assert await pool.find_volume(ids("vol-1")) is not None
            # Until it has heard of it, it goes on as before.
            if (await pool._client.hello())["address"] != address:
                break
        except PoolUnavailable:
            pass
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
