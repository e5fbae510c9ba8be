"""CreateImage: of an instance. The image is pending until the snapshots of its volumes are taken.

Without NoReboot a running instance is shut down as StopInstances does, the snapshots are taken while it is
off, and it starts again; all the time it is shown as running, as on EC2. With it they are taken while it
runs: after the guest froze its file systems if it has an agent that can, else as after a power cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import (
    BlockDevice,
    Image,
    ImageDevice,
    ImageState,
    Instance,
    InstanceState,
    Snapshot,
    Volume,
)
from gureum.services.ec2 import limits, lookup, snapshots
from gureum.services.ec2.block_devices import (
    Disk,
    added_disk,
    by_device,
    check_disk,
    check_supported,
    dropped,
    gib,
    mapping_fault,
)
from gureum.services.ec2.capacity import require_room_in
from gureum.services.ec2.descriptions import checked_description
from gureum.services.ec2.faults import incorrect_state, unsupported
from gureum.services.ec2.image_names import checked_name, image_tags
from gureum.services.operation import Context, Input, Output, operation

STATES = (InstanceState.running, InstanceState.stopping, InstanceState.stopped)


@operation("ec2", "CreateImage", write=True)
async def create_image(ctx: Context, input: Input) -> Output:
    snapshots.check_place({"Location": input.get("SnapshotLocation")})
    if input.get("BootModeOverride"):
        raise unsupported("Booting by UEFI is not supported by gureum.")
    own_tags, snapshot_tags = image_tags(input)
    name = await checked_name(ctx, input["Name"])
    description = checked_description(input)
    instance = await lookup.one(ctx, lookup.INSTANCE, input["InstanceId"])
    if instance.state not in STATES:
        raise incorrect_state(f"Instance '{instance.id}' is not 'running' or 'stopped'.")
    id = ctx.env.new_id("ami")
    off_first = instance.state is InstanceState.running and not input.get("NoReboot")
    plan = await _devices(ctx, input, instance, Snapshots(ctx, instance, id, snapshot_tags, off_first))
    await ctx.tx.put(
        Image(
            **boot_of(await ctx.tx.get(Image, instance.image)),
            id=id,
            account=ctx.caller.account,
            tags=own_tags,
            state=ImageState.pending,
            name=name,
            description=description,
            disk_bytes=plan[0].size_gib * limits.GIB,
            root_device=instance.root_device,
            snapshot=plan[0].snapshot,
            devices=plan,
            source_instance=instance.id,
            source_image=instance.image,
            created=ctx.env.utcnow(),
        )
    )
    if off_first:
        await ctx.tx.put(replace(instance, capturing=(*instance.capturing, id)))
    return {"ImageId": id}


def boot_of(source: Image | None) -> dict[str, Any]:
    """The fields by which a new image boots as the source does: built images may need their kernel."""
    kept = (
        "architecture", "machine", "kernel", "initrd", "cmdline", "login", "boot_mode", "ena", "imds_v2",
        "sriov",
    )  # fmt: skip
    return {name: getattr(source, name) for name in kept} if source is not None else {}


class Snapshots:
    """The snapshots of an instance's volumes for one image. ``off_first``: taken when its machine is off."""

    def __init__(
        self, ctx: Context, instance: Instance, image: str, tags: Mapping[str, str], off_first: bool
    ) -> None:
        self._ctx = ctx
        self._instance = instance
        self._text = f"Created by CreateImage({instance.id}) for {image}"
        self._tags = tags
        self._off_first = off_first

    async def take(self, volume: Volume) -> Snapshot:
        await snapshots.check_volume(self._ctx.tx, volume, self._off_first)
        await require_room_in(self._ctx.tx, volume.pool)
        await snapshots.check_limit(self._ctx)
        snapshot = snapshots.of_volume(self._ctx, volume, self._text, self._tags)
        if self._off_first:
            snapshot = replace(snapshot, host=None, after=self._instance.id)
        return await self._ctx.tx.put(snapshot)


async def _devices(
    ctx: Context, input: Input, instance: Instance, taken: Snapshots
) -> tuple[ImageDevice, ...]:
    """The image's volumes, the root first, with new snapshots of those that the instance has."""
    entries = by_device(input.get("BlockDeviceMappings"))
    ids = [each.volume for each in instance.devices]
    volumes = {volume.id: volume for volume in await ctx.tx.get_many(Volume, ids)}
    found: list[ImageDevice] = []
    for attached in sorted(instance.devices, key=lambda each: each.device != instance.root_device):
        entry = entries.pop(attached.device, {})
        if not dropped(entry):
            volume = volumes[attached.volume]
            found.append(await _captured(volume, attached, entry.get("Ebs") or {}, taken))
        elif attached.device == instance.root_device:
            raise mapping_fault(f"The root device {attached.device} cannot be left out of an image")
    if not found or found[0].device != instance.root_device:
        raise incorrect_state(f"Instance '{instance.id}' does not have a volume attached at root")
    for device, entry in entries.items():
        if not dropped(entry):
            found.append(await added_device(ctx, device, entry.get("Ebs") or {}))
    check_count(found)
    return tuple(found)


def check_count(devices: list[ImageDevice]) -> None:
    if len(devices) - 1 > limits.VOLUMES_PER_INSTANCE_MAX:
        raise ApiError("AttachmentLimitExceeded", "Too many volumes for one instance.")


async def _captured(
    volume: Volume, attached: BlockDevice, ebs: Mapping[str, Any], taken: Snapshots
) -> ImageDevice:
    """A volume of the instance in the image: a snapshot of it, with what the request says otherwise."""
    check_supported(ebs)
    for member in ("Encrypted", "KmsKeyId", "SnapshotId"):
        if ebs.get(member) is not None:
            raise mapping_fault(
                f"{member} cannot be specified for {attached.device}: it is the instance's own volume"
            )
    least = gib(volume.size_bytes)
    size = ebs.get("VolumeSize") or least
    if size < least:
        raise mapping_fault(f"Volume of size {size}GB is smaller than its snapshot, expect size>= {least}GB")
    type = ebs.get("VolumeType") or volume.type
    own = type == volume.type
    disk = check_disk(
        Disk(
            size,
            type=type,
            iops=ebs.get("Iops") or (volume.iops if own else 0),
            throughput=ebs.get("Throughput") or (volume.throughput if own else 0),
            snapshot=(await taken.take(volume)).id,
            encrypted=volume.encrypted,
        )
    )
    return _device(attached.device, disk, ebs.get("DeleteOnTermination", attached.delete_on_termination))


async def added_device(ctx: Context, device: str, ebs: Mapping[str, Any]) -> ImageDevice:
    """A volume that a request adds to an image: of a snapshot, or an empty one."""
    disk, snapshot = await added_disk(ctx, device, ebs)
    if snapshot is not None and ebs.get("Encrypted") not in (None, snapshot.encrypted):
        raise mapping_fault(f"whether {device} is encrypted is what its snapshot '{snapshot.id}' says")
    disk = disk._replace(
        snapshot=snapshot.id if snapshot is not None else "",
        encrypted=snapshot.encrypted if snapshot is not None else bool(ebs.get("Encrypted")),
    )
    return _device(device, check_disk(disk), ebs.get("DeleteOnTermination"))


def _device(device: str, disk: Disk, ends: bool | None) -> ImageDevice:
    return ImageDevice(
        device=device,
        snapshot=disk.snapshot,
        size_gib=disk.size_gib,
        type=disk.type,
        iops=disk.iops,
        throughput=disk.throughput,
        delete_on_termination=ends is not False,
        encrypted=disk.encrypted,
    )
