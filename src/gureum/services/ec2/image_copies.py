"""CopyImage: an image of copies of all its snapshots."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from gureum.resources import Image, ImageDevice, ImageState
from gureum.services.ec2 import lookup
from gureum.services.ec2.block_devices import image_devices, usable_snapshot
from gureum.services.ec2.descriptions import checked_description
from gureum.services.ec2.faults import incorrect_state, unsupported
from gureum.services.ec2.image_creation import boot_of
from gureum.services.ec2.image_names import checked_name, image_tags
from gureum.services.ec2.snapshot_copies import check_region, copy
from gureum.services.operation import Context, Input, Output, operation

_UNSUPPORTED = (
    "DestinationOutpostArn",
    "DestinationAvailabilityZone",
    "DestinationAvailabilityZoneId",
    "SnapshotCopyCompletionDurationMinutes",
)


@operation("ec2", "CopyImage", write=True)
async def copy_image(ctx: Context, input: Input) -> Output:
    for member in _UNSUPPORTED:
        if input.get(member):
            raise unsupported(f"The option {member} is not supported by gureum.")
    check_region(ctx, input["SourceRegion"], "SourceRegion")
    name = await checked_name(ctx, input["Name"])
    own_tags, snapshot_tags = image_tags(input)
    source = await lookup.one(ctx, lookup.IMAGE, input["SourceImageId"])
    if source.state is not ImageState.available:
        raise incorrect_state(f"The image '{source.id}' is not available: its state is {source.state}")
    if input.get("CopyImageTags"):
        own_tags = {**source.tags, **own_tags}
    id = ctx.env.new_id("ami")
    devices = [
        await _copied(ctx, input, source, device, id, snapshot_tags) for device in image_devices(source)
    ]
    await ctx.tx.put(
        Image(
            **boot_of(source),
            id=id,
            account=ctx.caller.account,
            tags=own_tags,
            state=ImageState.pending,
            name=name,
            description=checked_description(input),
            disk_bytes=source.disk_bytes,
            root_device=source.root_device,
            snapshot=devices[0].snapshot,
            devices=tuple(devices),
            source_image=source.id,
            created=ctx.env.utcnow(),
        )
    )
    return {"ImageId": id}


async def _copied(
    ctx: Context, input: Input, source: Image, device: ImageDevice, image: str, tags: Mapping[str, str]
) -> ImageDevice:
    if not device.snapshot:
        return device
    original = await usable_snapshot(ctx, device.snapshot)
    text = f"Copied for DestinationAmi {image} from SourceAmi {source.id} for SourceSnapshot {original.id}."
    snapshot = await copy(ctx, original, input, text, tags)
    return replace(device, snapshot=snapshot.id, encrypted=snapshot.encrypted)
