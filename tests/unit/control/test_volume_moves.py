"""The manager's side of a volume that goes to another pool."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from gureum.control.specs import host_spec
from gureum.hostspec import LOCAL
from gureum.resources import Modification, Move, SnapshotState, Volume, VolumeState
from gureum.services.ec2 import keepers, volume_moves
from gureum.services.operation import Cloud

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SAN = "san"
CLOUD = Cloud(
    name="test",
    account="123456789012",
    region="us-east-1",
    zones=("us-east-1a",),
    public_cidr="198.18.0.0/24",
    pool=SAN,
)


def moving(make: Any, target: str = SAN, **values: Any) -> Volume:
    source = LOCAL if target == SAN else SAN
    volume: Volume = make.volume(state=VolumeState.available, pool=source, **values)
    return volume_moves.begun(volume, target, NOW)


@pytest.mark.parametrize("target", [SAN, LOCAL])
async def test_there_when_its_host_says_so_of_this_record(bench: Any, make: Any, target: str) -> None:
    await bench.put(make.host(), moving(make, target))
    version = (await bench.get(Volume, "vol-1")).version
    for said in ({"copied": ""}, {"copied": target, "revision": version - 1}, {"copied": "other"}):
        bench.volume(**said)
        assert (await bench.step_volume()).target == target
    bench.volume(copied=target, revision=version)
    after = await bench.step_volume()
    assert (after.pool, after.target, after.move.state) == (target, "", "completed")
    assert len(after.leaves) == 1
    assert after.bound


async def test_what_it_left_is_known_to_be_gone(bench: Any, make: Any) -> None:
    await bench.put(make.host(), make.volume(state=VolumeState.available, pool=SAN, leaves=(LOCAL,)))
    version = (await bench.get(Volume, "vol-1")).version
    for said in ({"leaves": (LOCAL,)}, {"leaves": (), "revision": version - 1}):
        bench.volume(**said)
        assert (await bench.step_volume()).leaves == (LOCAL,)
    bench.volume(revision=version)
    after = await bench.step_volume()
    assert (after.leaves, after.bound) == ((), False)


async def test_not_before_the_snapshots_of_where_it_is_are_taken(bench: Any, make: Any) -> None:
    await bench.put(make.host(), moving(make, LOCAL), make.snapshot(pool=SAN))
    bench.volume(copied=LOCAL)
    assert (await bench.step_volume()).pool == SAN
    await bench.put(replace(make.snapshot(pool=SAN), state=SnapshotState.completed, version=1))
    assert (await bench.step_volume()).pool == LOCAL


async def test_one_that_is_stuck_stays_and_its_type_is_as_before(bench: Any, make: Any) -> None:
    modification = Modification(
        state="modifying", started=NOW, original_size_bytes=1 << 30, original_type="gp2", target_type="gp3"
    )
    await bench.put(make.host(), moving(make, type="gp3", modification=modification))
    bench.volume(stuck="no room")
    after = await bench.step_volume()
    assert (after.pool, after.target, after.leaves) == (LOCAL, "", (SAN,))
    assert (after.move.state, after.move.message) == ("failed", "no room")
    assert (after.modification.state, after.modification.message, after.type) == ("failed", "no room", "gp2")


async def test_a_modification_is_complete_when_it_is_there(bench: Any, make: Any) -> None:
    modification = Modification(
        state="modifying", started=NOW, original_size_bytes=1 << 30, original_type="gp2"
    )
    await bench.put(make.host(), moving(make, modification=modification))
    bench.volume(revision=1 << 40)
    assert (await bench.step_volume()).modification.state == "modifying"
    bench.volume(copied=SAN, revision=1 << 40)
    assert (await bench.step_volume()).modification.state == "modifying"
    assert (await bench.step_volume()).modification.state == "completed"


async def test_one_that_is_not_made_does_not_go_yet(bench: Any, make: Any) -> None:
    move = Move(state="moving", source=LOCAL, target=SAN, started=NOW)
    await bench.put(make.host(), make.volume(move=move))
    bench.volume(copied=SAN)
    after = await bench.step_volume()
    assert (after.state, after.pool, after.target) == (VolumeState.available, LOCAL, SAN)
    assert (await bench.step_volume()).pool == SAN


async def test_its_host_keeps_it_when_it_is_drained(bench: Any, make: Any) -> None:
    await bench.put(make.host(draining=True), make.host("host-1"), moving(make, LOCAL))
    assert (await bench.step_volume()).host == "host-0"
    await bench.put(replace(make.volume(state=VolumeState.available, pool=SAN), version=1))
    assert (await bench.step_volume()).host == "host-1"


async def test_the_spec_says_where_it_goes_and_what_it_left(bench: Any, make: Any) -> None:
    left = make.volume("vol-2", state=VolumeState.available, pool=SAN, leaves=(LOCAL,))
    await bench.put(make.host(), moving(make), left)
    async with bench.store.read() as reader:
        spec = await host_spec(reader, CLOUD, "host-0")
    assert [(each.pool, each.target, each.leaves) for each in spec.volumes] == [
        (LOCAL, SAN, ()),
        (SAN, "", (LOCAL,)),
    ]


async def test_a_lost_host_is_shut_out_of_the_copy_that_it_made_too(bench: Any, make: Any) -> None:
    """Who looks after the volume now could neither go on with that copy nor remove it: it is still held."""
    there = make.volume(state=VolumeState.available, pool="other", host="host-9")
    lost = volume_moves.without_host(volume_moves.begun(there, SAN, NOW), NOW)
    await bench.put(make.host(), keepers.given(keepers.given(lost, None), "host-0"))
    async with bench.store.read() as reader:
        (spec,) = (await host_spec(reader, CLOUD, "host-0")).volumes
    assert (spec.pool, spec.target, spec.leaves, spec.evict) == ("other", "", (SAN,), ("host-9",))
    bench.volume()
    after = await bench.step_volume()
    assert (after.former, after.target, after.leaves) == ((), SAN, ())


def test_it_does_not_move_again_before_a_former_host_has_removed_what_it_left(make: Any) -> None:
    """That host may do so late, when the volume is back there and nowhere else."""
    cleaning = make.volume(state=VolumeState.available, pool="other", leaves=(SAN,), host="host-9")
    given = keepers.given(cleaning, "host-0")
    assert (given.host, given.former) == ("host-0", ("host-9",))
    assert volume_moves.begun(replace(given, leaves=()), SAN, NOW).target == ""
    assert keepers.given(replace(cleaning, leaves=()), "host-0").former == ()


def test_what_is_left_of_it_when_its_host_is_lost(make: Any) -> None:
    """What was on the host's own disk is gone; what a shared pool has of it is removed, or is all of it."""
    going = volume_moves.without_host(moving(make), NOW)
    assert (going.state, going.pool, going.host) == (VolumeState.deleting, SAN, None)
    assert going.former == ("host-0",)
    coming = volume_moves.without_host(moving(make, LOCAL), NOW)
    assert (coming.state, coming.pool, coming.target, coming.leaves) == ("available", SAN, "", ())
    arrived = volume_moves.without_host(volume_moves.arrived(moving(make), NOW), NOW)
    assert (arrived.state, arrived.pool, arrived.leaves) == (VolumeState.available, SAN, ())
    local = volume_moves.without_host(make.volume(state=VolumeState.available), NOW)
    assert (local.state, local.host, local.former) == (VolumeState.deleting, None, ())
