"""The local pool, with QEMU's own tools on the other side."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from contracts.pools import BOOT, IMAGE_BYTES, PoolContract
from faults.guest import MIB, WAIT_SECONDS, Machine, Monitor, node, run_tool
from gureum.env import CRASH_VARIABLE, Env
from gureum.errors import PoolError, PoolFull
from gureum.san.base import FileDisk
from gureum.san.local import LocalPool

SIZE = 64 * MIB

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("qemu-img", "qemu-io", "qemu-system-x86_64"))), reason="needs QEMU"
)


def write(disk: FileDisk, **patterns: int) -> None:
    """``m5=7``: fill the sixth MiB with sevens, as a guest that flushes."""
    commands = [f"-cwrite -P {value} {int(at[1:]) * MIB} {MIB}" for at, value in patterns.items()]
    run_tool("qemu-io", *commands, "-cflush", f"json:{json.dumps(node(disk))}")


def verify(disk: FileDisk, **patterns: int) -> None:
    commands = [f"-cread -P {value} {int(at[1:]) * MIB} {MIB}" for at, value in patterns.items()]
    run_tool("qemu-io", "-r", *commands, f"json:{json.dumps(node(disk))}")


def check_layers(root: Path) -> None:
    for layer in (root / "layers").glob("*.qcow2"):
        run_tool("qemu-img", "check", "-q", "-f", "qcow2", str(layer))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "pool"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.raw"
    run_tool("qemu-img", "create", "-q", "-f", "raw", str(path), str(SIZE))
    run_tool("qemu-io", "-f", "raw", f"-cwrite -P 1 0 {2 * MIB}", str(path))
    return path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    machines: list[Machine] = []

    def start(disk: FileDisk) -> Machine:
        machines.append(Machine(tmp_path, disk))
        return machines[-1]

    yield start
    for machine in machines:
        machine.kill()


class TestLocalPool(PoolContract):
    @pytest.fixture
    async def pool(self, root: Path) -> AsyncIterator[LocalPool]:
        pool = LocalPool(Env(), root)
        yield pool
        assert await pool.check() == []
        await pool.close()
        check_layers(root)

    @pytest.fixture
    def image_disk(self, tmp_path: Path) -> tuple[str, str]:
        path = tmp_path / "contract.raw"
        with open(path, "wb") as file:
            file.write(BOOT)
            file.truncate(IMAGE_BYTES)
        return str(path), "raw"


async def test_clones_snapshots_and_images_with_data(root, image, tmp_path):
    pool = LocalPool(Env(), root)
    compressed = tmp_path / "image.qcow2"
    await asyncio.to_thread(
        run_tool, "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(image), str(compressed)
    )
    await pool.add_image("ami-1", str(image), "raw", SIZE)
    await pool.add_image("ami-2", str(compressed), "qcow2", SIZE)
    await asyncio.gather(*(pool.create_volume(f"vol-{n}", 2 * SIZE, f"ami-{1 + n % 2}") for n in range(10)))
    image.unlink()
    compressed.unlink()
    for number in range(10):
        opened = await pool.open_volume(f"vol-{number}")
        write(opened, m1=10 + number, m100=3)
        verify(opened, m0=1, m1=10 + number, m2=0, m100=3)
    await pool.create_snapshot("snap-1", "vol-1")
    write(await pool.open_volume("vol-1"), m0=99)
    await pool.create_volume("vol-20", 3 * SIZE, "snap-1")
    await pool.delete_volume("vol-1")
    await pool.delete_snapshot("snap-1", "vol-1")
    await pool.remove_image("ami-1")
    await pool.remove_image("ami-2")
    verify(await pool.open_volume("vol-20"), m0=1, m1=11, m2=0, m100=3, m150=0)
    verify(await pool.open_volume("vol-2"), m0=1, m1=12)
    check_layers(root)
    assert await pool.check() == []
    for id in (await pool.inventory()).volumes:
        await pool.delete_volume(id)
    assert list((root / "layers").iterdir()) == []
    await pool.close()


async def test_resize_shows_in_the_file_and_keeps_the_data(root, image):
    pool = LocalPool(Env(), root)
    await pool.add_image("ami-1", str(image), "raw", SIZE)
    await pool.create_volume("vol-1", SIZE, "ami-1")
    write(await pool.open_volume("vol-1"), m63=7)
    await pool.resize_volume("vol-1", 4 << 40)
    opened = await pool.open_volume("vol-1")
    write(opened, m4194303=8)
    verify(opened, m0=1, m63=7, m64=0, m4194303=8)
    check_layers(root)
    await pool.close()


async def test_snapshot_and_growth_of_a_running_machine_s_volume(root, image, start):
    pool = LocalPool(Env(), root)
    await pool.add_image("ami-1", str(image), "raw", SIZE)
    await pool.create_volume("vol-1", SIZE, "ami-1")
    machine = start(await pool.open_volume("vol-1"))
    live = Monitor(str(machine.qmp))
    machine.guest("write", m1=2)
    for operation in (pool.delete_volume("vol-1"), pool.create_snapshot("snap-9", "vol-1")):
        with pytest.raises(PoolError, match="open in a running machine"):
            await operation
    await pool.create_snapshot("snap-1", "vol-1", live)
    machine.guest("write", m1=3)
    await pool.resize_volume("vol-1", 2 * SIZE, live)
    await pool.create_snapshot("snap-2", "vol-1", live)
    machine.guest("write", m1=4, m100=5)
    await pool.create_volume("vol-2", SIZE, "snap-1")
    await pool.create_volume("vol-3", 2 * SIZE, "snap-2")
    verify(await pool.open_volume("vol-2"), m0=1, m1=2)
    verify(await pool.open_volume("vol-3"), m0=1, m1=3, m100=0)
    machine.guest("read", m0=1, m1=4, m100=5)
    machine.kill()
    verify(await pool.open_volume("vol-1"), m0=1, m1=4, m100=5)
    check_layers(root)
    assert await pool.check() == []
    await pool.close()


async def test_compaction_keeps_the_data_and_frees_the_rest(root, image):
    pool = LocalPool(Env(), root, chain_max=4)
    await pool.add_image("ami-1", str(image), "raw", SIZE)
    await pool.create_volume("vol-1", SIZE, "ami-1")
    for number in range(5):
        write(await pool.open_volume("vol-1"), **{f"m{number}": 10 + number, "m50": number})
        await pool.create_snapshot("snap-1", "vol-1")
        await pool.delete_snapshot("snap-1", "vol-1")
    assert await pool.compact("vol-1")
    opened = await pool.open_volume("vol-1")
    assert len(opened.layers) == 2
    verify(opened, m0=10, m1=11, m4=14, m5=0, m50=4)
    assert (await pool.inventory()).volumes["vol-1"].used_bytes < 8 * MIB
    # With nothing shared below, and every layer needed by a snapshot.
    await pool.create_volume("vol-2", SIZE)
    for number in range(6):
        write(await pool.open_volume("vol-2"), **{f"m{number}": 20 + number})
        await pool.create_snapshot(f"snap-2{number}", "vol-2")
        await pool.compact("vol-2")
        assert len((await pool.open_volume("vol-2")).layers) <= 4
    verify(await pool.open_volume("vol-2"), m0=20, m3=23, m5=25, m6=0)
    await pool.create_volume("vol-3", SIZE, "snap-22")
    verify(await pool.open_volume("vol-3"), m0=20, m2=22, m3=0)
    check_layers(root)
    assert await pool.check() == []
    await pool.close()


# The process is killed; the machine with vol-1 runs on.

CRASHES = {
    "create_volume": ("pool.volume.layer", "pool.volume.recorded"),
    "add_image": ("pool.image.layer",),
    "remove_image": ("pool.image.dropped",),
    "resize": ("pool.resize.grown",),
    "live_resize": ("pool.resize.grown",),
    "delete_volume": ("pool.delete.dropped",),
    "delete_snapshot": ("pool.snapshot.dropped",),
    "compact": ("pool.compact.layer", "pool.compact.flattened", "pool.compact.recorded"),
    "snapshot": tuple(f"pool.snapshot.{at}" for at in ("layer", "intent", "switched", "recorded", "settled")),
    "live_snapshot": tuple(
        f"pool.snapshot.{at}" for at in ("layer", "intent", "switched", "recorded", "settled")
    ),
}


async def operate(pool: LocalPool, name: str, image: str, qmp: str) -> None:
    live = Monitor(qmp)
    match name:
        case "create_volume":
            await pool.create_volume("vol-9", SIZE, "ami-1")
        case "add_image":
            await pool.add_image("ami-9", image, "raw", SIZE)
        case "remove_image":
            await pool.remove_image("ami-1")
        case "resize":
            await pool.resize_volume("vol-5", 2 * SIZE)
        case "live_resize":
            await pool.resize_volume("vol-1", 2 * SIZE, live)
        case "delete_volume":
            await pool.delete_volume("vol-5")
        case "delete_snapshot":
            await pool.delete_snapshot("snap-5", "vol-5")
        case "compact":
            await pool.compact("vol-6")
        case "snapshot":
            await pool.create_snapshot("snap-9", "vol-5")
        case "live_snapshot":
            await pool.create_snapshot("snap-9", "vol-1", live)


async def prepare(pool: LocalPool, image: Path) -> FileDisk:
    """vol-1 for the machine; vol-5 with a snapshot; vol-6 with too long a chain."""
    await pool.add_image("ami-1", str(image), "raw", SIZE)
    await pool.create_volume("vol-1", SIZE, "ami-1")
    await pool.create_volume("vol-5", SIZE, "ami-1")
    write(await pool.open_volume("vol-5"), m1=5)
    await pool.create_snapshot("snap-5", "vol-5")
    write(await pool.open_volume("vol-5"), m2=6)
    await pool.create_volume("vol-6", SIZE, "ami-1")
    for number in range(3):
        write(await pool.open_volume("vol-6"), **{f"m{number + 1}": 60 + number})
        await pool.create_snapshot("snap-6", "vol-6")
        await pool.delete_snapshot("snap-6", "vol-6")
    return await pool.open_volume("vol-1")


@pytest.mark.parametrize(("name", "point"), [(n, point) for n, points in CRASHES.items() for point in points])
async def test_killed_process_loses_and_leaks_nothing(root, image, start, name, point):
    pool = LocalPool(Env(), root, chain_max=4)
    machine = start(await prepare(pool, image))
    machine.guest("write", m3=3)
    await pool.close()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, str(root), name, str(image), str(machine.qmp)),
        env={**os.environ, CRASH_VARIABLE: point, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert await asyncio.wait_for(child.wait(), WAIT_SECONDS) == -signal.SIGKILL
    machine.guest("write", m4=4)

    pool = LocalPool(Env(), root, chain_max=4)
    await pool.check(repair=True)
    await operate(pool, name, str(image), str(machine.qmp))
    assert await pool.check() == []
    machine.guest("read", m0=1, m3=3, m4=4)
    machine.kill()
    verify(await pool.open_volume("vol-1"), m0=1, m3=3, m4=4)
    verify(await pool.open_volume("vol-6"), m0=1, m1=60, m2=61, m3=62)
    inventory = await pool.inventory()
    if name == "delete_volume":
        assert "vol-5" not in inventory.volumes
    else:
        verify(await pool.open_volume("vol-5"), m0=1, m1=5, m2=6)
    if name in ("snapshot", "live_snapshot"):
        await pool.create_volume("vol-8", SIZE, "snap-9")
        verify(await pool.open_volume("vol-8"), m0=1, m1=5 if name == "snapshot" else 1)
        verify(await pool.open_volume("vol-8"), **({"m2": 6} if name == "snapshot" else {"m3": 3}))
    if name == "delete_snapshot":
        assert "snap-5" not in inventory.snapshots
    else:
        await pool.create_volume("vol-7", SIZE, "snap-5" if name == "remove_image" else "ami-1")
        verify(await pool.open_volume("vol-7"), m0=1)
    sizes = {id: inventory.volumes[id].size_bytes // SIZE for id in inventory.volumes}
    assert sizes.get("vol-1") == (2 if name == "live_resize" else 1)
    assert sizes.get("vol-5", 1) == (2 if name == "resize" else 1)
    check_layers(root)
    assert await pool.check() == []
    await pool.close()


# Full


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    run_tool("mount", "-t", "tmpfs", "-o", "size=24m", "san-pool-test", str(folder))
    yield folder
    run_tool("umount", "-l", str(folder))


@pytest.mark.root
async def test_full_disk_is_told_and_hurts_nobody_else(small):
    root = small / "pool"
    pool = LocalPool(Env(), root, reserve_bytes=2 * MIB, chain_max=4)
    for id in ("vol-1", "vol-2", "vol-3"):
        await pool.create_volume(id, SIZE)
    for number in range(4):
        write(await pool.open_volume("vol-3"), **{f"m{number}": 3})
        await pool.create_snapshot("snap-3", "vol-3")
        await pool.delete_snapshot("snap-3", "vol-3")
    opened = await pool.open_volume("vol-1")
    write(opened, m0=1)
    write(await pool.open_volume("vol-2"), m0=2)
    with pytest.raises(AssertionError, match="No space left on device"):
        write(opened, **{f"m{number}": 9 for number in range(1, 30)})
    before = sorted(os.listdir(root / "layers")), sorted(os.listdir(root / "records"))
    for operation in (
        pool.create_volume("vol-4", SIZE),
        pool.create_snapshot("snap-1", "vol-1"),
        pool.resize_volume("vol-2", 2 * SIZE),
        pool.compact("vol-3"),
    ):
        with pytest.raises(
            PoolFull, match=r"pool .* is full: .* MiB needed and 2\.0 MiB kept in reserve, but"
        ):
            await operation
    assert (await pool.inventory()).free_bytes == 0
    assert (sorted(os.listdir(root / "layers")), sorted(os.listdir(root / "records"))) == before
    verify(opened, m0=1)
    verify(await pool.open_volume("vol-2"), m0=2)
    verify(await pool.open_volume("vol-3"), m0=3, m3=3)
    await pool.delete_volume("vol-1")
    assert await pool.compact("vol-3")
    await pool.create_volume("vol-4", SIZE)
    verify(await pool.open_volume("vol-3"), m0=3, m3=3)
    assert await pool.check() == []
    check_layers(root)
    await pool.close()


@pytest.mark.root
async def test_disk_that_fills_up_in_the_middle(small, tmp_path):
    """No reserve, and others take the space between question and use."""
    root = small / "pool"
    pool = LocalPool(Env(), root, reserve_bytes=-(1 << 40), chain_max=4)
    await pool.create_volume("vol-1", SIZE)
    for number in range(4):
        write(await pool.open_volume("vol-1"), **{f"m{2 * number}": 5, f"m{2 * number + 1}": 6})
        await pool.create_snapshot("snap-1", "vol-1")
        await pool.delete_snapshot("snap-1", "vol-1")
    image = tmp_path / "image.raw"
    image.write_bytes(b"x" * (16 * MIB))
    layers, records = sorted(os.listdir(root / "layers")), sorted(os.listdir(root / "records"))

    async def refused(operation) -> None:
        with pytest.raises(PoolFull, match=r"full|No space left"):
            await operation
        assert sorted(os.listdir(root / "layers")) == layers
        assert sorted(os.listdir(root / "records")) == records

    await refused(pool.add_image("ami-1", str(image), "raw", 16 * MIB))
    filler = small / "filler"
    fill(filler, 4 * MIB)
    await refused(pool.compact("vol-1"))
    fill(filler, 0)
    await refused(pool.create_volume("vol-2", SIZE))
    await refused(pool.create_snapshot("snap-2", "vol-1"))
    filler.unlink()
    await pool.create_snapshot("snap-2", "vol-1")
    assert await pool.compact("vol-1")
    verify(await pool.open_volume("vol-1"), m0=5, m1=6, m7=6, m8=0)
    assert await pool.check() == []
    await pool.close()


def fill(path: Path, leave_bytes: int) -> None:
    found = os.statvfs(path.parent)
    with open(path, "ab", buffering=0) as file:
        for _ in range((found.f_bavail * found.f_frsize - leave_bytes) // found.f_frsize):
            file.write(bytes(found.f_frsize))


async def main(root: str, name: str, image: str, qmp: str) -> None:
    pool = LocalPool(Env(), Path(root), chain_max=4)
    await operate(pool, name, image, qmp)
    await pool.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
