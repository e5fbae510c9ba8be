"""The manager's side of an instance that migrates: what each host is told, and who decides what."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

import pytest
from msgspec.structs import replace

from gureum.control import migrations
from gureum.control.calls import Calls
from gureum.control.migrations import require_movable
from gureum.control.move import CannotMove
from gureum.control.switches import Switches
from gureum.errors import TransportError
from gureum.hostspec import HostReport, MachineReport, MachineSpec, MachineState, VolumeReport
from gureum.migrationspec import MachineLayout, MigrationPhase, MigrationReport
from gureum.resources import (
    AttachmentState,
    Host,
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    NetworkInterface,
    Volume,
)
from gureum.services.operation import Cloud
from support import ways

SAN = "san"
NEWEST = 1 << 40
CLOUD = Cloud(
    name="test",
    account="123456789012",
    region="us-east-1",
    zones=("us-east-1a",),
    public_cidr="198.18.0.0/24",
    pool=SAN,
)
LAYOUT = MachineLayout(type="q35", version="1", cpu="x", host_cpu="x")


class Way(ways.Way):
    """An instance on host-0, which is to go to host-1, and what both say of it."""

    def __init__(self, bench: Any) -> None:
        super().__init__(bench, CLOUD)
        self.said: dict[str, HostReport] = {}

    def says(self, host: str, generation: int, state: MachineState, **said: Any) -> None:
        volumes = said.pop("volumes", ())
        revision = said.pop("revision", NEWEST)
        migration = MigrationReport(migration=said.pop("id", ""), **said) if said else None
        machine = MachineReport(
            id="i-1", generation=generation, state=state, revision=revision, migration=migration
        )
        report = HostReport(
            cloud="test",
            host=host,
            boot_id="b",
            revision=revision,
            machines=(machine,),
            volumes=tuple(VolumeReport(id=id, revision=revision) for id in volumes),
        )
        self.bench.observed.take(report)

    async def copying(self) -> InstanceMigration:
        await self.begin()
        return await self.prepared()

    async def prepared(self) -> InstanceMigration:
        id = (await self.record).id
        self.says("host-0", 1, MachineState.running, id=id, layout=LAYOUT)
        await self.step()
        waiting = {"phase": MigrationPhase.waiting, "address": "192.0.2.2:1"}
        self.says("host-1", 2, MachineState.starting, id=id, **waiting)
        return await self.step()

    async def sent(self) -> InstanceMigration:
        record = await self.copying()
        for host, generation, state in (
            ("host-0", 1, MachineState.paused),
            ("host-1", 2, MachineState.starting),
        ):
            self.says(host, generation, state, id=record.id, phase=MigrationPhase.completed)
        return record

    async def machine(self, host: str) -> MachineSpec | None:
        return next(iter((await self.spec(host)).machines), None)


@pytest.fixture
async def way(bench: Any, make: Any) -> Way:
    hosts = [make.host(f"host-{n}", address=f"192.0.2.{n + 1}", accelerator="tcg", cpu="x") for n in range(2)]
    await bench.put(
        *hosts,
        make.instance(state=InstanceState.running, interfaces=("eni-1",)),
        make.attached(pool=SAN),
        make.interface(host="host-0"),
    )
    return Way(bench)


async def test_each_host_is_told_its_part(way: Way) -> None:
    await way.begin()
    source = await way.machine("host-0")
    assert source is not None
    assert source.outgoing is not None
    assert source.outgoing.address == ""
    # Before its layout is known, there is no machine; its disk and port are there.
    spec = await way.spec("host-1")
    assert spec.machines == ()
    [volume] = spec.volumes
    assert (volume.receives, volume.keeper, volume.machine) == (True, False, "i-1")
    [port] = spec.network.standby
    assert (port.id, spec.network.ports) == ("eni-1", ())
    record = await way.prepared()
    assert record.state == "copying"
    source, target = await way.machine("host-0"), await way.machine("host-1")
    assert source is not None
    assert target is not None
    assert source.outgoing is not None
    assert source.outgoing.address == "192.0.2.2:1"
    assert (source.generation, source.incoming) == (1, None)
    assert target.incoming is not None
    assert (target.generation, target.run, target.outgoing) == (2, True, None)
    assert target.incoming.layout == LAYOUT
    assert target.incoming.secret == source.outgoing.secret
    assert len(target.incoming.secret) == 32


async def test_a_destination_that_listens_elsewhere_now_is_told(way: Way) -> None:
    record = await way.copying()
    way.says(
        "host-1", 2, MachineState.starting, id=record.id, phase=MigrationPhase.waiting, address="192.0.2.2:9"
    )
    assert (await way.step()).address == "192.0.2.2:9"


async def test_it_is_the_destinations_in_one_step_when_both_have_all_of_it(way: Way) -> None:
    record = await way.sent()
    moved = await way.switch()
    assert moved is not None
    interface = await way.bench.get(NetworkInterface, "eni-1")
    volume = await way.bench.get(Volume, "vol-1")
    record = await way.record
    assert {moved.host, interface.host, volume.host} == {"host-1"}
    assert (moved.generation, moved.next_generation, moved.migration) == (2, 3, record.id)
    assert moved.version == interface.version == volume.version == record.version
    assert volume.former == ("host-0",)
    source, target = await way.machine("host-0"), await way.machine("host-1")
    assert source is not None
    assert target is not None
    assert (source.run, source.generation, source.shutdown_seconds, source.outgoing) == (False, 1, 0.0, None)
    assert (target.run, target.generation, target.incoming) == (True, 2, None)
    assert [each.keeper for each in (await way.spec("host-0")).volumes] == [False]
    assert await way.switch() is None


@pytest.mark.parametrize("missing", ["source", "destination", "held", "other", "reboot", "stop", "host"])
async def test_it_is_not_while_anything_is_missing(way: Way, missing: str) -> None:
    record = await way.sent()
    completed = {"id": record.id, "phase": MigrationPhase.completed}
    match missing:
        case "source":
            way.says("host-0", 1, MachineState.running, id=record.id, phase=MigrationPhase.copying)
        case "destination":
            way.says("host-1", 2, MachineState.starting, id=record.id, phase=MigrationPhase.copying)
        case "held":
            way.says("host-0", 1, MachineState.shutdown, **completed)
        case "other":
            way.says("host-0", 1, MachineState.paused, id="mig-before", phase=MigrationPhase.completed)
        case "reboot":
            await way.bench.put(replace(await way.bench.get(Instance, "i-1"), reboots=1))
        case "stop":
            stopping = replace(await way.bench.get(Instance, "i-1"), state=InstanceState.stopping)
            await way.bench.put(stopping)
        case "host":
            await way.bench.put(replace(await way.bench.get(Host, "host-1"), state=HostState.down))
    assert await way.switch() is None
    assert (await way.bench.get(Instance, "i-1")).host == "host-0"
    aborts = missing in ("reboot", "stop", "host")
    assert ((await way.record).state == "aborting") == aborts
    source = await way.machine("host-0")
    assert source is not None
    assert (source.outgoing is None) == aborts


class Unanswered:
    """Calls to hosts that do not answer."""

    async def call(self, *_: object, **__: object) -> bytes:
        raise TransportError("not connected")

    async def in_effect(self, *_: object) -> None:
        raise TransportError("not connected")


async def switches_until(way: Way, *states: str) -> InstanceMigration:
    """What becomes of it when its source says that it has sent all."""
    switches = Switches(way.bench.env, way.bench.store, way.bench.observed, cast(Calls, Unanswered()))
    running = asyncio.create_task(switches.run())
    switches.kick("i-1")
    async with asyncio.timeout(60):
        while (await way.record).state not in states:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert switches._flows == {}
    return await way.record


class SlowToTell:
    """Calls to a source that takes its time to say which connections are open."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.called: list[tuple[str, str]] = []

    async def call(self, host: str, method: str, **_: object) -> bytes:
        self.called.append((host, method))
        if method == "export-flows":
            await self.told.wait()
        return b"flows"

    async def in_effect(self, *_: object) -> None:
        pass


async def test_a_guest_is_not_held_until_its_open_connections_are_known(way: Way) -> None:
    calls = SlowToTell()
    await way.sent()
    switches = Switches(way.bench.env, way.bench.store, way.bench.observed, cast(Calls, calls))
    running = asyncio.create_task(switches.run())
    switches.kick("i-1")
    async with asyncio.timeout(60):
        while (await way.record).state != "switching":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    # It was asked before the source could be told that the port is not its own any more.
    assert calls.called[0] == ("host-0", "export-flows")
    assert ("host-1", "import-flows") not in calls.called
    calls.told.set()
    async with asyncio.timeout(60):
        while ("host-1", "import-flows") not in calls.called:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_guest_is_not_held_for_ever_for_its_destination(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose agent has missed that all of it has come, or does not run."""
    monkeypatch.setattr(migrations, "HELD_SECONDS_MAX", 0.1)
    record = await way.sent()
    way.says("host-1", 2, MachineState.starting, id=record.id, phase=MigrationPhase.copying)
    record = await switches_until(way, "aborting", "switching")
    assert (record.state, record.outcome) == ("aborting", "failed")
    assert "did not say" in record.message
    source = await way.machine("host-0")
    assert source is not None
    assert (source.run, source.outgoing) == (True, None)


async def test_one_that_has_it_all_is_not_given_up(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "HELD_SECONDS_MAX", 0.1)
    record = await way.sent()
    gave_up = await way.bench.store.transact(lambda tx: migrations.give_up(tx, way.bench.observed, record.id))
    assert gave_up is None
    assert (await switches_until(way, "aborting", "switching")).state == "switching"


async def test_over_when_the_source_has_let_go_and_the_destination_has_it_alone(way: Way) -> None:
    record = await way.sent()
    await way.switch()
    version = (await way.record).version
    way.says("host-0", 1, MachineState.off, revision=version - 1)
    assert not (await way.step()).released
    counted = {"phase": MigrationPhase.completed, "downtime_ms": 6, "copied_bytes": 7, "copy_ms": 400}
    way.says("host-0", 1, MachineState.off, revision=version, id=record.id, **counted)
    record = await way.step()
    assert (record.state, record.released) == ("switching", True)
    assert (record.downtime_ms, record.copied_bytes, record.copy_ms) == (6, 7, 400)
    assert (await way.spec("host-0")).machines == ()
    assert [each.takes for each in (await way.spec("host-1")).volumes] == [True]
    way.says("host-1", 2, MachineState.running, volumes=("vol-1",), revision=record.version - 1)
    assert (await way.step()).state == "switching"
    way.says("host-1", 2, MachineState.running, volumes=("vol-1",))
    record = await way.step()
    assert (record.state, record.secret, record.layout) == ("completed", b"", None)
    assert (await way.bench.get(Instance, "i-1")).migration == ""


async def test_one_that_fails_is_over_when_the_destination_has_let_go(way: Way) -> None:
    record = await way.copying()
    way.says(
        "host-0", 1, MachineState.running, id=record.id, phase=MigrationPhase.failed, error="a torn cable"
    )
    record = await way.step()
    assert (record.state, record.outcome, record.message) == ("aborting", "failed", "a torn cable")
    source, target = await way.machine("host-0"), await way.machine("host-1")
    assert source is not None
    assert target is not None
    assert (source.run, source.outgoing) == (True, None)
    assert (target.run, target.generation, target.incoming) == (False, 2, None)
    way.says("host-1", 2, MachineState.off, revision=record.version - 1)
    assert (await way.step()).state == "aborting"
    way.says("host-1", 2, MachineState.off)
    assert (await way.step()).state == "failed"
    assert (await way.spec("host-1")).machines == ()
    # What was given out is never given again.
    assert (await way.bench.get(Instance, "i-1")).next_generation == 3


async def test_a_destination_that_is_removed_has_let_go(way: Way) -> None:
    await way.copying()
    host = await way.bench.get(Host, "host-1")
    await way.bench.store.transact(lambda tx: tx.delete(host))
    assert (await way.step()).state == "aborting"
    assert (await way.step()).state == "failed"
    assert (await way.spec("host-0")).volumes[0].evict == ("host-1",)


@pytest.mark.parametrize("later", [1, -1], ids=["it takes too long", "the clock was set back"])
async def test_what_takes_too_long_fails(way: Way, later: int) -> None:
    await way.begin()
    way.bench.time += later * (migrations.PREPARE_SECONDS_MAX + 1)
    assert "was not ready" in (await way.step()).message


async def test_a_record_goes_after_a_day(way: Way) -> None:
    record = await way.copying()
    await way.bench.store.transact(lambda tx: migrations.abort(tx, record, "cancelled", ""))
    way.says("host-1", 2, MachineState.off)
    await way.step()

    async def purge() -> None:
        step = partial(migrations.reconcile, env=way.bench.env, observed=way.bench.observed, id=record.id)
        await way.bench.store.transact(step)

    await purge()
    assert await way.bench.find(InstanceMigration, record.id)
    way.bench.time += migrations.PURGE_SECONDS
    await purge()
    assert not await way.bench.find(InstanceMigration, record.id)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"multi_attach": True}, "Multi-Attach"),
        ({"state": AttachmentState.detaching}, "attached or detached"),
        ({"leaves": ("local",)}, "or moved"),
        ({"former": ("host-9",)}, "has not let go"),
    ],
)
async def test_volumes_that_keep_it(bench: Any, make: Any, values: dict[str, Any], why: str) -> None:
    volume = make.attached(**{"pool": SAN, **values})
    await bench.put(make.host(), make.instance(state=InstanceState.running), volume)
    async with bench.store.read() as reader:
        with pytest.raises(CannotMove, match=why):
            await require_movable(reader, await reader.get(Instance, "i-1"))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"zone": "us-east-1b"}, "is in zone"),
        ({"state": HostState.down}, "is down"),
        ({"draining": True}, "being drained"),
        ({"cpu": "y"}, "another CPU"),
        ({"accelerator": "kvm"}, "runs guests by kvm"),
        ({"memory_bytes": 1 << 30}, "memory"),
        ({"address": ""}, "do not reach"),
    ],
)
async def test_hosts_that_it_cannot_go_to(way: Way, values: dict[str, Any], why: str) -> None:
    await way.bench.put(replace(await way.bench.get(Host, "host-1"), **values))
    with pytest.raises(CannotMove, match=why):
        await way.begin(to="host-1")
    with pytest.raises(CannotMove):
        await way.begin()
    with pytest.raises(CannotMove, match="already"):
        await way.begin(to="host-0")


async def test_with_a_model_it_goes_to_another_cpu(way: Way) -> None:
    """As long as that offers the model and is of the same maker."""
    before, there = await way.bench.get(Instance, "i-1"), await way.bench.get(Host, "host-1")
    await way.bench.put(replace(before, cpu="x86-64-v2"))
    for values, why in (
        ({}, "does not offer the CPU model x86-64-v2"),
        ({"cpu_models": ("x86-64-v2",), "cpu_vendor": "GenuineIntel"}, "another maker"),
    ):
        await way.bench.put(replace(await way.bench.get(Host, "host-1"), cpu="y", **values))
        with pytest.raises(CannotMove, match=why):
            await way.begin(to="host-1")
    await way.bench.put(
        replace(await way.bench.get(Host, "host-1"), cpu_models=("x86-64-v2",), cpu_vendor=there.cpu_vendor)
    )
    await way.begin(to="host-1")


async def test_only_so_many_at_once(way: Way, make: Any) -> None:
    for n in range(migrations.PER_HOST_MAX):
        id = f"mig-{n}"
        await way.bench.put(
            InstanceMigration(
                id=id,
                instance=f"i-{n + 5}",
                type="t3.micro",
                zone="us-east-1a",
                source="host-7",
                destination="host-1",
                generation=2,
                source_generation=1,
                started=way.bench.env.utcnow(),
            )
        )
    with pytest.raises(CannotMove, match="come to host host-1 now"):
        await way.begin(to="host-1")
