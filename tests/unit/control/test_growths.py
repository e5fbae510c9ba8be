"""What is to grow when a host is there that is woken for it, look by look."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import growths
from gureum.control.growths import Growths
from gureum.control.resizes import grows_later
from gureum.resources import (
    Event,
    FleetSettings,
    Growth,
    Host,
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    Park,
    ParkState,
    PowerMode,
    Severity,
)
from gureum.resources.placement import FLEET
from gureum.services.ec2.instance_types import machine_size
from gureum.sizespec import MachineSize

GIB = 1 << 30
LARGE = "t3.large"


class Rig:
    """A t3.medium on a host with room for 7 GiB, to be a t3.large; and a host of 16 GiB that is parked."""

    def __init__(self, bench: Any, make: Any) -> None:
        self.bench = bench
        self.make = make
        self.growths = Growths(bench.env, bench.store, self.size)

    def size(self, host: str, machine: str, generation: int) -> MachineSize:
        has = machine_size("t3.medium")
        return MachineSize(
            vcpus=2,
            memory_bytes=has.memory_bytes,
            vcpus_max=8,
            memory_min_bytes=has.memory_bytes,
            memory_max_bytes=16 * GIB,
        )

    async def begin(self) -> None:
        where: dict[str, Any] = {"address": "192.0.2.2", "number": 2, "state": HostState.down}
        await self.bench.put(
            FleetSettings(id=FLEET, power=PowerMode.automatic),
            self.make.host(address="192.0.2.1"),
            self.make.host("host-1", memory_bytes=16 * GIB, park=parked(), **where),
            self.make.instance(
                state=InstanceState.running, type="t3.medium", growth=Growth(type=LARGE, since=1.0)
            ),
            self.make.attached(pool="san"),
        )

    async def change(self, kind: Any, id: str, **values: Any) -> None:
        await self.bench.put(replace(await self.bench.get(kind, id), **values))

    async def step(self) -> Instance:
        """By a manager that has begun just now, but for what it remembers."""
        async with self.bench.store.read() as reader:
            await self.growths.load(reader)
        await self.growths.step()
        instance: Instance = await self.bench.get(Instance, "i-1")
        return instance

    async def power(self) -> str:
        park = (await self.bench.get(Host, "host-1")).park
        return "" if park is None else f"{park.state} {park.reason}".strip()

    async def events(self) -> list[Event]:
        async with self.bench.store.read() as reader:
            return list(await reader.find(Event))


def parked(**values: Any) -> Park:
    return Park(**{"state": ParkState.parked, "reason": "", "since": 0.0, **values})


@pytest.fixture
async def rig(bench: Any, make: Any) -> Rig:
    made = Rig(bench, make)
    await made.begin()
    return made


async def test_a_host_is_woken_and_it_grows_there(rig: Rig) -> None:
    for _ in range(2):
        assert (await rig.step()).growth is not None
        assert await rig.power() == "waking i-1 is to become a t3.large, and finds no room"
    assert [event.name for event in await rig.events()] == ["HostWaking"]
    await rig.change(Host, "host-1", state=HostState.up, park=None)
    instance = await rig.step()
    migration = await rig.bench.get(InstanceMigration, instance.migration)
    assert (migration.destination, migration.type, instance.growth) == ("host-1", LARGE, None)


async def test_it_grows_where_it_is_if_there_is_room_before(rig: Rig) -> None:
    await rig.step()
    await rig.change(Host, "host-0", memory_bytes=32 * GIB)
    instance = await rig.step()
    assert (instance.type, instance.growth, instance.migration) == (LARGE, None, "")
    assert instance.resize is not None


async def test_it_is_given_up_and_told_when_no_host_would_help(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.step()
    await rig.change(Host, "host-1", park=parked(again=1e12, failures=1))
    for _ in range(2):
        assert (await rig.step()).growth is not None, "another one may come"
    monkeypatch.setattr(growths, "IN_VAIN_SECONDS", 0.0)
    instance = await rig.step()
    assert (instance.type, instance.growth) == ("t3.medium", None)
    event = (await rig.events())[-1]
    assert (event.name, event.severity, event.instance) == ("InstanceNotResized", Severity.warning, "i-1")
    assert event.message.startswith("i-1 stays a t3.medium, and does not become a t3.large: host host-0 has")


async def test_what_is_on_its_way_waits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growths, "IN_VAIN_SECONDS", 0.0)
    for under_way in ({"migration": "mig-1"}, {"capturing": ("ami-1",)}, {"state": InstanceState.pending}):
        before = await rig.bench.get(Instance, "i-1")
        await rig.change(Instance, "i-1", **under_way)
        assert (await rig.step()).growth is not None
        assert await rig.power() == "parked"
        changed = await rig.bench.get(Instance, "i-1")
        await rig.bench.put(replace(before, version=changed.version))
    await rig.step()
    assert (await rig.power()).startswith("waking")


@pytest.mark.parametrize(("state", "told"), [("stopping", True), ("shutting_down", False)])
async def test_what_ends_grows_no_more(rig: Rig, state: str, told: bool) -> None:
    await rig.change(Instance, "i-1", state=InstanceState[state])
    assert (await rig.step()).growth is None
    assert await rig.power() == "parked"
    assert [event.name for event in await rig.events()] == ["InstanceNotResized"] * told


async def test_what_it_waits_for_is_asked_before(rig: Rig) -> None:
    async def later(type: str) -> bool:
        async with rig.bench.store.read() as reader:
            instance = await reader.get(Instance, "i-1")
            assert instance is not None
            return await grows_later(reader, instance, type)

    assert await later(LARGE)
    assert not await later("t3.2xlarge"), "it would not fit on that host either"
    assert not await later("t3.small"), "it would shrink"
    await rig.change(Host, "host-0", memory_bytes=32 * GIB)
    assert not await later(LARGE), "there is room"
    await rig.change(Host, "host-0", memory_bytes=8 * GIB)
    await rig.change(FleetSettings, FLEET, power=PowerMode.recommend)
    assert not await later(LARGE), "nothing is woken"
