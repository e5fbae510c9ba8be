"""Which host runs an instance."""

from __future__ import annotations

from collections import Counter

from gureum.resources import Host, HostState, Instance, InstanceState, Snapshot, Volume
from gureum.services.ec2.instance_types import machine_size
from gureum.store.base import Reader

CPU_OVERCOMMIT = 16.0
MEMORY_OVERCOMMIT = 1.0
HOST_MEMORY_BYTES = 1 << 30
"""What a host keeps for itself: a host without memory ends guests."""
MACHINE_MEMORY_BYTES = 128 << 20
"""What a machine takes besides its guest's memory: the hypervisor's own, and translated code."""

EVERY_ZONE = ""
"""The zone of a host that stands for all zones: the only one of a small cloud."""

TAKES_ROOM = (
    InstanceState.pending,
    InstanceState.running,
    InstanceState.stopping,
    InstanceState.shutting_down,
)


class NoCapacity(Exception):
    """No host can run it; the text says why, for people."""


class NoHost(NoCapacity):
    """None is up that could be asked: which may change when an agent or the manager has just started."""


async def choose_host(reader: Reader, instance: Instance) -> Host:
    """The host with the most free memory that can run ``instance``. Raises NoCapacity, or NoHost.

    A volume on a local pool binds the instance to that pool's host, and so does a snapshot to be cloned.
    """
    size = machine_size(instance.type)
    volumes = await reader.find(Volume, instance=instance.id)
    sources = await reader.get_many(Snapshot, {volume.source for volume in volumes if volume.host is None})
    homes = [*(volume.host for volume in volumes), *(snapshot.host for snapshot in sources)]
    bound = {host for host in homes if host is not None}
    if len(bound) > 1:
        raise NoCapacity("its volumes, or what they are made from, are on different hosts")
    hosts = [host for host in await reader.find(Host) if host.zone in (instance.zone, EVERY_ZONE)]
    if not hosts:
        raise NoHost(f"zone {instance.zone} has no host")
    hosts = [host for host in hosts if not bound or host.id in bound]
    up = [host for host in hosts if host.state is HostState.up]
    if not up:
        raise NoHost(f"no host of zone {instance.zone} is up")
    best: tuple[float, Host] | None = None
    for host in up:
        cpus, memory = await _used(reader, host, instance.id)
        free = (host.memory_bytes - HOST_MEMORY_BYTES) * MEMORY_OVERCOMMIT - memory
        if free < size.memory_bytes + MACHINE_MEMORY_BYTES or host.cpus * CPU_OVERCOMMIT - cpus < size.vcpus:
            continue
        if best is None or (free, host.id) > (best[0], best[1].id):
            best = free, host
    if best is None:
        raise NoCapacity(
            f"no host of zone {instance.zone} has {size.vcpus} vCPUs and"
            f" {size.memory_bytes / 2**30:g} GiB of memory left"
        )
    return best[1]


async def _used(reader: Reader, host: Host, besides: str) -> tuple[int, int]:
    """vCPUs and memory bytes that are given away on a host."""
    placed = await reader.find(Instance, host=host.id, state=[str(state) for state in TAKES_ROOM])
    types = Counter(instance.type for instance in placed if instance.id != besides)
    sizes = [(machine_size(type), count) for type, count in types.items()]
    return (
        sum(size.vcpus * count for size, count in sizes),
        sum((size.memory_bytes + MACHINE_MEMORY_BYTES) * count for size, count in sizes),
    )
