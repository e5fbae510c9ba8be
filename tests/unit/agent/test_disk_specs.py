from __future__ import annotations

import pytest

from gureum.agent.disk_specs import DiskSpecs
from gureum.agent.pools import Pools
from gureum.env import Env
from gureum.errors import PoolFull
from gureum.hostspec import LOCAL, SnapshotSpec, VolumeSpec
from gureum.san.base import VolumeInfo
from gureum.san.fake import FakePool

VOLUME = VolumeSpec(id="vol-1", size_bytes=1 << 30)
CLONE = VolumeSpec(id="vol-2", size_bytes=1 << 30, source="snap-1")
SNAPSHOT = SnapshotSpec(id="snap-1", volume="vol-1")


@pytest.fixture
def pools() -> Pools:
    return Pools({LOCAL: FakePool(Env())})


@pytest.fixture
def specs(pools: Pools) -> DiskSpecs:
    specs = DiskSpecs(pools)
    specs.volumes.take({"vol-1": VOLUME, "vol-2": CLONE}, 1)
    specs.snapshots.take({"snap-1": SNAPSHOT}, 1)
    return specs


def test_what_waits_for_what(specs: DiskSpecs) -> None:
    assert list(specs.dependents(VOLUME)) == [("snapshot", "snap-1")]
    assert list(specs.dependents(SNAPSHOT)) == [("volume", "vol-1"), ("volume", "vol-2")]
    assert list(specs.dependents(CLONE)) == []


def test_a_snapshot_is_awaited_until_it_is_taken_or_failed(specs: DiskSpecs, pools: Pools) -> None:
    assert not specs.awaits_snapshot(VOLUME)  # there is nothing to take it of
    pools.local.volumes["vol-1"] = VolumeInfo(id="vol-1", size_bytes=1 << 30)
    assert specs.awaits_snapshot(VOLUME)
    assert not specs.awaits_snapshot(CLONE)
    specs.failures.note(("snapshot", "snap-1"), PoolFull("full"), True)
    assert not specs.awaits_snapshot(VOLUME)
    specs.failures.forget(("snapshot", "snap-1"))
    pools.local.snapshots.add("snap-1")
    assert not specs.awaits_snapshot(VOLUME)
