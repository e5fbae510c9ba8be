"""1,000 hosts with 25,000 instances: how many more are placed a second, and what these have to do with it.

Placed is what the manager does with a new instance: a host is chosen, and the instance, its interface and its
volume are there from then on, in the store, durably, in batches as the manager takes them. Nothing runs.
And how long it takes to decide what should move between them, and what should grow or shrink.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from gureum.bench.figures import Figure, Promise, Say
from gureum.bench.servers import BenchError
from gureum.control import instances
from gureum.control.autosize import SAMPLE_SECONDS, SHRINK_SAMPLES, Level, Window, decide
from gureum.control.balance import Heat, Move, Plan, Situation, proposals
from gureum.control.fleet import Fleet, taken
from gureum.control.loads import Use
from gureum.control.manager import BATCH_MAX
from gureum.control.observed import Observed
from gureum.control.placement import choose_host
from gureum.env import Env
from gureum.hostspec import LOCAL
from gureum.resources import (
    Attachment,
    AttachmentState,
    Autosize,
    AutosizeMode,
    BlockDevice,
    FleetSettings,
    Host,
    HostState,
    Instance,
    InstanceState,
    NetworkInterface,
    PlacementGroup,
    SpreadLevel,
    Strategy,
    Volume,
)
from gureum.resources.placement import FLEET
from gureum.services.ec2 import capacity
from gureum.services.ec2.instance_types import growth
from gureum.sizespec import MachineSize
from gureum.store.base import Transaction
from gureum.store.sqlite import SqliteStore

HOSTS = 1_000
INSTANCES = 25_000
FEW = 2_500
PER_HOST = INSTANCES // HOSTS
PLACED = 3_000
DECISIONS = 1_000
PER_SECOND = 500
GIB = 1 << 30
GROWTH = 1.5
PLAN_SECONDS = 1
LEAST_MEMORY = 0.466
"""Memory given away, as a part of what there is, at which hosts have room for one more instance each."""
BALANCE_SECONDS = 1
HOT_HOSTS = 100
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
ACCOUNT = "123456789012"
GROUP = "pg-00000000000000001"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Rates(NamedTuple):
    """Things a second, and a second of processor time."""

    wall: float
    cpu: float


class Clock:
    """From here on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._wall

    def rates(self, count: int) -> Rates:
        return Rates(count / self.seconds, count / (time.process_time() - self._cpu))


def measure(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    return asyncio.run(_measure(directory, say, PLACED // 4 if quick else PLACED))


async def _measure(directory: Path, say: Say, count: int) -> list[Figure]:
    few = await _placed(directory / "few.db", FEW, count, say)
    many = await _placed(directory / "many.db", INSTANCES, count, say)
    store = SqliteStore.open(directory / "many.db")
    try:
        first = await _first_look(store)
        accepted, chosen, apart = await _decisions(store)
        plan = await _lost_host(store)
        balanced = await _balance(store)
        kept = await _kept(store)
    finally:
        await store.close()
    on = f"{HOSTS:,} hosts, {INSTANCES:,} instances"
    return [
        Figure(
            name=f"placements, {on}",
            value=many.wall,
            unit="/s",
            promise=Promise(limit=PER_SECOND, at="least"),
        ),
        Figure(
            name="CPU time of a placement",
            value=1000 / many.cpu,
            unit="ms",
            peer=1000 / few.cpu,
            peer_name=f"{FEW:,} instances",
            promise=Promise(limit=GROWTH, of="ratio"),
        ),
        Figure(name="CPU time of choosing a host", value=1000 / chosen.cpu, unit="ms"),
        Figure(name="CPU time of choosing one, spread over hosts", value=1000 / apart.cpu, unit="ms"),
        Figure(name="CPU time of finding that there is room", value=1000 / accepted.cpu, unit="ms"),
        Figure(name="the first question after a start", value=1000 * first, unit="ms"),
        Figure(
            name=f"a lost host's {PER_HOST} instances placed elsewhere",
            value=plan,
            unit="s",
            promise=Promise(limit=PLAN_SECONDS),
        ),
        *kept,
        Figure(
            name=f"{balanced.moves} moves decided that relieve {HOT_HOSTS} hot hosts",
            value=balanced.seconds,
            unit="s",
            promise=Promise(limit=BALANCE_SECONDS),
        ),
        Figure(name="the longest of it without a pause", value=1000 * balanced.slice, unit="ms"),
        Figure(name=f"CPU time of sizing {INSTANCES:,} instances by their use", value=_sized(), unit="s"),
    ]


async def _placed(path: Path, present: int, count: int, say: Say) -> Rates:
    """How fast ``count`` instances are placed besides ``present`` ones."""
    store = SqliteStore.open(path)
    try:
        await _seed(store, present)
        new = [_instance(present + number) for number in range(count)]
        for first in range(0, count, BATCH_MAX):
            await _put_new(store, new[first : first + BATCH_MAX])
        env, observed, clock = Env(), Observed(), Clock()
        for first in range(0, count, BATCH_MAX):
            ids = [each.id for each in new[first : first + BATCH_MAX]]

            async def step(tx: Transaction, ids: list[str] = ids) -> None:
                for id in ids:
                    await instances.reconcile(tx, env, observed, id)

            await store.transact(step)
        rates = clock.rates(count)
        async with store.read() as reader:
            there = sum(each.instances for each in (await reader.tally(Fleet)).candidates())
        if there != present + count:
            raise BenchError(f"{present + count - there} instances were not placed")
    finally:
        await store.close()
    say(f"{count:,} placed besides {present:,}: {rates.wall:,.0f} a second, {rates.cpu:,.0f} of CPU time")
    return rates


async def _first_look(store: SqliteStore) -> float:
    clock = Clock()
    async with store.read() as reader:
        await choose_host(reader, _instance(10**6))
    return clock.seconds


async def _decisions(store: SqliteStore) -> tuple[Rates, Rates, Rates]:
    """Of finding that there is room, and of choosing a host, also for a group that is spread."""

    async def timed(tx: Transaction, what: str) -> Rates:
        clock = Clock()
        for number in range(DECISIONS):
            instance = _instance(10**6 + number)
            if what == "room":
                await capacity.admit(tx, taken(replace(instance, id="")), 1, ())
            else:
                await choose_host(tx, replace(instance, group=GROUP if what == "apart" else ""))
        return clock.rates(DECISIONS)

    async def work(tx: Transaction) -> tuple[Rates, Rates, Rates]:
        group = PlacementGroup(
            id=GROUP, account=ACCOUNT, name="g", strategy=Strategy.spread, spread=SpreadLevel.host
        )
        await tx.put(group)
        for number in range(HOSTS // 10):
            await tx.put(
                replace(_instance(2 * 10**6 + number), group=GROUP, host=f"host-{number}", id=f"i-{number}")
            )
        return await timed(tx, "room"), await timed(tx, "alone"), await timed(tx, "apart")

    return await store.transact(work)


async def _lost_host(store: SqliteStore) -> float:
    """Seconds until the store says where each instance of a host goes on."""
    clock = Clock()

    async def work(tx: Transaction) -> None:
        lost = await tx.find(Instance, host="host-0", state=str(InstanceState.running))
        for instance in lost:
            host = await choose_host(tx, replace(instance, host=None), excluding={"host-0": "is lost"})
            await tx.put(replace(instance, host=host.id))

    await store.transact(work)
    return clock.seconds


async def _kept(store: SqliteStore) -> list[Figure]:
    """What it costs that room is kept for a lost host: with much room, and with the least that is enough."""
    await _share_disks(store)
    machine = taken(replace(_instance(10**6), id=""))._replace(restarts=True)

    async def timed(tx: Transaction, decisions: int, memory_overcommit: float) -> float:
        settings = FleetSettings(id=FLEET, survive=1, memory_overcommit=memory_overcommit)
        known = await tx.get(FleetSettings, FLEET)
        await tx.put(settings if known is None else replace(settings, version=known.version))
        clock = Clock()
        for _ in range(decisions):
            if (await capacity.admit(tx, machine, 1, ())).refusal is not None:
                raise BenchError("there is room, and it was not found")
        return 1000 / clock.rates(decisions).cpu

    async def work(tx: Transaction) -> tuple[float, float, float]:
        first = await timed(tx, 1, 1.0)
        return first, await timed(tx, DECISIONS, 1.0), await timed(tx, max(1, DECISIONS // 10), LEAST_MEMORY)

    first, much, least = await store.transact(work)
    what = "CPU time of finding that there is room besides that of a lost host"
    return [
        Figure(name=f"{what}: the first question", value=first, unit="ms"),
        Figure(name=what, value=much, unit="ms"),
        Figure(name=f"{what}: with the least room", value=least, unit="ms"),
    ]


async def _share_disks(store: SqliteStore) -> None:
    """Let each instance that runs have a disk in a shared pool, so that it would be started elsewhere."""
    async with store.read() as reader:
        found = await reader.find(Instance, state=str(InstanceState.running))
    for first in range(0, len(found), BATCH_MAX):

        async def disks(tx: Transaction, first: int = first) -> None:
            for instance in found[first : first + BATCH_MAX]:
                await tx.put(_disk(instance, pool="san"))

        await store.transact(disks)


def _disk(instance: Instance, pool: str = LOCAL) -> Volume:
    attachment = Attachment(
        instance=instance.id, device="/dev/xvda", state=AttachmentState.attaching, attached=NOW
    )
    return Volume(
        id=f"vol-{instance.id[2:]}",
        account=ACCOUNT,
        size_bytes=8 << 30,
        zone=instance.zone,
        created=NOW,
        pool=pool,
        attachments=(attachment,),
    )


class Balanced(NamedTuple):
    """``slice``: the longest time in which nothing else has its turn."""

    moves: int
    seconds: float
    slice: float


async def _balance(store: SqliteStore) -> Balanced:
    """What one look at the loads of all hosts takes, some of which are hot."""
    hot = {f"host-{number}" for number in range(HOT_HOSTS)}
    clock, slices, moves = Clock(), [Clock()], 0
    longest = 0.0

    def pause() -> None:
        nonlocal longest
        longest = max(longest, slices.pop().seconds)
        slices.append(Clock())

    async with store.read() as reader:
        fleet = (await reader.tally(Fleet)).copy()
    hosts = {candidate.host.id: fleet.on(candidate.host.id) for candidate in fleet.candidates()}
    uses = {
        id: Use(1.1 if host in hot else 0.1 + number % 4 / 10, float(GIB))
        for host, machines in hosts.items()
        for number, id in enumerate(machines)
    }
    besides = dict.fromkeys(hosts, Use(0.5, float(GIB)))
    plan = Plan(Situation(fleet, besides, uses.__getitem__, {}))
    for _ in plan.fill():
        pause()
    heat = Heat()
    heat.take(plan, 0.0)
    for found in proposals(plan, dict.fromkeys(heat.since, 600.0), set()):
        pause()
        moves += isinstance(found, Move)
    pause()
    return Balanced(moves, clock.seconds, longest)


def _sized() -> float:
    """What one look at the windows of all instances takes, each with a policy; processor seconds."""
    policy = Autosize(
        mode=AutosizeMode.automatic, target=60, smallest="t3.nano", largest="m5.xlarge", cooldown=300
    )
    window = Window()
    for number in range(SHRINK_SAMPLES):
        window.take(Level(0.2 + number % 7 / 20, 0.5), SAMPLE_SECONDS * number)
    room = growth("t3.medium")
    size = MachineSize(
        vcpus=2,
        memory_bytes=4 * GIB,
        vcpus_max=room.vcpus,
        memory_min_bytes=4 * GIB,
        memory_max_bytes=room.memory_bytes,
    )
    clock = Clock()
    for _ in range(INSTANCES):
        decide(policy, "t3.medium", size, window.seen())
    return INSTANCES / clock.rates(INSTANCES).cpu


async def _seed(store: SqliteStore, present: int) -> None:
    async def hosts(tx: Transaction) -> None:
        for number in range(HOSTS):
            await tx.put(
                Host(
                    id=f"host-{number}",
                    state=HostState.up,
                    zone=ZONES[number % len(ZONES)],
                    cpus=32,
                    memory_bytes=64 << 30,
                    number=number + 1,
                    address=f"10.0.{number // 250}.{number % 250 + 1}",
                )
            )

    await store.transact(hosts)
    for first in range(0, present, BATCH_MAX):

        async def running(tx: Transaction, first: int = first) -> None:
            for number in range(first, min(present, first + BATCH_MAX)):
                host = f"host-{number % HOSTS}"
                zone = ZONES[number % HOSTS % len(ZONES)]
                here = replace(_instance(number), host=host, zone=zone, state=InstanceState.running)
                await tx.put(here)

        await store.transact(running)


async def _put_new(store: SqliteStore, new: list[Instance]) -> None:
    """As RunInstances leaves them."""

    async def work(tx: Transaction) -> None:
        for instance in new:
            await tx.put(_disk(instance))
            await tx.put(
                NetworkInterface(
                    id=f"eni-{instance.id[2:]}",
                    account=ACCOUNT,
                    vpc=instance.vpc,
                    subnet=instance.subnet,
                    zone=instance.zone,
                    mac="0a:00:00:00:00:01",
                    private_ip="10.0.0.4",
                    instance=instance.id,
                )
            )
            await tx.put(instance)

    await store.transact(work)


def _instance(number: int) -> Instance:
    digits = f"{number:017x}"
    return Instance(
        id=f"i-{digits}",
        account=ACCOUNT,
        reservation="r-1",
        type="t3.micro",
        image="ami-1",
        zone=ZONES[number % len(ZONES)],
        launched=NOW,
        vpc="vpc-1",
        subnet="subnet-1",
        interfaces=(f"eni-{digits}",),
        devices=(BlockDevice(device="/dev/xvda", volume=f"vol-{digits}", delete_on_termination=True),),
    )
