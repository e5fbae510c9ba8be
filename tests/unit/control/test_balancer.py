"""When it is looked at the loads, what keeps it calm, and what becomes of what is recommended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from gureum.control import balancer as module
from gureum.control.balancer import AT_ONCE_MAX, CALM_SECONDS, HOT_SECONDS, REST_SECONDS, Balancer
from gureum.control.migrations import PER_HOST_MAX
from gureum.env import Env
from gureum.hostspec import HostReport
from gureum.loadspec import HostLoad, MachineLoad
from gureum.resources import (
    BalanceMode,
    Event,
    FleetSettings,
    Host,
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    MigrationState,
)
from gureum.resources.placement import FLEET
from gureum.services.ec2 import capacity
from gureum.sim.loop import run
from gureum.sim.store import open_store
from support.records import Records

EPOCH = 1_750_000_000.0
GIB = 1 << 30
SAMPLE = 10.0
MACHINES = 8


class Bench(Records):
    """Three hosts: host-0 has eight machines that want all of it, the others have none."""

    def __init__(self, make: Any) -> None:
        self.make = make
        self.store = open_store()
        self.env = Env(lambda: EPOCH + asyncio.get_running_loop().time(), random.Random(1), lambda _: None)
        self.balancer = Balancer(self.env, self.store)
        self.cpus = 1.9
        self.silent: set[str] = set()
        self._numbers = 0

    async def start(self) -> None:
        for number in range(3):
            await self.put(
                self.make.host(
                    f"host-{number}",
                    cpus=16,
                    memory_bytes=64 * GIB,
                    address=f"192.0.2.{number + 1}",
                    number=number + 1,
                )
            )
        for number in range(MACHINES):
            await self.put(self.running(f"i-{number}"))
        self._tasks = [
            asyncio.create_task(self._step_forever()),
            asyncio.create_task(self._report_forever()),
            asyncio.create_task(self._watch()),
        ]

    def running(self, id: str) -> Any:
        return self.make.instance(id, host="host-0", type="t3.small", state=InstanceState.running)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.store.close()

    async def _step_forever(self) -> None:
        async with self.store.read() as reader:
            await self.balancer.load(reader)
        while True:
            await asyncio.sleep(2)
            await self.balancer.step()

    async def _watch(self) -> None:
        async for changes in self.store.watch(0):
            for change in changes:
                self.balancer.changed(change)

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE)
            self._numbers += 1
            for host in await self.find(Host):
                if host.id in self.silent:
                    continue
                here = [each.id for each in await self.find(Instance) if each.host == host.id]
                machines = {id: MachineLoad(cpus=self.cpus, memory_bytes=GIB) for id in here}
                load = HostLoad(
                    number=self._numbers,
                    cpus=self.cpus * len(machines),
                    memory_bytes=GIB * len(machines),
                    machines=machines,
                )
                said = HostReport(
                    cloud="c",
                    host=host.id,
                    boot_id="b",
                    revision=1,
                    cpus=16,
                    memory_bytes=64 * GIB,
                    load=load,
                )
                self.balancer.heard(said, set(here))

    async def mode(self, mode: BalanceMode, **values: Any) -> None:
        await self.change(FleetSettings, FLEET, balance=mode, **values)

    async def arrive(self) -> None:
        """What is on its way arrives."""
        now = datetime.fromtimestamp(self.env.now(), UTC)
        for each in await self.find(InstanceMigration):
            if each.state is MigrationState.preparing:
                await self.change(InstanceMigration, each.id, state=MigrationState.copying)
                await self.change(InstanceMigration, each.id, state=MigrationState.switching)
                await self.change(InstanceMigration, each.id, state=MigrationState.completed, ended=now)
                await self.change(Instance, each.instance, host=each.destination, migration="")

    async def migrations(self) -> list[InstanceMigration]:
        return [each for each in await self.find(InstanceMigration) if each.reason]


def told(make: Any, story: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        bench = Bench(make)
        await bench.start()
        try:
            await story(bench)
        finally:
            await bench.stop()

    run(main())


def test_a_hot_host_is_told_of_when_it_was_so_for_a_while(make: Any) -> None:
    async def story(bench: Bench) -> None:
        await asyncio.sleep(HOT_SECONDS)
        assert bench.balancer.found.moves == ()
        [hot, cool, _] = bench.balancer.found.hosts
        assert (hot.host, hot.known, hot.hot) == ("host-0", True, True)
        assert hot.level.cpu > 0.9
        assert not cool.hot
        assert bench.balancer.found.imbalance > 0.5
        await asyncio.sleep(3 * HOT_SECONDS)
        moves = bench.balancer.found.moves
        assert {move.source for move in moves} == {"host-0"}
        assert {move.target for move in moves} == {"host-1", "host-2"}
        assert await bench.migrations() == []

    told(make, story)


def test_what_is_recommended_is_moved_as_many_as_may_at_once(make: Any) -> None:
    async def story(bench: Bench) -> None:
        await bench.mode(BalanceMode.automatic)
        await asyncio.sleep(300)
        begun = await bench.migrations()
        assert len(begun) == PER_HOST_MAX
        assert "balancing: host-0 is at 9" in max(each.reason for each in begun)
        events = await bench.find(Event)
        assert [event.name for event in events] == ["InstanceBalanced"] * PER_HOST_MAX
        assert begun[0].instance in {event.instance for event in events}
        assert begun[0].reason in {event.message.partition("; ")[2] for event in events}
        for _ in range(10):
            await bench.arrive()
            await asyncio.sleep(120)
        assert {each.host for each in await bench.find(Instance)} == {"host-0", "host-1", "host-2"}
        before = len(await bench.migrations())
        assert bench.balancer.found.moves == ()
        await asyncio.sleep(2 * REST_SECONDS)
        assert len(await bench.migrations()) == before
        assert not any(host.hot for host in bench.balancer.found.hosts)

    told(make, story)


def test_what_moved_is_left_alone_for_a_while(make: Any) -> None:
    async def story(bench: Bench) -> None:
        for number in range(MACHINES):
            await bench.put(ended(bench, f"i-{number}"))
        await asyncio.sleep(300)
        assert bench.balancer.found.moves == ()
        assert "left alone" in bench.balancer.found.hosts[0].stays
        await asyncio.sleep(REST_SECONDS)
        assert bench.balancer.found.moves

    told(make, story)


def ended(bench: Bench, instance: str, **values: Any) -> InstanceMigration:
    now = datetime.fromtimestamp(bench.env.now(), UTC)
    return InstanceMigration(
        id=f"mig-{instance}",
        account="1",
        instance=instance,
        type="t3.small",
        zone="us-east-1a",
        source="host-1",
        destination="host-0",
        generation=1,
        source_generation=1,
        started=now,
        **{"ended": now, "state": MigrationState.failed, **values},
    )


def test_a_manager_that_begins_anew_knows_what_moved(make: Any) -> None:
    async def story(bench: Bench) -> None:
        await bench.put(ended(bench, "i-0"), ended(bench, "i-1", ended=None, state=MigrationState.copying))
        other = Balancer(bench.env, bench.store)
        async with bench.store.read() as reader:
            await other.load(reader)
        assert other._rested == {"i-0": EPOCH}
        assert [each.instance for each in other._under_way.values()] == ["i-1"]

    told(make, story)


def test_what_cannot_migrate_is_said(make: Any) -> None:
    async def story(bench: Bench) -> None:
        for number in range(MACHINES):
            await bench.put(bench.make.attached(f"vol-{number}", instances=[f"i-{number}"]))
        await bench.mode(BalanceMode.automatic)
        await asyncio.sleep(300)
        assert bench.balancer.found.moves == ()
        assert "is in its host's own pool, and would have to be copied" in bench.balancer.found.hosts[0].stays
        assert await bench.migrations() == []

    told(make, story)


def test_what_is_to_stay_and_what_leaves_anyway(make: Any) -> None:
    async def story(bench: Bench) -> None:
        for number in range(MACHINES):
            await bench.change(Instance, f"i-{number}", tags={module.TAG: module.STAYS})
        await asyncio.sleep(300)
        assert bench.balancer.found.moves == ()
        assert "gureum:balance=off" in bench.balancer.found.hosts[0].stays
        await bench.change(Instance, "i-3", tags={})
        await asyncio.sleep(60)
        assert [move.instance for move in bench.balancer.found.moves] == ["i-3"]
        await bench.change(Host, "host-0", draining=True)
        await asyncio.sleep(60)
        assert bench.balancer.found.moves == ()

    told(make, story)


def test_nothing_is_moved_while_hosts_are_lost(make: Any) -> None:
    async def story(bench: Bench) -> None:
        await bench.mode(BalanceMode.automatic)
        lost = bench.make.host("host-9", state=HostState.down, silent=bench.env.now() + 100)
        await bench.put(lost)
        await asyncio.sleep(100 + CALM_SECONDS - 40)
        assert bench.balancer.found.moves
        assert "host-9 was lost" in bench.balancer.found.held
        assert await bench.migrations() == []
        await asyncio.sleep(80)
        assert await bench.migrations()
        assert bench.balancer.found.held == ""

    told(make, story)


def test_a_host_that_is_silent_is_neither_relieved_nor_used(make: Any) -> None:
    async def story(bench: Bench) -> None:
        await asyncio.sleep(300)
        bench.silent = {"host-1"}
        await asyncio.sleep(120)
        assert {move.target for move in bench.balancer.found.moves} == {"host-2"}
        assert not bench.balancer.found.hosts[1].known
        bench.silent = {"host-0"}
        await asyncio.sleep(120)
        assert bench.balancer.found.moves == ()

    told(make, story)


def test_room_that_is_kept_is_not_taken(make: Any) -> None:
    """What runs on host-1 would find room on host-2 alone, and just there."""

    async def story(bench: Bench) -> None:
        await bench.change(Host, "host-2", memory_bytes=66 * GIB)
        for number, host in enumerate(("host-0", "host-1", "host-2")):
            large = bench.make.instance(
                f"i-large-{number}", host=host, type="r5.xlarge", state=InstanceState.running
            )
            pool = "san" if host == "host-1" else "local"
            disk = bench.make.attached(f"vol-{number}", instances=[large.id], pool=pool, host=host)
            await bench.put(large, disk)
        await asyncio.sleep(300)
        assert {move.target for move in bench.balancer.found.moves} == {"host-1", "host-2"}
        await bench.mode(BalanceMode.automatic, survive=1)
        for _ in range(8):
            await asyncio.sleep(120)
            await bench.arrive()
        assert {each.destination for each in await bench.migrations()} == {"host-1"}
        assert bench.balancer.found.moves == ()
        async with bench.store.read() as reader:
            assert await capacity.shortfall(reader, "us-east-1a") == ""
        assert "is not to go to host-2: room is kept" in bench.balancer.found.hosts[0].stays
        await bench.mode(BalanceMode.automatic, survive=0)
        await asyncio.sleep(120)
        assert "host-2" in {each.destination for each in await bench.migrations()}

    told(make, story)


def test_room_that_is_not_kept_anyway_holds_nothing_up(make: Any) -> None:
    async def story(bench: Bench) -> None:
        waits = bench.make.instance("i-9", host=None, recovers=1.0, type="r5.24xlarge")
        await bench.put(waits, bench.make.attached("vol-9", instances=["i-9"], pool="san"))
        await bench.mode(BalanceMode.automatic, survive=1)
        await asyncio.sleep(300)
        assert await bench.migrations()

    told(make, story)


def test_off_says_loads_and_nothing_else(make: Any) -> None:
    async def story(bench: Bench) -> None:
        await bench.mode(BalanceMode.off)
        await asyncio.sleep(300)
        assert bench.balancer.found.moves == ()
        assert bench.balancer.found.hosts[0].hot

    told(make, story)


def test_once_means_until_nothing_more_is_to_be_moved(make: Any) -> None:
    async def story(bench: Bench) -> None:
        await bench.mode(BalanceMode.off)
        await asyncio.sleep(300)
        await bench.mode(BalanceMode.off, rebalance=bench.env.now())
        await asyncio.sleep(3)
        assert len(await bench.migrations()) == PER_HOST_MAX
        for _ in range(8):
            await asyncio.sleep(40)
            await bench.arrive()
        [settings] = await bench.find(FleetSettings)
        assert settings.rebalance == 0.0
        assert len(await bench.migrations()) > PER_HOST_MAX
        assert len(bench.balancer.found.hosts) == 3

    told(make, story)


def test_once_does_not_last_for_ever(make: Any) -> None:
    """What was begun hangs."""

    async def story(bench: Bench) -> None:
        await asyncio.sleep(300)
        await bench.mode(BalanceMode.recommend, rebalance=bench.env.now())
        await asyncio.sleep(module.REBALANCE_SECONDS_MAX - 60)
        assert (await bench.find(FleetSettings))[0].rebalance
        await asyncio.sleep(120)
        assert not (await bench.find(FleetSettings))[0].rebalance

    told(make, story)


def test_no_more_at_once_than_may(make: Any) -> None:
    async def story(bench: Bench) -> None:
        for number in range(AT_ONCE_MAX - 1):
            await bench.put(
                ended(bench, f"i-9{number}", ended=None, state=MigrationState.preparing, reason="balancing")
            )
        await bench.mode(BalanceMode.automatic)
        await asyncio.sleep(300)
        assert len(await bench.migrations()) == AT_ONCE_MAX

    told(make, story)


def test_an_error_of_the_store_is_no_end(make: Any, monkeypatch: Any) -> None:
    async def story(bench: Bench) -> None:
        real = bench.balancer._search
        count = 0

        async def search(*args: Any) -> None:
            nonlocal count
            count += 1
            if count < 3:
                raise RuntimeError("a fault")
            await real(*args)

        monkeypatch.setattr(bench.balancer, "_search", search)
        await asyncio.sleep(400)
        assert bench.balancer.found.moves

    told(make, story)
