"""What is to grow when a host is there that is woken for it, look by look."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import growths, resizes
from gureum.control.growths import Growths
from gureum.control.migrations import PER_HOST_MAX
from gureum.control.resizes import Growing, grows_later
from gureum.hostspec import MachineState
from gureum.resources import (
    Event,
    FleetSettings,
    Growth,
    Host,
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    MigrationState,
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

    async def others_move(self, **end: str) -> None:
        """As many at once as may: they have this source, or destination."""
        for number in range(PER_HOST_MAX):
            ends = {"source": f"host-{2 + number}", "destination": f"host-{4 + number}", **end}
            await self.bench.put(
                InstanceMigration(
                    id=f"mig-{number}",
                    account="123456789012",
                    state=MigrationState.switching,
                    instance=f"i-other-{number}",
                    type="t3.micro",
                    zone="us-east-1a",
                    generation=2,
                    source_generation=1,
                    started=datetime.fromtimestamp(0.0, UTC),
                    **ends,
                )
            )

    async def others_are_there(self) -> None:
        for number in range(PER_HOST_MAX):
            await self.change(InstanceMigration, f"mig-{number}", state=MigrationState.completed)

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


@pytest.mark.parametrize("state", [InstanceState.stopping, InstanceState.shutting_down])
async def test_it_is_over_when_it_is_stopped(rig: Rig, state: InstanceState) -> None:
    """Also if nothing looked at it meanwhile: what somebody chooses then is what counts."""
    await rig.change(Instance, "i-1", state=state)
    rig.bench.machine(state=MachineState.off)
    instance = await rig.bench.step_instance()
    assert instance.state in (InstanceState.stopped, InstanceState.terminated)
    assert instance.growth is None


async def test_what_has_the_type_already_waits_no_more(rig: Rig) -> None:
    await rig.change(Host, "host-0", memory_bytes=32 * GIB)
    await rig.change(Instance, "i-1", type=LARGE)
    instance = await rig.step()
    assert (instance.type, instance.growth, instance.resize) == (LARGE, None, None)
    assert not await rig.events()


@pytest.mark.parametrize("end", [{"source": "host-0"}, {"destination": "host-1"}])
async def test_what_only_waits_for_other_migrations_is_not_given_up(
    rig: Rig, end: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growths, "IN_VAIN_SECONDS", 0.0)
    await rig.change(Host, "host-1", state=HostState.up, park=None)
    await rig.others_move(**end)
    for _ in range(2):
        assert (await rig.step()).growth is not None
    assert not await rig.events()
    await rig.others_are_there()
    instance = await rig.step()
    assert instance.growth is None
    assert (await rig.bench.get(InstanceMigration, instance.migration)).destination == "host-1"


@pytest.mark.parametrize("end", [{"source": "host-0"}, {"destination": "host-1"}])
async def test_migrations_of_others_are_no_reason_to_wait_where_no_host_has_room(
    rig: Rig, end: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growths, "IN_VAIN_SECONDS", 0.0)
    await rig.change(Host, "host-1", state=HostState.up, park=None, memory_bytes=8 * GIB)
    await rig.others_move(**end)
    assert (await rig.step()).growth is None
    assert [event.name for event in await rig.events()] == ["InstanceNotResized"]


async def test_nor_where_its_machine_cannot_have_the_type(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when its guest was started anew since, and on a host where there is room."""
    monkeypatch.setattr(growths, "IN_VAIN_SECONDS", 0.0)
    await rig.change(Host, "host-1", state=HostState.up, park=None, memory_bytes=64 * GIB)
    await rig.change(Instance, "i-1", growth=Growth(type="t3.2xlarge", since=1.0))
    await rig.others_move(source="host-0")
    assert (await rig.step()).growth is None
    assert "can grow to 8 vCPUs and 16 GiB" in (await rig.events())[-1].message


@pytest.mark.parametrize("waits", [{"state": InstanceState.pending}, {"migration": "mig-9"}])
async def test_it_is_in_vain_anew_after_it_waited(
    rig: Rig, waits: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.change(Host, "host-1", park=parked(again=1e12, failures=1))
    assert (await rig.step()).growth is not None
    before = await rig.bench.get(Instance, "i-1")
    await rig.change(Instance, "i-1", **waits)
    await rig.step()
    changed = await rig.bench.get(Instance, "i-1")
    await rig.bench.put(replace(before, version=changed.version))
    # So long that what was in vain before counts, and what is in vain from now on does not.
    await asyncio.sleep(0.1)
    monkeypatch.setattr(growths, "IN_VAIN_SECONDS", 0.1)
    assert (await rig.step()).growth is not None


async def test_a_step_does_not_look_for_ever(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    wanting = Growing.wanting

    async def slow(self: Growing) -> str | None:
        looked.append(self.instance.id)
        await asyncio.sleep(0.01)
        return await wanting(self)

    monkeypatch.setattr(Growing, "wanting", slow)
    monkeypatch.setattr(resizes, "SEARCH_SECONDS", 0.005)
    first = await rig.bench.get(Instance, "i-1")
    await rig.bench.put(replace(first, id="i-2", version=0))
    await rig.step()
    assert looked == ["i-1"]
    await rig.growths.step()
    assert looked == ["i-1", "i-2"], "it is the other one's turn"


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
