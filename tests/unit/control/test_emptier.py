"""When hosts are emptied, what keeps that calm, and how it ends. How it fares among faults is in
tests/sim/scenarios/empty-*.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import emptier, evacuations
from gureum.control.balancer import Assessment, HostLoad
from gureum.control.emptying import SECONDS_MAX
from gureum.control.fence_agents import Action, Answer
from gureum.control.hosts import Hosts
from gureum.control.migrations import PER_HOST_MAX
from gureum.control.power import Power
from gureum.control.setbacks import REST_SECONDS
from gureum.env import Env
from gureum.resources import (
    Event,
    FleetSettings,
    Host,
    HostPower,
    Instance,
    InstanceMigration,
    InstanceState,
    MigrationState,
    Park,
    ParkState,
    PowerMode,
    Upgrade,
    Volume,
)
from gureum.resources.placement import FLEET
from gureum.sim.loop import run
from gureum.sim.store import open_store
from support.records import Records, nat_gateway

from .conftest import Idle

EPOCH = 1_750_000_000.0
GIB = 1 << 30
REST = 60.0
ROUND = 35.0


class Zone(Records):
    """Three hosts of 24 GiB with two instances of 4 GiB each: host-0 is to be emptied.

    ``slow``: what migrates does not arrive.
    """

    def __init__(self, make: Any) -> None:
        self.make = make
        self.store = open_store()
        self.env = Env(lambda: EPOCH + asyncio.get_running_loop().time(), random.Random(1), lambda _: None)
        self.hosts = Hosts(self.store, "123456789012", self.env)
        self.busy = Idle()
        self.slow = False
        self.switched: list[tuple[str, Action]] = []
        self.kicked: set[str] = set()

    def manager(self) -> Power:
        power = Power(
            self.env, self.store, self.hosts, lambda _, id: self.kicked.add(id), self.busy, lambda: True
        )
        power.switch = self  # type: ignore[assignment]
        return power

    def refusal(self, agent: str, remote: bool) -> str:
        return ""

    async def __call__(self, power: HostPower, action: Action) -> Answer:
        self.switched.append((power.id, action))
        return Answer()

    async def start(self) -> None:
        for number in range(3):
            id, address = f"host-{number}", f"192.0.2.{number + 1}"
            await self.put(self.make.host(id, memory_bytes=25 * GIB, address=address, number=number + 1))
            await self.put(HostPower(id=id, agent="a"))
        for number in range(6):
            await self.runs(f"i-{number}", f"host-{number % 3}")
        await self.put(FleetSettings(id=FLEET, power=PowerMode.automatic, rest_seconds=REST, empties=True))
        self.power = self.manager()
        self.tasks = self.begin()

    def begin(self) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(each) for each in (self._run(self.power), self._arrive())]

    async def runs(self, id: str, host: str, **values: Any) -> None:
        said = {"type": "t3.medium", "state": InstanceState.running, "host": host, "generation": 1, **values}
        await self.put(self.make.instance(id, **said))
        await self.put(self.make.attached(f"vol-{id}", instances=[id], pool="san", host=host))

    async def again(self) -> None:
        """The manager ends, and another one begins."""
        await self.stop()
        self.power = self.manager()
        self.tasks = self.begin()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _run(self, power: Power) -> None:
        async with self.store.read() as reader:
            await power.load(reader)
        async with asyncio.TaskGroup() as group:
            group.create_task(power.run())
            async for changes in self.store.watch(self.store.revision):
                for change in changes:
                    power.changed(change)

    async def _arrive(self) -> None:
        while True:
            await asyncio.sleep(5)
            for each in await self.find(InstanceMigration):
                if each.state is not MigrationState.preparing or self.slow:
                    continue
                for state in (MigrationState.copying, MigrationState.switching):
                    await self.change(InstanceMigration, each.id, state=state)
                ended = datetime.fromtimestamp(self.env.now(), UTC)
                await self.change(InstanceMigration, each.id, state=MigrationState.completed, ended=ended)
                await self.change(Instance, each.instance, host=each.destination, migration="")
                await self.change(Volume, f"vol-{each.instance}", host=each.destination, former=())

    async def settle(self, **values: Any) -> None:
        await self.change(FleetSettings, FLEET, **values)

    async def state(self, id: str = "host-0") -> str:
        [host] = [each for each in await self.find(Host) if each.id == id]
        return "" if host.park is None else str(host.park.state)

    async def states(self) -> list[str]:
        return [await self.state(f"host-{number}") for number in range(3)]

    async def events(self, name: str) -> list[str]:
        return [each.message for each in await self.find(Event) if each.name == name]

    async def emptying(self) -> None:
        """Until host-0 is being emptied."""
        for _ in range(int(40 * (REST + ROUND))):
            if await self.state() == "emptying":
                return
            await asyncio.sleep(1)
        pytest.fail(f"it is not emptied: {self.power.found}")

    def why(self, id: str = "host-0") -> str:
        return next(rest.why for rest in self.power.found if rest.host == id)


def told(make: Any, story: Callable[[Zone], Awaitable[None]]) -> None:
    async def main() -> None:
        zone = Zone(make)
        await zone.start()
        try:
            await story(zone)
        finally:
            await zone.stop()
            await zone.store.close()

    run(main())


def test_after_a_rest_it_is_emptied_by_two_at_a_time_and_parked(make: Any) -> None:
    async def story(zone: Zone) -> None:
        await asyncio.sleep(ROUND)
        assert await zone.states() == ["", "", ""]
        assert "finds room" not in zone.why("host-1"), "one at a time"
        assert "find room on 2 other hosts" in zone.why()
        assert "it may be emptied after 60 s" in zone.why()
        await zone.emptying()
        await asyncio.sleep(4)
        moves = await zone.find(InstanceMigration)
        assert len(moves) == PER_HOST_MAX
        assert {(each.source, each.drains) for each in moves} == {("host-0", False)}
        assert moves[0].reason == "emptying host-0, which is to be parked"
        await asyncio.sleep(20)
        assert await zone.state() == "parked"
        assert zone.switched == [("host-0", Action.off)]
        assert {each.host for each in await zone.find(Instance)} == {"host-1", "host-2"}
        assert (await zone.events("HostParking"))[0].endswith("what was there found room on others")

    told(make, story)


@pytest.mark.parametrize("values", [{"power": PowerMode.recommend}, {"empties": False}])
def test_it_is_only_said_if_that_is_all_that_is_wanted(make: Any, values: dict[str, Any]) -> None:
    async def story(zone: Zone) -> None:
        await zone.settle(**values)
        await asyncio.sleep(10 * (REST + ROUND))
        assert await zone.states() == ["", "", ""]
        [way] = [rest.way for rest in zone.power.found if rest.way is not None]
        assert (way.host, len(way.moves)) == ("host-0", 2)
        assert zone.why().startswith("2 instances are there; all 2 instances there find room")
        await zone.settle(power=PowerMode.off)
        await asyncio.sleep(ROUND)
        assert zone.power.found == ()

    told(make, story)


def test_what_is_looked_at_first_is_the_least_to_copy(make: Any) -> None:
    async def story(zone: Zone) -> None:
        await zone.change(Instance, "i-5", state=InstanceState.terminated)
        await zone.change(Volume, "vol-i-5", host="host-1")
        await asyncio.sleep(4 * (REST + ROUND))
        assert await zone.states() == ["", "", "parked"]

    told(make, story)


async def hot(zone: Zone) -> None:
    zone.busy.found = Assessment(1.0, (HostLoad("host-1", True, hot=True),))


async def drained(zone: Zone) -> None:
    await zone.change(Host, "host-1", draining=True)


async def lost(zone: Zone) -> None:
    await zone.hosts.down("host-2")


async def upgraded(zone: Zone) -> None:
    await zone.put(Upgrade(id="upg-1", hosts=(), wait_seconds=1.0, began=0.0))


async def unwanted(zone: Zone) -> None:
    await zone.settle(empties=False)


async def used(zone: Zone) -> None:
    for number in (1, 2):
        await zone.runs(f"i-r{number}", f"host-{number}", type="m5.xlarge")


async def labelled(zone: Zone) -> None:
    await zone.change(Instance, "i-6", tags={"gureum:host:disk": "fast"})


async def doubted(zone: Zone) -> None:
    await zone.change(HostPower, "host-0", doubted=True)


async def itself_drained(zone: Zone) -> None:
    await zone.change(Host, "host-0", draining=True)


ENDS: list[tuple[Callable[[Zone], Awaitable[None]], str]] = [
    (hot, "host host-1 is too busy"),
    (drained, "host host-1 is being drained"),
    (lost, "host host-2 was lost a moment ago"),
    (upgraded, "hosts are being upgraded"),
    (unwanted, "no host is to be emptied now"),
    (used, "too little is free on the other hosts"),
    (labelled, "i-6 finds no room on the others: host-1 has no label disk=fast"),
    (doubted, "it is not known how it is switched"),
    (itself_drained, "it is being drained"),
]


@pytest.mark.parametrize(("happens", "why"), ENDS, ids=[why for _, why in ENDS])
def test_it_ends_clean_if_it_is_not_to_be_any_more(
    make: Any, happens: Callable[[Zone], Awaitable[None]], why: str
) -> None:
    async def story(zone: Zone) -> None:
        await zone.runs("i-6", "host-0", type="t3.small")
        for number in (1, 2):
            await zone.runs(f"i-s{number}", f"host-{number}", type="t3.small")
        await zone.emptying()
        zone.slow = True
        await asyncio.sleep(4)
        assert len(await zone.find(InstanceMigration)) == PER_HOST_MAX
        await happens(zone)
        zone.slow = False
        await asyncio.sleep(15)
        assert await zone.state() == ""
        [said] = await zone.events("HostNotEmptied")
        assert said.startswith("host host-0 is emptied no more: ")
        assert why in said
        [host] = [each for each in await zone.find(Host) if each.id == "host-0"]
        assert host.schedulable or host.draining
        assert {each.host for each in await zone.find(Instance)} <= {"host-0", "host-1", "host-2"}
        [power] = [each for each in await zone.find(HostPower) if each.id == "host-0"]
        assert power.setback is not None
        assert zone.switched == []

    told(make, story)


@pytest.mark.parametrize(("happens", "why"), ENDS[:5], ids=[why for _, why in ENDS[:5]])
def test_it_does_not_begin_then(make: Any, happens: Callable[[Zone], Awaitable[None]], why: str) -> None:
    async def story(zone: Zone) -> None:
        await happens(zone)
        await asyncio.sleep(3 * (REST + ROUND))
        assert "emptying" not in await zone.states()
        assert await zone.events("HostEmptying") == []

    told(make, story)


def test_one_that_is_lost_meanwhile_is_lost_as_any(make: Any) -> None:
    async def story(zone: Zone) -> None:
        await zone.emptying()
        await zone.hosts.down("host-0")
        [host] = [each for each in await zone.find(Host) if each.id == "host-0"]
        assert (host.park, host.silent > 0) == (None, True)
        assert len(await zone.events("HostDown")) == 1

    told(make, story)


def test_another_manager_goes_on_as_soon_as_it_knows_enough(make: Any) -> None:
    async def story(zone: Zone) -> None:
        await zone.emptying()
        zone.busy.unknown = {f"i-{number}" for number in range(6)}
        await zone.again()
        await asyncio.sleep(60)
        assert (await zone.state(), await zone.find(InstanceMigration)) == ("emptying", [])
        zone.busy.unknown = set()
        await asyncio.sleep(30)
        assert await zone.state() == "parked"

    told(make, story)


def test_one_that_does_not_get_empty_in_time_is_let_be(make: Any) -> None:
    async def story(zone: Zone) -> None:
        zone.slow = True
        await zone.emptying()
        await asyncio.sleep(SECONDS_MAX - 10)
        assert await zone.state() == "emptying"
        await asyncio.sleep(20)
        assert "had not left it after 1800 s" in (await zone.events("HostNotEmptied"))[0]

    told(make, story)


def test_after_it_failed_none_of_the_area_is_emptied_for_a_while_and_then_for_longer(make: Any) -> None:
    async def story(zone: Zone) -> None:
        for rest in (REST_SECONDS, 2 * REST_SECONDS):
            await zone.emptying()
            await zone.change(Host, "host-1", draining=True)
            await asyncio.sleep(4)
            await zone.change(Host, "host-1", draining=False)
            assert await zone.state() == ""
            await zone.again()  # which knows that, too
            await asyncio.sleep(rest - 5)
            assert await zone.states() == ["", "", ""]
            assert "one was woken, or could not be emptied, a while ago" in zone.why()

    told(make, story)


def test_what_waits_for_a_host_is_not_kept_from_it(make: Any) -> None:
    async def story(zone: Zone) -> None:
        await zone.emptying()
        zone.slow = True
        for number in (1, 2):
            await zone.runs(f"i-r{number}", f"host-{number}", type="t3.large")
        await zone.put(zone.make.instance("i-new", type="t3.large", host=None))
        await asyncio.sleep(4)
        assert await zone.state() == ""
        assert await zone.events("HostNotEmptied") == [
            "host host-0 is emptied no more: i-new finds no room on the others"
        ]
        assert await zone.find(InstanceMigration) == []
        assert "i-new" in zone.kicked, "its placement is tried at once"

    told(make, story)


def test_what_works_there_or_is_on_its_disk_keeps_it(make: Any) -> None:
    async def story(zone: Zone) -> None:
        nat = nat_gateway("host-0", datetime.fromtimestamp(EPOCH, UTC))
        await zone.put(nat, zone.make.volume("vol-9", host="host-1"))
        await asyncio.sleep(1)
        assert zone.why("host-0") == "2 instances are there; not emptied: nat-1 is there"
        assert zone.why("host-1") == "2 instances are there; not emptied: vol-9 is there"
        await asyncio.sleep(ROUND)
        assert zone.why("host-0").endswith("not emptied: host host-2 comes first, one at a time")
        await asyncio.sleep(2 * (REST + ROUND))
        assert await zone.states() == ["", "", "parked"]

    told(make, story)


def test_an_empty_host_is_parked_first(make: Any) -> None:
    async def story(zone: Zone) -> None:
        await zone.settle(rest_seconds=600.0)
        for id in ("i-2", "i-5"):
            await zone.change(Instance, id, state=InstanceState.terminated)
        await asyncio.sleep(2 * ROUND)
        assert zone.why().endswith("not emptied: host host-2 is empty, and is parked before it")
        await zone.change(HostPower, "host-2", doubted=True)
        await asyncio.sleep(ROUND)
        assert "find room" in zone.why()
        await zone.change(HostPower, "host-2", doubted=False)
        zone.power._resting.refused("host-2")
        await asyncio.sleep(ROUND)
        assert "find room" in zone.why(), "it could not be switched off"

    told(make, story)


def test_nothing_is_emptied_that_changed_since_it_was_seen(make: Any) -> None:
    async def story(zone: Zone) -> None:
        await zone.settle(empties=False)
        await asyncio.sleep(4 * (REST + ROUND))
        [way] = [rest.way for rest in zone.power.found if rest.way is not None]
        begin = zone.power._emptier.begin
        await zone.store.transact(lambda tx: begin(tx, way))
        assert await zone.state() == ""
        await zone.stop()
        await zone.settle(empties=True)
        waking = Park(state=ParkState.waking, reason="", since=0.0)
        for id, values in (
            ("host-0", {"draining": True}),
            ("host-1", {"park": waking}),
            ("host-1", {"park": replace(waking, state=ParkState.emptying)}),
        ):
            [before] = [each for each in await zone.find(Host) if each.id == id]
            await zone.change(Host, id, **values)
            await zone.store.transact(lambda tx: begin(tx, way))
            assert await zone.state() == ""
            await zone.change(Host, id, draining=before.draining, park=before.park)
        comes = InstanceMigration(
            id="mig-1",
            instance="i-1",
            type="t3.medium",
            zone="",
            source="host-1",
            destination="host-0",
            generation=2,
            source_generation=1,
            started=datetime.fromtimestamp(EPOCH, UTC),
        )
        await zone.put(comes)
        await zone.store.transact(lambda tx: begin(tx, way))
        assert await zone.state() == "", "something is on its way there"
        await zone.change(InstanceMigration, "mig-1", state=MigrationState.aborting)
        await zone.change(InstanceMigration, "mig-1", state=MigrationState.failed)
        await zone.store.transact(lambda tx: begin(tx, way))
        assert await zone.state() == "emptying"

    told(make, story)


def test_in_large_zones_all_have_their_turn(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emptier, "LOOKS_MAX", 1)

    async def story(zone: Zone) -> None:
        for id in ("i-0", "i-1"):
            await zone.change(Instance, id, tags={"gureum:balance": "off"})
        await asyncio.sleep(6 * (REST + ROUND))
        assert await zone.states() == ["", "", "parked"]

    told(make, story)


def test_only_what_was_thought_of_leaves_to_where_that_was(make: Any) -> None:
    async def story(zone: Zone) -> None:
        park = Park(state=ParkState.emptying, reason="", since=0.0)
        await zone.stop()
        await zone.change(Host, "host-0", park=park)
        for to in ({"i-1": "host-1"}, {"i-3": "host-9"}, {"i-3": "host-2"}):

            async def work(tx: Any, to: dict[str, str] = to) -> None:
                await evacuations.leave(tx, zone.env, "host-0", to, "a test")

            await zone.store.transact(work)
        [found] = await zone.find(InstanceMigration)
        assert (found.instance, found.destination, found.reason) == ("i-3", "host-2", "a test")

    told(make, story)
