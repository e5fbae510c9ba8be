"""When instances are looked at, what keeps that calm, and what becomes of what should be changed."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import autosize, autosizer, migrations, resizes
from gureum.control.autosize import GROW_SAMPLES, SAMPLE_SECONDS, SHRINK_SAMPLES
from gureum.control.autosizer import AGAIN_SECONDS, REST_SECONDS_MAX, ROUND_SECONDS, Autosizer
from gureum.control.balancer import CALM_SECONDS
from gureum.control.filters import Scene
from gureum.control.observed import Observed
from gureum.env import Env
from gureum.errors import StoreError
from gureum.hostspec import HostReport, MachineReport, MachineState
from gureum.loadspec import MachineLoad
from gureum.resources import (
    Autosize,
    AutosizeMode,
    Event,
    FleetSettings,
    Host,
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    MigrationState,
    Park,
    ParkState,
    PowerMode,
    Resize,
)
from gureum.resources.placement import FLEET
from gureum.services.ec2.instance_types import growth, machine_size
from gureum.sim.loop import run
from gureum.sim.store import open_store
from gureum.sizespec import MachineSize
from gureum.store.base import Transaction
from support.records import Records

EPOCH = 1_750_000_000.0
GIB = 1 << 30
GROWS = GROW_SAMPLES * SAMPLE_SECONDS + ROUND_SECONDS
SHRINKS = SHRINK_SAMPLES * SAMPLE_SECONDS + ROUND_SECONDS
POLICY = Autosize(
    mode=AutosizeMode.automatic, target=60, smallest="t3.small", largest="t3.xlarge", cooldown=600
)


class Bench(Records):
    """A host, and an instance on it with a policy; its machine has at once what it is to have. ``others``:
    more of them, whose machines are as its.
    """

    def __init__(self, make: Any) -> None:
        self.make = make
        self.store = open_store()
        self.observed = Observed()
        self.env = Env(lambda: EPOCH + asyncio.get_running_loop().time(), random.Random(1), lambda _: None)
        self.autosizer = Autosizer(self.env, self.store, self.observed)
        self.cpus, self.gib = 0.3, 0.3
        self.settles = True
        self.others: tuple[str, ...] = ()
        self._sequence = 0

    async def start(self) -> None:
        await self.put(self.make.host(cpus=4, memory_bytes=16 * GIB))
        await self.put(self.make.instance(type="t3.small", state=InstanceState.running, autosize=POLICY))
        self._tasks = [
            asyncio.create_task(self._step_forever(self.autosizer)),
            asyncio.create_task(self._report_forever()),
            asyncio.create_task(self._watch()),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.store.close()

    async def _step_forever(self, autosizer: Autosizer) -> None:
        async with self.store.read() as reader:
            await autosizer.load(reader)
        while True:
            await asyncio.sleep(2)
            await autosizer.step()

    async def _watch(self) -> None:
        async for changes in self.store.watch(0):
            for change in changes:
                self.autosizer.changed(change)

    async def _report_forever(self) -> None:
        while True:
            instance = await self.instance()
            has, room = machine_size(instance.type), growth("t3.small")
            size = MachineSize(
                vcpus=has.vcpus,
                memory_bytes=has.memory_bytes,
                vcpus_max=4,
                memory_min_bytes=2 * GIB,
                memory_max_bytes=room.memory_bytes,
            )
            self._sequence += 1
            generation, ids = instance.generation, ("i-1", *self.others)
            self.observed.take(
                HostReport(
                    cloud="c",
                    host="host-0",
                    boot_id="b",
                    revision=1,
                    sequence=self._sequence,
                    machines=tuple(
                        MachineReport(
                            id=id, generation=generation, state=MachineState.running, revision=1, size=size
                        )
                        for id in ids
                    ),
                )
            )
            if instance.resize is not None and self.settles:
                await self.change(Instance, "i-1", resize=None)
            cpus = min(self.cpus, has.vcpus)
            load = MachineLoad(cpus=cpus, memory_bytes=GIB, used_bytes=int(self.gib * GIB))
            self.autosizer.heard(dict.fromkeys((*ids, "i-other"), load))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def instance(self) -> Instance:
        async with self.store.read() as reader:
            found = await reader.get(Instance, "i-1")
        assert found is not None
        return found

    async def host(self, id: str) -> Host:
        async with self.store.read() as reader:
            found = await reader.get(Host, id)
        assert found is not None
        return found

    async def events(self) -> list[tuple[str, str]]:
        return [(each.name, each.message) for each in await self.find(Event)]


def told(make: Any, story: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        bench = Bench(make)
        await bench.start()
        try:
            await story(bench)
        finally:
            await bench.stop()

    run(main())


def test_it_grows_once_and_its_record_and_an_event_say_so(make: Any) -> None:
    async def story(bench: Bench) -> None:
        bench.gib = 1.9
        await asyncio.sleep(GROWS)
        instance = await bench.instance()
        assert (instance.type, instance.resize is None) == ("t3.medium", True)
        assert instance.autosize is not None
        assert EPOCH < instance.autosize.changed <= bench.env.now()
        [(name, text)] = await bench.events()
        assert name == "InstanceAutosized"
        assert text == (
            "i-1 becomes a t3.medium instead of a t3.small: in the last 3 minutes it used 15 % of its vCPUs "
            "and 95 % of its memory, and the target is 60 %: of a t3.medium that is 15 % of its vCPUs and "
            "48 % of its memory"
        )
        await asyncio.sleep(2 * SHRINKS)
        assert len(await bench.events()) == 1
        bench.gib = 0.4
        await asyncio.sleep(SHRINKS)
        assert (await bench.instance()).type == "t3.small"

    told(make, story)


def test_it_rests_after_a_change(make: Any) -> None:
    async def story(bench: Bench) -> None:
        bench.gib = 1.9
        await asyncio.sleep(GROWS)
        bench.cpus = 4.0
        await asyncio.sleep(GROWS)
        assert (await bench.instance()).type == "t3.medium"
        sight = bench.autosizer.sight("i-1")
        assert sight is not None
        assert "left alone for" in sight.held
        assert sight.verdict.stopped == "t3.xlarge"
        bench.gib = 3.5
        await asyncio.sleep(POLICY.cooldown)
        assert (await bench.instance()).type == "t3.large"

    told(make, story)


def test_it_rests_also_when_it_has_come_to_another_host(make: Any) -> None:
    """The type follows the decision by as long as a migration takes."""

    async def story(bench: Bench) -> None:
        await bench.change(Instance, "i-1", autosize=replace(POLICY, changed=bench.env.now()))
        await asyncio.sleep(60)
        await bench.change(Instance, "i-1", type="t3.medium", generation=2)
        bench.gib = 3.9
        await asyncio.sleep(POLICY.cooldown - 120)
        assert (await bench.instance()).type == "t3.medium"
        await asyncio.sleep(120)
        assert (await bench.instance()).type == "t3.large"

    told(make, story)


def test_a_recommendation_changes_nothing(make: Any) -> None:
    async def story(bench: Bench) -> None:
        await bench.change(Instance, "i-1", autosize=replace(POLICY, mode=AutosizeMode.recommend))
        bench.gib = 1.9
        await asyncio.sleep(2 * GROWS)
        assert (await bench.instance()).type == "t3.small"
        sight = bench.autosizer.sight("i-1")
        assert sight is not None
        assert (sight.verdict.type, sight.held) == ("t3.medium", "")
        assert await bench.events() == []
        await bench.change(Instance, "i-1", autosize=None)
        await asyncio.sleep(1)
        assert bench.autosizer.sight("i-1") is None

    told(make, story)


def test_what_it_cannot_have_is_told_once_and_tried_again(make: Any) -> None:
    async def story(bench: Bench) -> None:
        other = bench.make.instance("i-2", type="t3.large", state=InstanceState.running)
        await bench.put(other, replace(other, id="i-3", type="t3.medium"))
        bench.gib = 1.9
        await asyncio.sleep(GROWS + 2 * AGAIN_SECONDS)
        assert (await bench.instance()).type == "t3.small"
        [(name, text)] = await bench.events()
        assert name == "InstanceNotAutosized"
        assert "i-1 stays a t3.small: it can't become a t3.medium now: host host-0 has" in text
        sight = bench.autosizer.sight("i-1")
        assert sight is not None
        assert "host-0 has" in sight.held
        await bench.change(Instance, "i-3", state=InstanceState.terminated)
        await asyncio.sleep(AGAIN_SECONDS + ROUND_SECONDS)
        assert (await bench.instance()).type == "t3.medium"

    told(make, story)


def test_room_that_is_kept_for_lost_hosts_is_not_taken(make: Any) -> None:
    """Either host could take what runs on the other, but for what it would grow by."""

    async def story(bench: Bench) -> None:
        await bench.put(bench.make.host("host-1", cpus=4, memory_bytes=4 * GIB))
        await bench.change(FleetSettings, FLEET, survive=1)
        await bench.put(bench.make.attached("vol-1", instances=["i-1"], pool="san"))
        bench.gib = 1.9
        await asyncio.sleep(GROWS)
        assert (await bench.instance()).type == "t3.small"
        [(name, text)] = await bench.events()
        assert name == "InstanceNotAutosized"
        assert "room is kept so that the loss of a host is survived" in text
        await bench.change(FleetSettings, FLEET, survive=0)
        await asyncio.sleep(AGAIN_SECONDS + ROUND_SECONDS)
        assert (await bench.instance()).type == "t3.medium"

    told(make, story)


def test_what_finds_no_room_wakes_a_host_and_grows_there(make: Any) -> None:
    async def story(bench: Bench) -> None:
        parked = Park(state=ParkState.parked, reason="", since=EPOCH)
        off = {"cpus": 4, "memory_bytes": 16 * GIB, "address": "192.0.2.2", "number": 2, "park": parked}
        await bench.put(bench.make.host("host-1", state=HostState.down, **off))
        await bench.change(Host, "host-0", address="192.0.2.1", number=1)
        other = bench.make.instance("i-2", type="t3.large", state=InstanceState.running)
        await bench.put(other, replace(other, id="i-3", type="t3.medium"))
        await bench.put(bench.make.attached("vol-1", instances=["i-1"], pool="san"))
        await bench.change(FleetSettings, FLEET, power=PowerMode.recommend)
        bench.gib = 1.9
        await asyncio.sleep(GROWS)
        assert (await bench.host("host-1")).park == parked, "that is for somebody to do"
        assert [name for name, _ in await bench.events()] == ["InstanceNotAutosized"]
        await bench.change(FleetSettings, FLEET, power=PowerMode.automatic)
        await asyncio.sleep(AGAIN_SECONDS + ROUND_SECONDS)
        park = (await bench.host("host-1")).park
        assert park is not None
        assert (park.state, park.reason) == (
            ParkState.waking,
            "i-1 is to become a t3.medium, and finds no room",
        )
        sight = bench.autosizer.sight("i-1")
        assert sight is not None
        assert sight.held.endswith("; it does when the host that is being woken is there")
        await bench.change(Host, "host-1", park=replace(parked, again=EPOCH + 1e6))
        await asyncio.sleep(ROUND_SECONDS + 2)
        sight = bench.autosizer.sight("i-1")
        assert sight is not None
        assert "; it does when" not in sight.held, "it did not come"
        await bench.change(Host, "host-1", park=park)
        await asyncio.sleep(AGAIN_SECONDS + ROUND_SECONDS)
        await bench.change(Host, "host-1", state=HostState.up, park=None)
        await asyncio.sleep(ROUND_SECONDS + 2)
        [migration] = await bench.find(InstanceMigration)
        assert (migration.destination, migration.type) == ("host-1", "t3.medium")

    told(make, story)


async def some_are_parked(bench: Bench) -> None:
    """host-0 is full. host-1 would do, and is looked at last."""
    off = {"cpus": 4, "memory_bytes": 32 * GIB, "state": HostState.down}
    parked = Park(state=ParkState.parked, reason="", since=EPOCH)
    for n in (2, 3, 4):
        where = {"address": f"192.0.2.{n}", "number": n, "uplink_down": True}
        await bench.put(bench.make.host(f"host-{n}", park=parked, **where, **off))
    last = {"address": "192.0.2.9", "number": 9, "park": replace(parked, failures=1)}
    await bench.put(bench.make.host("host-1", **off, **last))
    await bench.change(Host, "host-0", address="192.0.2.1", number=1)
    other = bench.make.instance("i-2", type="t3.large", state=InstanceState.running)
    await bench.put(other, replace(other, id="i-3", type="t3.medium"))
    await bench.put(bench.make.attached("vol-1", instances=["i-1"], pool="san"))
    await bench.change(FleetSettings, FLEET, power=PowerMode.automatic)
    bench.gib = 1.9


class Looks:
    """At what would be with hosts that are woken: ``made`` says of each whether it was in a transaction."""

    def __init__(self, bench: Bench, monkeypatch: Any) -> None:
        self.made: list[bool] = []
        self.seen: Callable[[Any], None] = lambda hosts: None
        inside: list[None] = []
        transact, woken = bench.store.transact, Scene.woken

        async def counted(work: Any, **options: Any) -> Any:
            async def within(tx: Transaction) -> Any:
                inside.append(None)
                try:
                    return await work(tx)
                finally:
                    inside.pop()

            return await transact(within, **options)

        def look(scene: Scene, hosts: Any = None) -> Scene:
            self.made.append(bool(inside))
            self.seen(hosts)
            return woken(scene, hosts)

        monkeypatch.setattr(bench.store, "transact", counted)
        monkeypatch.setattr(Scene, "woken", look)


def test_the_search_for_a_host_to_wake_is_in_no_transaction(make: Any, monkeypatch: Any) -> None:
    """Among many it takes long, and all that is to be committed waits for a transaction."""

    async def story(bench: Bench) -> None:
        await some_are_parked(bench)
        looks = Looks(bench, monkeypatch)
        await asyncio.sleep(GROWS)
        park = (await bench.host("host-1")).park
        assert park is not None
        assert park.state is ParkState.waking
        first = looks.made.index(True)
        assert looks.made[:first] == [False] * 5, "nothing, and each of four"
        assert looks.made[first:][:3].count(True) == 2, "what was found helps still, and it takes that"

    told(make, story)


def test_a_round_does_not_look_for_hosts_to_wake_for_ever(make: Any, monkeypatch: Any) -> None:
    async def story(bench: Bench) -> None:
        await some_are_parked(bench)
        looks = Looks(bench, monkeypatch)
        monkeypatch.setattr(resizes, "SEARCH_SECONDS", -1.0)
        await asyncio.sleep(GROWS)
        assert not looks.made
        assert not await bench.events(), "it is not said that there is none"
        monkeypatch.undo()
        await asyncio.sleep(ROUND_SECONDS + 2)
        park = (await bench.host("host-1")).park
        assert park is not None
        assert park.state is ParkState.waking, "the next round looks"

    told(make, story)


@pytest.mark.parametrize(
    ("kind", "id", "values"),
    [
        (Host, "host-1", {"draining": True}),
        (Instance, "i-2", {"state": InstanceState.stopped}),
        (Instance, "i-1", {"autosize": replace(POLICY, mode=AutosizeMode.recommend)}),
    ],
)
def test_what_was_found_and_is_not_so_any_more_wakes_none(
    make: Any, monkeypatch: Any, kind: Any, id: str, values: dict[str, Any]
) -> None:
    changes: list[asyncio.Task[None]] = []

    async def story(bench: Bench) -> None:
        def seen(hosts: Any) -> None:
            if hosts and not changes:  # others are looked at before it
                changes.append(asyncio.create_task(bench.change(kind, id, **values)))

        await some_are_parked(bench)
        Looks(bench, monkeypatch).seen = seen
        await asyncio.sleep(GROWS)
        assert changes
        park = (await bench.host("host-1")).park
        assert park is not None
        assert park.state is ParkState.parked

    told(make, story)


def test_what_needs_a_stop_is_told_once(make: Any) -> None:
    async def story(bench: Bench) -> None:
        await bench.change(Instance, "i-1", type="t3.large", autosize=replace(POLICY, largest="m5.2xlarge"))
        bench.gib = 7.0
        await asyncio.sleep(GROWS + 2 * AGAIN_SECONDS)
        [(name, text)] = await bench.events()
        assert name == "InstanceNotAutosized"
        assert text.startswith("i-1 stays a t3.large: in the last 3 minutes it used")
        assert "It needs a stop to become that: its machine can have 1 to 4 vCPUs" in text

    told(make, story)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"state": InstanceState.stopping}, "it is stopping"),
        ({"migration": "mig-1"}, "it is being migrated"),
        ({"resize": Resize(generation=1, vcpus=2, memory_bytes=GIB, since=EPOCH)}, "it is being resized"),
    ],
)
def test_nothing_is_learned_or_done_meanwhile(make: Any, values: dict[str, Any], why: str) -> None:
    async def story(bench: Bench) -> None:
        bench.settles = False
        await bench.change(Instance, "i-1", **values)
        bench.gib = 1.9
        await asyncio.sleep(2 * GROWS)
        sight = bench.autosizer.sight("i-1")
        assert sight is not None
        assert (sight.held, sight.seconds) == (why, 0.0)
        assert (await bench.instance()).type == "t3.small"
        assert await bench.find(InstanceMigration) == []

    told(make, story)


def test_nothing_is_done_while_hosts_are_lost(make: Any) -> None:
    async def story(bench: Bench) -> None:
        bench.gib = 1.9
        silent = bench.env.now() + GROWS
        await bench.put(bench.make.host("host-9", state=HostState.down, silent=silent))
        await asyncio.sleep(GROWS + CALM_SECONDS - ROUND_SECONDS)
        assert (await bench.instance()).type == "t3.small"
        sight = bench.autosizer.sight("i-1")
        assert sight is not None
        assert "host-9 was lost" in sight.held
        await asyncio.sleep(2 * ROUND_SECONDS)
        assert (await bench.instance()).type == "t3.medium"

    told(make, story)


def test_a_manager_that_begins_anew_looks_anew_and_keeps_the_rest(make: Any) -> None:
    async def story(bench: Bench) -> None:
        bench.gib = 1.9
        await asyncio.sleep(GROWS)
        other = Autosizer(bench.env, bench.store, bench.observed)
        async with bench.store.read() as reader:
            await other.load(reader)
        sight = other.sight("i-1")
        assert sight is not None
        assert sight.seconds == 0.0
        assert "left alone for" in sight.held

    told(make, story)


def test_an_instance_that_is_started_anew_or_ends(make: Any) -> None:
    async def story(bench: Bench) -> None:
        await asyncio.sleep(100)
        await bench.change(Instance, "i-1", generation=2)
        await asyncio.sleep(5)
        sight = bench.autosizer.sight("i-1")
        assert sight is not None
        assert sight.seconds <= SAMPLE_SECONDS
        await bench.change(Instance, "i-1", state=InstanceState.terminated)
        await asyncio.sleep(5)
        assert bench.autosizer.sight("i-1") is None

    told(make, story)


def test_a_fault_is_no_end(make: Any, monkeypatch: Any) -> None:
    async def story(bench: Bench) -> None:
        real = bench.autosizer._round
        count = 0

        async def fails(now: float) -> None:
            nonlocal count
            count += 1
            if count < 3:
                raise RuntimeError("a fault")
            await real(now)

        monkeypatch.setattr(bench.autosizer, "_round", fails)
        bench.gib = 1.9
        await asyncio.sleep(2 * GROWS)
        assert (await bench.instance()).type == "t3.medium"

    told(make, story)


async def alike(bench: Bench, *ids: str) -> None:
    """Others on the host, with the same policy."""
    instance = bench.make.instance(type="t3.small", state=InstanceState.running, autosize=POLICY)
    await bench.put(*(replace(instance, id=id) for id in ids))
    bench.others = ids


async def fill(bench: Bench) -> None:
    """Leave no room on the host."""
    await bench.put(bench.make.instance("i-large", type="t3.2xlarge", state=InstanceState.running))


def test_a_round_does_so_much_and_each_has_its_turn(make: Any, monkeypatch: Any) -> None:
    """More than are tried until the first of them are tried again."""
    monkeypatch.setattr(autosizer, "ACTS_MAX", 3)

    async def story(bench: Bench) -> None:
        await fill(bench)
        await alike(bench, *(f"i-{number}" for number in range(2, 41)))
        bench.gib = 1.9
        tried = [0]
        await asyncio.sleep(GROWS)
        for _ in range(20):
            await asyncio.sleep(ROUND_SECONDS)
            tried.append(len({each.instance for each in await bench.find(Event)}))
        assert max(after - before for before, after in itertools.pairwise(tried[1:])) == 3
        assert tried[-1] == 40

    told(make, story)


@pytest.mark.parametrize("error", [RuntimeError("a fault"), StoreError("a fault")])
def test_a_fault_with_one_is_none_of_the_others(make: Any, monkeypatch: Any, error: Exception) -> None:
    real = resizes.require_interfaces

    async def fails(reader: Any, instance: Instance, type: str) -> None:
        if instance.id == "i-1":
            raise error
        await real(reader, instance, type)

    monkeypatch.setattr(resizes, "require_interfaces", fails)

    async def story(bench: Bench) -> None:
        await alike(bench, "i-2")
        bench.gib = 1.9
        await asyncio.sleep(GROWS)
        types = {each.id: each.type for each in await bench.find(Instance)}
        assert types == {"i-1": "t3.small", "i-2": "t3.medium"}

    told(make, story)


def test_one_that_cannot_be_judged_is_none_of_the_others(make: Any, monkeypatch: Any) -> None:
    real = autosize.decide

    def fails(policy: Autosize, *values: Any) -> Any:
        if policy.target == 50:
            raise RuntimeError("a fault")
        return real(policy, *values)

    monkeypatch.setattr(autosizer, "decide", fails)

    async def story(bench: Bench) -> None:
        await alike(bench, "i-2")
        await bench.change(Instance, "i-1", autosize=replace(POLICY, target=50))
        bench.gib = 1.9
        await asyncio.sleep(GROWS)
        types = {each.id: each.type for each in await bench.find(Instance)}
        assert types == {"i-1": "t3.small", "i-2": "t3.medium"}

    told(make, story)


def test_nothing_is_done_any_more_when_a_host_is_lost_meanwhile(make: Any, monkeypatch: Any) -> None:
    async def story(bench: Bench) -> None:
        real = bench.autosizer._act

        async def loses(*values: Any) -> None:
            await bench.put(bench.make.host("host-9", state=HostState.down, silent=bench.env.now()))
            await real(*values)

        monkeypatch.setattr(bench.autosizer, "_act", loses)
        bench.gib = 1.9
        await asyncio.sleep(GROWS + ROUND_SECONDS)
        assert (await bench.instance()).type == "t3.small"
        sight = bench.autosizer.sight("i-1")
        assert sight is not None
        assert "host-9 was lost" in sight.held
        assert await bench.find(Event) == []

    told(make, story)


@pytest.mark.parametrize("ends", [False, True])
def test_a_migration_that_fails_each_time_is_begun_ever_more_rarely(make: Any, ends: bool) -> None:
    """Also if the machine ends of it each time, and is started anew; that is told each time."""

    async def fail(bench: Bench) -> None:
        [id] = [each.id for each in await bench.find(InstanceMigration) if each.ended is None]
        state, message = MigrationState.failed, "no route to host"
        if ends:
            await bench.change(Instance, "i-1", generation=(await bench.instance()).next_generation)
        await bench.change(InstanceMigration, id, state=MigrationState.aborting, outcome=str(state))
        await bench.change(InstanceMigration, id, state=state, message=message, ended=bench.env.utcnow())
        await bench.change(Instance, "i-1", migration="")

    async def story(bench: Bench) -> None:
        await bench.change(Host, "host-0", address="10.0.0.1")
        await bench.put(bench.make.host("host-1", cpus=4, memory_bytes=16 * GIB, address="10.0.0.2"))
        await fill(bench)
        bench.gib = 1.9
        await asyncio.sleep(GROWS)
        begun: list[float] = []
        for _ in range(800):
            await asyncio.sleep(SAMPLE_SECONDS)
            if (await bench.instance()).migration:
                begun.append(bench.env.now())
                await fail(bench)
        rests = [after - before for before, after in itertools.pairwise(begun)]
        for rest, least in zip(rests, (1200, 2400, REST_SECONDS_MAX), strict=True):
            assert least <= rest <= least + 2 * ROUND_SECONDS
        await asyncio.sleep(ROUND_SECONDS)
        sight = bench.autosizer.sight("i-1")
        assert sight is not None
        assert "no route to host" in sight.held
        said = [text for name, text in await bench.events() if name == "InstanceNotAutosized"]
        assert len(said) == (len(begun) if ends else 1)
        assert said[0].startswith("i-1 stays a t3.small: it did not become a t3.medium: mig-")
        assert "no route to host" in said[0]

    told(make, story)


def test_a_migration_for_another_reason_is_no_setback(make: Any) -> None:
    """As one for a person's resize."""

    async def story(bench: Bench) -> None:
        await bench.change(Host, "host-0", address="10.0.0.1")
        await bench.put(bench.make.host("host-1", cpus=4, memory_bytes=16 * GIB, address="10.0.0.2"))

        async def begin(tx: Transaction) -> InstanceMigration:
            instance = await tx.get(Instance, "i-1")
            assert instance is not None
            return await migrations.begin(tx, bench.env, instance, to="host-1", type="t3.large")

        migration = await bench.store.transact(begin)
        await bench.change(InstanceMigration, migration.id, state=MigrationState.aborting)
        await bench.change(InstanceMigration, migration.id, state=MigrationState.failed)
        await bench.change(Instance, "i-1", migration="")
        bench.gib = 1.9
        await asyncio.sleep(GROWS)
        assert (await bench.instance()).type == "t3.medium"

    told(make, story)
