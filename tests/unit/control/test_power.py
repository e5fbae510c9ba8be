"""Parking and waking, step by step. How they fare among faults is in tests/sim/scenarios/park-*."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import resting
from gureum.control.balancer import Assessment, HostLoad
from gureum.control.fence_agents import Action, Answer
from gureum.control.fences import fence_power
from gureum.control.hosts import Hosts
from gureum.control.power import LEAVE_SECONDS, Power
from gureum.hostspec import HostReport
from gureum.resources import (
    Event,
    Fence,
    FencePower,
    FleetSettings,
    Host,
    HostPower,
    HostState,
    Instance,
    InstanceState,
    Park,
    ParkState,
    PowerMode,
    Upgrade,
    Volume,
)
from gureum.resources.placement import FLEET
from gureum.store.base import Change
from support.records import nat_gateway

from .conftest import ACCOUNT, GIB, Idle, instance

HOUR = 3600.0
BOOT = "1"


class Fleet:
    """Three hosts of one zone with 16 GiB each, that can be switched."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.hosts = Hosts(bench.store, ACCOUNT, bench.env)
        self.asked: list[tuple[str, Action]] = []
        self.errors: dict[Action, str] = {}
        self.leads = True
        self.busy = Idle()
        self.kicked: list[str] = []
        self.power = self.manager()

    def manager(self) -> Power:
        power = Power(self.bench.env, self.bench.store, self.hosts, self.kick, self.busy, lambda: self.leads)
        power.switch = self  # type: ignore[assignment]
        return power

    def kick(self, kind: str, id: str) -> None:
        self.kicked.append(id)

    def refusal(self, agent: str, remote: bool) -> str:
        return ""

    async def __call__(self, power: HostPower, action: Action) -> Answer:
        self.asked.append((power.id, action))
        return Answer(self.errors.get(action, ""))

    async def begin(self) -> None:
        for number in range(3):
            host = Host(
                id=f"host-{number}",
                zone="",
                state=HostState.up,
                cpus=4,
                memory_bytes=17 * GIB,
                boot_id=BOOT,
            )
            await self.bench.put(host, HostPower(id=host.id, agent="a", wake_seconds=300.0))
        await self.bench.put(FleetSettings(id=FLEET, power=PowerMode.automatic, rest_seconds=60.0))

    async def settle(self, **settings: Any) -> None:
        await self.bench.put(replace(await self.bench.get(FleetSettings, FLEET), **settings))

    async def step(self, seconds: float = 0.0) -> None:
        """After so long, by a manager that has begun just now but for what it remembers."""
        self.bench.time += seconds
        async with self.bench.store.read() as reader:
            await self.power.load(reader)
        async with asyncio.TaskGroup() as group:
            await self.power.step(group)

    async def park(self, id: str) -> str:
        why: str = await self.bench.store.transact(
            lambda tx: resting.park(tx, self.bench.env, id, "a test asks for it")
        )
        return why

    async def wake(self, id: str) -> None:
        await self.bench.store.transact(lambda tx: resting.wake(tx, self.bench.env, id, "a test"))

    async def parked(self, id: str) -> Host:
        await self.park(id)
        await self.step()
        await self.step()
        host: Host = await self.bench.get(Host, id)
        assert host.park is not None
        assert (host.state, host.park.state) == (HostState.down, ParkState.parked)
        return host

    async def state(self, id: str) -> str:
        host = await self.bench.get(Host, id)
        return "" if host.park is None else str(host.park.state)

    async def events(self) -> list[str]:
        async with self.bench.store.read() as reader:
            return [each.name for each in await reader.find(Event)]


@pytest.fixture
async def fleet(bench: Any) -> Fleet:
    made = Fleet(bench)
    await made.begin()
    return made


async def test_a_host_is_switched_off_once_and_is_parked_then(fleet: Fleet) -> None:
    assert await fleet.park("host-1") == ""
    assert await fleet.state("host-1") == "parking"
    assert not (await fleet.bench.get(Host, "host-1")).schedulable
    await fleet.step()
    assert fleet.asked == [("host-1", Action.off)]
    await fleet.step()
    host = await fleet.bench.get(Host, "host-1")
    assert (host.state, host.park.state, host.silent) == (HostState.down, ParkState.parked, 0.0)
    await fleet.step(HOUR)
    assert fleet.asked == [("host-1", Action.off)]


async def test_what_is_stopped_leaves_it(fleet: Fleet) -> None:
    await fleet.bench.put(instance("i-1", host="host-1", state=InstanceState.stopped))
    assert await fleet.park("host-1") == ""
    assert (await fleet.bench.get(Instance, "i-1")).host is None


async def test_the_next_manager_switches_it_again(fleet: Fleet) -> None:
    await fleet.park("host-1")
    await fleet.step()
    fleet.power = fleet.manager()
    await fleet.step()
    await fleet.step()
    assert fleet.asked == 2 * [("host-1", Action.off)]
    assert await fleet.state("host-1") == "parked"


async def test_one_that_cannot_be_switched_off_takes_instances_when_that_cannot_come_late(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.errors[Action.off] = "it did not end in 120 s"
    await fleet.park("host-1")
    await fleet.step()
    await fleet.step()
    await fleet.hosts.note(report("host-1"))
    host = await fleet.bench.get(Host, "host-1")
    assert (host.state, host.park.state, host.wakeable) == (HostState.up, ParkState.parked, False)
    assert await fleet.events() == ["HostParking", "HostNotParked"]
    monkeypatch.setattr("gureum.control.power.SETTLE_SECONDS", -1.0)
    await fleet.step()
    assert await fleet.state("host-1") == "parked"
    monkeypatch.setattr("gureum.control.power.SECONDS_MAX", -1.0)
    await fleet.step()
    assert (await fleet.bench.get(Host, "host-1")).schedulable
    assert fleet.asked == [("host-1", Action.off)]


async def test_one_that_is_woken_while_it_is_switched_off_is_switched_off_and_on(fleet: Fleet) -> None:
    await fleet.park("host-1")
    await fleet.step()
    fleet.power = fleet.manager()  # the one that called has died
    await fleet.wake("host-1")
    await fleet.step()
    assert [action for _, action in fleet.asked] == [Action.off, Action.off, Action.on]


async def test_a_manager_that_leads_no_more_switches_nothing(fleet: Fleet) -> None:
    await fleet.park("host-1")
    fleet.leads = False
    await fleet.step()
    await fleet.step()
    assert (fleet.asked, await fleet.state("host-1")) == ([], "parking")
    fleet.leads = True
    await fleet.step()
    assert fleet.asked == [("host-1", Action.off)]


async def test_nothing_is_switched_for_what_is_wanted_no_more(fleet: Fleet) -> None:
    await fleet.park("host-1")
    async with fleet.bench.store.read() as reader:
        await fleet.power.load(reader)
    host = await fleet.bench.get(Host, "host-1")
    await fleet.bench.put(replace(host, park=None))
    async with asyncio.TaskGroup() as group:
        await fleet.power.step(group)
    assert fleet.asked == []


@pytest.mark.parametrize("another", [False, True])
async def test_one_that_goes_on_reporting_when_it_is_off_may_be_another(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, another: bool
) -> None:
    """Whichever manager hears it."""
    monkeypatch.setattr("gureum.control.power.ROUND_SECONDS", 0.0)
    await fleet.parked("host-1")
    if another:
        fleet.power = fleet.manager()
        await fleet.step()
    await fleet.hosts.note(report("host-1"))
    monkeypatch.setattr("gureum.control.power.SETTLE_SECONDS", -1.0)
    await fleet.step()
    assert (await fleet.events())[-1] == "HostNotParked"
    assert (await fleet.bench.get(Host, "host-1")).schedulable
    assert (await fleet.bench.get(HostPower, "host-1")).doubted
    assert "another host's plug" in await fleet.park("host-1")
    await fleet.settle(rest_seconds=0.0)
    for _ in range(6):
        await fleet.step()
    assert [await fleet.state(f"host-{number}") for number in range(3)] == ["parked", "", "parked"]
    assert {host for host, _ in fleet.asked[1:]} == {"host-0", "host-2"}
    await fleet.settle(fence_power=FencePower.off)
    async with fleet.bench.store.read() as reader:
        assert [await fence_power(reader, f"host-{number}") for number in (1, 2)] == ["none", "off"]


@pytest.mark.parametrize(("silent", "boot"), [(True, BOOT), (False, "2")])
async def test_one_that_was_silent_or_started_anew_was_switched_on_by_somebody(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, silent: bool, boot: str
) -> None:
    """Also one that was suspended, or is a host of the manager's machine: its boot is the same."""
    assert (await fleet.parked("host-1")).park.boot == BOOT  # type: ignore[union-attr]
    await fleet.step()
    if silent:
        monkeypatch.setattr("gureum.control.power.SILENT_SECONDS", -1.0)
        await fleet.step()
    fleet.power = fleet.manager()
    await fleet.step()
    await fleet.hosts.note(report("host-1", boot))
    monkeypatch.setattr("gureum.control.power.SETTLE_SECONDS", -1.0)
    await fleet.step()
    assert (await fleet.events())[-1] == "HostAwake"
    assert not (await fleet.bench.get(HostPower, "host-1")).doubted


async def test_one_that_dies_before_it_is_off_is_lost(fleet: Fleet) -> None:
    await fleet.park("host-1")
    volume = Volume(
        id="vol-1", host="host-1", zone="", size_bytes=GIB, created=fleet.bench.env.utcnow(), pool="san"
    )
    await fleet.bench.put(volume)
    await fleet.hosts.down("host-1")
    assert not (await fleet.bench.get(Host, "host-1")).silent
    await fleet.step(2 * LEAVE_SECONDS)
    host = await fleet.bench.get(Host, "host-1")
    assert (host.park, host.state, host.silent) == (None, HostState.down, fleet.bench.time)
    assert "HostDown" in await fleet.events()


@pytest.mark.parametrize(
    ("power", "error", "state"),
    [
        (FencePower.reboot, None, ""),
        (FencePower.off, None, "parked"),
        (FencePower.reboot, Action.on, "parked"),
        (FencePower.reboot, Action.off, "parked"),
    ],
)
async def test_a_fenced_host_is_what_its_agent_did(
    fleet: Fleet, power: FencePower, error: Action | None, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await fleet.bench.get(Host, "host-1")
    for now in (HostState.down, HostState.fencing, HostState.fenced):
        fence = Fence(number=1, reason="a test", began=fleet.bench.time, power=power)
        await fleet.bench.put(replace(host, state=now, fence=fence))
        host = await fleet.bench.get(Host, "host-1")
    if error is not None:
        fleet.errors[error] = "it did not end in 120 s"
    await fleet.step()
    await fleet.step()
    host = await fleet.bench.get(Host, "host-1")
    assert (host.fence.power, await fleet.events()) == (power, []), "it may yet lose its power, or has"
    monkeypatch.setattr("gureum.control.power.SETTLE_SECONDS", -1.0)
    await fleet.step()
    if error is Action.off:
        assert (await fleet.bench.get(Host, "host-1")).fence.power is power, "it may yet lose its power"
        monkeypatch.setattr("gureum.control.power.SECONDS_MAX", -1.0)
        await fleet.step()
    host = await fleet.bench.get(Host, "host-1")
    assert (host.fence.power, await fleet.state("host-1")) == (FencePower.none, state)
    assert await fleet.events() == ["HostSwitched"]
    if error is not None:
        fleet.errors.clear()
        await fleet.wake("host-1")
        await fleet.step()
        assert fleet.asked[-1] == ("host-1", Action.on)


async def test_what_it_looks_after_leaves_it_first_or_it_stays_on(fleet: Fleet) -> None:
    shared = Volume(
        id="vol-1", host="host-1", zone="", size_bytes=GIB, created=fleet.bench.env.utcnow(), pool="san"
    )
    await fleet.park("host-1")
    await fleet.bench.put(shared)
    await fleet.step()
    await fleet.step(LEAVE_SECONDS / 2)
    assert fleet.asked == []
    await fleet.step(LEAVE_SECONDS)
    assert (await fleet.state("host-1"), fleet.asked) == ("", [])


async def test_it_is_woken_by_its_report_after_it_was_switched_on(fleet: Fleet) -> None:
    host = await fleet.parked("host-1")
    await fleet.hosts.note(report("host-1"))  # an echo of before
    await fleet.wake(host.id)
    await fleet.step()
    assert fleet.asked[-1] == ("host-1", Action.on)
    await fleet.step(10)
    assert await fleet.state("host-1") == "waking"
    await asyncio.sleep(0.01)
    await fleet.hosts.note(report("host-1"))
    await fleet.step()
    assert await fleet.state("host-1") == ""
    assert (await fleet.bench.get(Host, "host-1")).schedulable
    assert (await fleet.events())[-2:] == ["HostWaking", "HostAwake"]


async def test_what_was_begun_ends_also_where_no_host_can_be_switched_any_more(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fenced host would wait for good to be switched off, and all that is on its own disks with it."""
    for name in ("TICK_SECONDS", "SECONDS_MAX", "SETTLE_SECONDS"):
        monkeypatch.setattr(f"gureum.control.power.{name}", 0.01)
    host = await fleet.bench.get(Host, "host-1")
    fence = Fence(number=1, reason="a test", began=fleet.bench.time, power=FencePower.off)
    for state in (HostState.down, HostState.fencing, HostState.fenced):
        await fleet.bench.put(replace(host, state=state, fence=fence))
        host = await fleet.bench.get(Host, "host-1")
    for number in range(3):
        switched = await fleet.bench.get(HostPower, f"host-{number}")
        await fleet.bench.store.transact(lambda tx, record=switched: tx.delete(record))
    async with fleet.bench.store.read() as reader:
        await fleet.power.load(reader)
    running = asyncio.create_task(fleet.power.run())
    try:
        async with asyncio.timeout(5):
            while (await fleet.bench.get(Host, "host-1")).fence.power is not FencePower.none:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        running.cancel()


async def test_one_that_is_fenced_is_awake_when_it_was_switched_and_takes_nothing_before_that_is_lifted(
    fleet: Fleet,
) -> None:
    host = await fleet.bench.get(Host, "host-1")
    fence = Fence(number=1, reason="a test", began=fleet.bench.time, power=FencePower.none)
    park = Park(state=ParkState.waking, reason="a test", since=fleet.bench.time, unsure=True)
    for state in (HostState.down, HostState.fencing, HostState.fenced):
        await fleet.bench.put(replace(host, state=state, fence=fence, park=park))
        host = await fleet.bench.get(Host, "host-1")
    await fleet.step()
    assert [action for _, action in fleet.asked] == [Action.off, Action.on]
    await fleet.step(10)
    assert await fleet.state("host-1") == "waking", "nothing was heard of it yet"
    await asyncio.sleep(0.01)
    await fleet.hosts.note(report("host-1"))
    await fleet.step()
    host = await fleet.bench.get(Host, "host-1")
    assert (host.state, host.park, host.schedulable) == (HostState.fenced, None, False)


async def test_one_that_does_not_come_is_let_be_and_then_switched_off_and_on(fleet: Fleet) -> None:
    await fleet.parked("host-1")
    for failures in (1, 2):
        await fleet.wake("host-1")
        await fleet.step()
        await fleet.step(301)
        host = await fleet.bench.get(Host, "host-1")
        assert (host.park.state, host.park.failures) == (ParkState.parked, failures)
        assert not host.wakeable
        assert host.park.again == fleet.bench.time + 120 * failures
    await fleet.step(241)
    assert (await fleet.bench.get(Host, "host-1")).wakeable
    assert [action for _, action in fleet.asked] == [Action.off, Action.on, Action.off, Action.on]


async def test_it_is_woken_for_what_finds_no_room_and_for_nothing_else(fleet: Fleet) -> None:
    await fleet.parked("host-1")
    await fleet.parked("host-2")
    for number, type in enumerate(("m5.large", "m5.24xlarge")):
        await fleet.bench.put(instance(f"i-{number}", type=type, host=None))
    await fleet.step()
    assert (await fleet.state("host-1"), await fleet.state("host-2")) == ("parked", "parked")
    await fleet.bench.put(instance("i-2", type="m5.large", host=None))
    await fleet.step()
    states = [await fleet.state("host-1"), await fleet.state("host-2")]
    assert sorted(states) == ["parked", "waking"], "one is enough"


async def test_many_that_fit_nowhere_do_not_starve_others(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gureum.control.resting.NEEDY_MAX", 2)
    await fleet.parked("host-1")
    await fleet.parked("host-2")
    await fleet.bench.put(*(instance(f"i-{number}", type="m5.24xlarge", host=None) for number in range(3)))
    await fleet.bench.put(*(instance(f"i-{number}", type="m5.large", host=None) for number in range(3, 5)))
    for _ in range(5):
        await fleet.step()
    assert "waking" in [await fleet.state("host-1"), await fleet.state("host-2")]


async def test_it_is_not_looked_again_and_again_for_what_no_host_helps(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    async def none(_: Any, area: str) -> None:
        looked.append(area)

    monkeypatch.setattr("gureum.control.parking.wake_for_survival", none)
    monkeypatch.setattr("gureum.control.power.ROUND_SECONDS", HOUR)
    await fleet.parked("host-1")
    await fleet.settle(survive=1, short=("",))
    for _ in range(3):
        await fleet.step()
    assert looked == [""]
    await fleet.settle(headroom=0.1)
    await fleet.step()
    assert looked == ["", ""]


async def test_nothing_is_woken_or_parked_unless_it_is_automatic(fleet: Fleet) -> None:
    await fleet.parked("host-1")
    await fleet.parked("host-2")
    await fleet.settle(power=PowerMode.recommend, rest_seconds=0.0)
    for number in range(3):
        await fleet.bench.put(instance(f"i-{number}", type="m5.large", host=None))
    await fleet.step(HOUR)
    assert (await fleet.state("host-0"), await fleet.state("host-1")) == ("", "parked")


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"awake_min": 3}, "3 hosts of all zones are to stay on"), ({"headroom": 1.01}, "would be free")],
)
async def test_what_is_to_be_left_is_left(fleet: Fleet, settings: dict[str, Any], why: str) -> None:
    await fleet.settle(**settings)
    assert why in await fleet.park("host-1")
    assert await fleet.state("host-1") == ""


async def test_what_keeps_a_host_on(fleet: Fleet) -> None:
    bench = fleet.bench
    await bench.put(instance("i-1", host="host-1", state=InstanceState.running))
    assert await fleet.park("host-1") == "i-1 is there"
    own = Volume(id="vol-1", host="host-2", zone="", size_bytes=GIB, created=bench.env.utcnow())
    await bench.put(own)
    assert await fleet.park("host-2") == "vol-1 is there"
    for changed, why in (
        ({"draining": True}, "it is being drained"),
        ({"state": HostState.down}, "it is down"),
        ({"uplink_down": True}, "it has no uplink now"),
        ({"park": Park(reason="", since=0.0)}, "it is parking already"),
    ):
        before = await bench.get(Host, "host-0")
        await bench.put(replace(before, **changed))
        assert await fleet.park("host-0") == why
        after = await bench.get(Host, "host-0")
        await bench.put(replace(before, version=after.version))
    await bench.put(Upgrade(id="upg-1", hosts=(), wait_seconds=1.0, began=0.0))
    assert await fleet.park("host-0") == "hosts are being upgraded"
    nat = nat_gateway("host-0", bench.env.utcnow())
    await bench.put(nat)
    assert await fleet.park("host-0") == "nat-1 is there"


async def test_after_a_rest_one_is_parked_at_a_time(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    await fleet.settle(rest_seconds=0.0)
    monkeypatch.setattr("gureum.control.power.ROUND_SECONDS", 0.0)
    await fleet.step()
    assert [await fleet.state(f"host-{number}") for number in range(3)] == ["", "", "parking"]
    await fleet.step()
    await fleet.step()
    await fleet.step()
    assert [await fleet.state(f"host-{number}") for number in range(3)] == ["", "parking", "parked"]
    for _ in range(4):
        await fleet.step()
    assert [await fleet.state(f"host-{number}") for number in range(3)] == ["", "parked", "parked"]
    assert fleet.power.found[0].why == "one host of all zones is to stay on"
    # What was found of a host before it was parked would be said of it when it is awake again.
    fleet.power.changed(Change(1, Host.kind, "host-0", await fleet.bench.get(Host, "host-0")))
    assert fleet.power.found
    parked = replace(await fleet.bench.get(Host, "host-2"), id="host-0")
    fleet.power.changed(Change(2, Host.kind, "host-0", parked))
    assert fleet.power.found == ()


async def test_nothing_is_parked_where_a_host_is_too_busy_and_one_is_woken(fleet: Fleet) -> None:
    bench = fleet.bench
    await fleet.parked("host-2")
    for number in range(4):
        host = f"host-{number % 2}"
        await bench.put(instance(f"i-{number}", type="t3.micro", host=host, state=InstanceState.running))
    fleet.busy.found = Assessment(1.0, (HostLoad("host-0", True, hot=True, stays="nothing could go"),))
    await fleet.step()
    assert await fleet.state("host-2") == "waking"


def report(host: str, boot: str = BOOT) -> HostReport:
    return HostReport(
        cloud="test", host=host, zone="", cpus=4, memory_bytes=17 * GIB, boot_id=boot, revision=1
    )
