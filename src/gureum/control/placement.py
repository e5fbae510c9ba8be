"""Which host runs an instance."""

from __future__ import annotations

from gureum.resources import Host, HostState, Instance, Volume
from gureum.services.ec2.capacity import Rooms, homes, serves
from gureum.services.ec2.instance_types import machine_size
from gureum.store.base import Reader


class NoCapacity(Exception):
    """No host can run it; the text says why, for people."""


class NoHost(NoCapacity):
    """None is up that could be asked: which may change when an agent or the manager has just started."""


async def choose_host(reader: Reader, instance: Instance) -> Host:
    """The host with the most free memory that can run ``instance``. Raises NoCapacity, or NoHost.

    A volume on a local pool binds the instance to that pool's host, and so does a snapshot to be cloned.
    """
    size = machine_size(instance.type)
    bound = await homes(reader, await reader.find(Volume, instances=instance.id))
    if len(bound) > 1:
        raise NoCapacity("its volumes, or what they are made from, are on different hosts")
    hosts = [host for host in await reader.find(Host) if serves(host, instance.zone)]
    if not hosts:
        raise NoHost(f"zone {instance.zone} has no host")
    up = [host for host in hosts if host.state is HostState.up and (not bound or host.id in bound)]
    if not up:
        raise NoHost(f"no host of zone {instance.zone} is up")
    if all(host.draining for host in up):
        raise NoCapacity(f"{', '.join(host.id for host in up)} cannot take it, being drained")
    room = (await Rooms.of_hosts(reader, up, besides=instance.id)).emptiest(size)
    if room is None:
        raise NoCapacity(
            f"no host of zone {instance.zone} has {size.vcpus} vCPUs and"
            f" {size.memory_bytes / 2**30:g} GiB of memory left"
        )
    return room.host
