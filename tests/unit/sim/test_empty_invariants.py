"""What is found if hosts are emptied that must not be, or as they must not be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from gureum.resources import (
    FleetSettings,
    Host,
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    Park,
    ParkState,
    Record,
)
from gureum.resources.placement import FLEET
from gureum.sim import empty_invariants
from gureum.sim.empty_invariants import HOUR
from gureum.sim.violation import Violation
from gureum.store.sqlite import SqliteStore
from support.records import Records

EMPTYING = Park(state=ParkState.emptying, reason="", since=0.0)


class World(Records):
    def __init__(self, store: SqliteStore) -> None:
        self.store = store

    async def found(self, *records: Record) -> str:
        await self.put(*records)
        async with self.store.read() as reader:
            hosts, instances = await reader.find(Host), await reader.find(Instance)
            try:
                await empty_invariants.always(reader, hosts, instances)
            except Violation as error:
                return str(error)
        return ""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World(SqliteStore.open(":memory:", threaded=False))
    await made.put(FleetSettings(id=FLEET, empties=True))
    yield made
    await made.store.close()


def host(id: str, **values: Any) -> Host:
    return Host(id=id, **{"zone": "a", "state": HostState.up, **values})


def instance(on: str | None) -> Instance:
    return Instance(
        id="i-1",
        state=InstanceState.running,
        reservation="r-1",
        type="t3.micro",
        image="ami-1",
        zone="a",
        host=on,
        launched=datetime.fromtimestamp(0, UTC),
        vpc="vpc-1",
        subnet="subnet-1",
    )


async def test_one_of_each_zone_may_be_emptied(world: World) -> None:
    assert await world.found(host("host-1", park=EMPTYING), host("host-2", zone="b", park=EMPTYING)) == ""
    assert await world.found(host("host-3", park=EMPTYING)) == "hosts host-1, host-3 are emptied at once"


async def test_what_is_emptied_is_on(world: World) -> None:
    found = await world.found(host("host-1", park=EMPTYING, state=HostState.down))
    assert found == "host host-1 is down, and goes on being emptied"


@pytest.mark.parametrize("on", [None, "host-9"])
async def test_what_runs_has_a_host(world: World, on: str | None) -> None:
    assert await world.found(host("host-1"), instance(on)) == "i-1 runs, and has no host"


@pytest.mark.parametrize(
    ("last", "reason", "calm"), [(1, "emptying", False), (0, "emptying", True), (1, "", True)]
)
async def test_nothing_is_driven_to_and_fro(world: World, last: int, reason: str, calm: bool) -> None:
    """``last``: by how much less than an hour there are three."""
    times = (0.0, 1900.0, HOUR - last)
    found = await world.found(
        *(
            InstanceMigration(
                id=f"mig-{number}",
                instance="i-1",
                type="t3.micro",
                zone="a",
                source="host-1",
                destination="host-2",
                generation=2,
                source_generation=1,
                reason=reason,
                started=datetime.fromtimestamp(at, UTC),
            )
            for number, at in enumerate(times)
        )
    )
    assert found == ("" if calm else "i-1 left hosts that are emptied 3 times within an hour")
