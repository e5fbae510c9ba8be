"""With how many vCPUs and how much memory a machine starts, and what it can grow to while it runs.

CPUs come and go by ACPI, memory by a virtio-mem device, whose guest takes and gives back blocks of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gureum.hypervisors.base import MachineConfig
from gureum.hypervisors.qemu.node import Node
from gureum.migrationspec import Room

MIB = 1024 * 1024

UNEVEN_KIB = 8
"""The least by which QEMU lets a memory's size differ."""
BLOCK_BYTES = 2 * MIB
"""In which virtio-mem gives and takes. Linux takes 128 MiB at a time at first."""
CPUS_MAX = 255
"""What can be addressed without an interrupt remapper."""
OVERCOMMIT, STRICT = Path("/proc/sys/vm/overcommit_memory"), "2"
BACKEND, DEVICE = "growth", "memory"


def room_of(config: MachineConfig, micro: bool, accelerator: str) -> Room | None:
    """None for a machine that keeps its size: a microvm has no hot-plug."""
    if config.incoming is not None:
        return config.incoming.layout.room
    memory_bytes = config.memory_bytes // MIB * MIB
    more_bytes = max(0, config.memory_max_bytes - memory_bytes) // BLOCK_BYTES * BLOCK_BYTES
    vcpus_max = min(CPUS_MAX, config.vcpus_max)
    if micro or (not more_bytes and vcpus_max <= config.vcpus):
        return None
    # As EC2's CpuOptions have it: cores, and threads of each. The CPU that TCG emulates cannot show threads
    # (QEMU says so with a warning): there each is a core.
    threads = config.threads if accelerator == "kvm" else 1
    if config.vcpus % threads or vcpus_max % threads:
        threads = 1
    return Room(
        threads=threads,
        vcpus_max=max(config.vcpus, vcpus_max),
        memory_bytes=memory_bytes,
        memory_max_bytes=memory_bytes + more_bytes,
    )


def reserves_all(setting: Path = OVERCOMMIT) -> bool:
    """Whether the kernel counts memory that is not to be reserved, too: then room to grow costs as much as
    what it is for (vm.overcommit_memory).
    """
    try:
        return setting.read_text().strip() == STRICT
    except OSError:
        return False


def processors(config: MachineConfig, room: Room | None, accelerator: str) -> str:
    if room is None:
        threads = config.threads if accelerator == "kvm" and config.vcpus % config.threads == 0 else 1
        return f"{config.vcpus},sockets=1,cores={config.vcpus // threads},threads={threads}"
    vcpus = config.incoming.layout.vcpus if config.incoming is not None else config.vcpus
    cores = room.vcpus_max // room.threads
    return f"{vcpus},maxcpus={room.vcpus_max},sockets=1,cores={cores},threads={room.threads}"


def memory(config: MachineConfig, room: Room | None, accelerator: str) -> str:
    """Under TCG 8 KiB more than a multiple of 256 KiB.

    QEMU tells what the guest has written since the last pass of a migration in words of 64 pages where the
    memory is a multiple of that, and forgets then to tell TCG: writes are lost, and the guest dies on the
    other host. Page by page it does both. (Its commit 03bfc2188f07, of 9.0, mends it in part at most: with
    10.0.13 guests still die.)
    """
    if room is None:
        return f"{_kib(config.memory_bytes, accelerator)}K"
    kib = _kib(room.memory_bytes, accelerator)
    return f"{kib}K,maxmem={kib + _more(room) // 1024}K" if _more(room) else f"{kib}K"


def _more(room: Room) -> int:
    return room.memory_max_bytes - room.memory_bytes


def _kib(memory_bytes: int, accelerator: str) -> int:
    kib = memory_bytes // MIB * 1024
    return kib + UNEVEN_KIB if accelerator == "tcg" else kib


def objects(room: Room | None) -> Iterable[Node]:
    if room is not None and _more(room):
        # Not reserved: most of it is never used.
        yield {"qom-type": "memory-backend-ram", "id": BACKEND, "size": _more(room), "reserve": False}


def devices(room: Room | None, place: Node) -> Iterable[Node]:
    if room is not None and _more(room):
        yield {
            "driver": "virtio-mem-pci",
            "id": DEVICE,
            "memdev": BACKEND,
            "block-size": BLOCK_BYTES,
            "requested-size": 0,
            **place,
        }
