from __future__ import annotations

import pytest

from gureum.agent.pools import Pools, names_of
from gureum.env import Env
from gureum.errors import PoolError
from gureum.hostspec import LOCAL, SnapshotSpec, VolumeSpec
from gureum.san.fake import FakePool
from gureum.san.fake_shared import FakeSan, FakeSharedPool

VOLUME = VolumeSpec(id="vol-1", size_bytes=1 << 30, pool="san", target="bulk", leaves=(LOCAL, "bulk"))


@pytest.fixture
def pools() -> Pools:
    env = Env()
    return Pools({LOCAL: FakePool(env), "san": FakeSharedPool(env, FakeSan(), "h")})


def test_the_host_has_some_of_them(pools: Pools) -> None:
    assert [pool.name for pool in pools] == [LOCAL, "san"]
    assert (pools.local.name, [pool.name for pool in pools.shared]) == (LOCAL, ["san"])
    assert pools.get("san") is pools.find("san")
    assert pools.find("bulk") is None
    with pytest.raises(PoolError, match="this host has no pool bulk"):
        pools.get("bulk")


def test_where_there_may_be_something_of_it(pools: Pools) -> None:
    assert names_of(VOLUME) == ("san", "bulk", LOCAL)
    assert [pool.name for pool in pools.of(VOLUME)] == ["san", LOCAL]
    assert [pool.name for pool in pools.of(SnapshotSpec(id="snap-1", volume="vol-1"))] == [LOCAL]
