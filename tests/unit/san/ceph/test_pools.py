from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gureum.errors import PoolError
from gureum.san.ceph import pools
from gureum.san.ceph.cluster import Cluster
from gureum.san.ceph.commands import Access, Answer

Steps = list[dict[str, Any]]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    (tmp_path / "san").mkdir()
    return Cluster(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """What the cluster was asked, which always says yes."""
    found: Steps = []

    def ask(_access: Access, commands: Sequence[dict[str, Any]], timeout_s: float) -> list[Answer]:
        assert timeout_s > 0
        found.extend(commands)
        return [Answer(0, "", "") for _ in commands]

    monkeypatch.setattr(pools, "ask", ask)
    monkeypatch.setattr(pools, "LEAD_S", 0.0)
    return found


def made(steps: Steps) -> dict[str, int]:
    return {each["pool"]: each["pg_num"] for each in steps if each.get("prefix") == "osd pool create"}


def test_the_pools_are_made_once(cluster: Cluster, asked: Steps) -> None:
    assert not pools.are_made(cluster)
    pools.have_pools(cluster, 0.0, ["cold", "bulk"])
    assert made(asked) == {"gureum": 32, "cold": 16, "bulk": 16}
    assert [each["rbd init"] for each in asked if "rbd init" in each] == ["gureum", "cold", "bulk"]
    assert pools.are_made(cluster, ["bulk", "cold"])
    count = len(asked)
    pools.have_pools(cluster, 0.0, ["bulk", "cold"])
    assert len(asked) == count


def test_the_user_may_use_them_before_they_are_there_and_no_others(cluster: Cluster, asked: Steps) -> None:
    cluster.pool_mark.touch()  # as it was before there could be others
    assert pools.are_made(cluster)
    pools.have_pools(cluster, 0.0, ["bulk"])
    assert made(asked) == {"bulk": 16}
    profiles = "profile rbd pool=gureum, profile rbd pool=bulk"
    assert asked[0] == {
        "prefix": "auth caps",
        "entity": "client.gureum",
        "caps": ["mon", "profile rbd", "mgr", profiles, "osd", profiles],
    }
    asked.clear()
    pools.have_pools(cluster, 0.0)
    assert [each["caps"][-1] for each in asked] == ["profile rbd pool=gureum"]
    assert pools.are_made(cluster)


def test_too_many_are_refused_at_once(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.pool_mark.touch()

    def ask(_access: Access, commands: Sequence[dict[str, Any]], timeout_s: float) -> list[Answer]:
        code = -34 if commands[0]["prefix"] == "osd pool create" else 0
        return [Answer(code, "", "it would mean 260 total pgs")] * len(commands)

    monkeypatch.setattr(pools, "ask", ask)
    monkeypatch.setattr(pools, "LEAD_S", 0.0)
    with pytest.raises(PoolError, match="too many pools in the cluster: it would mean 260"):
        pools.have_pools(cluster, float("inf"), ["bulk"])
    assert not pools.are_made(cluster, ["bulk"])
