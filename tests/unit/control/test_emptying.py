"""Whether all that is on a host finds room on the others. What becomes of that is in ``test_emptier``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import emptying, resting
from gureum.control.balance import Cost
from gureum.control.balancer import REST_SECONDS
from gureum.control.emptying import (
    FAILED_SECONDS,
    SECONDS_MAX,
    Departure,
    Stays,
    Thought,
    Unknown,
    Way,
    require_worth,
)
from gureum.control.loads import Use
from gureum.resources import (
    FleetSettings,
    Host,
    Instance,
    InstanceMigration,
    InstanceState,
    MigrationState,
    PlacementGroup,
    Resize,
    Strategy,
)
from gureum.resources.placement import FLEET
from gureum.sizespec import MachineSize

from .conftest import GIB, Bench, Idle, attached, host, instance

GROUP = PlacementGroup(id="pg-1", name="apart", strategy=Strategy.spread)


class Zone:
    """Three hosts of 16 GiB each; i-0 and i-1 are on host-0, each of 4 GiB with a volume in a shared pool."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.busy = Idle()
        self.size: MachineSize | None = None

    async def begin(self) -> None:
        for number in range(3):
            address = f"192.0.2.{number + 1}"
            await self.bench.put(host(f"host-{number}", memory_bytes=17 * GIB, address=address))
        await self.bench.put(FleetSettings(id=FLEET))
        for number in range(2):
            await self.runs(f"i-{number}")

    async def runs(self, id: str, **values: Any) -> None:
        said = {"type": "t3.medium", "state": InstanceState.running, "generation": 1, **values}
        await self.bench.put(instance(id, **said))
        where = said.get("host", "host-0")
        await self.bench.put(attached(f"vol-{id}", instances=[id], pool="san", host=where))

    async def change(self, kind: Any, id: str, **values: Any) -> None:
        await self.bench.put(replace(await self.bench.get(kind, id), **values))

    async def settle(self, **values: Any) -> None:
        await self.change(FleetSettings, FLEET, **values)

    async def way(self, id: str = "host-0", begun: bool = False) -> Way:
        async with self.bench.store.read() as reader:
            fleet = (await resting.fleet_of(reader)).copy()
            thought = Thought(self.bench.env, fleet, self.busy, lambda *_: self.size)
            await thought.fill()
            found = await reader.get(Host, id)
            assert found is not None
            return await thought.way(reader, found, begun)

    async def stays(self, begun: bool = False) -> str:
        with pytest.raises(Stays) as caught:
            await self.way(begun=begun)
        return str(caught.value)


@pytest.fixture
async def zone(bench: Bench) -> Zone:
    made = Zone(bench)
    await made.begin()
    return made


async def test_all_that_is_there_goes_where_placement_puts_it(zone: Zone) -> None:
    zone.busy.uses = {"i-0": Use(0.5, 2 * GIB), "i-1": Use(0.0, 0.0)}
    way = await zone.way()
    assert [(move.instance, move.target) for move in way.moves] == [("i-0", "host-2"), ("i-1", "host-1")]
    assert way.copy_bytes == 2 * GIB + (4 * GIB + (128 << 20)), "what is not said is all"
    assert way.reason.startswith("all 2 instances there find room on 2 other hosts (6.125 GiB to copy in")
    assert way.gain == 2.0
    assert 0 < way.pays_back_seconds < 200


async def test_it_is_tried_with_all_at_once(zone: Zone) -> None:
    """Each finds room, and not both."""
    for number in (1, 2):
        await zone.runs(f"i-r{number}", host=f"host-{number}", type="t3.large")
    assert len((await zone.way()).moves) == 2
    await zone.runs("i-2", host="host-2", type="t3.medium")
    assert "i-1 finds no room on the others" in await zone.stays()


async def test_groups_and_labels_hold(zone: Zone) -> None:
    await zone.bench.put(GROUP)
    for number in range(2):
        await zone.change(Instance, f"i-{number}", tags={"gureum:host:disk": "fast"})
    assert "has no label disk=fast" in await zone.stays()
    await zone.change(Host, "host-1", labels={"disk": "fast"})
    assert {move.target for move in (await zone.way()).moves} == {"host-1"}
    for number in range(2):
        await zone.change(Instance, f"i-{number}", group="pg-1", tags={})
    assert {move.target for move in (await zone.way()).moves} == {"host-1", "host-2"}
    await zone.change(Host, "host-2", draining=True)
    assert "spread group apart" in await zone.stays()


async def test_what_is_to_be_left_is_left(zone: Zone) -> None:
    await zone.settle(headroom=0.8)
    assert "without it 74% of what" in await zone.stays()
    await zone.settle(headroom=0.2, awake_min=3)
    assert "3 hosts of all zones are to stay on" in await zone.stays()


async def test_the_loss_that_is_to_be_survived_would_be(zone: Zone) -> None:
    await zone.settle(survive=1, headroom=0.0)
    assert len((await zone.way()).moves) == 2
    await zone.runs("i-r1", host="host-1", type="t3.large")
    await zone.runs("i-r2", host="host-2", type="t3.medium")
    why = await zone.stays()
    assert "without it the loss of a host would not be survived: if host host-" in why


async def test_no_host_becomes_too_busy(zone: Zone) -> None:
    zone.busy.uses = {"i-0": Use(1.5, GIB), "i-1": Use(1.5, GIB)}
    zone.busy.besides = {"host-1": Use(0.5, 0.0), "host-2": Use(0.5, 0.0)}
    assert len({move.target for move in (await zone.way()).moves}) == 2
    zone.busy.besides["host-1"] = Use(1.0, 0.0)
    assert "host host-1 would be at 62 % of its processors" in await zone.stays()
    zone.busy.besides["host-1"] = Use(0.0, 14 * GIB)
    assert "host host-1 would be at 88 % of its memory" in await zone.stays()
    zone.busy.silent = {"host-1"}
    assert "host host-1 does not say how busy it is" in await zone.stays()


async def test_what_its_instances_use_has_to_be_known(zone: Zone) -> None:
    zone.busy.unknown = {"i-1"}
    with pytest.raises(Unknown, match="what i-1 uses"):
        await zone.way()


CANNOT: list[tuple[str, dict[str, Any]]] = [
    ("i-1 is to stay: it has the tag gureum:balance=off", {"tags": {"gureum:balance": "off"}}),
    ("i-1 is stopping, and only what runs", {"state": InstanceState.stopping}),
    ("i-1 is off until the image", {"capturing": ("ami-2",)}),
    (
        "the guest of i-1 has not taken up",
        {"resize": Resize(generation=1, vcpus=2, memory_bytes=GIB, since=0.0, message="stuck")},
    ),
]


@pytest.mark.parametrize(("why", "values"), CANNOT, ids=[why for why, _ in CANNOT])
async def test_what_cannot_migrate_keeps_its_host(zone: Zone, why: str, values: dict[str, Any]) -> None:
    await zone.change(Instance, "i-1", **values)
    assert why in await zone.stays()


async def test_what_is_on_the_hosts_own_disk_keeps_it(zone: Zone) -> None:
    await zone.bench.put(attached("vol-9", instances=["i-1"]))
    assert await zone.stays() == "vol-9 of i-1 is in its host's own pool, and would have to be copied"


async def test_an_emulated_guest_that_got_memory_keeps_its_host(zone: Zone) -> None:
    grown = MachineSize(
        vcpus=2, memory_bytes=4 * GIB, vcpus_max=4, memory_min_bytes=2 * GIB, memory_max_bytes=8 * GIB
    )
    for number in range(3):
        await zone.change(Host, f"host-{number}", accelerator="tcg")
    assert await zone.way()
    zone.size = grown
    assert "has got memory while it ran" in await zone.stays()
    for number in range(3):
        await zone.change(Host, f"host-{number}", accelerator="kvm")
    assert await zone.way()


@pytest.mark.parametrize(
    ("state", "after", "why"),
    [
        (MigrationState.completed, REST_SECONDS - 1, "i-1 migrated a while ago, and is left alone"),
        (MigrationState.completed, REST_SECONDS, ""),
        (MigrationState.failed, FAILED_SECONDS - 1, "i-1 could not migrate: the guest is too busy"),
        (MigrationState.failed, FAILED_SECONDS, ""),
    ],
)
async def test_what_migrated_rests(zone: Zone, state: MigrationState, after: float, why: str) -> None:
    ended = datetime.fromtimestamp(zone.bench.time, UTC)
    await zone.bench.put(migration(state=state, ended=ended, message="the guest is too busy"))
    zone.bench.time += after
    if why:
        assert await zone.stays() == why
    else:
        assert await zone.way()


async def test_a_failure_of_an_earlier_start_is_none_of_this(zone: Zone) -> None:
    ended = datetime.fromtimestamp(zone.bench.time, UTC)
    await zone.bench.put(migration(state=MigrationState.failed, ended=ended, source_generation=0))
    zone.bench.time += REST_SECONDS
    assert await zone.way()


async def test_what_has_left_already_is_not_asked_again(zone: Zone) -> None:
    """And the room that it has there is not asked for twice."""
    for number in (1, 2):
        await zone.runs(f"i-r{number}", host=f"host-{number}", type="t3.large")
    await zone.bench.put(migration(destination="host-1"))
    await zone.change(Instance, "i-1", migration="mig-1")
    assert "is being migrated already" in await zone.stays()
    [move] = (await zone.way(begun=True)).moves
    assert (move.instance, move.target) == ("i-0", "host-2")
    await zone.change(Instance, "i-0", state=InstanceState.stopping)
    assert (await zone.way(begun=True)).moves == ()


def migration(**values: Any) -> InstanceMigration:
    said: dict[str, Any] = {
        "instance": "i-1",
        "type": "t3.medium",
        "zone": "us-east-1a",
        "source": "host-0",
        "destination": "host-2",
        "generation": 2,
        "source_generation": 1,
        "started": datetime.fromtimestamp(0, UTC),
    }
    return InstanceMigration(id="mig-1", **{**said, **values})


def test_what_is_moved_has_to_be_worth_it() -> None:
    way = Way("host-0", 2.0, (Departure("i-1", "host-1", Cost(GIB, 8.0, 300.0)),))
    require_worth(way, 300.0)
    with pytest.raises(Stays, match="pays back only after 150 s, and it could have been off for 299 s"):
        require_worth(way, 299.0)
    with pytest.raises(Stays):
        require_worth(way._replace(gain=0.1), 1e9)


async def test_a_host_that_would_take_too_long_is_let_be(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emptying, "SECONDS_MAX", 10.0)
    assert "to copy 8.25 GiB would take 16 s" in await zone.stays()
    assert SECONDS_MAX > 10.0
