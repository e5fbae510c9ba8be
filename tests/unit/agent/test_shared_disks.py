"""What the agent does with volumes that every host can reach."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.errors import PoolError
from gureum.hostspec import ImageSpec, MachineState, SnapshotSpec, source_clone
from gureum.hypervisors.fake import FakeHypervisor
from gureum.san.fake_shared import FakeImage, FakeSharedPool

GIB = 1 << 30


def shared(parts: Any, id: str = "vol-1", **values: Any) -> Any:
    return parts.volume(id, **{"pool": "san", "machine": "i-1", **values})


def test_a_volume_is_held_while_a_machine_has_it(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), shared(parts, source="ami-1"))
        assert lab.seen().state is MachineState.running
        assert lab.san.contents_of("vol-1") == {0: b"boot"}
        assert lab.san.rbd["vol-1"].holder == "h"
        await lab.take(parts.machine(run=False), shared(parts, source="ami-1", made=True))
        assert (lab.seen().state, lab.seen().revision) == (MachineState.off, lab.revision)
        assert lab.san.rbd["vol-1"].holder is None

    parts.on_lab(test)


def test_that_a_machine_ended_is_told_though_its_volumes_cannot_be_let_go_of(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), shared(parts))
        assert lab.seen().ended == 0
        lab.san.cut_off.add("h")
        await lab.take(parts.machine(run=False), shared(parts, made=True), seconds=30)
        seen = lab.seen()
        assert seen.state is MachineState.off
        assert seen.revision < lab.revision, "others cannot have its volumes"
        assert seen.ended == lab.revision
        lab.san.cut_off.clear()
        await asyncio.sleep(60)
        seen = lab.seen()
        assert (seen.revision, seen.ended) == (lab.revision, 0)

    parts.on_lab(test)


def test_without_an_uplink_it_is_told_at_once(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), shared(parts))
        lab.san.cut_off.add("h")
        lab.uplink_down = True
        await lab.take(parts.machine(run=False), shared(parts, made=True), seconds=0.4)
        assert (lab.seen().state, lab.seen().ended) == (MachineState.off, 0), "perhaps it can let go of them"
        await asyncio.sleep(0.2)
        assert lab.seen().ended == lab.revision
        lab.uplink_down = False
        assert lab.seen().ended == 0
        lab.san.cut_off.clear()
        await asyncio.sleep(60)
        assert (lab.seen().revision, lab.seen().ended) == (lab.revision, 0)

    parts.on_lab(test)


def test_without_an_uplink_what_can_be_let_go_of_is(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), shared(parts))
        lab.uplink_down = True
        await lab.take(parts.machine(run=False), shared(parts, made=True), seconds=0.4)
        assert (lab.seen().revision, lab.seen().ended) == (lab.revision, 0)
        assert lab.san.rbd["vol-1"].holder is None

    parts.on_lab(test)


@pytest.mark.parametrize(("pool", "hurried"), [("san", True), ("local", False)])
def test_only_what_others_wait_for_ends_in_a_hurry(
    pool: str, hurried: bool, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What QEMU has not written to the host's own disk yet it has the time to write."""
    seen: list[bool] = []
    right = FakeHypervisor.power_off

    async def power_off(self: FakeHypervisor, id: str, hurried: bool = False) -> None:
        seen.append(hurried)
        await right(self, id, hurried)

    monkeypatch.setattr(FakeHypervisor, "power_off", power_off)

    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), shared(parts, pool=pool))
        assert lab.seen().state is MachineState.running
        lab.uplink_down = True
        await lab.take(parts.machine(run=False), shared(parts, pool=pool, made=True))
        assert (lab.seen().state, seen) == (MachineState.off, [hurried])

    parts.on_lab(test)


def test_a_host_says_by_which_spec_it_opens_and_evicts(parts: Any) -> None:
    """What another host opened by a later one it keeps."""

    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), shared(parts))
        assert lab.san.rbd["vol-1"].revisions == {"h": lab.revision}
        await lab.take(parts.machine(run=False), shared(parts, made=True))
        other = FakeSharedPool(lab.env, lab.san, "other")
        await other.open_volume("vol-1", lab.revision + 20)
        await lab.take(parts.machine(run=False), shared(parts, made=True, evict=("other",)))
        assert lab.san.rbd["vol-1"].holder == "other"
        lab.revision += 20
        await lab.take(parts.machine(run=False), shared(parts, made=True, evict=("other",), iops=100))
        assert lab.san.rbd["vol-1"].holder is None

    parts.on_lab(test)


def test_what_a_host_opened_since_it_was_lost_it_keeps(parts: Any) -> None:
    """Also by the word of an older spec than the one of who evicts it."""

    async def test(lab: Any) -> None:
        several = partial(shared, parts, multi_attach=True, made=True, evict=("other",))
        await lab.take(parts.machine(run=False), shared(parts, multi_attach=True))
        other = FakeSharedPool(lab.env, lab.san, "other")
        anew = lab.revision + 10
        await other.share_volume("vol-1", anew)
        lab.revision += 20
        await lab.take(parts.machine(run=False), several(evict_at={"other": anew - 1}))
        await lab.take(parts.machine(), several(evict_at={"other": anew - 1}, iops=100))
        image = lab.san.rbd["vol-1"]
        assert (set(image.sharers), image.evicted) == ({"h", "other"}, set())
        await lab.take(parts.machine(), several(evict_at={"other": anew}, iops=100))
        assert lab.seen_volume().revision == lab.revision
        assert (set(image.sharers), image.evicted) == ({"h"}, {"other"}), "it was lost once more"

    parts.on_lab(test)


def test_a_host_that_was_lost_does_not_shut_itself_out(parts: Any) -> None:
    """It has the volume anew before its keeper has taken it from it: what it opened before goes, no more."""

    async def test(lab: Any) -> None:
        await lab.take(parts.machine(run=False), shared(parts, multi_attach=True))
        again = partial(shared, parts, multi_attach=True, made=True, keeper=False, evict=("h",))
        image, lost = lab.san.rbd["vol-1"], lab.revision
        await lab.take(parts.machine(), again(evict_at={"h": lost}))
        await lab.take(parts.machine(), again(evict_at={"h": lost}, iops=100))
        await lab.take(parts.machine(), parts.machine("i-2"), again(evict_at={"h": lost}, iops=100))
        assert (set(image.sharers), image.evicted) == ({"h"}, set())

    parts.on_lab(test)


def test_a_machine_is_not_reported_off_before_its_volumes_are_let_go_of(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), shared(parts))
        lab.san.delay_next("release_volume", 20)
        await lab.take(parts.machine(run=False), shared(parts, made=True), seconds=10)
        assert not lab.machines.running()
        assert lab.seen().revision < lab.revision
        await asyncio.sleep(15)
        assert lab.seen().revision == lab.revision

    parts.on_lab(test)


def test_nor_without_a_disk(parts: Any) -> None:
    async def test(lab: Any) -> None:
        both = (shared(parts), shared(parts, "vol-2"))
        await lab.take(parts.machine(volumes=("vol-1", "vol-2")), *both)
        assert lab.seen().disks == ("vol-1", "vol-2")
        lab.san.delay_next("release_volume", 20)
        await lab.take(parts.machine(), *both, seconds=10)
        assert (lab.seen().disks, lab.seen().revision < lab.revision) == (("vol-1",), True)
        await asyncio.sleep(15)
        assert lab.seen().revision == lab.revision
        assert lab.san.rbd["vol-2"].holder is None

    parts.on_lab(test)


def test_an_agent_lets_go_of_what_the_one_before_held(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), shared(parts), shared(parts, "vol-2", machine=""))
        lab.san.rbd["vol-2"].holder = "h"
        await lab.stop()
        lab.start()
        await asyncio.sleep(1)
        await lab.take(parts.machine(), shared(parts, made=True), shared(parts, "vol-2", made=True))
        assert lab.san.rbd["vol-1"].holder == "h"
        assert lab.san.rbd["vol-2"].holder is None
        assert lab.machines.machines["i-1"].run == 1

    parts.on_lab(test)


@pytest.mark.parametrize("encrypts", [False, True])
def test_an_agent_lets_go_of_the_copies_of_one_before_it(parts: Any, encrypts: bool) -> None:
    """Another host looks after the volume now. While the pool is away, it is told later that it is done."""

    async def test(lab: Any) -> None:
        ids = ("vol-1", source_clone("vol-1")) if encrypts else ("vol-1",)
        for id in (*ids, "vol-2"):
            lab.san.rbd[id] = FakeImage(GIB, "", {})
            lab.san.rbd[id].holder = "h"
        spec = shared(parts, machine="", keeper=False, releases=("san", "nowhere"), encrypts=encrypts)
        lab.san.down = True
        await lab.take(spec, seconds=10)
        assert lab.seen_volume().revision < lab.revision
        lab.san.down = False
        await asyncio.sleep(30)
        assert lab.seen_volume().revision == lab.revision
        assert {id for id, image in lab.san.rbd.items() if image.holder} == {"vol-2"}
        assert set(ids) <= lab.san.volumes()
        await lab.take()
        assert not lab.agent.report().volumes

    parts.on_lab(test)


def test_what_leaves_the_spec_is_let_go_of_and_kept(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(shared(parts), SnapshotSpec(id="snap-1", volume="vol-1", pool="san"))
        assert lab.seen_snapshot().present
        lab.san.rbd["vol-1"].holder = "h"
        await lab.take()
        assert (lab.san.volumes(), lab.san.snapshots()) == ({"vol-1"}, {"snap-1"})
        assert not lab.agent.report().volumes
        assert not lab.agent.report().problems
        lab.san.rbd["vol-1"].size_bytes = 3 * GIB  # by another host
        await lab.take(shared(parts, made=True))
        assert lab.seen_volume().size_bytes == 3 * GIB

    parts.on_lab(test)


def test_work_that_is_under_way_is_told_also_of_what_left_the_spec(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lab.san.delay_next("create_volume", 20)
        await lab.take(shared(parts))
        await lab.take()
        assert [(each.id, each.revision) for each in lab.agent.report().volumes] == [("vol-1", 0)]
        await asyncio.sleep(25)
        assert not lab.agent.report().volumes
        assert lab.san.volumes() == {"vol-1"}

    parts.on_lab(test)


def test_a_snapshot_that_left_the_spec_before_it_was_taken_is_not_said_to_be_there(parts: Any) -> None:
    """The host may be given it again, and the manager would believe an old report."""

    async def test(lab: Any) -> None:
        await lab.take(shared(parts))
        lab.san.delay_next("create_snapshot", 20)
        await lab.take(shared(parts, made=True), SnapshotSpec(id="snap-1", volume="vol-1", pool="san"))
        await lab.take(shared(parts, made=True))
        assert (lab.seen_snapshot().present, lab.seen_snapshot().revision) == (False, 0)
        await asyncio.sleep(25)
        assert not lab.agent.report().snapshots

    parts.on_lab(test)


def test_a_volume_that_another_host_has_is_waited_for(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(shared(parts))
        lab.san.rbd["vol-1"].holder = "other"
        await lab.take(parts.machine(), shared(parts, made=True), seconds=60)
        assert lab.seen().state is MachineState.starting
        lab.san.rbd["vol-1"].holder = None
        await asyncio.sleep(20)
        assert lab.seen().state is MachineState.running

    parts.on_lab(test)


def test_it_is_taken_from_a_host_that_is_lost(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(shared(parts))
        lab.san.rbd["vol-1"].holder = "other"
        await lab.take(parts.machine(), shared(parts, made=True, evict=("other",)))
        assert lab.seen().state is MachineState.running
        assert lab.san.rbd["vol-1"].evicted == {"other"}

    parts.on_lab(test)


def test_while_the_pool_is_away_its_work_waits_and_the_rest_goes_on(parts: Any) -> None:
    async def test(lab: Any) -> None:
        lab.san.down = True
        await lab.take(shared(parts), parts.volume("vol-2"), seconds=200)
        assert (lab.seen_volume().error, lab.seen_volume().present) == ("", False)
        assert lab.seen_volume("vol-2").present
        [pool] = lab.agent.report().pools
        assert (pool.name, pool.error) == ("san", "the pool san can't be reached from h")
        assert "pool san: the pool san can't be reached from h" in lab.agent.report().problems
        lab.san.down = False
        await asyncio.sleep(20)
        assert lab.seen_volume().present
        [pool] = lab.agent.report().pools
        assert (pool.error, pool.size_bytes) == ("", lab.san.size_bytes)

    parts.on_lab(test)


def test_a_machine_that_waits_for_the_pool_says_why_and_goes_on(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), shared(parts))
        lab.san.down = True
        await asyncio.sleep(20)
        assert lab.seen().state is MachineState.running
        assert "can't be reached" in lab.seen().message
        lab.machines.lose_shared_storage()
        assert lab.seen().state is MachineState.paused
        await asyncio.sleep(30)
        assert lab.seen().state is MachineState.paused
        lab.san.down = False
        lab.machines.lose_shared_storage(False)
        await asyncio.sleep(20)
        assert (lab.seen().state, lab.seen().message) == (MachineState.running, "")

    parts.on_lab(test)


def test_a_pool_that_is_nearly_full_says_so(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(shared(parts))
        await asyncio.sleep(11)
        assert not lab.agent.report().pools[0].full
        lab.san.size_bytes = lab.san.used_bytes() + 1
        await asyncio.sleep(11)
        [pool] = lab.agent.report().pools
        assert pool.full
        assert "nearly full" in pool.message

    parts.on_lab(test)


def test_lost_data_is_reported(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(
            shared(parts, made=True), SnapshotSpec(id="snap-1", volume="vol-1", pool="san", made=True)
        )
        assert "lost" in lab.seen_volume().error
        assert "lost" in lab.seen_snapshot().error
        assert not lab.san.volumes()

    parts.on_lab(test)


def test_volumes_are_deleted_by_word_once_no_machine_has_them(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(parts.machine(), shared(parts))
        lab.machines.ignore_power_button("i-1")
        off = parts.machine(run=False, shutdown_seconds=5.0, volumes=())
        await lab.take(off, shared(parts, present=False), seconds=2)
        assert lab.san.volumes()
        await asyncio.sleep(10)
        assert not lab.san.rbd
        assert not lab.seen_volume().present

    parts.on_lab(test)


def test_images_are_brought_in_before_anybody_asks(parts: Any) -> None:
    async def test(lab: Any) -> None:
        image = ImageSpec(id="ami-2", disk="/images/a", format="raw", size_bytes=GIB, pools=("san",))
        lab.san.fail_next("add_image", PoolError("told to fail"))
        spec = lab.spec()
        lab.agent.take(type(spec)(cloud="c", host="h", revision=1000, images=(image,)))
        await asyncio.sleep(0.3)
        assert any("ami-2: told to fail" in each for each in lab.agent.report().problems)
        await asyncio.sleep(2)
        assert lab.san.images == {"ami-2": {0: b"boot"}}
        gone = ImageSpec(
            id="ami-2", disk="/images/a", format="raw", size_bytes=GIB, pools=("san",), present=False
        )
        lab.agent.take(type(spec)(cloud="c", host="h", revision=1001, images=(gone,)))
        await asyncio.sleep(1)
        assert not lab.san.images

    parts.on_lab(test)


def test_a_pool_that_the_host_has_not_fails(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(shared(parts, pool="nowhere"), seconds=30)
        assert lab.seen_volume().error == "this host has no pool nowhere"

    parts.on_lab(test)


def test_several_machines_share_a_volume_that_another_host_looks_after(parts: Any) -> None:
    async def test(lab: Any) -> None:
        await lab.take(shared(parts))
        several = shared(parts, multi_attach=True, keeper=False, made=True)
        lab.san.rbd["vol-1"].sharers["other"] = 0
        both = parts.machine(), parts.machine("i-2")
        await lab.take(*both, several)
        assert [lab.seen(id).disks for id in ("i-1", "i-2")] == [("vol-1",), ("vol-1",)]
        assert set(lab.san.rbd["vol-1"].sharers) == {"h", "other"}
        await lab.take(parts.machine(run=False), parts.machine("i-2"), several)
        assert lab.seen().state is MachineState.off
        assert set(lab.san.rbd["vol-1"].sharers) == {"h", "other"}
        await lab.take(parts.machine(run=False), parts.machine("i-2", run=False), several)
        assert set(lab.san.rbd["vol-1"].sharers) == {"other"}
        # It is not this host that makes it.
        await lab.take(shared(parts, "vol-2", multi_attach=True, keeper=False))
        assert "vol-2" not in lab.san.rbd

    parts.on_lab(test)


def test_a_lost_host_is_shut_out_before_it_is_opened_besides(parts: Any) -> None:
    async def test(lab: Any) -> None:
        several = shared(parts, multi_attach=True)
        await lab.take(parts.machine(), several)
        image = lab.san.rbd["vol-1"]
        image.sharers["lost"] = 0
        evict = shared(parts, multi_attach=True, made=True, evict=("lost",))
        await lab.take(parts.machine(), parts.machine("i-2"), evict)
        assert image.evicted == {"lost"}
        assert set(image.sharers) == {"h"}

    parts.on_lab(test)


def test_who_has_it_open_is_written_down_later(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an agent that finds the machine, and can't at first."""
    noted: list[str] = []
    right = FakeSharedPool.note_opened

    async def note_opened(self: FakeSharedPool, id: str) -> None:
        await right(self, id)
        noted.append(id)

    monkeypatch.setattr(FakeSharedPool, "note_opened", note_opened)

    async def test(lab: Any) -> None:
        several = shared(parts, multi_attach=True, made=True)
        await lab.take(parts.machine(), replace(several, made=False))
        await lab.stop()
        noted.clear()
        lab.start()
        await asyncio.sleep(1)
        lab.san.fail_next("note_opened")
        await lab.take(parts.machine(), several, seconds=60)
        assert noted == ["vol-1"]

    parts.on_lab(test)


def test_a_volume_that_cannot_be_looked_at_is_looked_at_again(parts: Any) -> None:
    """It was made: that the host gives up on it would help nobody."""

    async def test(lab: Any) -> None:
        lab.san.rbd["vol-1"] = FakeImage(GIB, "", {0: b"boot"})
        for _ in range(6):
            lab.san.fail_next("find_volume", PoolError("input/output error"))
        await lab.take(parts.machine(), shared(parts, made=True), seconds=60)
        assert lab.seen().state is MachineState.running
        assert lab.seen_volume().error == ""

    parts.on_lab(test)
