"""Which host runs an instance."""

from __future__ import annotations

from collections.abc import Collection

from gureum.resources import Host, HostState, Instance, Volume
from gureum.services.ec2.capacity import Rooms, homes, serves
from gureum.services.ec2.instance_types import machine_size
from gureum.store.base import Reader


class NoCapacity(Exception):
    """No host can run it; the text says why, for people."""


class NoHost(NoCapacity):
    """None is up that could be asked: which may change when an agent or the manager has just started."""


def unlike(source: Host, host: Host) -> str:
    """Why what runs on ``source`` can't go on at ``host``, "" if it can."""
    if host.accelerator != source.accelerator:
        return f"host {host.id} runs guests by {host.accelerator}, and {source.id} by {source.accelerator}"
    if host.cpu != source.cpu:
        return f"host {host.id} has another CPU than {source.id}: {host.cpu}, and not {source.cpu}"
    if not host.address or not source.address:
        return f"hosts {source.id} and {host.id} do not reach each other"
    return ""


async def choose_host(
    reader: Reader, instance: Instance, but: Collection[str] = (), like: Host | None = None
) -> Host:
    """The host with the most free memory that can run ``instance``. Raises NoCapacity, or NoHost.

    A volume on a local pool binds the instance to that pool's host, and so does a snapshot to be cloned.
    ``but``: none of these hosts. ``like``: one where what runs on this host can go on.
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
    up = [host for host in up if host.id not in but]
    if like is not None:
        reasons = [reason for host in up if (reason := unlike(like, host))]
        up = [host for host in up if not unlike(like, host)]
        if reasons and not up:
            raise NoCapacity("; ".join(reasons))
    if not up:
        raise NoCapacity(f"no other host of zone {instance.zone} can take it now")
    if all(host.draining for host in up):
        raise NoCapacity(f"{', '.join(host.id for host in up)} cannot take it, being drained")
    room = (await Rooms.of_hosts(reader, up, besides=instance.id)).emptiest(size)
    if room is None:
        raise NoCapacity(
            f"no host of zone {instance.zone} has {size.vcpus} vCPUs and"
            f" {size.memory_bytes / 2**30:g} GiB of memory left"
        )
    return room.host
