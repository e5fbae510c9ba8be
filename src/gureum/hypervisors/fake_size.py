"""How much of vCPUs and memory machines of the hypervisor in memory have, and can have."""

from __future__ import annotations

from msgspec.structs import replace

from gureum.hypervisors.base import MachineConfig
from gureum.migrationspec import MachineLayout, Room
from gureum.sizespec import MachineSize


def at_start(config: MachineConfig) -> MachineSize | None:
    """None for a machine that keeps its size."""
    if config.incoming is not None:
        return _arrived(config.incoming.layout)
    if config.vcpus_max <= config.vcpus and config.memory_max_bytes <= config.memory_bytes:
        return None
    return MachineSize(
        vcpus=config.vcpus,
        memory_bytes=config.memory_bytes,
        vcpus_max=max(config.vcpus, config.vcpus_max),
        memory_min_bytes=config.memory_bytes,
        memory_max_bytes=max(config.memory_bytes, config.memory_max_bytes),
    )


def _arrived(layout: MachineLayout) -> MachineSize | None:
    room = layout.room
    if room is None:
        return None
    return MachineSize(
        vcpus=layout.vcpus,
        memory_bytes=layout.memory_bytes,
        vcpus_max=room.vcpus_max,
        memory_min_bytes=room.memory_bytes,
        memory_max_bytes=room.memory_max_bytes,
    )


def room(size: MachineSize | None) -> Room | None:
    if size is None:
        return None
    return Room(
        vcpus_max=size.vcpus_max, memory_bytes=size.memory_min_bytes, memory_max_bytes=size.memory_max_bytes
    )


def towards(size: MachineSize, vcpus: int, memory_bytes: int) -> MachineSize:
    """As near as it can come."""
    return replace(
        size,
        vcpus=max(size.vcpus_min, min(vcpus, size.vcpus_max)),
        memory_bytes=max(size.memory_min_bytes, min(memory_bytes, size.memory_max_bytes)),
    )
