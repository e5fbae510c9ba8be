"""The shared pool in memory: what every pool must do, and who may have a volume open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from contracts.pools import BOOT, PoolContract
from gureum.env import Env
from gureum.errors import PoolUnavailable
from gureum.san.fake_parts import BLOCK_BYTES
from gureum.san.fake_shared import FakeSan, FakeSharedPool

GIB = 1 << 30


class TestFakeSharedPool(PoolContract):
    @pytest.fixture
    async def pool(self) -> AsyncIterator[FakeSharedPool]:
        san = FakeSan()
        san.disks["/images/tiny"] = {
            at // BLOCK_BYTES: BOOT[at : at + BLOCK_BYTES] for at in range(0, len(BOOT), BLOCK_BYTES)
        }
        yield FakeSharedPool(Env(), san, "host-0")
        assert san.leaks() == []

    @pytest.fixture
    def image_disk(self) -> tuple[str, str]:
        return "/images/tiny", "raw"


@pytest.fixture
def san() -> FakeSan:
    return FakeSan()


@pytest.fixture
def one(san: FakeSan) -> FakeSharedPool:
    return FakeSharedPool(Env(), san, "host-1")


@pytest.fixture
def other(san: FakeSan) -> FakeSharedPool:
    return FakeSharedPool(Env(), san, "host-2")


async def test_a_volume_is_one_hosts_at_a_time(one: FakeSharedPool, other: FakeSharedPool) -> None:
    await one.create_volume("vol-1", GIB)
    await one.open_volume("vol-1")
    await one.open_volume("vol-1")
    with pytest.raises(PoolUnavailable, match="held by host host-1"):
        await other.open_volume("vol-1")
    await other.release_volume("vol-1")
    with pytest.raises(PoolUnavailable):
        await other.open_volume("vol-1")
    await one.release_volume("vol-1")
    await other.open_volume("vol-1")


@pytest.mark.parametrize("opens", ["open_volume", "share_volume"])
async def test_who_has_opened_a_volume_anew_keeps_it(
    opens: str, san: FakeSan, one: FakeSharedPool, other: FakeSharedPool
) -> None:
    """An eviction that comes late: the host that it is about has the volume by a later word."""
    await one.create_volume("vol-1", GIB)
    path = f"rbd:san/{(await getattr(one, opens)('vol-1', 5)).image}"
    await other.evict("vol-1", "host-1", 4)
    san.write(path, 0, b"a", "host-1")
    await other.evict("vol-1", "host-1", 5)
    with pytest.raises(AssertionError, match="fenced off"):
        san.write(path, 0, b"b", "host-1")
    await getattr(one, opens)("vol-1", 6)
    await other.evict("vol-1", "host-1")
    with pytest.raises(AssertionError, match="fenced off"):
        san.write(path, 0, b"b", "host-1")


async def test_a_release_that_comes_late_takes_nothing_away(
    san: FakeSan, one: FakeSharedPool, other: FakeSharedPool
) -> None:
    await one.create_volume("vol-1", GIB)
    await one.open_volume("vol-1", 1)
    san.delay_next("release_volume", 0.3)
    release = asyncio.create_task(one.release_volume("vol-1"))
    await asyncio.sleep(0.1)
    await other.evict("vol-1", "host-1", 2)
    await other.open_volume("vol-1", 2)
    await release
    assert san.rbd["vol-1"].holder == "host-2"
    san.delay_next("release_volume", 0.3)
    release = asyncio.create_task(other.release_volume("vol-1"))
    await asyncio.sleep(0.1)
    await other.open_volume("vol-1", 3)
    await release
    assert san.rbd["vol-1"].holder == "host-2", "it has opened it anew"


async def test_hosts_share_a_volume_or_one_has_it(
    san: FakeSan, one: FakeSharedPool, other: FakeSharedPool
) -> None:
    await one.create_volume("vol-1", GIB)
    path = f"rbd:san/{(await one.share_volume('vol-1')).image}"
    await other.share_volume("vol-1")
    for host in ("host-1", "host-2"):
        san.write(path, 0, host.encode(), host)
    with pytest.raises(PoolUnavailable, match="held by host host-2"):
        await one.open_volume("vol-1")
    await one.evict("vol-1", "host-2")
    with pytest.raises(AssertionError, match="held by"):
        san.write(path, 0, b"c", "host-3")
    with pytest.raises(AssertionError, match="fenced off"):
        san.write(path, 0, b"c", "host-2")
    san.write(path, 0, b"d", "host-1")
    await one.open_volume("vol-1")
    with pytest.raises(PoolUnavailable, match="held by host host-1"):
        await other.share_volume("vol-1")


async def test_a_lost_host_writes_no_more(san: FakeSan, one: FakeSharedPool, other: FakeSharedPool) -> None:
    await one.create_volume("vol-1", GIB)
    disk = await one.open_volume("vol-1")
    path = f"rbd:{disk.pool}/{disk.image}"
    san.write(path, 0, b"a", "host-1")
    await other.evict("vol-1", "host-9")
    san.write(path, 0, b"b", "host-1")
    await other.evict("vol-1", "host-1")
    with pytest.raises(AssertionError, match="fenced off"):
        san.write(path, 0, b"c", "host-1")
    await other.open_volume("vol-1")
    san.write(path, 1, b"d", "host-2")
    assert san.contents_of("vol-1") == {0: b"b", 1: b"d"}


async def test_snapshots_outlive_their_volume(san: FakeSan, one: FakeSharedPool) -> None:
    await one.create_volume("vol-1", GIB)
    await one.write_volume("vol-1", 0, b"x" * 512)
    await one.create_snapshot("snap-1", "vol-1")
    await one.delete_volume("vol-1")
    assert await one.find_volume("vol-1") is None
    await one.create_volume("vol-2", GIB, "snap-1", "vol-1")
    assert san.contents_of("vol-2")[0].startswith(b"x" * 512)
    await one.delete_snapshot("snap-1", "vol-1")
    assert "vol-1" not in san.rbd


async def test_who_does_not_reach_it_is_told_so(
    san: FakeSan, one: FakeSharedPool, other: FakeSharedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gureum.san.fake_shared.AWAY_SECONDS", 0)
    san.cut_off.add("host-1")
    with pytest.raises(PoolUnavailable, match="can't be reached"):
        await one.find_volume("vol-1")
    assert await other.find_volume("vol-1") is None
    san.down = True
    with pytest.raises(PoolUnavailable):
        await other.find_volume("vol-1")
