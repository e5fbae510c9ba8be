"""The manager's side of an instance that gets another type while it runs."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control import migrations, resizes
from gureum.control.filters import Scene
from gureum.control.fleet import Fleet, held, taken
from gureum.control.instances import settled
from gureum.control.move import CannotMove
from gureum.control.placement import NoCapacity
from gureum.control.recovery import reconcile
from gureum.control.resizes import RESIZE_SECONDS, CannotResize, begin
from gureum.control.specs import host_spec
from gureum.hostspec import MachineState
from gureum.resources import (
    Event,
    FleetSettings,
    Host,
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    Park,
    ParkState,
    PowerMode,
    Resize,
)
from gureum.resources.placement import FLEET
from gureum.services.ec2.instance_types import GROWTH, TYPES, growth, machine_size
from gureum.services.operation import Cloud
from gureum.sizespec import MachineSize

GIB = 1 << 30
CLOUD = Cloud(
    name="test",
    account="123456789012",
    region="us-east-1",
    zones=("us-east-1a",),
    public_cidr="198.18.0.0/24",
    pool="san",
)


def size(type: str = "t3.micro", vcpus_max: int = 8, memory_max_bytes: int = 32 * GIB) -> MachineSize:
    has = machine_size(type)
    return MachineSize(
        vcpus=has.vcpus,
        memory_bytes=has.memory_bytes,
        vcpus_max=vcpus_max,
        memory_min_bytes=GIB,
        memory_max_bytes=memory_max_bytes,
    )


@pytest.fixture
async def rig(bench: Any, make: Any) -> Any:
    await bench.put(make.host(), make.instance(state=InstanceState.running))
    return bench


async def resize(rig: Any, type: str, moves: bool = False, has: MachineSize | None = None) -> Instance:
    instance = await rig.get(Instance, "i-1")
    work = partial(
        begin, env=rig.env, instance=instance, type=type, size=has or size(instance.type), moves=moves
    )
    return await rig.store.transact(work)  # type: ignore[no-any-return]


async def test_done_when_its_host_says_so_of_the_newest_spec(rig: Any) -> None:
    instance = await resize(rig, "t3.medium")
    assert instance.type == "t3.medium"
    assert not settled(instance)
    async with rig.store.read() as reader:
        [machine] = (await host_spec(reader, CLOUD, "host-0")).machines
    medium = machine_size("t3.medium")
    assert (machine.vcpus, machine.memory_bytes, machine.metadata.type) == (
        2,
        medium.memory_bytes,
        "t3.medium",
    )
    assert (machine.vcpus_max, machine.memory_max_bytes) == growth("t3.medium")
    rig.machine(size=size("t3.micro"))
    assert (await rig.step_instance()).resize is not None
    rig.machine(size=size("t3.medium"), revision=instance.version - 1)
    assert (await rig.step_instance()).resize is not None
    rig.machine(size=size("t3.medium"))
    after = await rig.step_instance()
    assert (after.resize, after.type) == (None, "t3.medium")
    assert settled(after)


async def test_the_larger_counts_until_it_is_smaller(rig: Any) -> None:
    async def memory() -> tuple[int, int]:
        async with rig.store.read() as reader:
            candidate = (await reader.tally(Fleet)).candidate("host-0")
        assert candidate is not None
        return candidate.cpus, candidate.memory_bytes

    before = await memory()
    await resize(rig, "t3.medium")
    grown = await memory()
    assert before[1] - grown[1] == 3 * GIB
    rig.machine(size=size("t3.medium"))
    await rig.step_instance()
    assert await memory() == grown
    await resize(rig, "t3.small")
    assert await memory() == grown
    await resize(rig, "t3.micro")
    instance = await rig.get(Instance, "i-1")
    assert held(instance) == (2, 4 * GIB)
    assert await memory() == grown
    # Started anew it has no more than it is to have.
    assert taken(replace(instance, generation=2)).memory_bytes < taken(instance).memory_bytes
    rig.machine(size=size("t3.micro"))
    await rig.step_instance()
    assert await memory() == before


async def test_room_is_counted_with_what_it_has(rig: Any, make: Any) -> None:
    """The host has 7 GiB to give: one of 4 GiB can take the place of one of 1 GiB, and no second one."""
    await resize(rig, "t3.medium")
    await rig.put(make.instance("i-2", state=InstanceState.running))
    other = await rig.get(Instance, "i-2")
    for type, fits in (("t3.small", True), ("t3.medium", False)):
        work = partial(begin, env=rig.env, instance=other, type=type, size=size(), moves=False)
        if fits:
            await rig.store.transact(work)
            other = await rig.get(Instance, "i-2")
        else:
            with pytest.raises(NoCapacity, match=r"host-0 has .* of memory left"):
                await rig.store.transact(work)
    with pytest.raises(NoCapacity, match=r"cannot go to another host: .*no other host"):
        await rig.store.transact(
            partial(
                begin,
                env=rig.env,
                instance=replace(other, resize=None),
                type="t3.medium",
                size=size(),
                moves=True,
            )
        )


@pytest.mark.parametrize(
    ("changes", "type", "has", "words"),
    [
        ({"state": InstanceState.stopped}, "t3.small", size(), "ModifyInstanceAttribute"),
        ({"migration": "mig-1"}, "t3.small", size(), "is being migrated"),
        ({"capturing": ("ami-1",)}, "t3.small", size(), "image ami-1"),
        ({}, "t3.small", None, "keeps its size"),
        (
            {},
            "t3.medium",
            size(memory_max_bytes=2 * GIB),
            r"can grow to 8 vCPUs and 2 GiB .* has 2 and 4 GiB",
        ),
        ({}, "m5.4xlarge", size(), "can grow to 8 vCPUs"),
        ({}, "t3.nano", size(), "was started with 1 GiB .* keeps that"),
    ],
)
def test_refused(make: Any, changes: Any, type: str, has: MachineSize | None, words: str) -> None:
    instance = make.instance(**{"state": InstanceState.running, **changes})
    with pytest.raises(CannotResize, match=words):
        resizes.require_possible(instance, machine_size(type), has)


async def test_a_guest_that_does_not_go_along(rig: Any) -> None:
    def told() -> Any:
        return rig.store.transact(lambda tx: reconcile(tx, rig.env, rig.observed, "i-1"))

    await resize(rig, "t3.small")
    rig.machine(size=size("t3.micro"))
    await told()
    assert (await rig.get(Instance, "i-1")).resize.message == ""
    rig.time += RESIZE_SECONDS
    await told()
    instance = await rig.get(Instance, "i-1")
    assert "has 2 vCPUs and 1 GiB, and has not taken up the rest" in instance.resize.message
    rig.machine(size=replace(size("t3.micro"), stuck="it cannot"))
    await told()
    assert (await rig.get(Instance, "i-1")).resize.message == "it cannot"
    rig.machine(size=size("t3.small"))
    await told()
    assert (await rig.get(Instance, "i-1")).resize is None
    async with rig.store.read() as reader:
        names = [event.name for event in await reader.find(Event)]
    assert names == ["InstanceNotResized", "InstanceNotResized", "InstanceResized"]


async def test_it_does_not_migrate_meanwhile(rig: Any) -> None:
    instance = await resize(rig, "t3.small")
    async with rig.store.read() as reader:
        with pytest.raises(CannotMove, match="is being resized"):
            await migrations.require_movable(reader, instance)
        late = replace(instance, resize=replace(instance.resize, message="late"))
        await migrations.require_movable(reader, late)


async def test_stopped_or_started_anew_it_is_over(rig: Any) -> None:
    instance = await resize(rig, "t3.small")
    await rig.put(replace(instance, generation=2))
    rig.machine(generation=2)
    assert (await rig.step_instance()).resize is None
    instance = await resize(rig, "t3.medium")
    await rig.put(replace(instance, state=InstanceState.stopping))
    rig.machine(state=MachineState.off, generation=2)
    stopped = await rig.step_instance()
    assert (stopped.state, stopped.resize, stopped.type) == (InstanceState.stopped, None, "t3.medium")


async def test_grows_where_there_is_room(rig: Any, make: Any) -> None:
    hosts = [
        make.host(f"host-{n}", address=f"192.0.2.{n + 1}", accelerator="tcg", cpu="x", memory_bytes=m * GIB)
        for n, m in ((0, 4), (1, 16))
    ]
    first = await rig.get(Host, "host-0")
    await rig.put(replace(hosts[0], version=first.version), hosts[1])
    with pytest.raises(NoCapacity):
        await resize(rig, "t3.medium")
    instance = await resize(rig, "t3.medium", moves=True)
    assert (instance.type, instance.resize) == ("t3.micro", None)
    migration = await rig.get(InstanceMigration, instance.migration)
    assert (migration.type, migration.destination) == ("t3.medium", "host-1")
    async with rig.store.read() as reader:
        candidate = (await reader.tally(Fleet)).candidate("host-1")
        assert candidate is not None
        assert candidate.memory_bytes < 11 * GIB
    with pytest.raises(CannotResize, match="is being migrated"):
        await resize(rig, "t3.small")


def test_what_a_machine_may_grow_to() -> None:
    for name, type in TYPES.items():
        most = growth(name)
        assert type.vcpus <= most.vcpus <= GROWTH * type.vcpus
        assert type.memory_bytes <= most.memory_bytes <= GROWTH * type.memory_bytes
    assert growth("t3.large") == (8, 32 * GIB)
    assert growth("t3.nano") == (2, GIB // 2)
    assert growth("r5.24xlarge") == (96, 768 * GIB)


def test_more_of_two_resizes_counts(make: Any) -> None:
    instance = make.instance(
        type="t3.small", resize=Resize(generation=1, vcpus=4, memory_bytes=16 * GIB, since=0)
    )
    again = resizes.resized(instance, "t3.nano", 5.0)
    assert again.resize == Resize(generation=1, vcpus=4, memory_bytes=16 * GIB, since=5.0)


@pytest.mark.parametrize(("filler", "fits"), [("t3.micro", True), ("t3.medium", False)])
async def test_room_that_is_kept_for_a_lost_host(rig: Any, make: Any, filler: str, fits: bool) -> None:
    await rig.put(
        FleetSettings(id=FLEET, survive=1),
        make.host("host-1"),
        make.instance("i-2", state=InstanceState.running, host="host-1", type=filler),
        make.attached(pool="san"),
    )
    if fits:
        assert (await resize(rig, "t3.medium")).type == "t3.medium"
        return
    with pytest.raises(NoCapacity, match=r"loss of a host is survived, and then .*i-1 \(t3.medium\) would"):
        await resize(rig, "t3.medium")
    assert (await rig.get(Instance, "i-1")).type == "t3.micro"


@pytest.mark.parametrize(("kept", "goes"), [(0, True), (1, False)])
async def test_room_that_is_kept_where_it_would_move_to(rig: Any, make: Any, kept: int, goes: bool) -> None:
    """host-0 is full. What runs on host-1 would find room on host-2 alone, where this one would go."""
    await rig.put(
        FleetSettings(id=FLEET, survive=kept),
        *(
            make.host(f"host-{n}", address=f"192.0.2.{n + 1}", number=n + 1, memory_bytes=gib * GIB)
            for n, gib in ((1, 10), (2, 11))
        ),
        replace(await rig.get(Host, "host-0"), address="192.0.2.1"),
        make.attached(pool="san"),
        make.instance("i-2", state=InstanceState.running, type="t3.medium"),
        make.attached("vol-2", instances=["i-2"]),
        make.instance("i-3", state=InstanceState.running, type="t3.large", host="host-1"),
        make.attached("vol-3", instances=["i-3"], pool="san"),
    )
    if goes:
        assert (await resize(rig, "t3.medium", moves=True)).migration
        return
    with pytest.raises(
        NoCapacity, match=r"host-0 has .* left.*on host host-2 room is kept.* i-3 \(t3.large\) would find no"
    ):
        await resize(rig, "t3.medium", moves=True)
    assert not (await rig.get(Instance, "i-1")).migration


def parked(make: Any, id: str, number: int, gib: int, **park: Any) -> Host:
    off = Park(**{"state": ParkState.parked, "reason": "", "since": 0.0, **park})
    where = {"address": f"192.0.2.{number}", "number": number}
    host: Host = make.host(id, state=HostState.down, park=off, memory_bytes=gib * GIB, **where)
    return host


async def wanting(rig: Any, type: str) -> str | None:
    async with rig.store.read() as reader:
        instance = await reader.get(Instance, "i-1")
        growing = await resizes.growing(reader, instance, type)
    return None if growing is None else await growing.wanting()


async def test_a_host_to_be_woken_is_one_that_helps(rig: Any, make: Any) -> None:
    """host-0 has room for 7 GiB."""
    await rig.put(
        FleetSettings(id=FLEET, power=PowerMode.automatic),
        replace(await rig.get(Host, "host-0"), address="192.0.2.1"),
        make.attached(pool="san"),
    )
    assert await wanting(rig, "t3.large") is None, "none is parked"
    await rig.put(parked(make, "host-1", 2, 4))
    assert await wanting(rig, "t3.medium") is None, "there is room"
    assert await wanting(rig, "t3.large") is None, "it is too small"
    await rig.put(parked(make, "host-2", 3, 16, failures=1), parked(make, "host-3", 4, 12))
    assert await wanting(rig, "t3.large") == "host-3", "it came the last time"
    assert await wanting(rig, "t3.xlarge") is None
    coming = replace(parked(make, "host-2", 3, 16), version=(await rig.get(Host, "host-2")).version)
    await rig.put(replace(coming, park=Park(state=ParkState.waking, reason="", since=0.0)))
    assert await wanting(rig, "t3.large") == "", "one comes"
    settings = await rig.get(FleetSettings, FLEET)
    await rig.put(replace(settings, power=PowerMode.recommend))
    assert await wanting(rig, "t3.large") is None


async def test_others_have_their_turn_while_a_host_to_be_woken_is_looked_for(
    rig: Any, make: Any, monkeypatch: Any
) -> None:
    await rig.put(
        FleetSettings(id=FLEET, power=PowerMode.automatic),
        replace(await rig.get(Host, "host-0"), address="192.0.2.1"),
        make.attached(pool="san"),
        *(parked(make, f"host-{n}", n + 1, 4) for n in range(1, 5)),
    )
    told: list[str] = []
    woken = Scene.woken

    def look(scene: Scene, hosts: Any = None) -> Scene:
        told.append("look")
        return woken(scene, hosts)

    async def others() -> None:
        while True:
            told.append("others")
            await asyncio.sleep(0)

    monkeypatch.setattr(Scene, "woken", look)
    task = asyncio.create_task(others())
    assert await wanting(rig, "t3.large") is None
    task.cancel()
    assert told.count("look") == 5
    assert ("look", "look") not in itertools.pairwise(told)


async def test_a_host_that_was_found_is_asked_of_again(rig: Any, make: Any) -> None:
    await rig.put(
        FleetSettings(id=FLEET, power=PowerMode.automatic),
        replace(await rig.get(Host, "host-0"), address="192.0.2.1"),
        make.attached(pool="san"),
        parked(make, "host-1", 2, 16),
        parked(make, "host-2", 3, 4),
    )

    async def helps(host: str, type: str = "t3.large") -> bool:
        async with rig.store.read() as reader:
            growing = await resizes.growing(reader, await reader.get(Instance, "i-1"), type)
        assert growing is not None
        return bool(await growing.helps(host))

    assert await helps("host-1")
    assert not await helps("host-2"), "it is too small"
    assert not await helps("host-1", "t3.medium"), "there is room without it"
    assert not await helps("host-7")
    await rig.put(replace(await rig.get(Host, "host-1"), draining=True))
    assert not await helps("host-1")
    coming = Park(state=ParkState.waking, reason="", since=0.0)
    await rig.put(
        replace(await rig.get(Host, "host-1"), draining=False),
        replace(await rig.get(Host, "host-2"), memory_bytes=16 * GIB, park=coming),
    )
    assert not await helps("host-1"), "another one comes"


async def test_a_host_is_woken_for_what_cannot_migrate_only_if_it_grows_where_it_is(
    rig: Any, make: Any
) -> None:
    await rig.put(
        FleetSettings(id=FLEET, power=PowerMode.automatic),
        replace(await rig.get(Host, "host-0"), address="192.0.2.1"),
        make.attached(pool="san", multi_attach=True),
        parked(make, "host-1", 2, 16),
    )
    assert await wanting(rig, "t3.large") is None


async def test_a_host_is_woken_for_room_that_is_kept(rig: Any, make: Any) -> None:
    await rig.put(
        FleetSettings(id=FLEET, survive=1, power=PowerMode.automatic),
        make.host("host-1"),
        make.instance("i-2", state=InstanceState.running, host="host-1", type="t3.medium"),
        make.attached(pool="san"),
        parked(make, "host-2", 3, 4),
    )
    with pytest.raises(NoCapacity, match="loss of a host is survived"):
        await resize(rig, "t3.medium")
    assert await wanting(rig, "t3.medium") is None, "it is too small"
    await rig.put(parked(make, "host-3", 4, 8))
    assert await wanting(rig, "t3.medium") == "host-3"
