"""A guest that works while it moves from one QEMU to another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.base import Disk, Nic
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.san.base import FileDisk

from . import guest
from .guest import ID, MIB, GuestFiles, booted, disk, linux, qcow2, raw_disk, shell, until, volume
from .pair import Pair, check_writes, start_writes

pytestmark = [pytest.mark.qemu, pytest.mark.root]

DEVICES = "ls -d /sys/bus/pci/devices/*; cat /sys/block/vd*/serial /sys/class/net/*/address"
FORGET = "echo 3 >/proc/sys/vm/drop_caches"
HAS_ETH1 = "while [ ! -e /sys/class/net/eth1 ]; do sleep 0.1; done"


@pytest.fixture
async def pair(run_dir: Path, other_run_dir: Path) -> AsyncIterator[Pair]:
    pair = Pair((lambda: QemuHypervisor(Env(), run_dir), lambda: QemuHypervisor(Env(), other_run_dir)))
    await pair.recover()
    yield pair
    await pair.close()


@pytest.mark.parametrize("machine", ["q35", "microvm"])
async def test_works_on_the_way(pair: Pair, guest_files: GuestFiles, tmp_path: Path, machine: str) -> None:
    disks = (disk(0, raw_disk(tmp_path / "a", 16 * MIB)), disk(1, raw_disk(tmp_path / "b", 16 * MIB)))
    config = linux(guest_files, ID, *disks, machine=machine)
    await pair.source.start(config)
    await booted(pair.source, ID)
    async with shell(pair.source, ID) as console:
        await console.run("echo here >/mark; dd if=/dev/urandom of=/dev/vdb bs=1M count=4 2>/dev/null")
        await console.run("md5sum </dev/vdb >/digest")
    await start_writes(pair)
    for generation in (2, 3):
        await pair.move(replace(config, generation=generation))
        async with shell(pair.source, ID) as console:
            assert await console.run("cat /mark") == "here"
            await console.run(f'{FORGET}; [ "$(md5sum </dev/vdb)" = "$(cat /digest)" ]')
    await check_writes(pair)
    assert (await pair.source.console(ID, 1 << 20)).count(b"guest is ready") == 1
    await pair.source.reset(ID, 1)
    await booted(pair.source, ID, times=2)


async def test_what_was_plugged_in(
    pair: Pair,
    guest_files: GuestFiles,
    tmp_path: Path,
    nic: Callable[[int], Nic],
    other_nic: Callable[[int], Nic],
) -> None:
    """Disks and interfaces that came while the guest ran, in other slots than at a start."""
    disks = tuple(disk(n, raw_disk(tmp_path / f"{n}", 16 * MIB)) for n in range(4))
    config = linux(guest_files, ID, *disks[:2])
    await pair.source.start(replace(config, nics=(nic(0),)))
    await booted(pair.source, ID)
    await pair.source.attach_disk(ID, disks[2])
    await pair.source.attach_disk(ID, disks[3])
    await pair.source.detach_disk(ID, volume(1))
    await until(lambda: volume(1) not in pair.source.machines()[ID].disks)
    moved = replace(disks[1], index=9)
    await pair.source.attach_disk(ID, moved)
    await pair.source.attach_nic(ID, nic(1))
    async with shell(pair.source, ID) as console:
        await console.run(HAS_ETH1)
        seen = await console.run(DEVICES)
        for name in ("vdb", "vdc", "vdd"):
            await console.run(
                f"cat /sys/block/{name}/serial >/{name}; dd if=/{name} of=/dev/{name} conv=fsync"
            )
    everything = replace(
        config,
        disks=(disks[0], moved, *disks[2:]),
        generation=2,
        nics=(other_nic(0), replace(other_nic(1), index=5)),
    )
    await pair.move(everything)
    async with shell(pair.source, ID) as console:
        assert seen == await console.run(DEVICES)
        for name in ("vdb", "vdc", "vdd"):
            await console.run(f"{FORGET}; [ $(head -c 20 /dev/{name}) = $(head -c 20 /{name}) ]")
    await pair.source.detach_disk(ID, volume(2))
    await until(lambda: volume(2) not in pair.source.machines()[ID].disks)
    await pair.source.detach_nic(ID, guest.interface(1))
    await until(lambda: pair.source.machines()[ID].nics == (guest.interface(0),))
    await pair.source.attach_disk(ID, disks[2])
    await pair.source.attach_nic(ID, other_nic(1))
    async with shell(pair.source, ID) as console:
        await console.run(HAS_ETH1)
    await pair.source.detach_disk(ID, volume(3), force=True)
    refused = ""
    try:
        await pair.source.layout(ID)
    except HypervisorError as error:
        refused = str(error)
    # Unless it has, by then.
    assert "has not let go" in refused or volume(3) not in pair.source.machines()[ID].disks


async def test_works_on_the_way_with_its_own_disks(
    pair: Pair, guest_files: GuestFiles, tmp_path: Path
) -> None:
    """Nothing that the guest wrote, at any moment of it, is missing on the other host."""

    def disks(host: int) -> tuple[Disk, ...]:
        return (
            disk(0, FileDisk(layers=(qcow2(tmp_path / f"{host}.qcow2", 16 * MIB),))),
            disk(1, raw_disk(tmp_path / f"{host}.raw", 16 * MIB)),
        )

    config = linux(guest_files, ID, *disks(0))
    await pair.source.start(config)
    await booted(pair.source, ID)
    async with shell(pair.source, ID) as console:
        await console.run("dd if=/dev/urandom of=/dev/vdb bs=1M count=4 conv=fsync 2>/dev/null")
        await console.run("md5sum </dev/vdb >/digest")
    await start_writes(pair)
    moved = replace(config, generation=2, disks=disks(1))
    await pair.move(moved, copies=(volume(0), volume(1)), bytes_per_second=8 * MIB)
    async with shell(pair.source, ID) as console:
        await console.run(f'{FORGET}; [ "$(md5sum </dev/vdb)" = "$(cat /digest)" ]')
    await check_writes(pair)
