"""Who looks after what is in a shared pool, and what is known of the pool."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control.keeping import Keeping
from gureum.control.observed import Observed
from gureum.control.placement import NoCapacity, choose_host
from gureum.control.shares import Shares, boot_pools, shared_pools
from gureum.control.specs import host_spec
from gureum.hostspec import HostReport, PoolReport, SnapshotReport, VolumeReport, VolumeSpec
from gureum.resources import (
    Host,
    HostState,
    Image,
    ImageState,
    Instance,
    InstanceState,
    Pool,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)
from gureum.services.ec2 import keepers
from gureum.services.ec2.capacity import require_room_in
from gureum.services.operation import Cloud
from gureum.store.base import Change

GIB = 1 << 30
NEWEST = 1 << 40
CLOUD = Cloud(
    name="test",
    account="123456789012",
    region="us-east-1",
    zones=("us-east-1a", "us-east-1b"),
    public_cidr="198.18.0.0/24",
    pool="san",
)


def san(make: Any, id: str = "vol-1", **values: Any) -> Volume:
    volume: Volume = make.volume(id, **{"pool": "san", **values})
    return volume


async def test_a_new_volume_gets_the_host_with_the_least_to_look_after(bench: Any, make: Any) -> None:
    await bench.put(
        make.host("host-0"),
        make.host("host-1"),
        make.host("host-2", state=HostState.down),
        make.host("host-3", draining=True),
        san(make, "vol-9", host="host-0"),
        san(make, host=None),
    )
    assert (await bench.step_volume()).host == "host-1"


async def test_a_detached_volume_gets_another_host_when_its_own_is_down(bench: Any, make: Any) -> None:
    await bench.put(
        make.host(state=HostState.down),
        make.host("host-1"),
        san(make, state=VolumeState.available),
        make.snapshot(pool="san"),
        make.snapshot("snap-2", pool="san", state=SnapshotState.completed, host=None),
    )
    after = await bench.step_volume()
    assert (after.host, after.former) == ("host-1", ())
    assert (await bench.get(Snapshot, "snap-1")).host == "host-1"
    assert (await bench.get(Snapshot, "snap-1")).former == ("host-0",)
    assert (await bench.get(Snapshot, "snap-2")).host is None


async def test_an_attached_volume_stays_until_its_instance_is_off(bench: Any, make: Any) -> None:
    await bench.put(
        make.host(state=HostState.down),
        make.host("host-1"),
        make.instance(state=InstanceState.running),
        make.attached(pool="san"),
    )
    assert (await bench.step_volume()).host == "host-0"
    instance = await bench.get(Instance, "i-1")
    instance = replace(instance, state=InstanceState.stopping)
    await bench.put(instance)
    assert (await bench.step_volume()).host == "host-0"
    await bench.put(replace(await bench.get(Instance, "i-1"), state=InstanceState.stopped))
    assert (await bench.step_volume()).host == "host-1"


async def test_a_local_volume_stays(bench: Any, make: Any) -> None:
    await bench.put(
        make.host(state=HostState.down), make.host("host-1"), make.volume(state=VolumeState.available)
    )
    assert (await bench.step_volume()).host == "host-0"


async def test_what_another_host_may_still_make_is_not_forgotten(bench: Any, make: Any) -> None:
    await bench.put(make.host(state=HostState.down), make.host("host-1"), san(make))
    after = await bench.step_volume()
    assert (after.host, after.former) == ("host-1", ("host-0",))
    await bench.put(replace(after, state=VolumeState.deleting))
    says(bench, "host-1")
    assert (await bench.step_volume()).former == ("host-0",)
    says(bench, "host-0", VolumeReport(id="vol-1"))
    assert (await bench.step_volume()).former == ("host-0",)
    says(bench, "host-0", revision=1)
    assert (await bench.step_volume()).former == ("host-0",)
    says(bench, "host-0")
    assert (await bench.step_volume()).former == ()
    says(bench, "host-1", VolumeReport(id="vol-1", revision=NEWEST, present=False))
    assert await bench.step_volume() is None


def says(bench: Any, host: str, *things: VolumeReport | SnapshotReport, revision: int = NEWEST) -> None:
    bench.observed.take(
        HostReport(
            cloud="test",
            host=host,
            boot_id="b",
            revision=revision,
            volumes=tuple(each for each in things if isinstance(each, VolumeReport)),
            snapshots=tuple(each for each in things if isinstance(each, SnapshotReport)),
        )
    )


async def test_a_host_that_is_no_more_counts_until_the_volume_was_taken_from_it(
    bench: Any, make: Any
) -> None:
    gone = san(make, host=None, former=("host-9",), state=VolumeState.available)
    await bench.put(make.host("host-1"), gone)
    assert (await bench.step_volume()).host == "host-1"
    async with bench.store.read() as reader:
        [spec] = (await host_spec(reader, CLOUD, "host-1")).volumes
    assert (spec.evict, spec.pool, spec.made) == (("host-9",), "san", True)
    says(bench, "host-1", VolumeReport(id="vol-1", revision=1))
    assert (await bench.step_volume()).former == ("host-9",)
    says(bench, "host-1", VolumeReport(id="vol-1", revision=NEWEST))
    assert (await bench.step_volume()).former == ()


async def test_a_volume_that_no_host_ever_had_is_deleted_at_once(bench: Any, make: Any) -> None:
    await bench.put(make.host(), san(make, host=None, state=VolumeState.deleting))
    assert await bench.step_volume() is None


async def test_a_snapshot_that_is_taken_needs_no_host_until_it_goes(bench: Any, make: Any) -> None:
    await bench.put(make.host(), san(make, state=VolumeState.available), make.snapshot(pool="san"))
    bench.snapshot()
    taken = await bench.step_snapshot()
    assert (taken.state, taken.host) == (SnapshotState.completed, None)
    await bench.put(replace(taken, state=SnapshotState.deleting))
    assert (await bench.step_snapshot()).host == "host-0"
    bench.snapshot(present=False)
    assert await bench.step_snapshot() is None


async def test_the_volumes_follow_their_instance(bench: Any, make: Any) -> None:
    await bench.put(
        make.host(),
        make.host("host-1", memory_bytes=64 * GIB),
        make.instance(host=None, generation=2),
        make.attached(pool="san"),
        make.attached("vol-2", pool="san", host=None),
    )
    assert (await bench.step_instance()).host == "host-1"
    assert (await bench.get(Volume, "vol-1")).host == "host-1"
    assert (await bench.get(Volume, "vol-2")).host == "host-1"


async def test_hosts_open_what_another_looks_after(bench: Any, make: Any) -> None:
    volume = make.attached(pool="san", multi_attach=True, instances=["i-1", "i-2"])
    elsewhere = make.attached("vol-2", pool="san", instances=["i-1"])
    await bench.put(
        make.host(),
        make.host("host-1"),
        make.host("host-2"),
        make.instance(host="host-1"),
        make.instance("i-2", host="host-2"),
        volume,
        elsewhere,
    )
    async with bench.store.read() as reader:
        specs = [await host_spec(reader, CLOUD, f"host-{n}") for n in range(3)]
    kept, opened, last = ([each for each in spec.volumes if each.id == "vol-1"] for spec in specs)
    assert [(each.keeper, each.multi_attach, each.machine) for each in (*kept, *opened, *last)] == [
        (True, True, ""),
        (False, True, "i-1"),
        (False, True, "i-2"),
    ]
    assert [each.id for each in specs[1].volumes] == ["vol-1"]
    assert [[disk.volume for disk in machine.disks] for machine in specs[2].machines] == [["vol-1"]]


async def test_what_several_instances_have_stays_with_its_keeper(bench: Any, make: Any) -> None:
    await bench.put(
        make.host("host-0"),
        make.host("host-1", memory_bytes=64 * GIB),
        make.instance(host=None, generation=2),
        make.attached(pool="san", multi_attach=True, instances=["i-1", "i-2"]),
    )
    assert (await bench.step_instance()).host == "host-1"
    assert (await bench.get(Volume, "vol-1")).host == "host-0"


async def test_another_host_looks_after_it_also_while_machines_have_it(bench: Any, make: Any) -> None:
    await bench.put(
        make.host(state=HostState.down),
        make.host("host-1"),
        make.instance(host="host-0", state=InstanceState.running),
        make.attached(pool="san", multi_attach=True),
    )
    assert (await bench.step_volume()).host == "host-1"


async def test_a_lost_host_is_shut_out_of_what_another_looks_after(bench: Any, make: Any) -> None:
    await bench.put(
        make.host(),
        make.instance(host="host-7", state=InstanceState.running),
        make.attached(pool="san", multi_attach=True),
        make.attached("vol-2", pool="san", host="host-7"),
    )
    await bench.store.transact(lambda tx: keepers.lose(tx, "i-1", "host-7"))
    assert (await bench.get(Volume, "vol-1")).lost == ("host-7",)
    assert (await bench.get(Volume, "vol-2")).former == ()
    async with bench.store.read() as reader:
        [spec, *_] = (await host_spec(reader, CLOUD, "host-0")).volumes
    assert spec.evict == ("host-7",)


async def test_a_volume_says_when_a_host_was_lost_with_it(bench: Any, make: Any) -> None:
    """One that is lost again had it anew: who looks after it takes it away anew."""
    await bench.put(
        make.host(),
        make.instance(host="host-7", state=InstanceState.running),
        make.attached(pool="san", multi_attach=True),
    )

    async def lost() -> tuple[int, VolumeSpec]:
        before = bench.store.revision
        await bench.store.transact(lambda tx: keepers.lose(tx, "i-1", "host-7"))
        async with bench.store.read() as reader:
            [spec] = (await host_spec(reader, CLOUD, "host-0")).volumes
        return before, spec

    first, spec = await lost()
    assert (spec.evict, spec.evict_at) == (("host-7",), {"host-7": first})
    again, after = await lost()
    assert again > first
    assert (after.evict, after.evict_at) == (("host-7",), {"host-7": again})
    says(bench, "host-0", VolumeReport(id="vol-1", revision=again))
    assert (await bench.step_volume()).lost == ("host-7",), "that was said of the first time"
    says(bench, "host-0", VolumeReport(id="vol-1", revision=NEWEST))
    done = await bench.step_volume()
    assert (done.lost, done.lost_at) == ((), {})


async def test_a_store_of_before_does_not_keep_what_was_undone_open(bench: Any, make: Any) -> None:
    """Its revision was set beyond all that anybody has seen: what a lost host opened is below it."""
    await bench.put(
        make.instance(host="host-8", state=InstanceState.running),
        replace(
            make.attached(pool="san", multi_attach=True), lost=("host-7", "host-8"), lost_at={"host-7": 3}
        ),
        san(make, "vol-2"),
    )
    began = bench.store.revision
    await bench.store.transact(keepers.lose_anew)
    assert (await bench.get(Volume, "vol-1")).lost_at == {"host-7": began}, "an instance of its is on host-8"
    assert (await bench.get(Volume, "vol-2")).version <= began


@pytest.mark.parametrize("gone", [False, True], ids=["it does its work", "it is gone again"])
async def test_a_host_that_gets_what_it_was_lost_with_is_lost_with_it_until_it_has_said_that_all_is_done(
    bench: Any, make: Any, gone: bool
) -> None:
    """An agent that was started anew meanwhile lets go of nothing that its spec does not name."""
    volume = replace(san(make, host=None), lost=("host-0",), lost_at={"host-0": 3})
    await bench.put(make.host(), make.host("host-1", state=HostState.down), volume)
    given = await bench.step_volume()
    assert (given.host, given.lost) == ("host-0", ("host-0",))
    async with bench.store.read() as reader:
        [spec] = (await host_spec(reader, CLOUD, "host-0")).volumes
    assert spec.evict == (), "it has it itself"
    if not gone:
        says(bench, "host-0", VolumeReport(id="vol-1", revision=NEWEST))
        assert (await bench.step_volume()).lost == ()
        return
    for id, state in (("host-0", HostState.down), ("host-1", HostState.up)):
        await bench.put(replace(await bench.get(Host, id), state=state))
    assert (await bench.step_volume()).host == "host-1"
    async with bench.store.read() as reader:
        [spec] = (await host_spec(reader, CLOUD, "host-1")).volumes
    assert (spec.evict, spec.evict_at) == (("host-0",), {"host-0": 3})


async def test_a_local_volume_binds_its_instance_and_a_shared_one_does_not(bench: Any, make: Any) -> None:
    await bench.put(
        make.host(state=HostState.down),
        make.host("host-1"),
        make.instance(host=None),
        make.attached(pool="san"),
        make.instance("i-2", host=None),
        make.attached("vol-2", instances=["i-2"]),
        make.instance("i-3", host=None),
        make.attached("vol-3", instances=["i-3"], pool="san", host=None, source="snap-1"),
        make.snapshot(pool="san", state=SnapshotState.completed),
    )
    async with bench.store.read() as reader:
        for id in ("i-1", "i-3"):
            assert (await choose_host(reader, await reader.get(Instance, id))).id == "host-1"
        with pytest.raises(NoCapacity):
            await choose_host(reader, await reader.get(Instance, "i-2"))


async def test_one_host_brings_the_images_in(bench: Any, make: Any) -> None:
    image = Image(
        id="ami-1", name="i", disk="/images/a", disk_bytes=GIB, created=make.volume().created, account="1"
    )
    await bench.put(make.host(), make.host("host-1"), image, replace(image, id="ami-2", disk=""))
    async with bench.store.read() as reader:
        first, second = [await host_spec(reader, CLOUD, host) for host in ("host-0", "host-1")]
    assert [(each.id, each.pools) for each in first.images] == [("ami-1", ("san",))]
    assert not second.images
    host = await bench.get(Host, "host-0")
    await bench.put(replace(host, state=HostState.down))
    async with bench.store.read() as reader:
        assert (await host_spec(reader, CLOUD, "host-1")).images
        assert not (await host_spec(reader, replace(CLOUD, pool="local"), "host-1")).images


async def test_a_volume_of_a_snapshot_names_the_snapshots_volume(bench: Any, make: Any) -> None:
    await bench.put(
        make.host(),
        make.attached(pool="san", source="snap-7"),
        make.snapshot("snap-7", pool="san", volume="vol-7", host=None, state=SnapshotState.completed),
    )
    async with bench.store.read() as reader:
        [spec] = (await host_spec(reader, CLOUD, "host-0")).volumes
    assert (spec.source, spec.source_volume, spec.machine) == ("snap-7", "vol-7", "i-1")


@pytest.mark.parametrize(
    ("values", "pools"),
    [
        ({"state": VolumeState.available, "leaves": ("bulk",)}, ("san", "bulk")),
        ({"encrypts": True}, ("san",)),
        ({"state": VolumeState.deleting, "encrypts": True}, ("san",)),
        ({}, None),
        ({"state": VolumeState.available, "pool": "local", "leaves": ("san",)}, None),
    ],
)
async def test_who_copied_it_is_told_to_let_go_and_says_so(
    bench: Any, make: Any, values: dict[str, Any], pools: tuple[str, ...] | None
) -> None:
    """The agent that copied may be dead, and the next one would not know what is held."""
    await bench.put(make.host(), make.host("host-1"), san(make, former=("host-1",), **values))
    async with bench.store.read() as reader:
        found = (await host_spec(reader, CLOUD, "host-1")).volumes
    assert [(each.keeper, each.present, each.releases, each.leaves) for each in found] == (
        [(False, True, pools, ())] if pools is not None else []
    )
    if pools is None:
        return
    says(bench, "host-0")
    for things in ((), (VolumeReport(id="vol-1"),)):
        says(bench, "host-1", *things)
        assert (await bench.step_volume()).former == ("host-1",)
    says(bench, "host-1", VolumeReport(id="vol-1", revision=NEWEST))
    assert (await bench.step_volume()).former == ()


async def test_what_is_awaited_is_not_in_the_spec(bench: Any, make: Any) -> None:
    awaited = san(make, state=VolumeState.deleting, former=("host-1",))
    snapshots = [
        make.snapshot(f"snap-{state}", state=state, pool="san", former=("host-1",)) for state in SnapshotState
    ]
    await bench.put(
        make.host(), make.host("host-1"), awaited, san(make, "vol-2", former=("host-1",)), *snapshots
    )
    async with bench.store.read() as reader:
        spec = await host_spec(reader, CLOUD, "host-0")
    assert [each.id for each in spec.volumes] == ["vol-2"]
    there = {each.id: each.present for each in spec.snapshots}
    assert set(there) <= {"snap-pending", "snap-completed"}, "what failed is deleted, too"
    assert there["snap-pending"]
    assert Shares(frozenset({"host-0"}), {}).lost(awaited, but="host-0") == ("host-1",)


def test_shared_pools_of_a_cloud() -> None:
    assert shared_pools(CLOUD) == ("san",)
    assert shared_pools(replace(CLOUD, pool="local")) == ()
    assert shared_pools(replace(CLOUD, pool="local", type_pools=(("io2", "fast"),))) == ("fast",)
    assert shared_pools(replace(CLOUD, kept_pools=("old",))) == ("old", "san")
    several = replace(CLOUD, type_pools=(("gp3", "fast"), ("st1", "bulk"), ("standard", "local")))
    assert boot_pools(several) == ("fast", "san")


async def test_an_image_is_brought_to_root_disks_and_taken_out_everywhere(bench: Any, make: Any) -> None:
    cloud = replace(CLOUD, type_pools=(("gp3", "fast"), ("st1", "bulk")), kept_pools=("old",))
    fields = {"disk": "/images/a", "disk_bytes": GIB, "created": make.volume().created, "account": "1"}
    there = Image(id="ami-1", name="i", **fields)
    gone = replace(there, id="ami-2", state=ImageState.deregistered)
    await bench.put(make.host(), there, gone)
    async with bench.store.read() as reader:
        spec = await host_spec(reader, cloud, "host-0")
    wanted = {"ami-1": ("fast", "san"), "ami-2": ("bulk", "fast", "old", "san")}
    assert {each.id: each.pools for each in spec.images} == wanted


async def test_whoever_can_look_after_volumes_is_known(bench: Any, make: Any) -> None:
    keeping = Keeping(bench.store, "1")
    host = make.host()
    assert keeping.changed(Change(1, "host", "host-0", host))
    assert not keeping.changed(Change(2, "host", "host-0", replace(host, pool_free_bytes=1)))
    await bench.put(san(make), make.volume("vol-2"), san(make, "vol-3", host="host-1"))
    async with bench.store.read() as reader:
        assert await keeping.abandoned(reader) == []
        assert keeping.changed(Change(3, "host", "host-0", replace(host, draining=True)))
        assert await keeping.abandoned(reader) == [("volume", "vol-1")]
    assert keeping.changed(Change(4, "host", "host-0", None))
    assert not keeping.changed(Change(5, "host", "host-0", None))


async def test_the_pools_record_is_what_the_first_host_says(bench: Any, make: Any) -> None:
    await bench.put(make.host(), make.host("host-1"))
    keeping, observed = Keeping(bench.store, "1"), Observed()

    async def hears(host: str, **said: Any) -> Pool:
        pool = PoolReport(**{"name": "san", "size_bytes": 1000, "free_bytes": 900, **said})
        report = HostReport(cloud="test", host=host, boot_id="b", revision=1, pools=(pool,))
        observed.take(report)
        await keeping.note(report, observed)
        found: Pool = await bench.get(Pool, "san")
        return found

    first = await hears("host-0")
    assert (first.size_bytes, first.free_bytes, first.full) == (1000, 900, False)
    assert (await hears("host-1", free_bytes=1, full=True, message="full")).version == first.version
    assert (await hears("host-0", free_bytes=899)).version == first.version
    full = await hears("host-0", free_bytes=1, full=True, message="nearly full")
    assert (full.full, full.message) == (True, "nearly full")
    async with bench.store.read() as reader:
        await require_room_in(reader, "local")
        with pytest.raises(Exception, match="nearly full") as error:
            await require_room_in(reader, "san")
    assert (error.value.code, error.value.status) == ("InsufficientVolumeCapacity", 500)  # type: ignore[attr-defined]
    away = await hears("host-0", size_bytes=0, free_bytes=0, error="gone")
    assert (away.away, away.full, away.size_bytes) == ({"host-0": "gone"}, True, 1000)
    assert not (await hears("host-1")).full
    assert (await hears("host-0")).away == {}


async def test_a_drained_host_gives_away_what_it_looks_after(bench: Any, make: Any) -> None:
    await bench.put(make.host(draining=True), make.host("host-1"), san(make, state=VolumeState.available))
    assert (await bench.step_volume()).host == "host-1"


async def test_nobody_is_there_to_take_it(bench: Any, make: Any) -> None:
    await bench.put(make.host(state=HostState.down), san(make, state=VolumeState.available))
    assert (await bench.step_volume()).host == "host-0"
    async with bench.store.read() as reader:
        assert await keepers.choose(reader) is None
