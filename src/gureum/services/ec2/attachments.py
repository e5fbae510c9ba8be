"""AttachVolume and DetachVolume."""

from __future__ import annotations

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import (
    Attachment,
    AttachmentState,
    BlockDevice,
    Image,
    Instance,
    InstanceState,
    Volume,
    VolumeState,
)
from gureum.resources.volume import shared
from gureum.services.ec2 import keepers, limits, lookup, migrating, multi_attach
from gureum.services.ec2.block_devices import check_device_name
from gureum.services.ec2.faults import incorrect_state, invalid_value, unsupported
from gureum.services.ec2.volumes import attachment_item
from gureum.services.operation import Context, Input, Output, operation


@operation("ec2", "AttachVolume", write=True)
async def attach_volume(ctx: Context, input: Input) -> Output:
    if input.get("EbsCardIndex"):
        raise unsupported("EBS cards other than 0 are not supported by gureum.")
    device = input["Device"]
    check_device_name(device)
    volume = await lookup.one(ctx, lookup.VOLUME, input["VolumeId"])
    instance = await lookup.one(ctx, lookup.INSTANCE, input["InstanceId"])
    _check_attachable(volume, instance, device)
    await check_hot_plug(ctx, instance)
    if instance.state is InstanceState.running:
        volume = await keepers.follow(ctx.tx, volume, instance.host)
    now = ctx.env.utcnow()
    attachment = Attachment(
        instance=instance.id, device=device, state=AttachmentState.attaching, attached=now
    )
    volume = await ctx.tx.put(replace(volume.with_attachment(attachment), state=VolumeState.in_use))
    added = BlockDevice(device=device, volume=volume.id)
    await ctx.tx.put(replace(instance, devices=(*instance.devices, added)))
    return attachment_item(volume, attachment)


def _check_attachable(volume: Volume, instance: Instance, device: str) -> None:
    multi_attach.check_attach(volume, instance, device)
    if volume.state is not VolumeState.available and not volume.attachments:
        raise incorrect_state(f"{volume.id} is not 'available'.")
    if instance.state not in (InstanceState.running, InstanceState.stopped):
        raise incorrect_state(f"Instance '{instance.id}' is not 'running'.")
    if volume.zone != instance.zone:
        raise ApiError(
            "InvalidVolume.ZoneMismatch",
            f"The volume '{volume.id}' is not in the same availability zone as instance '{instance.id}'",
        )
    if volume.bound and volume.host and instance.host and volume.host != instance.host:
        if volume.target or shared(volume.pool):
            raise incorrect_state(
                f"The volume '{volume.id}' is on its way to another pool, by way of another host: wait until "
                "it is there, or cancel that (CancelVolumeMove)."
            )
        raise unsupported(
            f"The volume '{volume.id}' is in the local pool of another host. Move it to a shared pool "
            "(MoveVolume), if the cloud has one, and try again."
        )
    if any(each.device == device for each in instance.devices):
        raise invalid_value(
            f"Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
        )
    if len(instance.devices) > limits.VOLUMES_PER_INSTANCE_MAX:
        raise ApiError(
            "AttachmentLimitExceeded",
            f"Instance '{instance.id}' has {limits.VOLUMES_PER_INSTANCE_MAX} volumes besides its root.",
        )


async def check_hot_plug(ctx: Context, instance: Instance) -> None:
    """A microvm takes and gives up disks and interfaces only while it is off; what migrates, not before it is
    there.
    """
    await migrating.require_settled(ctx.tx, instance)
    image = await ctx.tx.get(Image, instance.image)
    if image is not None and image.machine == "microvm" and instance.state is not InstanceState.stopped:
        raise unsupported(
            f"Instance '{instance.id}' runs on a microvm, which has no hot-plug. Stop it first."
        )


@operation("ec2", "DetachVolume", write=True)
async def detach_volume(ctx: Context, input: Input) -> Output:
    volume = await lookup.one(ctx, lookup.VOLUME, input["VolumeId"])
    if not volume.attachments:
        raise incorrect_state(f"Volume '{volume.id}' is in the '{volume.state}' state.")
    attachment, instance = await _attached_to(ctx, volume, input)
    force = bool(input.get("Force"))
    if attachment.state is AttachmentState.detaching and not (force and not attachment.force):
        raise incorrect_state(f"Volume '{volume.id}' is in the 'detaching' state.")
    root = instance is not None and attachment.device == instance.root_device
    if root and instance is not None and instance.state is not InstanceState.stopped:
        raise ApiError(
            "OperationNotPermitted",
            f"Unable to detach root volume '{volume.id}' from instance '{instance.id}'",
        )
    if volume.state is VolumeState.creating:
        raise incorrect_state(f"Volume '{volume.id}' is in the 'creating' state.")
    if instance is not None:
        await check_hot_plug(ctx, instance)
    attachment = replace(attachment, state=AttachmentState.detaching, force=force)
    return attachment_item(await ctx.tx.put(volume.with_attachment(attachment)), attachment)


async def _attached_to(ctx: Context, volume: Volume, input: Input) -> tuple[Attachment, Instance | None]:
    """The attachment to end, and its instance. Raises if the request means another one, or another device."""
    if input.get("InstanceId"):
        await lookup.one(ctx, lookup.INSTANCE, input["InstanceId"])
    id = multi_attach.of_instance(volume, input.get("InstanceId") or "")
    attachment = volume.attached_to(id)
    if attachment is None:
        raise ApiError(
            "InvalidAttachment.NotFound", f"The volume '{volume.id}' is not attached to instance '{id}'."
        )
    device = input.get("Device")
    if device and device != attachment.device:
        raise ApiError(
            "InvalidAttachment.NotFound",
            f"The volume '{volume.id}' is not attached to instance '{attachment.instance}' as device "
            f"'{device}'.",
        )
    return attachment, await ctx.tx.get(Instance, attachment.instance)
