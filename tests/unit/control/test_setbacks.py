"""For how long no host is emptied."""

from __future__ import annotations

from typing import Any

import pytest

from gureum.control import setbacks
from gureum.control.setbacks import REST_SECONDS, REST_SECONDS_MAX, following, left_seconds, rest_seconds
from gureum.resources import Host, HostPower, HostState, Setback

HOUR = 3600.0


def power(count: int, at: float) -> HostPower:
    return HostPower(id=f"host-{at}", agent="a", setback=Setback(count=count, at=at))


def test_the_last_one_of_all_counts_and_only_for_a_while() -> None:
    powers = [power(1, 100.0), power(2, 1000.0), HostPower(id="host-9", agent="a")]
    assert left_seconds(powers, 1000.0) == 2 * REST_SECONDS
    assert left_seconds(powers, 1000.0 + REST_SECONDS) == REST_SECONDS
    assert left_seconds(powers, 1000.0 + 2 * REST_SECONDS) == 0.0
    assert left_seconds(powers, 999.0) == 0.0, "the clock was put back"
    assert left_seconds(powers[2:], 1000.0) == 0.0


def test_it_doubles_up_to_a_bound_and_is_forgotten() -> None:
    now, last, rests = 0.0, None, []
    for _ in range(7):
        last = following(last, now)
        rests.append(rest_seconds(last))
        now += rest_seconds(last) + 60.0
    assert rests == [900.0, 1800.0, 3600.0, 7200.0, REST_SECONDS_MAX, REST_SECONDS_MAX, REST_SECONDS_MAX]
    assert following(last, now + REST_SECONDS_MAX).count == 1


def test_what_happens_at_once_counts_once() -> None:
    first = following(None, 0.0)
    assert following(first, REST_SECONDS - 1) == Setback(count=1, at=REST_SECONDS - 1)
    assert following(first, REST_SECONDS).count == 2
    assert following(Setback(count=5, at=HOUR), 0.0).count == 1, "the clock was put back"


@pytest.mark.parametrize(("zone", "count"), [("us-east-1a", 2), ("us-east-1b", 1)])
async def test_hosts_that_can_stand_in_for_each_other_have_one(bench: Any, zone: str, count: int) -> None:
    for id, where in (("host-1", "us-east-1a"), ("host-2", zone)):
        await bench.put(Host(id=id, zone=where, state=HostState.up), HostPower(id=id, agent="a"))
    for id in ("host-1", "host-2"):
        host = await bench.get(Host, id)
        await bench.store.transact(lambda tx, host=host: setbacks.note(tx, bench.env, host))
        bench.time += REST_SECONDS
    assert (await bench.get(HostPower, "host-2")).setback.count == count
