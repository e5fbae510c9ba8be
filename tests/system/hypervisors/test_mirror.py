"""A running machine's disks move elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.san.base import DiskSource, FileDisk
from gureum.san.luks import LUKS_HEADER_BYTES

from .guest import ID, MIB, GuestFiles, Shell, booted, disk, linux, qcow2, raw_disk, shell, until, volume
from .images import Images

pytestmark = [pytest.mark.qemu, pytest.mark.root]

KEY = bytes(range(64))


@pytest.fixture
async def mover(run_dir: Path) -> AsyncIterator[QemuHypervisor]:
    """A hypervisor whose machines reach a cluster."""
    hypervisor = QemuHypervisor(Env(), run_dir, shared_disks=True)
    await hypervisor.recover()
    yield hypervisor
    for id in list(hypervisor.machines()):
        await hypervisor.remove(id)
    await hypervisor.close()


async def ready(hypervisor: QemuHypervisor) -> None:
    await until(lambda: hypervisor.machines()[ID].mirrors[volume(0)].ready)


async def loaded(guest: Shell) -> str:
    """A guest with 8 MiB of noise at the disk's beginning, which goes on writing elsewhere; the digest."""
    await guest.run("dd if=/dev/urandom of=/data bs=1M count=8 status=none")
    await guest.run("dd if=/data of=/dev/vda bs=1M conv=fsync status=none")
    await guest.run("(while true; do dd if=/data of=/dev/vda bs=64k seek=256 conv=fsync; done) 2>/dev/null &")
    return (await guest.run("sha256sum </data")).split()[0]


async def seen(guest: Shell) -> str:
    await guest.run("echo 3 >/proc/sys/vm/drop_caches")
    return (await guest.run("dd if=/dev/vda bs=1M count=8 status=none | sha256sum")).split()[0]


async def nodes(hypervisor: QemuHypervisor) -> int:
    return len(await hypervisor._machines[ID].disks().nodes.names())


async def moved(hypervisor: QemuHypervisor, guest: Shell, target: DiskSource, key: bytes, name: str) -> None:
    await hypervisor.mirror_disk(ID, volume(0), target, key)
    await hypervisor.mirror_disk(ID, volume(0), target, key)
    with pytest.raises(HypervisorError, match=r"not ready|not being moved"):
        await hypervisor.finish_mirror(ID, volume(1))
    await hypervisor.close()
    await hypervisor.recover()
    assert hypervisor.machines()[ID].mirrors[volume(0)].target == name
    await ready(hypervisor)
    await guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=1 seek=12 conv=fsync status=none")
    await hypervisor.finish_mirror(ID, volume(0))
    assert hypervisor.machines()[ID].mirrors == {}
    assert await hypervisor.active_layer(ID, volume(0)) == name


@pytest.mark.ceph
async def test_moved_under_load(
    images: Images, mover: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path
) -> None:
    """From a chain of files to the cluster, there into an encrypted volume, and back."""
    layers = (qcow2(tmp_path / "top.qcow2", 64 * MIB), *raw_disk(tmp_path / "base.raw", 64 * MIB).layers)
    await mover.start(linux(guest_files, ID, disk(0, FileDisk(layers=layers))))
    await booted(mover, ID)
    image, encrypted = images.create(64 * MIB), images.create(64 * MIB, KEY)
    back = raw_disk(tmp_path / "back.raw", 64 * MIB)
    async with shell(mover, ID) as guest:
        digest = await loaded(guest)
        await moved(mover, guest, image, b"", f"rbd:{image.pool}/{image.image}")
        assert await seen(guest) == digest
        before = [Path(layer.path).read_bytes() for layer in layers]
        await moved(mover, guest, encrypted, KEY, f"rbd:{image.pool}/{encrypted.image}")
        assert await seen(guest) == digest
        assert [Path(layer.path).read_bytes() for layer in layers] == before
        await moved(mover, guest, back, b"", back.layers[0].path)
        assert await seen(guest) == digest
        assert await nodes(mover) == 1
    await mover.power_off(ID)
    content = (tmp_path / "back.raw").read_bytes()
    assert hashlib.sha256(content[: 8 * MIB]).hexdigest() == digest
    assert images.content(encrypted, LUKS_HEADER_BYTES).startswith(b"LUKS")
    assert content[: 8 * MIB] not in images.content(encrypted, 64 * MIB)


async def test_cancelled(mover: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path) -> None:
    """At any time: the guest goes on with what it had."""
    source, target = raw_disk(tmp_path / "a.raw", 64 * MIB), raw_disk(tmp_path / "b.raw", 64 * MIB)
    await mover.start(linux(guest_files, ID, disk(0, source)))
    await booted(mover, ID)
    async with shell(mover, ID) as guest:
        digest = await loaded(guest)
        await mover.cancel_mirror(ID, volume(0))
        for bound in (MIB, 0):
            await mover.mirror_disk(ID, volume(0), target, bytes_per_second=bound)
            if bound:
                with pytest.raises(HypervisorError, match="not ready"):
                    await mover.finish_mirror(ID, volume(0))
            else:
                await ready(mover)
            await mover.cancel_mirror(ID, volume(0))
            await mover.cancel_mirror(ID, volume(0))
            assert mover.machines()[ID].mirrors == {}
            assert await mover.active_layer(ID, volume(0)) == source.layers[0].path
            assert await nodes(mover) == 1
        assert await seen(guest) == digest
        await mover.mirror_disk(ID, volume(0), target)
        await ready(mover)
        await mover.finish_mirror(ID, volume(0))
        await mover.cancel_mirror(ID, volume(0))
        with pytest.raises(HypervisorError, match="not being moved"):
            await mover.finish_mirror(ID, volume(0))
        assert await seen(guest) == digest


async def test_target_fails(mover: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path) -> None:
    """A target without room: the guest does not notice, and the move says why it ended."""
    small = tmp_path / "small"
    small.mkdir()
    process = await asyncio.create_subprocess_exec(
        "mount", "-t", "tmpfs", "-o", "size=4m", "gureum-hv-small", small
    )
    assert await process.wait() == 0
    try:
        source, target = raw_disk(tmp_path / "a.raw", 64 * MIB), raw_disk(small / "b.raw", 64 * MIB)
        await mover.start(linux(guest_files, ID, disk(0, source)))
        await booted(mover, ID)
        async with shell(mover, ID) as guest:
            digest = await loaded(guest)
            await mover.mirror_disk(ID, volume(0), target)
            await until(lambda: "space" in mover.machines()[ID].mirrors[volume(0)].error)
            with pytest.raises(HypervisorError, match="space"):
                await mover.finish_mirror(ID, volume(0))
            await mover.cancel_mirror(ID, volume(0))
            assert await seen(guest) == digest
            assert mover.machines()[ID].mirrors == {}
            assert await nodes(mover) == 1
    finally:
        process = await asyncio.create_subprocess_exec("umount", "-l", small)
        await process.wait()


async def test_detached_on_the_way(mover: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path) -> None:
    root, source = raw_disk(tmp_path / "root.raw", MIB), raw_disk(tmp_path / "a.raw", 64 * MIB)
    await mover.start(linux(guest_files, ID, disk(0, root), disk(1, source)))
    await booted(mover, ID)
    target = raw_disk(tmp_path / "b.raw", 64 * MIB)
    await mover.mirror_disk(ID, volume(1), target, bytes_per_second=MIB)
    await mover.detach_disk(ID, volume(1))
    await until(lambda: mover.machines()[ID].disks == (volume(0),))
    assert mover.machines()[ID].mirrors == {}
    assert await nodes(mover) == 1


async def test_limits_and_growth_stay(mover: QemuHypervisor, guest_files: GuestFiles, tmp_path: Path) -> None:
    """A disk that has moved is one like any other."""
    source, target = raw_disk(tmp_path / "a.raw", 16 * MIB), raw_disk(tmp_path / "b.raw", 16 * MIB)
    limited = msgspec.structs.replace(disk(0, source), iops=3000, throughput=125)
    await mover.start(linux(guest_files, ID, limited))
    await booted(mover, ID)
    await mover.mirror_disk(ID, volume(0), target)
    await ready(mover)
    await mover.finish_mirror(ID, volume(0))
    blocks = await mover._machines[ID].monitor().execute("query-block")
    assert isinstance(blocks, list)
    inserted = next(block["inserted"] for block in blocks if block.get("inserted"))
    assert (inserted["iops"], inserted["bps"]) == (3000, 125 * MIB)
    await mover.resize_disk(ID, volume(0), 32 * MIB)
    assert Path(target.layers[0].path).stat().st_size == 32 * MIB
    overlay = qcow2(tmp_path / "overlay.qcow2", 32 * MIB)
    await mover.switch_layer(ID, volume(0), overlay)
    assert await mover.active_layer(ID, volume(0)) == overlay.path


class Crashed(Exception):
    pass


POINTS = ("opened", "started", "finish", "switched", "cancelled")


@pytest.mark.parametrize("point", POINTS)
async def test_killed_in_between(run_dir: Path, guest_files: GuestFiles, tmp_path: Path, point: str) -> None:
    """The next agent finds the disk in one place or the other, or on its way, and nothing left over."""

    def crash(name: str) -> None:
        if name == f"qemu.mirror.{point}":
            raise Crashed

    source, target = raw_disk(tmp_path / "a.raw", 16 * MIB), raw_disk(tmp_path / "b.raw", 16 * MIB)
    hypervisor = QemuHypervisor(Env(crashpoint=crash), run_dir)
    await hypervisor.recover()
    await hypervisor.start(linux(guest_files, ID, disk(0, source)))
    await booted(hypervisor, ID)

    async def move() -> None:
        await hypervisor.mirror_disk(ID, volume(0), target)
        await ready(hypervisor)
        if point == "cancelled":
            await hypervisor.cancel_mirror(ID, volume(0))
        await hypervisor.finish_mirror(ID, volume(0))

    with pytest.raises(Crashed):
        await move()
    await hypervisor.close()
    again = QemuHypervisor(Env(), run_dir)
    await again.recover()
    try:
        moving = again.machines()[ID].mirrors
        assert (volume(0) in moving) == (point in ("started", "finish", "cancelled"))
        if point == "cancelled":
            await again.cancel_mirror(ID, volume(0))
        elif point != "switched":
            await again.mirror_disk(ID, volume(0), target)
            await ready(again)
            await again.finish_mirror(ID, volume(0))
        expected = source if point == "cancelled" else target
        assert await again.active_layer(ID, volume(0)) == expected.layers[0].path
        assert again.machines()[ID].mirrors == {}
        assert await nodes(again) == 1
        assert len(await again._machines[ID].disks().nodes.fdsets()) == 2
        async with shell(again, ID) as guest:
            await guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=1 conv=fsync status=none")
    finally:
        await again.remove(ID)
        await again.close()
