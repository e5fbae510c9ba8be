from __future__ import annotations

from gureum.resources import Vpc
from gureum.store.cache import RecordCache


def vpc(id: str, version: int = 1) -> Vpc:
    return Vpc(id=id, cidr="c", network_id=1, version=version)


def test_a_snapshot_older_than_the_record_does_not_see_it() -> None:
    cache = RecordCache()
    cache.put(vpc("v", 5), 10)
    assert cache.get("vpc", "v", 4) is None
    assert cache.get("vpc", "v", 5) == vpc("v", 5)
    assert cache.get("vpc", "v", 9) == vpc("v", 5)
    assert cache.get("subnet", "v", 9) is None


def test_the_least_recently_used_goes_first() -> None:
    cache = RecordCache(records_max=2)
    cache.put(vpc("a"), 1)
    cache.put(vpc("b"), 1)
    cache.get("vpc", "a", 1)
    cache.put(vpc("c"), 1)
    assert [cache.get("vpc", id, 1) is not None for id in "abc"] == [True, False, True]


def test_bodies_are_bounded_too() -> None:
    cache = RecordCache(records_max=100, body_bytes_max=100)
    for id in "abc":
        cache.put(vpc(id), 40)
    assert len(cache) == 2
    cache.drop("vpc", "b")
    cache.drop("vpc", "b")
    cache.put(vpc("c"), 50)
    cache.put(vpc("d"), 50)
    assert len(cache) == 2
    cache.put(vpc("big"), 101)
    assert len(cache) == 0
