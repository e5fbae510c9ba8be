"""A volume that goes from host to host with its machine: whose it is at every moment, and who is shut out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from contracts.pools import MIB, Ids
from gureum.errors import PoolUnavailable
from gureum.san.ceph.cluster import ADMIN
from gureum.san.ceph.pool import RbdPool

from .ceph_cluster import CephCluster
from .rbd import Cluster, Machine, tidied, workers_of

pytestmark = pytest.mark.ceph
SIZE = 64 * MIB
WRITE = "write -P 9 0 4096"


@pytest.fixture
def cluster(ceph: CephCluster) -> Cluster:
    return Cluster(ceph.settings, ceph.cluster.keyring(ADMIN))


@pytest.fixture
async def pools(cluster: Cluster) -> AsyncIterator[list[RbdPool]]:
    """The pool as the source has it, the destination, and a third host."""
    pools = [cluster.pool(), cluster.pool("h2"), cluster.pool("h3")]
    yield pools
    await tidied(cluster, pools[0])
    for pool in pools:
        await pool.close()
    assert workers_of(cluster) == []


@pytest.fixture
async def volume(pools: list[RbdPool]) -> str:
    volume = Ids()("vol-1")
    await pools[0].create_volume(volume, SIZE)
    return volume


@pytest.fixture
async def ends(pools, volume, start) -> tuple[Machine, Machine]:
    """The machine at the source, and the one at the destination, which has not written yet."""
    source = start(await pools[0].open_volume(volume))
    source.write(1, 0)
    destination = start(await pools[1].receive_volume(volume))
    await pools[1].note_opened(volume)
    return source, destination


async def test_it_goes_with_its_machine(pools, cluster, volume, ends):
    source, destination = ends
    source.write(2, 0)
    for pool in pools[1:]:
        with pytest.raises(PoolUnavailable, match=r"in use|received"):
            await pool.open_volume(volume)
    with pytest.raises(PoolUnavailable, match="being received"):
        await pools[2].receive_volume(volume)
    with pytest.raises(PoolUnavailable):
        await pools[0].delete_volume(volume)
    destination.read(2, 0)
    destination.write(3, 0)  # it has gone on
    source.close()
    await pools[0].release_volume(volume)
    for open in (pools[0].open_volume, pools[2].open_volume, pools[2].share_volume):
        with pytest.raises(PoolUnavailable, match="being received by another host"):
            await open(volume)
    for _ in range(2):
        await pools[1].open_volume(volume)
    destination.write(4, 0)
    with pytest.raises(PoolUnavailable, match="in use by another host"):
        await pools[0].open_volume(volume)
    said = cluster.run("rbd", "info", f"{cluster.settings.pool}/{volume}")
    assert "exclusive-lock" in said
    destination.close()
    await pools[1].release_volume(volume)
    machine = Machine(await pools[2].open_volume(volume))
    machine.read(4, 0)
    machine.close()
    await pools[2].release_volume(volume)


async def test_it_stays_after_all(pools, volume, ends, start):
    source, destination = ends
    destination.kill()  # as QEMU ends whose guest does not come
    for _ in range(2):
        await pools[1].release_volume(volume)
    source.write(2, 0)
    with pytest.raises(PoolUnavailable, match="in use by another host"):
        await pools[1].open_volume(volume)
    again = start(await pools[2].receive_volume(volume))
    await pools[2].note_opened(volume)
    again.write(3, 0)
    source.close()
    await pools[0].release_volume(volume)
    await pools[2].open_volume(volume)
    again.close()
    await pools[2].release_volume(volume)


async def test_the_destination_is_lost(pools, volume, ends):
    source, destination = ends
    for _ in range(2):
        await pools[0].evict(volume, "h2")
    assert "write failed" in destination._ask(WRITE)
    source.write(2, 0)
    destination.kill()
    source.close()
    await pools[0].release_volume(volume)
    await pools[2].open_volume(volume)
    await pools[2].release_volume(volume)


async def test_the_source_is_lost(pools, volume, ends):
    source, destination = ends
    for _ in range(2):
        await pools[1].evict(volume, "h1")
    assert "write failed" in source._ask(WRITE)
    destination.read(1, 0)
    destination.write(2, 0)
    await pools[1].open_volume(volume)
    source.kill()
    destination.close()
    await pools[1].release_volume(volume)


async def test_both_are_lost(pools, volume, ends):
    source, destination = ends
    await pools[2].evict(volume, "h1")
    with pytest.raises(PoolUnavailable, match="being received"):
        await pools[2].open_volume(volume)
    await pools[2].evict(volume, "h2")
    for machine in (source, destination):
        assert "write failed" in machine._ask(WRITE)
        machine.kill()
    await pools[2].open_volume(volume)
    await pools[2].release_volume(volume)


async def test_the_destinations_agent_dies_before_it_is_noted(pools, cluster, volume, start):
    source = start(await pools[0].open_volume(volume))
    source.write(1, 0)
    destination = start(await pools[1].receive_volume(volume))
    with pytest.raises(PoolUnavailable, match="being opened by"):
        await pools[2].evict(volume, "h1")
    after = cluster.pool("h2")
    await after.note_opened(volume)
    await pools[2].evict(volume, "h1")
    assert "write failed" in source._ask(WRITE)
    destination.write(2, 0)
    await after.open_volume(volume)
    source.kill()
    destination.close()
    await after.release_volume(volume)
    await after.close()


async def test_the_source_opens_it_once_more(pools, volume, ends):
    """Its machine has ended there before it could go, and is started again."""
    source, destination = ends
    source.close()
    await pools[0].open_volume(volume)
    destination.close()
    await pools[1].release_volume(volume)
    with pytest.raises(PoolUnavailable, match="in use by another host"):
        await pools[1].open_volume(volume)
    await pools[0].release_volume(volume)


async def test_what_no_host_has_alone_is_not_received(pools, volume):
    with pytest.raises(PoolUnavailable, match="no other host's alone"):
        await pools[1].receive_volume(volume)
    await pools[0].share_volume(volume)
    await pools[0].note_opened(volume)
    with pytest.raises(PoolUnavailable, match="no other host's alone"):
        await pools[1].receive_volume(volume)
    await pools[0].release_volume(volume)
