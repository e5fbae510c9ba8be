"""The BlockDeviceMappings of RunInstances, and what volumes may be like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gureum.errors import ApiError
from gureum.hostspec import LOCAL
from gureum.resources import Image, ImageDevice, Move, Snapshot, SnapshotState, Volume
from gureum.resources.volume import shared
from gureum.services.ec2 import encryption, limits, lookup
from gureum.services.ec2.capacity import require_room_in
from gureum.services.ec2.faults import incorrect_state, invalid_value, missing, unsupported
from gureum.services.ec2.limits import GIB
from gureum.services.operation import Context

_DEVICE = re.compile(r"/dev/(?:sd[a-z]|xvd[a-z]{1,2}|hd[a-z]|vd[a-z])(?:[1-9][0-9]?)?\Z")
_IOPS_PER_GIB_GP2 = 3


class VolumeKind(NamedTuple):
    """What EC2 allows for a volume type: sizes in GiB, IOPS, throughput in MiB/s (0: not to be chosen)."""

    size_min: int
    size_max: int
    iops_min: int = 0
    iops_max: int = 0
    iops_per_gib_max: int = 0
    throughput_min: int = 0
    throughput_max: int = 0
    iops_required: bool = False


KINDS = {
    "gp3": VolumeKind(1, 65536, 3000, 80000, 500, 125, 2000),
    "gp2": VolumeKind(1, 16384),
    "io1": VolumeKind(4, 16384, 100, 64000, 50, iops_required=True),
    "io2": VolumeKind(4, 65536, 100, 256000, 1000, iops_required=True),
    "st1": VolumeKind(125, 16384),
    "sc1": VolumeKind(125, 16384),
    "standard": VolumeKind(1, 1024),
}
DEFAULT_KIND = "gp2"
"""What the API makes where no type is named."""
IMAGE_KIND = "gp3"
"""What images say of their root disks, as EC2's newer ones do."""


class Disk(NamedTuple):
    """A volume to be made. ``iops`` and ``throughput`` are 0 unless they were asked for.

    ``source`` is what its data comes from (an image or snapshot id, or ""), ``snapshot`` what is shown.
    ``key``: of what it is made from; an encrypted one without gets a key of its own. ``encrypts``,
    ``source_bytes``, ``origin``: as in Volume.
    """

    size_gib: int
    type: str = DEFAULT_KIND
    iops: int = 0
    throughput: int = 0
    source: str = ""
    snapshot: str = ""
    pool: str = LOCAL
    encrypted: bool = False
    key: str = ""
    encrypts: bool = False
    source_bytes: int = 0
    origin: str = ""
    target: str = ""
    """The pool that it goes on to once it is made, "" for none."""

    @property
    def size_bytes(self) -> int:
        return self.size_gib * GIB


class DiskMapping(NamedTuple):
    device: str
    disk: Disk
    delete_on_termination: bool


def gib(size_bytes: int) -> int:
    """Whole GiB that hold so many bytes, at least one."""
    return max(1, -(-size_bytes // GIB))


def shown_iops(type: str, size_gib: int, iops: int) -> int | None:
    """The IOPS that EC2 shows: those asked for, else what the type comes with."""
    if iops:
        return iops
    if type == "gp3":
        return KINDS["gp3"].iops_min
    if type == "gp2":
        return min(max(100, size_gib * _IOPS_PER_GIB_GP2), 16000)
    return None


def shown_throughput(type: str, throughput: int) -> int | None:
    return throughput or (KINDS["gp3"].throughput_min if type == "gp3" else None)


def check_disk(disk: Disk) -> Disk:
    """Raises InvalidParameterValue and its kin if EC2 would not make such a volume."""
    kind = KINDS.get(disk.type)
    if kind is None:
        raise invalid_value(
            f"Value ({disk.type}) for parameter volumeType is invalid. Expected: {', '.join(KINDS)}."
        )
    if disk.size_gib < kind.size_min:
        raise invalid_value(
            f"Volume of {disk.size_gib}GiB is too small for volume type {disk.type}; "
            f"minimum is {kind.size_min}GiB."
        )
    if disk.size_gib > kind.size_max:
        raise invalid_value(
            f"Volume of {disk.size_gib}GiB is too large for volume type {disk.type}; "
            f"maximum is {kind.size_max}GiB."
        )
    _check_iops(disk, kind)
    _check_throughput(disk, kind)
    return disk


def _check_iops(disk: Disk, kind: VolumeKind) -> None:
    if not disk.iops:
        if kind.iops_required:
            raise missing("iops")
        return
    if not kind.iops_max:
        raise ApiError(
            "InvalidParameterCombination", f"The parameter iops is not supported for {disk.type} volumes."
        )
    if disk.iops < kind.iops_min:
        raise invalid_value(f"Volume iops of {disk.iops} is too low; minimum is {kind.iops_min}.")
    if disk.iops > kind.iops_max:
        raise invalid_value(f"Volume iops of {disk.iops} is too high; maximum is {kind.iops_max}.")
    ratio = disk.iops / disk.size_gib
    if ratio > kind.iops_per_gib_max and disk.iops > kind.iops_min:
        raise invalid_value(
            f"Iops to volume size ratio of {ratio:f} is too high; maximum is {kind.iops_per_gib_max:f}"
        )


def _check_throughput(disk: Disk, kind: VolumeKind) -> None:
    if not disk.throughput:
        return
    if not kind.throughput_max:
        raise ApiError(
            "InvalidParameterCombination",
            f"The parameter throughput is not supported for {disk.type} volumes.",
        )
    if disk.throughput < kind.throughput_min:
        raise invalid_value(f"Throughput of {disk.throughput} is too low; minimum is {kind.throughput_min}.")
    if disk.throughput > kind.throughput_max:
        raise invalid_value(f"Throughput of {disk.throughput} is too high; maximum is {kind.throughput_max}.")
    iops = disk.iops or kind.iops_min
    if disk.throughput > iops / 4:
        raise invalid_value(
            f"Throughput (MiBps) to iops ratio of {disk.throughput / iops:f} is too high; "
            "maximum is 0.250000."
        )


def check_device_name(name: str) -> None:
    if not _DEVICE.match(name):
        raise invalid_value(
            f"Value ({name}) for parameter device is invalid. {name} is not a valid EBS device name."
        )


async def usable_snapshot(ctx: Context, id: str) -> Snapshot:
    """A snapshot that a volume can be made from."""
    snapshot = await lookup.one(ctx, lookup.SNAPSHOT, id)
    if snapshot.state is not SnapshotState.completed:
        raise incorrect_state(f"Snapshot is in invalid state - {snapshot.state}")
    return snapshot


def snapshot_source(snapshot: Snapshot) -> str:
    """Where a volume from this snapshot gets its data: an image's snapshot stands for the image."""
    return snapshot.image or snapshot.id


async def settled(ctx: Context, disk: Disk, spec: Mapping[str, Any], snapshot: Snapshot | None) -> Disk:
    """The disk with its source, pool and encryption. ``spec`` is the request's part about it."""
    encrypted = await encryption.wanted(ctx, spec, snapshot)
    disk = disk._replace(encrypted=encrypted, pool=pool_for(ctx, disk.type, snapshot))
    if shared(pool := ctx.cloud.pool_of(disk.type)) and pool != disk.pool:
        await require_room_in(ctx.tx, pool)
        disk = disk._replace(target=pool)
    await require_room_in(ctx.tx, disk.pool)
    if snapshot is not None:
        disk = disk._replace(
            source=snapshot_source(snapshot),
            snapshot=snapshot.id,
            key=snapshot.key,
            encrypts=encrypted and not snapshot.encrypted,
            source_bytes=snapshot.size_bytes,
            origin=snapshot.origin or snapshot.image,
        )
    return check_disk(disk)


def pool_for(ctx: Context, type: str, snapshot: Snapshot | None = None) -> str:
    """Where a volume is made: a clone copies nothing, so it is where its snapshot is, and may go on."""
    if snapshot is not None and not snapshot.image:
        return snapshot.pool
    return ctx.cloud.pool_of(type)


async def new_volume(ctx: Context, disk: Disk, zone: str) -> Volume:
    """The record of a volume that is made now, not in the store yet; of its key that is."""
    now = ctx.env.utcnow()
    return Volume(
        id=ctx.env.new_id("vol"),
        account=ctx.caller.account,
        size_bytes=disk.size_bytes,
        type=disk.type,
        iops=disk.iops,
        throughput=disk.throughput,
        zone=zone,
        pool=disk.pool,
        source=disk.source,
        encrypted=disk.encrypted,
        key=disk.key or (await encryption.new_key(ctx) if disk.encrypted else ""),
        encrypts=disk.encrypts,
        source_bytes=disk.source_bytes if disk.encrypts else 0,
        snapshot=disk.snapshot,
        origin=disk.origin,
        move=Move(state="moving", source=disk.pool, target=disk.target, started=now) if disk.target else None,
        created=now,
    )


def copied_percent(ctx: Context, volume: Volume) -> int:
    """How much of a volume that is being copied is there, as far as its host says; 99 at most."""
    done, total = ctx.hosts.copied(volume.host or "", volume.id)
    return min(99, done * 100 // total) if total else 0


def mapping_fault(message: str) -> ApiError:
    return ApiError("InvalidBlockDeviceMapping", message)


def image_devices(image: Image) -> tuple[ImageDevice, ...]:
    """The volumes of an image, the root first."""
    root = next((each for each in image.devices if each.device == image.root_device), None)
    if root is None:
        size = gib(image.disk_bytes)
        root = ImageDevice(device=image.root_device, snapshot=image.snapshot, size_gib=size, type=IMAGE_KIND)
    return (root, *(each for each in image.devices if each.device != image.root_device))


def by_device(given: Sequence[Mapping[str, Any]] | None) -> dict[str, Mapping[str, Any]]:
    """The entries of a request's BlockDeviceMappings, checked as far as each says enough by itself."""
    found: dict[str, Mapping[str, Any]] = {}
    for entry in given or ():
        device = entry.get("DeviceName")
        if not device:
            raise missing("deviceName")
        if device in found:
            raise mapping_fault(f"The device '{device}' is used in more than one block-device mapping")
        if not _DEVICE.match(device):
            raise mapping_fault(f"Invalid device name {device}")
        found[device] = entry
    return found


def dropped(entry: Mapping[str, Any]) -> bool:
    """Whether a mapping makes no volume. No type has instance store: EC2 drops such mappings, too."""
    return entry.get("NoDevice") is not None or bool(entry.get("VirtualName"))


async def parse_mappings(
    ctx: Context, image: Image, given: Sequence[Mapping[str, Any]] | None
) -> list[DiskMapping]:
    """The volumes of an instance, its root first."""
    entries = by_device(given)
    found = []
    for device in image_devices(image):
        entry = entries.pop(device.device, {})
        if not dropped(entry):
            found.append(await _of_image(ctx, image, device, entry.get("Ebs") or {}))
        elif device.device == image.root_device:
            raise mapping_fault(
                f"The root device {image.root_device} can be neither suppressed nor instance store"
            )
    for name, entry in entries.items():
        if not dropped(entry):
            found.append(await _extra(ctx, name, entry.get("Ebs") or {}))
    if len(found) - 1 > limits.VOLUMES_PER_INSTANCE_MAX:
        raise ApiError("AttachmentLimitExceeded", "Too many volumes for this instance type.")
    return found


async def _of_image(ctx: Context, image: Image, device: ImageDevice, ebs: Mapping[str, Any]) -> DiskMapping:
    """A volume that the image says, with what the request says otherwise."""
    check_supported(ebs)
    root = device.device == image.root_device
    wanted = ebs.get("SnapshotId") or device.snapshot
    if root and wanted != device.snapshot:
        raise mapping_fault("the snapshot of the root device cannot be changed")
    if root and not image.devices:
        # A built image: its snapshot is only a name for its disk.
        size = _size(ebs, device.size_gib, wanted)
        disk = Disk(size, source=image.id, snapshot=wanted, source_bytes=image.disk_bytes, origin=image.id)
        disk = _tuned(disk, ebs, device.type)
        encrypted = await encryption.wanted(ctx, ebs)
        disk = disk._replace(encrypted=encrypted, encrypts=encrypted, pool=pool_for(ctx, disk.type))
        disk = check_disk(disk)
        await require_room_in(ctx.tx, disk.pool)
    else:
        snapshot = await usable_snapshot(ctx, wanted) if wanted else None
        least = gib(snapshot.size_bytes) if snapshot is not None else 0
        size = _size(ebs, max(device.size_gib, least), wanted, least)
        own = device.type == (ebs.get("VolumeType") or device.type)
        disk = Disk(
            size,
            iops=device.iops if own else 0,
            throughput=device.throughput if own else 0,
        )
        as_image = {"Encrypted": True} if device.encrypted else {}
        disk = await settled(ctx, _tuned(disk, ebs, device.type), {**as_image, **ebs}, snapshot)
    keep = ebs.get("DeleteOnTermination", device.delete_on_termination)
    return DiskMapping(device.device, disk, keep is not False)


def _size(ebs: Mapping[str, Any], default: int, snapshot: str, least: int | None = None) -> int:
    """In GiB. Raises if the request asks for less than the snapshot has."""
    size: int | None = ebs.get("VolumeSize")
    least = default if least is None else least
    if size is not None and size < least:
        raise mapping_fault(
            f"Volume of size {size}GB is smaller than snapshot '{snapshot}', expect size>= {least}GB"
        )
    return size or default


async def added_disk(ctx: Context, device: str, ebs: Mapping[str, Any]) -> tuple[Disk, Snapshot | None]:
    """What a request adds, and what of; its source, pool and encryption are not settled. Raises likewise."""
    if not ebs:
        raise mapping_fault(f"The mapping of {device} names neither an EBS volume nor NoDevice")
    check_supported(ebs)
    snapshot = await usable_snapshot(ctx, ebs["SnapshotId"]) if ebs.get("SnapshotId") else None
    if snapshot is None and ebs.get("VolumeSize") is None:
        raise missing("size or snapshotId")
    least = gib(snapshot.size_bytes) if snapshot is not None else 0
    return _tuned(Disk(_size(ebs, least, snapshot.id if snapshot is not None else "")), ebs), snapshot


async def _extra(ctx: Context, device: str, ebs: Mapping[str, Any]) -> DiskMapping:
    disk, snapshot = await added_disk(ctx, device, ebs)
    disk = await settled(ctx, disk, ebs, snapshot)
    # A volume that is made for an instance goes with it unless it is asked to stay.
    return DiskMapping(device, disk, ebs.get("DeleteOnTermination") is not False)


def _tuned(disk: Disk, ebs: Mapping[str, Any], default: str = DEFAULT_KIND) -> Disk:
    return disk._replace(
        type=ebs.get("VolumeType") or default,
        iops=ebs.get("Iops") or disk.iops,
        throughput=ebs.get("Throughput") or disk.throughput,
    )


def check_supported(ebs: Mapping[str, Any]) -> None:
    for member in ("OutpostArn", "AvailabilityZone", "AvailabilityZoneId", "VolumeInitializationRate"):
        if ebs.get(member):
            raise unsupported(f"{member} of a block device is not supported by gureum.")
    if ebs.get("EbsCardIndex"):
        raise unsupported("EBS cards other than 0 are not supported by gureum.")
