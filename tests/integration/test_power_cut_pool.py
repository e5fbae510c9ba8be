"""The local pool when the power goes at any moment of any operation.

The work is done once, on a medium that notes everything. Then, for many moments, what a power cut leaves is
opened as a pool: each volume and snapshot is as it was after the last step that was acknowledged, or as
after the step that was under way.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from faults.guest import MIB, Machine, Monitor, node, run_tool
from faults.journal import Operation, Variant, cases, marks
from faults.medium import Medium, is_possible, killed_at, left_after, mounted
from gureum.env import Env
from gureum.san import qcow2
from gureum.san.base import FileDisk, LiveDisk
from gureum.san.local import LocalPool

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not is_possible(), reason="needs root and /dev/fuse"),
    pytest.mark.skipif(not all(map(shutil.which, ("qemu-img", "qemu-io"))), reason="needs QEMU"),
]


PIECE = 64 << 10
SIZE = 8 * MIB
CASES = 60

Content = dict[int, int]
"""What a disk's pieces are filled with, by their number; 0 elsewhere."""


@dataclass
class Expected:
    """What the pool holds, each with its size in bytes."""

    volumes: dict[str, tuple[int, Content]] = field(default_factory=dict)
    snapshots: dict[str, tuple[int, Content]] = field(default_factory=dict)

    def copy(self) -> Expected:
        return Expected(
            {id: (size, dict(content)) for id, (size, content) in self.volumes.items()},
            dict(self.snapshots),
        )


def node_name(disk: FileDisk) -> str:
    return f"json:{json.dumps(node(disk), separators=(',', ':'))}"


def read_pieces(disks: list[tuple[FileDisk, Content]]) -> None:
    """Fails where a disk's pieces are not those. One process for all: starting it is what takes time."""
    commands = []
    for disk, content in disks:
        commands.append(f"-copen -r {node_name(disk)}")
        commands += [f"-cread -P {value} {piece * PIECE} {PIECE}" for piece, value in content.items()]
        commands.append("-cclose")
    run_tool("qemu-io", *commands)


class Work:
    """Steps on a pool, and what is expected after each."""

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self.pool = LocalPool(Env(), medium.root / "pool", reserve_bytes=0, chain_max=3)
        self.states = [Expected()]
        self.owners: dict[str, str] = {}

    async def step(self, change: Callable[[Expected], None], *work: Awaitable[object]) -> None:
        for one in work:
            await one
        after = self.states[-1].copy()
        change(after)
        self.states.append(after)
        self.medium.mark(str(len(self.states) - 1))

    async def create(self, id: str, source: str = "", content: Content | None = None) -> None:
        def change(after: Expected) -> None:
            after.volumes[id] = (SIZE, dict(after.snapshots[source][1] if content is None else content))

        await self.step(change, self.pool.create_volume(id, SIZE, source))

    async def write(self, id: str, **pieces: int) -> None:
        """As a guest that flushes: what it has written is there, and what it had."""
        content = {int(name[1:]): value for name, value in pieces.items()}
        commands = [f"-cwrite -P {value} {piece * PIECE} {PIECE}" for piece, value in content.items()]
        run_tool("qemu-io", "-t", "none", *commands, "-cflush", node_name(await self.pool.open_volume(id)))
        await self.step(lambda after: after.volumes[id][1].update(content))

    async def snapshot(self, id: str, volume: str, live: LiveDisk | None = None) -> None:
        def change(after: Expected) -> None:
            size, content = after.volumes[volume]
            after.snapshots[id] = (size, dict(content))

        self.owners[id] = volume
        await self.step(change, self.pool.create_snapshot(id, volume, live))

    async def grow(self, id: str, size: int, live: LiveDisk | None = None) -> None:
        def change(after: Expected) -> None:
            after.volumes[id] = (size, after.volumes[id][1])

        await self.step(change, self.pool.resize_volume(id, size, live))

    async def delete(self, id: str) -> None:
        if id.startswith("vol"):
            await self.step(lambda after: after.volumes.pop(id), self.pool.delete_volume(id))
        else:
            volume = self.owners[id]
            await self.step(lambda after: after.snapshots.pop(id), self.pool.delete_snapshot(id, volume))

    async def compact(self, id: str) -> None:
        async def compact() -> None:
            assert await self.pool.compact(id)

        await self.step(lambda after: None, compact())


async def look(root: Path, before: Expected, after: Expected) -> None:
    """The pool after the cut holds what it held ``before`` the step under way, or ``after`` it."""
    pool = LocalPool(Env(), root / "pool", reserve_bytes=0)
    try:
        # Nothing that is damaged or missing: what remains to be done is all it may find, and can do.
        for line in await pool.check(repair=True):
            assert line.startswith(("unfinished file", "nothing needs")) or "switch to the layer" in line, (
                line
            )
        inventory = await pool.inventory()
        disks = []
        for id in before.volumes.keys() | after.volumes.keys():
            allowed = [state.volumes[id] for state in (before, after) if id in state.volumes]
            if id not in inventory.volumes:
                assert len(allowed) == 1, f"{id} is lost"
                continue
            assert inventory.volumes[id].size_bytes in [size for size, _ in allowed], id
            same = {
                piece: value
                for piece, value in allowed[0][1].items()
                if all(content.get(piece) == value for _, content in allowed)
            }
            disks.append((await pool.open_volume(id), {**same, 127: 0}))
        assert inventory.volumes.keys() <= before.volumes.keys() | after.volumes.keys()
        # A snapshot that was begun is completed when its volume is opened.
        snapshots = (await pool.inventory()).snapshots
        assert before.snapshots.keys() & after.snapshots.keys() <= snapshots
        assert snapshots <= before.snapshots.keys() | after.snapshots.keys()
        for number, id in enumerate(sorted(snapshots)):
            size, content = before.snapshots.get(id) or after.snapshots[id]
            await pool.create_volume(f"vol-{900 + number}", size, id)
            disks.append((await pool.open_volume(f"vol-{900 + number}"), content))
        if disks:
            read_pieces(disks)
        assert await pool.check(repair=True) == []
        for layer in (root / "pool/layers").glob("*.qcow2"):
            header = qcow2.parse(layer.read_bytes())
            assert not header.incompatible, layer.name
    finally:
        await pool.close()


async def cut_everywhere(operations: list[Operation], states: list[Expected], count: int) -> None:
    for at, variant, seed in cases(operations, count):
        step = len(marks(operations[:at]))
        before, after = states[step], states[min(step + 1, len(states) - 1)]
        with left_after(operations[:at], variant, seed) as root:
            try:
                await look(root, before, after)
            except BaseException as error:
                error.add_note(f"power cut after operation {at}, variant {variant}, seed {seed}, step {step}")
                raise


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Medium]:
    with mounted(tmp_path) as made:
        yield made


async def test_the_pool_outlives_a_power_cut(medium: Medium, tmp_path: Path) -> None:
    # One that is linked into the pool, one that has to be copied; nobody has flushed them.
    images = [medium.root / "image.raw", tmp_path / "image.raw"]
    for image in images:
        run_tool("qemu-img", "create", "-q", "-f", "raw", str(image), str(SIZE))
        run_tool("qemu-io", "-t", "unsafe", "-f", "raw", f"-cwrite -P 1 0 {2 * PIECE}", str(image))
    base = {0: 1, 1: 1}
    work = Work(medium)
    for number, image in enumerate(images, 1):
        await work.step(lambda after: None, work.pool.add_image(f"ami-{number}", str(image), "raw", SIZE))
    await work.create("vol-4", "ami-2", base)
    await work.create("vol-1", "ami-1", base)
    await work.create("vol-2", content={})
    await work.write("vol-1", p1=2, p5=3)
    await work.snapshot("snap-1", "vol-1")
    await work.write("vol-1", p1=4, p6=5)
    await work.create("vol-3", "snap-1")
    await work.write("vol-3", p7=6)
    await work.grow("vol-1", 2 * SIZE)
    await work.write("vol-1", p200=7)
    await work.snapshot("snap-2", "vol-1")
    await work.write("vol-1", p1=8)
    await work.delete("snap-1")
    await work.delete("vol-2")
    await work.snapshot("snap-3", "vol-1")
    await work.delete("snap-3")
    await work.compact("vol-1")
    await work.write("vol-1", p8=9)
    await work.step(lambda after: None, work.pool.remove_image("ami-1"))
    await work.delete("vol-3")
    operations = medium.operations()
    await work.pool.close()
    await cut_everywhere(operations, work.states, CASES)


async def test_what_is_found_after_a_kill_outlives_a_power_cut(medium: Medium) -> None:
    """Killed instead of an fsync, each in turn. What the next process finds, it reports: so it must stay."""

    async def work(pool: LocalPool, name: str) -> None:
        await pool.create_volume(f"vol-{name}", SIZE)
        await pool.create_snapshot(f"snap-{name}", f"vol-{name}")
        await pool.create_volume(f"vol-{name}0", SIZE, f"snap-{name}")
        await pool.delete_volume(f"vol-{name}0")

    steps, died = 0, True
    while died:
        steps += 1
        root = medium.root / str(steps)
        pool = LocalPool(Env(), root, reserve_bytes=0)
        with killed_at(steps) as dead:
            await work(pool, str(steps))
        died = dead()
        await pool.close()
        again = LocalPool(Env(), root, reserve_bytes=0)
        found = await again.inventory()
        operations = medium.operations()
        await again.close()
        with left_after(operations, Variant.NONE) as remains:
            after = LocalPool(Env(), remains / root.name, reserve_bytes=0)
            kept = await after.inventory()
            assert kept.volumes.keys() == found.volumes.keys(), f"killed at fsync {steps}"
            assert kept.snapshots == found.snapshots, f"killed at fsync {steps}"
            for id in kept.volumes:
                await after.open_volume(id)
            await after.close()
    assert steps > 10


async def test_a_running_machine_s_snapshots_outlive_a_power_cut(medium: Medium, tmp_path: Path) -> None:
    """What the guest has flushed is in its volume, and in each snapshot what it had flushed before that."""
    work = Work(medium)
    await work.create("vol-1", content={})
    machine = Machine(tmp_path, await work.pool.open_volume("vol-1"))
    live = Monitor(str(machine.qmp))

    async def write(**mebibytes: int) -> None:
        await asyncio.to_thread(machine.guest, "write", **mebibytes)
        pieces = {int(name[1:]) * (MIB // PIECE): value for name, value in mebibytes.items()}
        await work.step(lambda after: after.volumes["vol-1"][1].update(pieces))

    try:
        await write(m0=1, m1=1)
        await work.snapshot("snap-1", "vol-1", live)
        await write(m0=2, m2=2)
        await work.grow("vol-1", 2 * SIZE, live)
        await write(m12=3)
        await work.snapshot("snap-2", "vol-1", live)
        await write(m0=4)
        await work.delete("snap-1")
        operations = medium.operations()
    finally:
        machine.kill()
        await work.pool.close()
    await cut_everywhere(operations, work.states, CASES)
