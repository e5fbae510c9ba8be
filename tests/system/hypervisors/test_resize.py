"""Machines that grow and shrink while they run: the fake's and QEMU's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from gureum.errors import HypervisorError
from gureum.hypervisors.base import Hypervisor, MachineConfig
from gureum.hypervisors.fake import FakeHypervisor
from gureum.hypervisors.qemu.hypervisor import QemuHypervisor
from gureum.sizespec import MachineSize

from . import guest
from .guest import ID, MIB, Shell, bare, disk, linux, raw_disk, shell
from .pair import Pair, check_writes, start_writes

SECONDS = 120.0
IN_MEMORY = "/written"
"""A file that is nowhere else."""
START, MORE, MOST = 192 * MIB, (192 + 256) * MIB, (192 + 512) * MIB


@pytest.fixture
def config(pair: Pair, request: pytest.FixtureRequest) -> MachineConfig:
    """With one vCPU, room for three, and for 512 MiB more."""
    if isinstance(pair.source, FakeHypervisor):
        machine = replace(bare(ID), memory_bytes=START)
    else:
        machine = linux(request.getfixturevalue("guest_files"), ID)
    return replace(machine, vcpus_max=3, memory_max_bytes=MOST)


async def has(hypervisor: Hypervisor, vcpus: int, memory_bytes: int) -> MachineSize:
    """Wait until the machine has this, and nothing else."""
    async with asyncio.timeout(SECONDS):
        while True:
            size = hypervisor.machines()[ID].size
            if size is not None and (size.vcpus, size.memory_bytes) == (vcpus, memory_bytes):
                return size
            await asyncio.sleep(0.05)


async def eventually(console: Shell, command: str, good: Callable[[str], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not good(await console.run(command, seconds=SECONDS)):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


ONLINE = (
    "for cpu in /sys/devices/system/cpu/cpu[1-9]*; do [ ! -e $cpu ] || [ $(cat $cpu/online) = 1 ]"
    " || echo 1 >$cpu/online; done; nproc"
)
TOTAL = "while read name size unit; do [ $name != MemTotal: ] || echo $size; done </proc/meminfo"


async def test_grows_and_shrinks(pair: Pair, config: MachineConfig) -> None:
    await pair.source.start(config)
    size = await has(pair.source, 1, START)
    assert (size.vcpus_max, size.memory_min_bytes, size.memory_max_bytes) == (3, START, MOST)
    real = isinstance(pair.source, QemuHypervisor)
    if real:
        await guest.booted(pair.source, ID)
    await pair.source.resize(ID, 2, MORE)
    await pair.source.resize(ID, 2, MORE)
    await has(pair.source, 2, MORE)
    if real:
        async with shell(pair.source, ID) as console:
            await eventually(console, ONLINE, lambda said: said == "2")
            await eventually(console, TOTAL, lambda said: int(said) > 250 * 1024)
            await console.run("echo here >/mark")
    await pair.restart(0)
    assert await has(pair.source, 2, MORE) == replace(
        size, vcpus=2, memory_bytes=MORE, vcpus_min=2 if real else 1
    )
    await pair.source.resize(ID, 9, MOST + 512 * MIB)
    await has(pair.source, 3, MOST)
    await pair.source.resize(ID, 3, START - 64 * MIB)
    await has(pair.source, 3, START)
    if real:
        async with shell(pair.source, ID) as console:
            await eventually(console, ONLINE, lambda said: said == "3")
            await eventually(console, TOTAL, lambda said: int(said) < 192 * 1024)
            assert await console.run("cat /mark") == "here"  # it is in memory, so it never rebooted


async def test_vcpus_go_where_they_can(pair: Pair, config: MachineConfig) -> None:
    await pair.source.start(replace(config, vcpus=2))
    await has(pair.source, 2, START)
    await pair.source.resize(ID, 1, START)
    if isinstance(pair.source, FakeHypervisor):
        await has(pair.source, 1, START)
        return
    size = pair.source.machines()[ID].size  # emulated
    assert size is not None
    assert (size.vcpus, "cannot take a vCPU" in size.stuck) == (2, True)
    await pair.source.resize(ID, 2, START)
    size = pair.source.machines()[ID].size
    assert size is not None
    assert size.stuck == ""


async def test_moves_with_what_it_has(pair: Pair, config: MachineConfig, tmp_path: Path) -> None:
    real = isinstance(pair.source, QemuHypervisor)
    # QEMU gives a disk as many queues as there are vCPUs at first, and here these are others at each end.
    config = replace(config, disks=(disk(0, raw_disk(tmp_path / "disk", 16 * MIB)),))
    await pair.source.start(config)
    if real:
        await guest.booted(pair.source, ID)
    await pair.source.resize(ID, 2, MORE)
    await has(pair.source, 2, MORE)
    if real:
        with pytest.raises(HypervisorError, match="has got memory while it ran"):
            await pair.source.layout(ID)
    await pair.source.resize(ID, 2, START)
    await has(pair.source, 2, START)
    if real:
        await start_writes(pair, IN_MEMORY)
    await pair.move(replace(config, generation=2))
    await has(pair.source, 2, START)
    if real:
        await check_writes(pair, IN_MEMORY)
    await pair.source.resize(ID, 3, MORE)
    await has(pair.source, 3, MORE)
    if real:
        async with shell(pair.source, ID) as console:
            await eventually(console, ONLINE, lambda said: said == "3")
            await eventually(console, TOTAL, lambda said: int(said) > 250 * 1024)


async def test_keeps_its_size(pair: Pair) -> None:
    await pair.source.start(bare(ID))
    assert pair.source.machines()[ID].size is None
    with pytest.raises(HypervisorError, match="without room to grow"):
        await pair.source.resize(ID, 2, 512 * MIB)
    await pair.source.power_off(ID)
    with pytest.raises(HypervisorError, match="off"):
        await pair.source.resize(ID, 2, 512 * MIB)


AGENT = r"""
port=/dev/$(basename $(dirname $(grep -l guest_agent /sys/class/virtio-ports/*/name)))
exec 3<>$port
list() {
  before=
  for thing in /sys/devices/system/$1/$1[0-9]*; do
    case $(cat $thing/$2 2>/dev/null || echo 1) in 0 | offline) online=false ;; *) online=true ;; esac
    printf '%s{"%s": %s, "online": %s}' "$before" $3 ${thing##*/$1} $online
    before=", "
  done
}
while true; do
  IFS= read -r line <&3 || { sleep 0.1; continue; }
  numbers=$(echo "$line" | grep -o '"[a-z]*-[a-z]*":[0-9]*' | tr -cd '0-9\n')
  case $line in
    *guest-sync-delimited*) printf '\377{"return": %s}\n' "$(echo "$line" | tr -cd 0-9)" >&3 ;;
    *guest-get-vcpus*) printf '{"return": [%s]}\n' "$(list cpu online logical-id)" >&3 ;;
    *guest-get-memory-blocks*) printf '{"return": [%s]}\n' "$(list memory state phys-index)" >&3 ;;
    *guest-set-vcpus*) for n in $numbers; do echo 1 >/sys/devices/system/cpu/cpu$n/online; done
                       printf '{"return": 1}\n' >&3 ;;
    *guest-set-memory-blocks*)
      for n in $numbers; do echo online >/sys/devices/system/memory/memory$n/state; done
      printf '{"return": []}\n' >&3 ;;
  esac
done
"""
"""Speaks just enough. A read ends at once while nobody is connected on the host's side."""


@pytest.mark.qemu
@pytest.mark.root
async def test_a_guest_is_told_to_use_what_it_got(
    hypervisor: QemuHypervisor, guest_files: guest.GuestFiles
) -> None:
    await hypervisor.start(replace(linux(guest_files, ID), vcpus_max=2, memory_max_bytes=MORE))
    await guest.booted(hypervisor, ID)
    async with shell(hypervisor, ID) as console:
        await console.run("echo offline >/sys/devices/system/memory/auto_online_blocks")
        await console.run(f"cat >/agent <<'END'\n{AGENT}\nEND")
        await console.run("sh /agent >/dev/null 2>&1 &")
        await hypervisor.resize(ID, 2, MORE)
        await has(hypervisor, 2, MORE)
        await eventually(console, "nproc", lambda said: said == "2")
        await eventually(console, TOTAL, lambda said: int(said) > 250 * 1024)
