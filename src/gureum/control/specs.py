"""What should be on a host: its HostSpec, read out of the store in one snapshot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from gureum.control.keys import KeyStore, keys_of
from gureum.control.machines import accepted, addresses
from gureum.control.neighbours import Neighbours
from gureum.control.networks import Networks, by_id
from gureum.control.passages import Passages
from gureum.control.shares import Shares, shared_pools
from gureum.dns import private_name, public_name
from gureum.fencespec import FenceSpec
from gureum.hostspec import (
    DiskSpec,
    HostSpec,
    ImageSpec,
    MachineSpec,
    Metadata,
    MetadataInterface,
    NicSpec,
    SnapshotSpec,
    VolumeSpec,
)
from gureum.resources import (
    AttachmentState,
    Host,
    HostState,
    Image,
    ImageState,
    Instance,
    InstanceState,
    InterfaceAttachment,
    ManagerMachine,
    NetworkInterface,
    SecurityGroup,
    Snapshot,
    SnapshotState,
    Subnet,
    Volume,
    VolumeState,
    Vpc,
)
from gureum.resources.volume import shared
from gureum.services.ec2.instance_types import growth, machine_size
from gureum.services.operation import Cloud
from gureum.store.base import Reader

_ID = attrgetter("id")
STOP_SECONDS = 90.0
"""How long a guest may take to answer the power button when it is stopped; EC2 takes minutes."""
TERMINATE_SECONDS = 20.0
"""The same when it is terminated."""

ON_HOST = (
    InstanceState.pending,
    InstanceState.running,
    InstanceState.stopping,
    InstanceState.stopped,
    InstanceState.shutting_down,
)


async def host_spec(
    reader: Reader,
    cloud: Cloud,
    host: str,
    neighbours: Neighbours | None = None,
    keys: KeyStore | None = None,
) -> HostSpec:
    """Everything that should be on ``host`` at the reader's revision.

    ``neighbours`` at that revision, if they are known: then it costs what the host holds. Without ``keys``
    what is encrypted can't be opened.
    """
    passages = await Passages.load(reader, host)
    instances = await reader.find(Instance, host=host, state=[str(state) for state in ON_HOST])
    instances = sorted((*instances, *passages.guests), key=_ID)
    volumes = await reader.find(Volume, host=host)
    volumes += await _opened(reader, cloud, passages, instances, volumes)
    snapshots = await reader.find(Snapshot, host=host)
    interfaces = await reader.find(NetworkInterface, instance=[instance.id for instance in instances])
    sources = {volume.source for volume in volumes if volume.source.startswith("ami-")}
    images = await reader.get_many(Image, sources | {instance.image for instance in instances})
    shares = await Shares.load(reader, cloud, host, volumes, snapshots)
    images = sorted(({each.id: each for each in (*images, *shares.images)}).values(), key=_ID)
    volume_keys = await keys_of(reader, keys, volumes) if keys is not None else {}
    networks = await Networks.load(reader, cloud, host, neighbours)
    views = await _Views.load(reader, interfaces)
    volumes_of: dict[str, list[Volume]] = defaultdict(list)
    for volume in volumes:
        for instance in volume.instances:
            volumes_of[instance].append(volume)
    interfaces_of: dict[str, list[NetworkInterface]] = defaultdict(list)
    for interface in interfaces:
        interfaces_of[str(interface.instance)].append(interface)
    image_by_id = {image.id: image for image in images}
    hosts = by_id(await reader.find(Host)) if cloud.recovers else {}
    own = hosts.get(host)
    given_up = own is not None and own.fence is not None
    here, copies = {instance.id for instance in instances}, passages.copies
    managers = await reader.find(ManagerMachine)
    return HostSpec(
        cloud=cloud.name,
        host=host,
        revision=reader.revision,
        machines=tuple(
            machine
            for instance in instances
            if (
                machine := passages.machine(
                    instance,
                    _machine(
                        instance,
                        image_by_id.get(instance.image),
                        volumes_of[instance.id],
                        interfaces_of[instance.id],
                        _metadata(cloud, views, instance, interfaces_of[instance.id]),
                        given_up,
                    ),
                )
            )
            is not None
        ),
        volumes=tuple(
            _volume(volume, shares, volume_keys.get(volume.key, b""), passages, here)
            for volume in volumes
            if volume.state is not VolumeState.error
            and (
                volume.id in copies
                or volume.id in passages.volumes
                or host in volume.holders
                or not shares.awaited(volume)
            )
            and (keys is None or not volume.key or volume.key in volume_keys)
        ),
        snapshots=tuple(_snapshot(snapshot) for snapshot in snapshots if not shares.awaited(snapshot)),
        images=tuple(_image(image, shares) for image in images if image.disk),
        network=networks.spec(),
        fences=tuple(_fences(hosts.values(), host)),
        lifted=own.lifted if own is not None else 0,
        managers=addresses(managers),
        manager_keys=accepted(managers),
    )


def _fences(hosts: Iterable[Host], by: str) -> Iterator[FenceSpec]:
    """Those that this host is to carry out, and hosts that it is to look at."""
    for host in hosts:
        if host.state is HostState.fencing and host.fence is not None and host.fence.by == by:
            yield FenceSpec(host=host.id, number=host.fence.number)
        elif host.state is HostState.down and host.watcher == by:
            yield FenceSpec(host=host.id, number=0)


def _image(image: Image, shares: Shares) -> ImageSpec:
    return ImageSpec(
        id=image.id,
        disk=image.disk,
        format=image.disk_format,
        size_bytes=image.disk_bytes,
        pools=shares.pools_of(image),
        present=image.state is not ImageState.deregistered,
    )


async def _opened(
    reader: Reader, cloud: Cloud, passages: Passages, instances: Sequence[Instance], kept: Sequence[Volume]
) -> list[Volume]:
    """Volumes that machines here have or get, or that are to be let go of, and another host looks after."""
    copies = passages.copies
    if not copies and not shared_pools(cloud) and not any(shared(volume.pool) for volume in kept):
        return []
    attached = await reader.find(Volume, instances=[instance.id for instance in instances])
    opened = {volume.id: volume for volume in attached if volume.multi_attach}
    wanted = {*passages.volumes, *copies}
    opened |= {volume.id: volume for volume in await reader.get_many(Volume, wanted)}
    opened |= {volume.id: volume for volume in await reader.find(Volume, holders=passages.host)}
    return [volume for _, volume in sorted(opened.items()) if volume.host != passages.host]


def _volume(
    volume: Volume, shares: Shares, key: bytes, passages: Passages, here: Container[str]
) -> VolumeSpec:
    """``here``: the instances that have a machine on the host."""
    machines = (each for each in volume.instances if each in here or not volume.multi_attach)
    lost = shares.lost(volume, but=passages.host) if shared(volume.pool) else ()
    keeper = volume.host == passages.host
    if not keeper and volume.id in passages.copies:
        return _copy(volume, key, passages)
    return VolumeSpec(
        id=volume.id,
        size_bytes=volume.size_bytes,
        pool=volume.pool,
        source=volume.source,
        source_volume=shares.volumes.get(volume.source, ""),
        key=key,
        encrypts=volume.encrypts,
        source_bytes=volume.source_bytes,
        machine=next(machines, passages.volumes.get(volume.id, "")) if any(map(shared, volume.pools)) else "",
        multi_attach=volume.multi_attach,
        keeper=keeper,
        receives=passages.receives(volume),
        takes=passages.takes(volume),
        evict=lost,
        evict_at=volume.lost_at if lost else {},
        target=volume.target if keeper else "",
        # What a lost host was copying to is taken from it as well, and begun anew when it is gone.
        leaves=(volume.pools[1:] if lost else volume.leaves) if keeper else (),
        releases=volume.pools if not keeper and passages.host in volume.holders else (),
        iops=volume.iops,
        throughput=volume.throughput,
        made=volume.state in (VolumeState.available, VolumeState.in_use),
        # Who only had it open does not delete it.
        present=volume.state is not VolumeState.deleting or not keeper,
    )


def _copy(volume: Volume, key: bytes, passages: Passages) -> VolumeSpec:
    """Of a volume in another host's own pool, in this one's: from nothing, or what was the volume itself."""
    return VolumeSpec(
        id=volume.id,
        size_bytes=volume.size_bytes,
        key=key,
        iops=volume.iops,
        throughput=volume.throughput,
        keeper=False,
        receives=passages.receives(volume),
        made=not passages.receives(volume),
        present=passages.copies[volume.id],
    )


def _snapshot(snapshot: Snapshot) -> SnapshotSpec:
    """One that failed must not be there either: it may have been begun, and be completed by chance."""
    return SnapshotSpec(
        id=snapshot.id,
        volume=snapshot.taken_of,
        pool=snapshot.pool,
        zeros=bool(snapshot.staging and snapshot.key),
        made=snapshot.state is SnapshotState.completed,
        present=snapshot.state in (SnapshotState.pending, SnapshotState.completed),
    )


def _machine(
    instance: Instance,
    image: Image | None,
    volumes: Sequence[Volume],
    interfaces: Sequence[NetworkInterface],
    metadata: Metadata,
    given_up: bool = False,
) -> MachineSpec:
    """``given_up``: its host is, so nothing is to run there."""
    size, room = machine_size(instance.type), growth(instance.type)
    wanted = instance.state in (InstanceState.pending, InstanceState.running)
    return MachineSpec(
        id=instance.id,
        generation=instance.generation,
        run=wanted and not (instance.capturing or instance.restart_at or instance.leaving or given_up),
        shutdown_seconds=0.0 if given_up or instance.leaving else _shutdown_seconds(instance),
        reboots=instance.reboots,
        vcpus=size.vcpus,
        threads=size.threads,
        memory_bytes=size.memory_bytes,
        vcpus_max=room.vcpus,
        memory_max_bytes=room.memory_bytes,
        cpu=instance.cpu,
        machine=image.machine if image else "q35",
        kernel=image.kernel if image else "",
        initrd=image.initrd if image else "",
        cmdline=image.cmdline if image else "",
        disks=_disks(instance, volumes),
        force_detach=tuple(
            volume.id
            for volume in volumes
            if (attachment := volume.attached_to(instance.id)) is not None and attachment.force
        ),
        nics=tuple(
            NicSpec(interface=interface.id, mac=interface.mac, index=interface.device_index)
            for interface in sorted(interfaces, key=lambda each: each.device_index)
            if interface.attachment_state is not InterfaceAttachment.detaching
        ),
        force_detach_nics=tuple(interface.id for interface in interfaces if interface.force_detach),
        metadata=metadata,
    )


def _shutdown_seconds(instance: Instance) -> float:
    if instance.force:
        return 0.0
    return TERMINATE_SECONDS if instance.state is InstanceState.shutting_down else STOP_SECONDS


def _disks(instance: Instance, volumes: Iterable[Volume]) -> tuple[DiskSpec, ...]:
    """The root disk first, the others in the order of their device names, which is the guest's order too."""
    wanted = [
        (attachment.device, volume.id)
        for volume in volumes
        if (attachment := volume.attached_to(instance.id)) is not None
        and attachment.state is not AttachmentState.detaching
    ]

    def order(disk: tuple[str, str]) -> tuple[bool, str]:
        return disk[0] != instance.root_device, disk[0]

    return tuple(
        DiskSpec(
            volume=volume, device=device, index=0 if device == instance.root_device else max(position, 1)
        )
        for position, (device, volume) in enumerate(sorted(wanted, key=order))
    )


def _block_devices(instance: Instance) -> dict[str, str]:
    """block-device-mapping/ of the metadata service: as EC2 names them, without /dev/."""
    root = instance.root_device.rpartition("/")[2]
    others = [device.device for device in instance.devices if device.device != instance.root_device]
    mapping = {"ami": root, "root": instance.root_device}
    for number, device in enumerate(sorted(others), 1):
        mapping[f"ebs{number}"] = device.rpartition("/")[2]
    return mapping


class _Views(NamedTuple):
    """What the metadata service tells of a set of interfaces, each record read once."""

    vpcs: dict[str, Vpc]
    subnets: dict[str, Subnet]
    groups: dict[str, SecurityGroup]

    @classmethod
    async def load(cls, reader: Reader, interfaces: Sequence[NetworkInterface]) -> _Views:
        return cls(
            by_id(await reader.get_many(Vpc, {each.vpc for each in interfaces})),
            by_id(await reader.get_many(Subnet, {each.subnet for each in interfaces})),
            by_id(await reader.get_many(SecurityGroup, {id for each in interfaces for id in each.groups})),
        )


def _metadata(
    cloud: Cloud, views: _Views, instance: Instance, interfaces: Iterable[NetworkInterface]
) -> Metadata:
    return Metadata(
        instance=instance.id,
        image=instance.image,
        type=instance.type,
        account=instance.account,
        region=cloud.region,
        zone=instance.zone,
        reservation=instance.reservation,
        launch_index=instance.launch_index,
        launched=instance.launched.strftime("%Y-%m-%dT%H:%M:%SZ"),
        key_name=instance.key_name,
        public_key=instance.public_key,
        user_data=b"" if instance.state is InstanceState.stopped else instance.user_data,
        interfaces=tuple(
            _metadata_interface(cloud, views, interface)
            for interface in sorted(interfaces, key=lambda interface: interface.device_index)
        ),
        block_devices=_block_devices(instance),
        tags=instance.tags if instance.metadata.tags_enabled else {},
        group=instance.group_name,
        partition=instance.partition,
        enabled=instance.metadata.enabled,
        tokens_required=instance.metadata.tokens_required,
        hop_limit=instance.metadata.hop_limit,
    )


def _metadata_interface(cloud: Cloud, views: _Views, interface: NetworkInterface) -> MetadataInterface:
    subnet, vpc = views.subnets.get(interface.subnet), views.vpcs.get(interface.vpc)
    public_dns = ""
    if interface.public_ip and vpc is not None and vpc.dns_hostnames:
        public_dns = public_name(interface.public_ip, cloud.region)
    return MetadataInterface(
        id=interface.id,
        mac=interface.mac,
        device_index=interface.device_index,
        private_ip=interface.private_ip,
        private_dns=private_name(interface.private_ip, cloud.dns_domain),
        public_ip=interface.public_ip,
        public_dns=public_dns,
        subnet=interface.subnet,
        subnet_cidr=subnet.cidr if subnet else "",
        subnet_cidr6=subnet.ipv6.cidr if subnet and subnet.ipv6 else "",
        vpc=interface.vpc,
        vpc_cidr=vpc.cidr if vpc else "",
        vpc_cidrs=(*vpc.cidrs, *vpc.cidrs6) if vpc else (),
        secondary=tuple((each.private_ip, each.public_ip) for each in interface.secondary),
        ipv6=interface.ipv6,
        group_ids=interface.groups,
        group_names=tuple(views.groups[group].name for group in interface.groups if group in views.groups),
        owner=interface.account,
    )
