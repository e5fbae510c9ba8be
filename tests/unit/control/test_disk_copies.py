"""Volumes in hosts' own pools that migrate: what each host is told of them, and who removes which copy."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control.migrations import abort, require_destination, require_movable
from gureum.control.move import CannotMove
from gureum.hostspec import (
    LOCAL,
    HostReport,
    MachineReport,
    MachineState,
    VolumeReport,
    VolumeSpec,
)
from gureum.migrationspec import MachineLayout, MigrationPhase, MigrationReport
from gureum.resources import (
    Host,
    HostState,
    Instance,
    InstanceMigration,
    InstanceState,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)
from gureum.services.operation import Cloud
from support import ways

NEWEST = 1 << 40
GIB = 1 << 30
CLOUD = Cloud(
    name="test", account="1", region="us-east-1", zones=("us-east-1a",), public_cidr="198.18.0.0/24"
)
LAYOUT = MachineLayout(type="q35", version="1", cpu="x", host_cpu="x")
COMPLETED = MigrationPhase.completed


class Way(ways.Way):
    """An instance on host-0 with a volume there, vol-1, which is to go to host-1; what both hosts say."""

    def __init__(self, bench: Any) -> None:
        super().__init__(bench, CLOUD)

    async def volume(self) -> Volume:
        return await self.bench.get(Volume, "vol-1")  # type: ignore[no-any-return]

    async def says(
        self,
        host: str,
        state: MachineState,
        volume: VolumeReport | None = None,
        revision: int = NEWEST,
        **said: Any,
    ) -> None:
        migration = MigrationReport(migration=(await self.record).id, **said) if said else None
        machine = MachineReport(
            id="i-1",
            generation=1 if host == "host-0" else 2,
            state=state,
            revision=revision,
            migration=migration,
        )
        self.bench.observed.take(
            HostReport(
                cloud="test",
                host=host,
                boot_id="b",
                revision=revision,
                machines=(machine,),
                volumes=(volume,) if volume is not None else (),
            )
        )

    async def copying(self) -> InstanceMigration:
        await self.begin()
        await self.says("host-0", MachineState.running, layout=LAYOUT)
        await self.step()
        there = {"address": "192.0.2.2:1", "disks_address": "192.0.2.2:2"}
        await self.says("host-1", MachineState.starting, here(), phase=MigrationPhase.waiting, **there)
        return await self.step()

    async def sent(self, copied: tuple[str, ...] = ("vol-1",)) -> Instance | None:
        await self.copying()
        await self.says("host-0", MachineState.paused, here(), phase=COMPLETED, copied=copied)
        await self.says("host-1", MachineState.starting, here(), phase=COMPLETED)
        return await self.switch()

    async def told(self, host: str) -> VolumeSpec | None:
        return next(iter((await self.spec(host)).volumes), None)

    async def require(self, to: str = "") -> None:
        async with self.bench.store.read() as reader:
            instance = await reader.get(Instance, "i-1")
            await require_movable(reader, instance)
            await require_destination(reader, instance, to)


def here(present: bool = True, revision: int = NEWEST, error: str = "") -> VolumeReport:
    return VolumeReport(id="vol-1", present=present, revision=revision, size_bytes=GIB, error=error)


@pytest.fixture
async def way(bench: Any, make: Any) -> Way:
    values = {"accelerator": "tcg", "cpu": "x", "pool_free_bytes": 8 * GIB}
    hosts = [make.host(f"host-{n}", address=f"192.0.2.{n + 1}", **values) for n in range(2)]
    volume = make.attached(pool=LOCAL, source="snap-9")
    await bench.put(*hosts, make.instance(state=InstanceState.running), volume)
    return Way(bench)


async def test_each_host_is_told_its_part(way: Way) -> None:
    record = await way.begin()
    assert (record.copies, record.copy_bytes) == (("vol-1",), GIB)
    source, copy = await way.told("host-0"), await way.told("host-1")
    assert source is not None
    assert (source.keeper, source.receives, source.present, source.made) == (True, False, True, True)
    assert copy is not None
    assert (copy.keeper, copy.receives, copy.present, copy.made, copy.source) == (
        False, True, True, False, "",
    )  # fmt: skip
    assert (await way.volume()).former == ("host-1",)


async def test_the_source_is_told_where_disks_go(way: Way) -> None:
    record = await way.copying()
    assert (record.state, record.disks_address) == ("copying", "192.0.2.2:2")
    [source], [target] = (await way.spec("host-0")).machines, (await way.spec("host-1")).machines
    assert source.outgoing is not None
    assert target.incoming is not None
    assert (source.outgoing.copies, source.outgoing.disks_address) == (("vol-1",), "192.0.2.2:2")
    assert target.incoming.copies == ("vol-1",)


async def test_instance_and_volume_are_the_destinations_in_one_step(way: Way) -> None:
    moved = await way.sent()
    assert moved is not None
    volume, record = await way.volume(), await way.record
    assert (moved.host, volume.host, volume.former) == ("host-1", "host-1", ("host-0",))
    assert moved.version == volume.version == record.version
    source, target = await way.told("host-0"), await way.told("host-1")
    assert source is not None
    assert (source.keeper, source.receives, source.present) == (False, False, True)
    assert target is not None
    assert (target.keeper, target.receives, target.present, target.made) == (True, False, True, True)


async def test_a_source_that_sent_no_disks_decides_nothing(way: Way) -> None:
    """As one that does not know of any: what the destination has then is empty."""
    assert await way.sent(copied=()) is None
    record = await way.step()
    assert (record.state, record.message) == ("aborting", "host host-0 did not send vol-1 along")
    assert (await way.volume()).host == "host-0"


async def test_the_source_removes_its_copy_when_the_destination_has_it(way: Way) -> None:
    await way.sent()
    await way.says("host-0", MachineState.off, here())
    record = await way.step()
    assert (record.released, record.taken) == (True, False)
    for not_yet in (here(revision=record.version - 1), here(present=False), here(error="damaged")):
        await way.says("host-1", MachineState.running, not_yet)
        assert not (await way.step()).taken
    await way.says("host-1", MachineState.running, here())
    record = await way.step()
    assert (record.state, record.taken) == ("switching", True)
    source = await way.told("host-0")
    assert source is not None
    assert not source.present
    for not_yet in (None, here(), here(present=False, revision=record.version - 1)):
        await way.says("host-0", MachineState.off, not_yet)
        assert (await way.step()).state == "switching"
    assert (await way.volume()).former == ("host-0",)
    await way.says("host-0", MachineState.off, here(present=False))
    assert (await way.step()).state == "completed"
    assert (await way.volume()).former == ()
    assert await way.told("host-0") is None
    await way.require("host-0")


async def test_the_destination_removes_its_copy_of_one_that_stays(way: Way) -> None:
    await way.copying()
    record = await way.record
    await way.bench.store.transact(lambda tx: abort(tx, record, "cancelled", "as asked"))
    copy = await way.told("host-1")
    assert copy is not None
    assert not copy.present
    await way.says("host-1", MachineState.off, here())
    assert (await way.step()).state == "aborting"
    with pytest.raises(CannotMove, match="is being migrated"):
        await way.require()
    await way.says("host-1", MachineState.off, here(present=False))
    assert (await way.step()).state == "cancelled"
    assert ((await way.volume()).host, (await way.volume()).former) == ("host-0", ())


async def become(way: Way, host: str, *states: HostState, **values: Any) -> None:
    for state in states:
        await way.bench.put(replace(await way.bench.get(Host, host), state=state, **values))


FENCED = HostState.down, HostState.fencing, HostState.fenced


@pytest.mark.parametrize(
    ("states", "fenceable", "waits"),
    [
        (FENCED[:1], False, False),
        (FENCED[:1], True, True),
        (FENCED[:2], True, True),
        (FENCED, True, False),
    ],
)
async def test_a_lost_host_is_not_waited_for(
    way: Way, states: tuple[HostState, ...], fenceable: bool, waits: bool
) -> None:
    """But it is until it is fenced, where that can be."""
    await way.copying()
    await become(way, "host-1", *states, fenceable=fenceable)
    assert (await way.step()).state == "aborting"
    assert (await way.step()).state == ("aborting" if waits else "failed")
    volume = await way.volume()
    assert (volume.former, volume.strays) == ((("host-1",), ()) if waits else ((), ("host-1",)))
    assert volume.lost == ()


async def test_what_a_lost_destination_has_goes_when_it_is_back(way: Way) -> None:
    await way.copying()
    await become(way, "host-1", HostState.down)
    await way.step()
    assert (await way.step()).state == "failed"
    await become(way, "host-1", HostState.up)
    with pytest.raises(CannotMove, match="host-1 has not removed yet what it had of i-1"):
        await way.require("host-1")
    with pytest.raises(CannotMove, match="host-1 has not removed yet what it had of i-1"):
        await way.require()
    stray = await way.told("host-1")
    assert stray is not None
    assert (stray.present, stray.keeper, stray.receives, stray.pool) == (False, False, False, LOCAL)
    version = (await way.volume()).version
    for not_yet in (here(), here(present=False, revision=version - 1)):
        await way.says("host-1", MachineState.off, not_yet)
        assert (await way.bench.step_volume()).strays == ("host-1",)
    await way.says("host-1", MachineState.off, here(present=False))
    assert (await way.bench.step_volume()).strays == ()
    assert await way.told("host-1") is None
    await way.require("host-1")


async def test_a_lost_source_keeps_what_was_the_volume_until_the_destination_has_it(way: Way) -> None:
    await way.sent()
    await become(way, "host-0", *FENCED, fenceable=True)
    assert (await way.step()).released
    await way.says("host-1", MachineState.running, here(revision=1))
    assert not (await way.step()).taken
    await way.says("host-1", MachineState.running, here())
    assert (await way.step()).taken
    assert (await way.step()).state == "completed"
    volume = await way.volume()
    assert (volume.host, volume.former, volume.strays) == ("host-1", (), ("host-0",))
    await way.bench.put(replace(volume, state=VolumeState.deleting, attachments=()))
    await way.says("host-1", MachineState.running, here(present=False))
    assert await way.bench.step_volume() is not None, "the host that is lost has to be told"
    host = await way.bench.get(Host, "host-0")
    await way.bench.store.transact(lambda tx: tx.delete(host))
    await way.bench.step_volume()
    await way.says("host-1", MachineState.running, here(present=False))
    assert await way.bench.step_volume() is None


async def test_what_shares_storage_waits_for_a_host_that_may_have_it_open(way: Way, make: Any) -> None:
    await way.bench.put(make.attached("vol-2", pool="ceph"))
    await way.copying()
    await become(way, "host-1", HostState.down)
    assert (await way.step()).state == "aborting"
    assert (await way.step()).state == "aborting"


async def test_a_deleted_volume_is_remembered_until_both_copies_are_gone(way: Way) -> None:
    await way.sent()
    volume = await way.volume()
    await way.bench.put(replace(volume, state=VolumeState.deleting, attachments=()))
    await way.says("host-1", MachineState.running, here(present=False))
    assert await way.bench.step_volume() is not None
    await way.says("host-0", MachineState.off, here())
    await way.step()
    await way.step()
    await way.says("host-0", MachineState.off, here(present=False))
    assert (await way.step()).state == "completed"
    await way.says("host-1", MachineState.running, here(present=False))
    assert await way.bench.step_volume() is None


async def test_a_destination_without_room(way: Way) -> None:
    await way.require("host-1")
    await way.bench.put(replace(await way.bench.get(Host, "host-1"), pool_free_bytes=GIB - 1))
    with pytest.raises(CannotMove, match=r"host-1 has 1 GiB of disk left, and 1 GiB are copied to it"):
        await way.require("host-1")
    with pytest.raises(CannotMove, match="disk left"):
        await way.require()


async def test_what_is_on_its_way_there_counts(way: Way, make: Any) -> None:
    await way.begin()
    other = make.attached("vol-2", pool=LOCAL, instances=("i-2",), size_bytes=8 * GIB)
    await way.bench.put(make.instance("i-2", state=InstanceState.running), other)
    async with way.bench.store.read() as reader:
        instance = await reader.get(Instance, "i-2")
        with pytest.raises(CannotMove, match="has 7 GiB of disk left, and 8 GiB are"):
            await require_destination(reader, instance, "host-1")


async def test_one_whose_copy_cannot_be_made_fails(way: Way) -> None:
    await way.begin()
    await way.says("host-1", MachineState.starting, here(present=False, error="the pool is full"))
    record = await way.step()
    assert (record.outcome, record.message) == ("failed", "at host-1: the pool is full")


async def test_a_snapshot_that_is_not_taken_yet_keeps_it(way: Way, make: Any) -> None:
    await way.bench.put(make.snapshot(state=SnapshotState.pending))
    with pytest.raises(CannotMove, match="snap-1 of vol-1 is not taken yet"):
        await way.require()
    taken = replace(await way.bench.get(Snapshot, "snap-1"), state=SnapshotState.completed)
    await way.bench.put(taken)
    await way.require()


async def test_time_for_large_disks(way: Way) -> None:
    record = await way.copying()
    way.bench.time += 3601
    assert (await way.step()).state == "copying"
    way.bench.time += record.copy_bytes / (8 << 20)
    assert "did not have all of it" in (await way.step()).message
