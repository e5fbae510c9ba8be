"""The pool's protocol, over the fake's layers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from gureum.env import Env
from gureum.errors import HypervisorError, PoolError, PoolFull
from gureum.san import pool as pool_module
from gureum.san.base import Layer
from gureum.san.fake import FakePool, FakePoolDisk
from gureum.san.fake_parts import BLOCK_BYTES
from gureum.sim.loop import run

GIB = 1 << 30
VOL, VOL2, SNAP, AMI = "vol-1", "vol-2", "snap-1", "ami-1"


async def with_image(pool: FakePool) -> FakePool:
    pool.disk.images["/images/tiny"] = {0: b"boot", 1: b"system"}
    await pool.add_image(AMI, "/images/tiny", "raw", GIB)
    return pool


async def write(pool: FakePool, volume: str, blocks: dict[int, bytes]) -> None:
    opened = await pool.open_volume(volume)
    for block, data in blocks.items():
        pool.disk.write(opened.layers[0].path, block, data)


def test_clone_of_image_shares_its_data_and_changes_alone(host):
    async def main():
        pool = await with_image(host.pool())
        await pool.create_volume(VOL, 2 * GIB, AMI)
        await pool.create_volume(VOL2, 2 * GIB, AMI)
        await write(pool, VOL, {1: b"mine"})
        assert host.disk.contents_of(VOL) == {0: b"boot", 1: b"mine"}
        assert host.disk.contents_of(VOL2) == {0: b"boot", 1: b"system"}
        assert [layer.format for layer in (await pool.open_volume(VOL)).layers] == ["qcow2", "raw"]
        inventory = await pool.inventory()
        assert inventory.volumes[VOL].size_bytes == 2 * GIB
        assert inventory.volumes[VOL].used_bytes == 2 * BLOCK_BYTES
        assert inventory.volumes[VOL2].used_bytes == BLOCK_BYTES

    run(main())


def test_snapshot_keeps_the_moment_and_outlives_its_volume(host):
    async def main():
        pool = host.pool()
        await pool.create_volume(VOL, GIB)
        await write(pool, VOL, {0: b"old"})
        await pool.create_snapshot(SNAP, VOL)
        await write(pool, VOL, {0: b"new"})
        await pool.create_volume(VOL2, 2 * GIB, SNAP)
        assert (await pool.inventory()).snapshots == {SNAP}
        await pool.delete_volume(VOL)
        await pool.delete_snapshot(SNAP, VOL)
        assert host.disk.contents_of(VOL2) == {0: b"old"}
        await pool.delete_volume(VOL2)
        assert not host.disk.layers
        assert not host.disk.records

    run(main())


def test_clones_outlive_their_image(host):
    async def main():
        pool = await with_image(host.pool())
        await pool.create_volume(VOL, GIB, AMI)
        await pool.remove_image(AMI)
        assert host.disk.contents_of(VOL) == {0: b"boot", 1: b"system"}
        with pytest.raises(PoolError, match="there is no ami-1"):
            await pool.create_volume(VOL2, GIB, AMI)
        await pool.delete_volume(VOL)
        assert not host.disk.layers

    run(main())


def test_live_snapshot_switches_the_machine_once(host, new_guest):
    async def main():
        pool = host.pool()
        await pool.create_volume(VOL, GIB)
        guest = new_guest(host.disk, await pool.open_volume(VOL))
        guest.write(0, b"before")
        await pool.create_snapshot(SNAP, VOL, guest)
        guest.write(0, b"after")
        assert guest.switches == 1
        assert host.disk.contents_of(SNAP) == {0: b"before"}
        assert guest.contents() == host.disk.contents_of(VOL) == {0: b"after"}

    run(main())


def test_everything_may_be_done_again(host, new_guest):
    async def main():
        pool = await with_image(host.pool())
        for _ in range(2):
            await with_image(pool)
            await pool.create_volume(VOL, GIB, AMI)
            await pool.create_snapshot(SNAP, VOL)
            await pool.resize_volume(VOL, 2 * GIB)
        assert len(host.disk.layers) == 3
        for _ in range(2):
            await pool.delete_snapshot(SNAP, VOL)
            await pool.delete_volume(VOL)
            await pool.remove_image(AMI)
        assert not host.disk.layers
        assert not host.disk.records

    run(main())


@pytest.mark.parametrize("live", [False, True])
def test_resize_grows_and_never_shrinks(host, new_guest, live):
    async def main():
        pool = host.pool()
        await pool.create_volume(VOL, GIB)
        opened = await pool.open_volume(VOL)
        await pool.resize_volume(VOL, 3 * GIB, new_guest(host.disk, opened) if live else None)
        assert (await pool.inventory()).volumes[VOL].size_bytes == 3 * GIB
        assert host.disk.layers[host.disk.name(opened.layers[0].path)].size_bytes == 3 * GIB
        with pytest.raises(PoolError, match="cannot shrink"):
            await pool.resize_volume(VOL, 2 * GIB)

    run(main())


def test_snapshot_after_a_half_recorded_resize_is_large_enough(host, new_guest, died):
    async def main():
        pool = host.pool()
        await pool.create_volume(VOL, GIB)
        guest = new_guest(host.disk, await pool.open_volume(VOL))
        host.die_at = "pool.resize.grown"
        with pytest.raises(died):
            await pool.resize_volume(VOL, 2 * GIB, guest)
        pool = host.pool()
        await pool.create_snapshot(SNAP, VOL, guest)
        assert host.disk.layers[host.disk.name(guest.top)].size_bytes == 2 * GIB
        assert (await pool.inventory()).volumes[VOL].size_bytes == 2 * GIB

    run(main())


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda pool: pool.create_volume("vol-../x", GIB), "no id of the form"),
        (lambda pool: pool.create_volume("vol-1\n", GIB), "no id of the form"),
        (lambda pool: pool.create_volume("snap-1", GIB), "no id of the form vol-"),
        (lambda pool: pool.create_volume("vol-9", 0), "no size"),
        (lambda pool: pool.create_volume("vol-9", 1000), "no size"),
        (lambda pool: pool.create_volume("vol-9", 65 << 40), "no size"),
        (lambda pool: pool.create_volume("vol-9", GIB, "snap-9"), "there is no snap-9"),
        (lambda pool: pool.create_volume("vol-9", GIB, "vol-1"), "no id of the form snap-"),
        (lambda pool: pool.create_volume("vol-9", 512, AMI), "less than"),
        (lambda pool: pool.create_volume(VOL, GIB), "exists already"),
        (lambda pool: pool.resize_volume("vol-9", GIB), "no volume vol-9"),
        (lambda pool: pool.open_volume("vol-9"), "no volume vol-9"),
        (lambda pool: pool.share_volume(VOL), "where one machine at a time can have it"),
        (lambda pool: pool.create_snapshot("snap-9", "vol-9"), "no volume vol-9"),
        (lambda pool: pool.create_snapshot(SNAP, VOL2), "as a snapshot of vol-1"),
        (lambda pool: pool.compact("vol-9"), "no volume vol-9"),
        (lambda pool: pool.add_image("ami-9", "/images/tiny", "vmdk", GIB), "neither raw nor qcow2"),
        (lambda pool: pool.delete_volume("ami-1"), "no id of the form vol-"),
    ],
)
def test_refusals_leave_nothing_behind(host, operation: Callable[[FakePool], Awaitable[None]], message):
    async def main():
        pool = await with_image(host.pool())
        await pool.create_volume(VOL, GIB, AMI)
        await pool.create_volume(VOL2, GIB)
        await pool.create_snapshot(SNAP, VOL)
        before = dict(host.disk.records), set(host.disk.layers)
        with pytest.raises(PoolError, match=message):
            await operation(pool)
        assert (dict(host.disk.records), set(host.disk.layers)) == before

    run(main())


# Crashes

Operation = Callable[[FakePool, object], Awaitable[object]]

OPERATIONS: dict[str, Operation] = {
    "add_image": lambda pool, _: pool.add_image("ami-2", "/images/tiny", "raw", GIB),
    "remove_image": lambda pool, _: pool.remove_image(AMI),
    "create_volume": lambda pool, _: pool.create_volume(VOL2, GIB, AMI),
    "resize": lambda pool, _: pool.resize_volume("vol-5", 2 * GIB),
    "live_resize": lambda pool, guest: pool.resize_volume(VOL, 2 * GIB, guest),
    "snapshot": lambda pool, _: pool.create_snapshot(SNAP, "vol-5"),
    "live_snapshot": lambda pool, guest: pool.create_snapshot(SNAP, VOL, guest),
    "delete_snapshot": lambda pool, _: pool.delete_snapshot("snap-5", "vol-5"),
    "delete_volume": lambda pool, _: pool.delete_volume("vol-5"),
    "compact": lambda pool, _: pool.compact("vol-6"),
}


async def prepare(host, new_guest):
    """vol-1 runs; vol-5 has a snapshot; vol-6 has too long a chain."""
    pool = await with_image(host.pool())
    await pool.create_volume(VOL, GIB, AMI)
    guest = new_guest(host.disk, await pool.open_volume(VOL))
    guest.write(7, b"running")
    await pool.create_volume("vol-5", GIB)
    await write(pool, "vol-5", {0: b"five"})
    await pool.create_snapshot("snap-5", "vol-5")
    await pool.create_volume("vol-6", GIB, AMI)
    for number in range(4):
        await write(pool, "vol-6", {number: b"six"})
        await pool.create_snapshot("snap-6", "vol-6")
        await pool.delete_snapshot("snap-6", "vol-6")
    return pool, guest


def contents(host, guest) -> dict[str, dict[int, bytes]]:
    found = {id: host.disk.contents_of(id) for id in sorted(host.disk.volumes() | host.disk.snapshots())}
    return {**found, "guest": guest.contents()}


def outcome(new_host, new_guest, name: str, die_at: str, died: type[BaseException]):
    """What is there after the operation, died in at ``die_at`` and repeated by the next process."""
    host = new_host()

    async def main():
        pool, guest = await prepare(host, new_guest)
        host.reached.clear()
        host.die_at = die_at
        if die_at:
            with pytest.raises(died):
                await OPERATIONS[name](pool, guest)
            guest.write(8, b"after")
            pool = host.pool()
            await pool.check(repair=True)
            await OPERATIONS[name](pool, guest)
        else:
            await OPERATIONS[name](pool, guest)
            guest.write(8, b"after")
        assert await pool.check(repair=True) == []
        assert host.disk.leaks() == []
        inventory = await pool.inventory()
        return contents(host, guest), {id: info.size_bytes for id, info in inventory.volumes.items()}

    return run(main()), list(host.reached)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_completes_when_repeated_after_a_crash(new_host, new_guest, died, name):
    expected, reached = outcome(new_host, new_guest, name, "", died)
    assert reached
    for point in reached:
        found, _ = outcome(new_host, new_guest, name, point, died)
        if name == "live_snapshot":
            # What the guest wrote between crash and repetition may or may not be in the snapshot.
            found[0]["snap-1"].pop(8, None)
        assert found == expected, point


def test_crash_points_are_many(new_host, new_guest, died):
    reached = {point for name in OPERATIONS for point in outcome(new_host, new_guest, name, "", died)[1]}
    assert len(reached) >= 15


@pytest.mark.parametrize(
    "point", ["pool.snapshot.intent", "pool.snapshot.switched", "pool.snapshot.recorded"]
)
def test_interrupted_snapshot_is_finished_by_whatever_comes_next(new_host, new_guest, died, point):
    async def main(host, what):
        pool, guest = await prepare(host, new_guest)
        host.die_at = point
        with pytest.raises(died):
            await pool.create_snapshot(SNAP, VOL, guest)
        pool = host.pool()
        assert any("not complete" in line for line in await pool.check(repair=True))
        seen = guest.contents()
        if what == "open":
            opened = await pool.open_volume(VOL)
            assert host.disk.contents(opened.layers[0].path) == seen
        elif what == "resize":
            await pool.resize_volume(VOL, 2 * GIB, guest)
        elif what == "another":
            await pool.create_snapshot("snap-2", VOL, guest)
            assert host.disk.contents_of("snap-2") == seen
        elif what == "delete":
            await pool.delete_volume(VOL)
        elif what == "drop":
            await pool.delete_snapshot(SNAP, VOL)
            await pool.create_snapshot("snap-2", VOL, guest)
        assert (SNAP in host.disk.snapshots()) == (what != "drop")
        assert (await pool.inventory()).snapshots == host.disk.snapshots()
        if what != "drop":
            assert host.disk.contents_of(SNAP) == seen
        assert await pool.check() == []

    for what in ("open", "resize", "another", "delete", "drop"):
        run(main(new_host(), what))


# Failures


def test_machine_that_fails_to_switch_can_be_asked_again(host, new_guest, monkeypatch):
    class Sullen(new_guest):
        error: Exception | None = HypervisorError("the machine is busy")

        async def switch_layer(self, layer: Layer) -> None:
            if self.error is not None:
                raise self.error
            await super().switch_layer(layer)

    class Mute(Sullen):
        async def active_layer(self) -> str:
            await asyncio.sleep(3600)
            return self.top

    async def main():
        pool = host.pool()
        await pool.create_volume(VOL, GIB)
        opened = await pool.open_volume(VOL)
        guest = Sullen(host.disk, opened)
        guest.write(0, b"one")
        with pytest.raises(PoolError, match="the machine is busy"):
            await pool.create_snapshot(SNAP, VOL, guest)
        with pytest.raises(PoolError, match="did not answer within 30 s"):
            await pool.create_snapshot(SNAP, VOL, Mute(host.disk, opened))
        guest.error = None
        guest.write(0, b"two")
        await pool.create_snapshot(SNAP, VOL, guest)
        assert host.disk.contents_of(SNAP) == {0: b"two"}
        assert await pool.check() == []

    run(main())


def test_machine_on_a_foreign_layer_is_left_alone(host, new_guest):
    async def main():
        pool = host.pool()
        await pool.create_volume(VOL, GIB)
        await pool.create_volume(VOL2, GIB)
        stranger = new_guest(host.disk, await pool.open_volume(VOL2))
        with pytest.raises(PoolError, match="not the volume's top layer"):
            await pool.create_snapshot(SNAP, VOL, stranger)

    run(main())


def test_volume_open_in_a_machine_is_not_touched_from_outside(host, new_guest):
    async def main():
        pool = host.pool()
        await pool.create_volume(VOL, GIB)
        opened = await pool.open_volume(VOL)
        host.disk.opened.add(host.disk.name(opened.layers[0].path))
        for operation in (
            pool.delete_volume(VOL),
            pool.compact(VOL),
            pool.create_snapshot(SNAP, VOL),
            pool.resize_volume(VOL, 2 * GIB),
        ):
            with pytest.raises(PoolError, match="open in a running machine"):
                await operation
        await pool.create_snapshot(SNAP, VOL, new_guest(host.disk, opened))

    run(main())


@pytest.mark.parametrize("step", ["create_layer", "put_record", "space"])
def test_failed_step_leaves_nothing(host, step):
    async def main():
        pool = await with_image(host.pool())
        await pool.create_volume(VOL, GIB, AMI)
        before = dict(host.disk.records), set(host.disk.layers)
        for operation in (
            lambda: pool.create_volume(VOL2, GIB, AMI),
            lambda: pool.create_snapshot(SNAP, VOL),
        ):
            host.disk.fail_next(step)
            with pytest.raises(PoolError, match="input/output error"):
                await operation()
            assert (dict(host.disk.records), set(host.disk.layers)) == before
            await operation()
            assert await pool.check() == []
            before = dict(host.disk.records), set(host.disk.layers)

    run(main())


def test_full_pool_refuses_and_lets_others_live():
    async def main():
        disk = FakePoolDisk(size_bytes=40 * BLOCK_BYTES)
        pool = FakePool(Env(), disk, reserve_bytes=4 * BLOCK_BYTES)
        await pool.create_volume(VOL, GIB)
        await write(pool, VOL, dict.fromkeys(range(30), b"full"))
        with pytest.raises(
            PoolFull, match=r"1\.0 MiB needed and 0\.2 MiB kept in reserve, but 0\.5 MiB of 2\.5"
        ):
            await pool.create_volume(VOL2, GIB)
        with pytest.raises(PoolFull):
            await pool.create_snapshot(SNAP, VOL)
        with pytest.raises(PoolFull):
            await write(pool, VOL, dict.fromkeys(range(30, 40), b"more"))
        assert (await pool.inventory()).free_bytes == 0
        assert disk.contents_of(VOL)[0] == b"full"
        await pool.delete_volume(VOL)
        await pool.create_volume(VOL2, GIB)
        assert await pool.check() == []

    run(main())


# Compaction


def test_compaction_bounds_the_chain_and_keeps_every_content(host):
    async def main():
        pool = await with_image(host.pool(chain_max=4))
        await pool.create_volume(VOL, GIB, AMI)
        for number in range(12):
            await write(pool, VOL, {number: b"%d" % number})
            await pool.create_snapshot(f"snap-{number}", VOL)
            before = host.disk.contents_of(VOL)
            await pool.compact(VOL)
            assert host.disk.contents_of(VOL) == before
            assert len((await pool.open_volume(VOL)).layers) <= 4
        for number in range(12):
            expected = {0: b"boot", 1: b"system"} | {n: b"%d" % n for n in range(number + 1)}
            assert host.disk.contents_of(f"snap-{number}") == expected
        for number in range(12):
            await pool.delete_snapshot(f"snap-{number}", VOL)
        assert host.disk.contents_of(VOL)[11] == b"11"
        assert await pool.check() == []
        await pool.delete_volume(VOL)
        await pool.remove_image(AMI)
        assert not host.disk.layers

    run(main())


def test_compaction_keeps_sharing_the_image(host):
    async def main():
        pool = await with_image(host.pool(chain_max=4))
        await pool.create_volume(VOL, GIB, AMI)
        for _ in range(5):
            await pool.create_snapshot(SNAP, VOL)
            await pool.delete_snapshot(SNAP, VOL)
        assert await pool.compact(VOL)
        layers = (await pool.open_volume(VOL)).layers
        assert [layer.format for layer in layers] == ["qcow2", "raw"]
        assert not await pool.compact(VOL)

    run(main())


def test_chain_that_is_never_compacted_ends(host, monkeypatch):
    async def main():
        monkeypatch.setattr(pool_module, "LAYERS_MAX", 6)
        pool = host.pool(chain_max=4)
        await pool.create_volume(VOL, GIB)
        for number in range(5):
            await pool.create_snapshot(f"snap-{number}", VOL)
        with pytest.raises(PoolError, match="has 6 layers: stop its machine once"):
            await pool.create_snapshot("snap-9", VOL)
        await pool.compact(VOL)
        await pool.create_snapshot("snap-9", VOL)

    run(main())


# Order


def test_source_deleted_while_it_is_cloned(host):
    async def main():
        pool = host.pool()
        await pool.create_volume(VOL, GIB)
        await write(pool, VOL, {0: b"kept"})
        await pool.create_snapshot(SNAP, VOL)
        await pool.delete_volume(VOL)
        await asyncio.gather(
            *(pool.create_volume(f"vol-c{number}", GIB, SNAP) for number in range(10)),
            pool.delete_snapshot(SNAP, VOL),
        )
        for number in range(10):
            assert host.disk.contents_of(f"vol-c{number}") == {0: b"kept"}
        assert host.disk.leaks() == []

    run(main())


def test_check_during_work_takes_nothing_away(host):
    async def main():
        pool = host.pool()

        async def check() -> None:
            for _ in range(40):
                await pool.check(repair=True)

        async def work(number: int) -> None:
            await pool.create_volume(f"vol-w{number}", GIB)
            await pool.create_snapshot(f"snap-w{number}", f"vol-w{number}")

        await asyncio.gather(check(), *(work(number) for number in range(20)))
        assert await pool.check() == []

    run(main())


def test_damaged_record_stops_its_volume_and_all_removal(host):
    async def main():
        pool = host.pool()
        await pool.create_volume(VOL, GIB)
        await pool.create_volume(VOL2, GIB)
        host.disk.records[VOL] = b'{"id": "vol-1", "size_bytes": 1, "chain": ["../../etc/passwd"]}'
        pool = host.pool()
        with pytest.raises(PoolError, match="damaged"):
            await pool.open_volume(VOL)
        layers = set(host.disk.layers)
        await pool.delete_volume(VOL2)
        assert set(host.disk.layers) == layers
        found = await pool.check(repair=True)
        assert any(line.startswith("vol-1 cannot be used") for line in found)
        assert sum(line.startswith("nothing needs") for line in found) == 2
        assert set(host.disk.layers) == layers
        await pool.create_volume("vol-3", GIB)

    run(main())


def test_missing_layer_is_told(host):
    async def main():
        pool = host.pool()
        await pool.create_volume(VOL, GIB)
        host.disk.lose_layer((await pool.open_volume(VOL)).layers[0].path)
        assert any("is missing" in line for line in await pool.check(repair=True))
        with pytest.raises(PoolError, match="is missing"):
            await pool.open_volume(VOL)
        await pool.delete_volume(VOL)
        assert await pool.check() == []

    run(main())


@pytest.mark.parametrize("seed", range(40))
def test_random_work_with_crashes_and_cancellations(new_host, new_guest, died, seed):
    """Whatever happens, contents are as written, no layer leaks, and everything completes in the end."""
    host = new_host(seed)
    chance = random.Random(seed)

    async def main():
        pool = await with_image(host.pool())
        written: dict[str, dict[int, bytes]] = {}
        frozen: dict[str, dict[int, bytes]] = {}
        sizes: dict[str, int] = {}
        owners: dict[str, str] = {}
        guests: dict[str, object] = {}
        counter = 0

        async def eventually(operation):
            """Until it is done, by one process after the other."""
            nonlocal pool
            for _ in range(10):
                fate = chance.choice(["well", "well", "die", "cancel", "fail"])
                task = asyncio.ensure_future(operation(pool))
                try:
                    if fate == "die":
                        host.die_at = chance.choice(sorted(set(host.reached)) or [""])
                    elif fate == "fail":
                        host.disk.fail_next(chance.choice(["put_record", "create_layer", "drop_record"]))
                    elif fate == "cancel":
                        await asyncio.wait((task,), timeout=chance.uniform(0.0, 0.03))
                        task.cancel()
                    return await task
                except died:
                    pool = host.pool()
                    await pool.check(repair=True)
                except (PoolError, asyncio.CancelledError):
                    pass
                finally:
                    host.die_at = ""
                    host.disk._failures.clear()
            return await operation(pool)

        for _ in range(40):
            counter += 1
            kind = chance.choice(
                ["create", "write", "write", "snap", "unsnap", "delete", "open", "close", "compact", "grow"]
            )
            volume = chance.choice(sorted(written)) if written else ""
            guest = guests.get(volume)
            if kind == "create":
                new, source = f"vol-{counter}", chance.choice(["", AMI, *sorted(frozen)])
                base = {0: b"boot", 1: b"system"} if source == AMI else dict(frozen.get(source, {}))
                size = sizes.get(source, GIB)
                await eventually(lambda p, n=new, s=source, z=size: p.create_volume(n, z, s))
                written[new], sizes[new] = base, size
            elif not volume:
                continue
            elif kind == "open" and guest is None:
                guests[volume] = new_guest(host.disk, await pool.open_volume(volume))
            elif kind == "close":
                guests.pop(volume, None)
            elif kind == "write" and guest is not None:
                block = chance.randrange(8)
                guest.write(block, b"%d" % counter)
                written[volume][block] = b"%d" % counter
            elif kind == "snap":
                snap = f"snap-{counter}"
                await eventually(lambda p, i=snap, v=volume, g=guest: p.create_snapshot(i, v, g))
                frozen[snap], sizes[snap] = dict(written[volume]), sizes[volume]
                owners[snap] = volume
            elif kind == "unsnap" and frozen:
                snap = chance.choice(sorted(frozen))
                await eventually(lambda p, i=snap: p.delete_snapshot(i, owners[i]))
                del frozen[snap]
            elif kind == "delete" and guest is None:
                await eventually(lambda p, v=volume: p.delete_volume(v))
                del written[volume]
            elif kind == "compact" and guest is None:
                await eventually(lambda p, v=volume: p.compact(v))
            elif kind == "grow":
                sizes[volume] += GIB
                await eventually(lambda p, v=volume, g=guest: p.resize_volume(v, sizes[v], g))
            for id, expected in (written | frozen).items():
                assert host.disk.contents_of(id) == expected, (kind, id)
            for id, running in guests.items():
                assert running.contents() == written[id], (kind, id)
        inventory = await pool.inventory()
        assert {id: info.size_bytes for id, info in inventory.volumes.items()} == {
            id: sizes[id] for id in written
        }
        assert inventory.snapshots == frozen.keys()
        await pool.check(repair=True)
        assert await pool.check() == []
        assert host.disk.leaks() == []

    run(main())
