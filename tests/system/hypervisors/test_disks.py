from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gureum.errors import HypervisorError
from gureum.hostspec import MachineState
from gureum.hypervisors import messages
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.san.base import FileDisk, Layer

from .guest import ID, MIB, GuestFiles, booted, disk, linux, qcow2, raw_disk, shell, until, volume

pytestmark = [pytest.mark.qemu, pytest.mark.root]


def content(layers: tuple[Layer, ...], count: int) -> bytes:
    """The first ``count`` bytes of a disk whose files are raw, or qcow2 over the next."""
    upper, *lower = layers
    if upper.format == "raw":
        return Path(upper.path).read_bytes()[:count]
    spec: dict[str, object] = {"driver": "raw", "file": {"driver": "file", "filename": lower[-1].path}}
    for layer in reversed([upper, *lower[:-1]]):
        spec = {"driver": "qcow2", "file": {"driver": "file", "filename": layer.path}, "backing": spec}
    out = Path(upper.path).with_suffix(".out")
    subprocess.run(["qemu-img", "convert", "-O", "raw", "json:" + json.dumps(spec), out], check=True)
    return out.read_bytes()[:count]


async def run(command: list[str]) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True)


async def test_attach_write_detach(
    hypervisor: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path
) -> None:
    """Disks come and go; what the guest wrote and synced is in the file; again after another agent took
    over.
    """
    await hypervisor.start(linux(guest_files, ID, disk(0, raw_disk(tmp_path / "root.raw", 8 * MIB))))
    await booted(hypervisor, ID)
    for round, number in enumerate((1, 2)):
        source = raw_disk(tmp_path / f"data{number}.raw", 16 * MIB)
        await hypervisor.attach_disk(ID, disk(number, source))
        await hypervisor.attach_disk(ID, disk(number, source))
        assert hypervisor.machines()[ID].disks == (volume(0), volume(number))
        async with shell(hypervisor, ID) as guest:
            await guest.run("until [ -b /dev/vdb ]; do sleep 0.1; done")
            assert await guest.run("cat /sys/block/vdb/serial") == volume(number).replace("-", "")
            await guest.run("dd if=/dev/urandom of=/data bs=1M count=4 status=none")
            await guest.run("dd if=/data of=/dev/vdb bs=1M conv=fsync status=none")
            digest = (await guest.run("sha256sum </data")).split()[0]
        assert hashlib.sha256(content(source.layers, 4 * MIB)).hexdigest() == digest
        if round == 1:
            await hypervisor.close()
            await hypervisor.recover()
            assert hypervisor.machines()[ID].disks == (volume(0), volume(number))
        await hypervisor.detach_disk(ID, volume(number))
        await until(lambda: hypervisor.machines()[ID].disks == (volume(0),))
        assert hypervisor.machines()[ID].detaching == ()
        live = hypervisor._machines[ID].disks()
        assert {name for name, _ in await live.nodes.names()} == {volume(0)}
        assert len(await live.nodes.fdsets()) == 2  # the console's and the root disk's


async def test_detach_while_booting(
    hypervisor: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path
) -> None:
    """The guest does not hear the first request, but a later one."""
    root = disk(0, raw_disk(tmp_path / "root.raw", MIB))
    await hypervisor.start(linux(guest_files, ID, root, disk(1, raw_disk(tmp_path / "data.raw", MIB))))
    await hypervisor.detach_disk(ID, volume(1))
    await booted(hypervisor, ID)
    await until(lambda: hypervisor.machines()[ID].disks == (volume(0),))


async def test_force_detach(hypervisor: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path) -> None:
    """A guest without a driver never gives a disk up: it is taken, and can be attached again."""
    source = raw_disk(tmp_path / "data.raw", 16 * MIB)
    root = disk(0, raw_disk(tmp_path / "root.raw", MIB))
    await hypervisor.start(linux(guest_files, ID, root, disk(1, source)))
    await hypervisor.detach_disk(ID, volume(1))
    assert hypervisor.machines()[ID].detaching == (volume(1),)
    assert volume(1) in hypervisor.machines()[ID].disks
    await hypervisor.detach_disk(ID, volume(1), force=True)
    assert hypervisor.machines()[ID].disks == (volume(0),)
    assert hypervisor.machines()[ID].detaching == ()
    await run(["qemu-io", "-f", "raw", "-c", "write 0 4k", source.layers[0].path])
    await hypervisor.attach_disk(ID, disk(1, source))
    assert hypervisor.machines()[ID].disks == (volume(0), volume(1))
    await hypervisor.close()
    await hypervisor.recover()
    assert hypervisor.machines()[ID].disks == (volume(0), volume(1))


async def test_switch_layer_under_load(
    hypervisor: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path
) -> None:
    """What was acknowledged before a switch is below it; nothing is lost, nor does the lower file change
    again.
    """
    base = raw_disk(tmp_path / "base.raw", 64 * MIB)
    await hypervisor.start(linux(guest_files, ID, disk(0, base)))
    await booted(hypervisor, ID)
    path = tmp_path / "base.raw"
    assert await hypervisor.active_layer(ID, volume(0)) == str(path)
    layers = base.layers
    async with shell(hypervisor, ID) as guest:
        await guest.run("dd if=/dev/urandom of=/data bs=1M count=8 status=none")
        await guest.run("dd if=/data of=/dev/vda bs=1M conv=fsync status=none")
        digest = (await guest.run("sha256sum </data")).split()[0]
        load = "while true; do dd if=/data of=/dev/vda bs=64k seek=256 conv=fsync status=none; done"
        await guest.run(f"({load}) & echo $! >/load")
        for number in (1, 2):
            overlay = qcow2(tmp_path / f"overlay{number}.qcow2", 64 * MIB)
            await hypervisor.switch_layer(ID, volume(0), overlay)
            await hypervisor.switch_layer(ID, volume(0), overlay)
            assert await hypervisor.active_layer(ID, volume(0)) == overlay.path
            layers = (overlay, *layers)
            below = hashlib.sha256(Path(layers[1].path).read_bytes()).digest()
            await guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=1 seek=40 conv=fsync status=none")
            assert hashlib.sha256(Path(layers[1].path).read_bytes()).digest() == below
        await hypervisor.close()
        await hypervisor.recover()
        assert await hypervisor.active_layer(ID, volume(0)) == layers[0].path
        await guest.run("kill $(cat /load); dd if=/dev/zero of=/dev/vda bs=1M count=1 seek=8 conv=fsync")
        await guest.run("echo 3 >/proc/sys/vm/drop_caches")
        seen = await guest.run("dd if=/dev/vda bs=1M count=8 status=none | sha256sum")
        assert seen.split()[0] == digest
    assert hashlib.sha256(path.read_bytes()[: 8 * MIB]).hexdigest() == digest
    await hypervisor.power_off(ID)
    assert hashlib.sha256(content(layers, 8 * MIB)).hexdigest() == digest
    await run(["qemu-img", "check", "-q", "-f", "qcow2", layers[0].path])
    await hypervisor.start(linux(guest_files, ID, disk(0, FileDisk(layers=layers)), generation=2))
    assert await hypervisor.active_layer(ID, volume(0)) == layers[0].path


async def test_resize(hypervisor: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path) -> None:
    layers = (qcow2(tmp_path / "top.qcow2", 8 * MIB), *raw_disk(tmp_path / "base.raw", 8 * MIB).layers)
    await hypervisor.start(linux(guest_files, ID, disk(0, FileDisk(layers=layers))))
    await booted(hypervisor, ID)
    async with shell(hypervisor, ID) as guest:
        assert int(await guest.run("cat /sys/block/vda/size")) * 512 == 8 * MIB
        await hypervisor.resize_disk(ID, volume(0), 32 * MIB)
        await hypervisor.resize_disk(ID, volume(0), 32 * MIB)
        await guest.run(f"while [ $(cat /sys/block/vda/size) != {32 * MIB // 512} ]; do sleep 0.1; done")


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "gureum-hv-small", mount], check=True)
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


async def test_full_storage_pauses(
    hypervisor: QemuHypervisor, guest_files: GuestFiles, small_file_system: Path
) -> None:
    """A guest does not see that the storage is full: it is held, and goes on when there is room."""
    source = raw_disk(small_file_system / "root.raw", 64 * MIB)
    ballast = small_file_system / "ballast"
    ballast.write_bytes(bytes(8 * MIB))
    await hypervisor.start(linux(guest_files, ID, disk(0, source)))
    await booted(hypervisor, ID)
    async with shell(hypervisor, ID) as guest:
        await guest.run("dd if=/dev/urandom of=/data bs=1M count=6 status=none")
        digest = (await guest.run("sha256sum </data")).split()[0]
        writing = asyncio.create_task(guest.run("dd if=/data of=/dev/vda bs=1M conv=fsync status=none"))
        await until(lambda: hypervisor.machines()[ID].state is MachineState.paused)
        assert hypervisor.machines()[ID].message == messages.STORAGE_FULL
        await hypervisor.resume(ID)
        await until(lambda: hypervisor.machines()[ID].state is MachineState.paused)
        ballast.unlink()
        await hypervisor.resume(ID)
        await writing
    assert hypervisor.machines()[ID].state is MachineState.running
    assert hypervisor.machines()[ID].message == ""
    assert hashlib.sha256(content(source.layers, 6 * MIB)).hexdigest() == digest


async def test_throttle(hypervisor: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path) -> None:
    source = raw_disk(tmp_path / "root.raw", MIB)
    limited = disk(0, source)
    limited = msgspec.structs.replace(limited, iops=3000, throughput=125)
    await hypervisor.start(linux(guest_files, ID, limited))

    async def limits() -> tuple[int, int]:
        blocks = await hypervisor._machines[ID].monitor().execute("query-block")
        assert isinstance(blocks, list)
        inserted = next(block["inserted"] for block in blocks if block.get("inserted"))
        return inserted["iops"], inserted["bps"]

    assert await limits() == (3000, 125 * MIB)
    await hypervisor.limit_disk(ID, limited.volume, 4000, 250)
    assert await limits() == (4000, 250 * MIB)
    await hypervisor.limit_disk(ID, limited.volume, 0, 0)
    assert await limits() == (0, 0)
    with pytest.raises(HypervisorError, match="no volume"):
        await hypervisor.limit_disk(ID, "vol-00000000000000009", 1000, 0)
