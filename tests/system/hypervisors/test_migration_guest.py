"""A guest that works while it moves from one QEMU to another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.base import MachineConfig, Nic
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor

from . import guest
from .guest import ID, MIB, GuestFiles, booted, disk, linux, raw_disk, shell, until, volume
from .pair import Pair

pytestmark = [pytest.mark.qemu, pytest.mark.root]


@pytest.fixture
async def pair(run_dir: Path, other_run_dir: Path) -> AsyncIterator[Pair]:
    pair = Pair((lambda: QemuHypervisor(Env(), run_dir), lambda: QemuHypervisor(Env(), other_run_dir)))
    await pair.recover()
    yield pair
    await pair.close()


WRITER = """
( n=0; while :; do n=$((n+1)); dd if=/dev/urandom of=/block bs=64k count=1 2>/dev/null
  dd if=/block of=/dev/vda bs=64k seek=$((n % 64)) conv=fsync 2>/dev/null || echo "write failed"
  md5sum </block | cut -c1-32 >/sum.$((n % 64)); echo $n >/count; done ) &
"""


async def check_writes(pair: Pair, seconds: int = 2) -> int:
    """What the guest wrote all the time is on its disk; how many writes that were."""
    async with shell(pair.source, ID) as console:
        before = int(await console.run("cat /count"))
        await console.run(f"sleep {seconds}", seconds=30)
        after = int(await console.run("cat /count"))
        assert after > before
        await console.run("kill %1; sleep 1; echo 3 >/proc/sys/vm/drop_caches")
        await console.run(
            "for i in $(seq 0 63); do [ -e /sum.$i ] || continue;"
            "  [ $i = $(($(cat /count) % 64)) ] || [ $i = $((($(cat /count) + 1) % 64)) ] && continue;"
            "  s=$(dd if=/dev/vda bs=64k skip=$i count=1 2>/dev/null | md5sum | cut -c1-32);"
            "  [ $s = $(cat /sum.$i) ] || { echo block $i; false; exit; }; done",
            seconds=60,
        )
        return after


@pytest.mark.parametrize("machine", ["q35", "microvm"])
async def test_works_on_the_way(pair: Pair, guest_files: GuestFiles, tmp_path: Path, machine: str) -> None:
    disks = (disk(0, raw_disk(tmp_path / "a", 16 * MIB)), disk(1, raw_disk(tmp_path / "b", 16 * MIB)))
    config = linux(guest_files, ID, *disks, machine=machine)
    await pair.source.start(config)
    await booted(pair.source, ID)
    async with shell(pair.source, ID) as console:
        await console.run("echo here >/mark; dd if=/dev/urandom of=/dev/vdb bs=1M count=4 2>/dev/null")
        await console.run("md5sum </dev/vdb >/digest; echo 3 >/proc/sys/vm/drop_caches")
        await console.run(WRITER.strip())
    for generation in (2, 3):
        done = await pair.move(replace(config, generation=generation))
        print(machine, done)
        async with shell(pair.source, ID) as console:
            assert await console.run("cat /mark") == "here"
            await console.run("echo 3 >/proc/sys/vm/drop_caches; [ \"$(md5sum </dev/vdb)\" = \"$(cat /digest)\" ]")
    print(await check_writes(pair))
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
        await console.run(f"i=0; until [ -e /sys/class/net/eth1 ] || [ $i = 50 ]; do i=$((i+1)); sleep 0.1; done")
        seen = await console.run("lspci 2>/dev/null; ls -d /sys/bus/pci/devices/*; cat /sys/block/vd*/serial /sys/class/net/*/address")
        for name in ("vdb", "vdc", "vdd"):
            await console.run(f"cat /sys/block/{name}/serial >/id.{name}; dd if=/id.{name} of=/dev/{name} conv=fsync 2>/dev/null")
    everything = replace(
        config, disks=(disks[0], moved, *disks[2:]), generation=2, nics=(other_nic(0), replace(other_nic(1), index=5))
    )
    done = await pair.move(everything)
    print(done)
    async with shell(pair.source, ID) as console:
        assert seen == await console.run("lspci 2>/dev/null; ls -d /sys/bus/pci/devices/*; cat /sys/block/vd*/serial /sys/class/net/*/address")
        for name in ("vdb", "vdc", "vdd"):
            await console.run(f"echo 3 >/proc/sys/vm/drop_caches; [ $(head -c 20 /dev/{name}) = $(head -c 20 /id.{name}) ]")
    await pair.source.detach_disk(ID, volume(2))
    await until(lambda: volume(2) not in pair.source.machines()[ID].disks)
    await pair.source.detach_nic(ID, guest.interface(1))
    await until(lambda: pair.source.machines()[ID].nics == (guest.interface(0),))
    await pair.source.attach_disk(ID, disks[2])
    await pair.source.attach_nic(ID, other_nic(1))
    async with shell(pair.source, ID) as console:
        await console.run("i=0; until [ -e /sys/class/net/eth1 ] || [ $i = 50 ]; do i=$((i+1)); sleep 0.1; done; [ -e /sys/class/net/eth1 ]")
    await pair.source.detach_disk(ID, volume(3), force=True)
    with pytest.raises(HypervisorError, match="has not let go"):
        await pair.source.layout(ID)
