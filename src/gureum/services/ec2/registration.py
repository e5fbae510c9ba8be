"""RegisterImage and DeregisterImage."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Image, ImageDevice, ImageState, Snapshot
from gureum.services.ec2 import limits, lookup, snapshots
from gureum.services.ec2.block_devices import by_device, check_device_name, dropped, mapping_fault
from gureum.services.ec2.descriptions import checked_description
from gureum.services.ec2.faults import missing, unsupported
from gureum.services.ec2.image_creation import added_device, boot_of, check_count
from gureum.services.ec2.image_names import checked_name
from gureum.services.ec2.tagging import specified_tags
from gureum.services.operation import Context, Input, Output, operation

ROOT_DEVICE = "/dev/sda1"
"""Where no RootDeviceName is given."""
_UNSUPPORTED = {
    "ImageLocation": "Images of manifests in S3 are not supported by gureum: give BlockDeviceMappings with "
    "snapshots, or build an image with `gureum image build`.",
    "BillingProducts": "There is no billing in gureum.",
    "TpmSupport": "TPMs are not supported by gureum.",
    "UefiData": "Booting by UEFI is not supported by gureum.",
    "KernelId": "Kernel images are not supported by gureum: the disk has to boot by its own boot loader.",
    "RamdiskId": "RAM disk images are not supported by gureum: the disk has to boot by its own boot loader.",
}


@operation("ec2", "RegisterImage", write=True)
async def register_image(ctx: Context, input: Input) -> Output:
    """A snapshot that began as a built image's disk boots with that image's kernel, if it has one."""
    _refuse(input)
    name = await checked_name(ctx, input["Name"])
    root_device = input.get("RootDeviceName") or ROOT_DEVICE
    check_device_name(root_device)
    devices = await _devices(ctx, input, root_device)
    boot = await _boot(ctx, devices[0].snapshot)
    image = await ctx.tx.put(
        Image(
            **{
                **boot,
                "boot_mode": input.get("BootMode") or "",
                "ena": bool(input.get("EnaSupport")),
                "imds_v2": input.get("ImdsSupport") == "v2.0",
                "sriov": input.get("SriovNetSupport") or "",
            },
            id=ctx.env.new_id("ami"),
            account=ctx.caller.account,
            tags=specified_tags(input, "image")["image"],
            name=name,
            description=checked_description(input),
            disk_bytes=devices[0].size_gib * limits.GIB,
            root_device=root_device,
            snapshot=devices[0].snapshot,
            devices=devices,
            created=ctx.env.utcnow(),
        )
    )
    return {"ImageId": image.id}


def _refuse(input: Input) -> None:
    for member, text in _UNSUPPORTED.items():
        if input.get(member):
            raise unsupported(text)
    if (architecture := input.get("Architecture") or "x86_64") != "x86_64":
        raise unsupported(f"Images for {architecture} are not supported by gureum: x86_64 is.")
    if (kind := input.get("VirtualizationType") or "hvm") != "hvm":
        raise unsupported(f"Virtualization type {kind} is not supported by gureum: hvm is.")
    if input.get("BootMode") == "uefi":
        raise unsupported("Boot mode uefi is not supported by gureum: legacy-bios and uefi-preferred are.")


async def _boot(ctx: Context, root: str) -> dict[str, Any]:
    snapshot = await ctx.tx.get(Snapshot, root)
    origin = (snapshot.origin or snapshot.image) if snapshot is not None else ""
    return boot_of(await ctx.tx.get(Image, origin) if origin else None)


async def _devices(ctx: Context, input: Input, root_device: str) -> tuple[ImageDevice, ...]:
    """The root first, which has to be of a snapshot."""
    entries = by_device(input.get("BlockDeviceMappings"))
    if not entries:
        raise missing("BlockDeviceMappings")
    root = entries.pop(root_device, {})
    if dropped(root) or not (root.get("Ebs") or {}).get("SnapshotId"):
        raise mapping_fault(
            f"The root device {root_device} needs a mapping with a SnapshotId (RootDeviceName names it)"
        )
    found = [await added_device(ctx, root_device, root["Ebs"])]
    for device, entry in entries.items():
        if not dropped(entry):
            found.append(await added_device(ctx, device, entry.get("Ebs") or {}))
    check_count(found)
    return tuple(found)


@operation("ec2", "DeregisterImage", write=True)
async def deregister_image(ctx: Context, input: Input) -> Output:
    """Instances of the image go on, and can be stopped and started: their disks do not need it."""
    image = await own_image(ctx, input["ImageId"])
    if image.state is ImageState.pending:
        # Its instance may be off for it: that one has to start again first.
        await ctx.tx.put(replace(image, cancelled=True))
    else:
        await ctx.tx.put(replace(image, state=ImageState.deregistered))
    output: dict[str, Any] = {"Return": True}
    if input.get("DeleteAssociatedSnapshots"):
        ids = dict.fromkeys(image.snapshots)
        output["DeleteSnapshotResults"] = [await _delete(ctx, id) for id in ids]
    return output


async def _delete(ctx: Context, id: str) -> dict[str, str]:
    snapshot = await ctx.tx.get(Snapshot, id)
    if snapshot is None or not lookup.SNAPSHOT.owned(snapshot, ctx.caller.account):
        return {"SnapshotId": id, "ReturnCode": "client-error"}
    try:
        await snapshots.delete(ctx, snapshot)
    except ApiError:
        # Another image is made of it, too, or a volume is being made.
        return {"SnapshotId": id, "ReturnCode": "skipped"}
    return {"SnapshotId": id, "ReturnCode": "success"}


async def own_image(ctx: Context, id: str) -> Image:
    """An image of the caller. Raises AuthFailure for somebody else's."""
    image = await lookup.one(ctx, lookup.IMAGE, id)
    if image.account != ctx.caller.account:
        raise ApiError("AuthFailure", f"Not authorized for image:{id}", 401)
    return image
