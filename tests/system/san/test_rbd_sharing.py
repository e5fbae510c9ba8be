"""A volume that machines of several hosts have open: whose it is, who is shut out, what a snapshot has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from contracts.pools import BLOCK, MIB, Ids
from gureum.errors import PoolUnavailable
from gureum.san.base import RbdDisk
from gureum.san.ceph.pool import RbdPool

from .rbd import Cluster, Machine, tidied, workers_of

pytestmark = pytest.mark.ceph
SIZE = 64 * MIB


@pytest.fixture
async def pools(cluster: Cluster) -> AsyncIterator[list[RbdPool]]:
    """The pool as each of three hosts has it: h1, h2, h3."""
    pools = [cluster.pool(), cluster.pool("h2"), cluster.pool("h3")]
    yield pools
    await tidied(cluster, pools[0])
    for pool in pools:
        await pool.close()
    assert workers_of(cluster) == []


async def shared(pool: RbdPool, volume: str, start: Callable[[RbdDisk], Machine]) -> Machine:
    """As an agent opens it for a machine."""
    disk = await pool.share_volume(volume)
    assert isinstance(disk, RbdDisk)
    machine = start(disk)
    await pool.note_opened(volume)
    return machine


@pytest.fixture
async def volume(pools: list[RbdPool]) -> str:
    volume = Ids()("vol-1")
    await pools[0].create_volume(volume, SIZE)
    return volume


async def test_two_hosts_write_and_read_each_others(pools, cluster, volume, start):
    one, two = [await shared(pool, volume, start) for pool in pools[:2]]
    for number in range(1, 40):
        one.write(number, number * BLOCK)
        two.write(100 + number, SIZE // 2 + number * BLOCK)
        two.read(number, number * BLOCK)
        one.read(100 + number, SIZE // 2 + number * BLOCK)
    said = cluster.run("rbd", "info", f"{cluster.settings.pool}/{volume}")
    assert "exclusive-lock" not in said
    client = cluster.client("h9")
    found = await client.describe(volume)
    assert {found.holder, *found.sharers} == {f"{cluster.cloud}/h1", f"{cluster.cloud}/h2"}
    assert len(found.watchers) == 2
    await client.close()
    for pool, machine in zip(pools, (one, two), strict=False):
        machine.close()
        await pool.release_volume(volume)


async def test_who_is_alone_and_who_shares_exclude_each_other(pools, cluster, volume, start):
    first, second, third = pools
    await first.open_volume(volume)
    with pytest.raises(PoolUnavailable, match="in use by another host"):
        await second.share_volume(volume)
    await first.release_volume(volume)
    one = await shared(first, volume, start)
    with pytest.raises(PoolUnavailable, match="in use by another host"):
        await second.open_volume(volume)
    with pytest.raises(PoolUnavailable, match="in use by another host"):
        await second.delete_volume(volume)
    await second.share_volume(volume)
    with pytest.raises(PoolUnavailable, match="is being opened by another host"):
        await third.share_volume(volume)
    await second.note_opened(volume)
    await third.share_volume(volume)
    await third.note_opened(volume)
    one.close()
    for pool in pools:
        await pool.release_volume(volume)
    await second.open_volume(volume)
    said = cluster.run("rbd", "info", f"{cluster.settings.pool}/{volume}")
    assert "exclusive-lock" in said
    with pytest.raises(PoolUnavailable, match="in use by another host"):
        await first.share_volume(volume)
    await second.release_volume(volume)
    await second.delete_volume(volume)


async def test_a_lost_host_is_shut_out_and_the_others_go_on(pools, volume, start):
    lost, other, third = [await shared(pool, volume, start) for pool in pools]
    lost.write(7, 0)
    for _ in range(2):
        await pools[1].evict(volume, "h1")
    assert "write failed" in lost._ask("write -P 9 0 4096")
    other.write(8, BLOCK)
    third.write(9, 2 * BLOCK)
    for machine in (other, third):
        machine.read(7, 0)
        machine.read(8, BLOCK)
        machine.read(9, 2 * BLOCK)
    with pytest.raises(PoolUnavailable, match="in use by another host"):
        await pools[0].open_volume(volume)
    lost.kill()
    other.close()
    third.close()
    await pools[1].release_volume(volume)
    await pools[2].release_volume(volume)
    await pools[0].open_volume(volume)
    await pools[0].release_volume(volume)


async def test_a_machine_that_was_not_noted_counts_as_the_lost_hosts(pools, cluster, volume, start):
    """Its agent died between its opening and that."""
    other = await shared(pools[1], volume, start)
    lost = start(await pools[0].share_volume(volume))
    await pools[1].evict(volume, "h1")
    assert "write failed" in lost._ask("write -P 9 0 4096")
    other.write(8, BLOCK)
    lost.kill()
    # The next agent of the host notes what its machine has open.
    machine = start(await pools[0].share_volume(volume))
    after = cluster.pool()
    await after.note_opened(volume)
    await pools[1].evict(volume, "h9")
    await pools[2].evict(volume, "h2")
    assert "write failed" in other._ask("write -P 9 0 4096")
    machine.write(6, 0)
    other.kill()
    machine.close()
    await after.release_volume(volume)
    await after.close()


async def test_several_machines_of_one_host(pools, volume, start):
    machines = [await shared(pools[0], volume, start) for _ in range(2)]
    other = await shared(pools[1], volume, start)
    machines[0].write(5, 0)
    machines[1].read(5, 0)
    machines[0].close()
    await pools[1].evict(volume, "h1")
    assert "write failed" in machines[1]._ask("write -P 9 0 4096")
    other.read(5, 0)
    machines[1].kill()
    other.close()
    await pools[1].release_volume(volume)


async def test_a_snapshot_while_both_write(pools, volume, start):
    one, two = [await shared(pool, volume, start) for pool in pools[:2]]
    snapshot = volume.replace("vol-", "snap-")
    one.write(1, 0)
    two.write(2, BLOCK)
    await pools[2].create_snapshot(snapshot, volume)
    one.write(3, 0)
    two.write(4, BLOCK)
    data = await pools[2].read_snapshot(snapshot, volume, 0, 2 * BLOCK)
    assert (data[:4096], data[BLOCK : BLOCK + 4096]) == (b"\1" * 4096, b"\2" * 4096)
    assert await pools[0].snapshot_extents(snapshot, volume, "", 0, SIZE // 2)
    await pools[0].delete_snapshot(snapshot, volume)
    one.close()
    two.close()
    for pool in pools[:2]:
        await pool.release_volume(volume)


async def test_what_a_machine_has_open_is_not_made_shared(pools, cluster, volume, start):
    machine = start(await pools[0].open_volume(volume))
    machine.write(1, 0)
    with pytest.raises(PoolUnavailable, match="is open in a running machine"):
        await pools[0].share_volume(volume)
    machine.close()
    for pool in pools[:2]:
        await pool.share_volume(volume)
        await pool.note_opened(volume)
        await pool.release_volume(volume)
    said = cluster.run("rbd", "image-meta", "list", f"{cluster.settings.pool}/{volume}")
    assert "gureum.open" not in said
