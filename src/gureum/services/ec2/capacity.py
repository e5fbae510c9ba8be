"""What the hosts have room for: one arithmetic for the services, which refuse, and for placement.

It is asked inside the transaction that takes the room. Transactions follow one another, so what one has
taken the next one sees, also where placement has not chosen the host yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from gureum.errors import ApiError
from gureum.resources import Host, HostState, Instance, InstanceState, Pool, Snapshot, Volume
from gureum.resources.volume import shared
from gureum.services.ec2.instance_types import InstanceType, machine_size
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


def anywhere(volumes: Iterable[Volume]) -> bool:
    """Whether any host can run a stopped instance with these volumes."""
    bound = [volume.bound for volume in volumes]
    return bool(bound) and not any(bound)


class Room:
    """What is left of one host, in vCPUs and bytes of memory."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.cpus = host.cpus * CPU_OVERCOMMIT
        self.memory_bytes = (host.memory_bytes - HOST_MEMORY_BYTES) * MEMORY_OVERCOMMIT

    def fits(self, size: InstanceType) -> bool:
        """Never on a host that is being drained, or is cut off from the others."""
        enough = self.memory_bytes >= size.memory_bytes + MACHINE_MEMORY_BYTES and self.cpus >= size.vcpus
        return enough and not (self.host.draining or self.host.uplink_down)

    def take(self, size: InstanceType, count: int = 1) -> None:
        self.cpus -= size.vcpus * count
        self.memory_bytes -= (size.memory_bytes + MACHINE_MEMORY_BYTES) * count


class Rooms:
    """What is left of the hosts of a zone that are up."""

    def __init__(self, rooms: Iterable[Room]) -> None:
        self._rooms = list(rooms)

    @classmethod
    async def of_hosts(cls, reader: Reader, hosts: Iterable[Host], besides: str = "") -> Rooms:
        """What is left by the instances that are placed there, but for one."""
        rooms = [Room(host) for host in hosts]
        for room in rooms:
            placed = await reader.find(
                Instance, host=room.host.id, state=[str(state) for state in TAKES_ROOM]
            )
            types = Counter(instance.type for instance in placed if instance.id != besides)
            for type, count in types.items():
                room.take(machine_size(type), count)
        return cls(rooms)

    @classmethod
    async def of_zone(cls, reader: Reader, zone: str) -> Rooms:
        """What is left by all that was accepted, placed or not. Empty if no host is known to be up."""
        hosts = [host for host in await reader.find(Host) if host.state is HostState.up]
        rooms = await cls.of_hosts(reader, [host for host in hosts if serves(host, zone)])
        if rooms:
            for instance in await reader.find(Instance, state=str(InstanceState.pending)):
                if instance.host is None:
                    rooms.take(machine_size(instance.type), zone=instance.zone)
        return rooms

    def __bool__(self) -> bool:
        return bool(self._rooms)

    def has(self, host: str) -> bool:
        return any(room.host.id == host for room in self._rooms)

    def drained(self, hosts: Collection[str]) -> bool:
        """Whether all of these hosts take no more instances."""
        return all(room.host.draining for room in self._rooms if room.host.id in hosts)

    def emptiest(self, size: InstanceType, zone: str = "", only: Collection[str] = ()) -> Room | None:
        """The one with the most free memory that can hold such a machine; ``only``: one of these hosts."""
        fitting = [
            room
            for room in self._rooms
            if (not zone or serves(room.host, zone))
            and (not only or room.host.id in only)
            and room.fits(size)
        ]
        return max(fitting, key=lambda room: (room.memory_bytes, room.host.id), default=None)

    def take(self, size: InstanceType, count: int = 1, zone: str = "", only: Collection[str] = ()) -> int:
        """Give room to so many machines, each as placement will; how many of them got it."""
        for given in range(count):
            room = self.emptiest(size, zone, only)
            if room is None:
                return given
            room.take(size)
        return count


def serves(host: Host, zone: str) -> bool:
    return host.zone in (zone, EVERY_ZONE)


async def homes(reader: Reader, volumes: Iterable[Volume]) -> set[str]:
    """The hosts that volumes on local pools, or on their way, or what they are made from, bind to."""
    volumes = [volume for volume in volumes if volume.bound]
    sources = await reader.get_many(Snapshot, {volume.source for volume in volumes if volume.host is None})
    found = [*(volume.host for volume in volumes), *(snapshot.host for snapshot in sources)]
    return {host for host in found if host is not None}


def insufficient(text: str) -> ApiError:
    """As EC2, for which a lack of room is an error of the server (so that clients try again)."""
    return ApiError("InsufficientInstanceCapacity", text, status=500)


async def no_room(reader: Reader, type: str, zone: str) -> ApiError:
    """The error for a launch for which ``launchable`` found no room."""
    hosts = [each for each in await reader.find(Host) if each.state is HostState.up and serves(each, zone)]
    if hosts and all(host.draining for host in hosts):
        named = ", ".join(sorted(host.id for host in hosts))
        which = f"its only host, {named}, is" if len(hosts) == 1 else f"{named}, its only hosts, are"
        return insufficient(
            f"We currently do not have {type} capacity in the Availability Zone you requested ({zone}): "
            f"{which} being drained. Activate one, or choose another zone, and try again."
        )
    return insufficient(
        f"We currently do not have sufficient {type} capacity in the Availability Zone you requested "
        f"({zone}). Stop or terminate other instances, or choose a smaller instance type, and try again."
    )


async def require_room_in(reader: Reader, pool: str) -> None:
    """Raises InsufficientVolumeCapacity while nothing new is made in a shared pool: it is nearly full."""
    record = await reader.get(Pool, pool) if shared(pool) else None
    if record is not None and record.full:
        raise ApiError(
            "InsufficientVolumeCapacity",
            f"There is not enough capacity to fulfill your EBS volume provision request: {record.message}. "
            "Delete volumes and snapshots that are not needed, or add storage, and try again.",
            status=500,
        )


async def launchable(reader: Reader, zone: str, type: str, count: int, sources: Collection[str]) -> int:
    """How many of ``count`` new instances have room. ``sources``: the snapshots of which disks are made.

    All of them while no host is up that could be asked: they wait for one.
    """
    rooms = await Rooms.of_zone(reader, zone)
    snapshots = await reader.get_many(Snapshot, sources)
    bound = [snapshot.host for snapshot in snapshots if not shared(snapshot.pool)]
    only = {host for host in bound if host is not None}
    if not rooms or (only and not any(rooms.has(host) for host in only)):
        return count
    return rooms.take(machine_size(type), count, only=only)


class StartCheck:
    """Whether stopped instances can start, one after the other, in one transaction."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._zones: dict[str, Rooms] = {}

    async def start(self, instance: Instance) -> None:
        """Raises InsufficientInstanceCapacity. Where no host is up the start waits for one."""
        rooms = self._zones.get(instance.zone)
        if rooms is None:
            rooms = self._zones[instance.zone] = await Rooms.of_zone(self._reader, instance.zone)
        volumes = await self._reader.find(Volume, instances=instance.id)
        only = await homes(self._reader, volumes)
        if not only and instance.host is not None and not anywhere(volumes):
            only = {instance.host}
        if not rooms or (only and not any(rooms.has(host) for host in only)):
            return
        if not rooms.take(machine_size(instance.type), only=only):
            if only and rooms.drained(only):
                raise insufficient(
                    f"Insufficient capacity: the host of instance '{instance.id}' "
                    f"({', '.join(sorted(only))}) is being drained. Activate the host, and try again."
                )
            raise insufficient(
                f"Insufficient capacity: the host of instance '{instance.id}' has no room for another "
                f"{instance.type} now. Stop or terminate other instances, or change its instance type."
            )
