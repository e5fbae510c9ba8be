"""DescribeImages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Image
from gureum.services.ec2 import lookup
from gureum.services.ec2.block_devices import image_devices, shown_iops, shown_throughput
from gureum.services.ec2.filters import Filters, iso
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import tag_list
from gureum.services.operation import Context, Input, Output, operation

SYSTEM_ACCOUNT = "000000000000"
"""Shown as the owner of images that belong to nobody; their alias is ``amazon``."""


async def _items(ctx: Context, images: Sequence[Image]) -> list[dict[str, Any]]:
    return [_item(ctx, image) for image in images]


def mappings(image: Image) -> list[dict[str, Any]]:
    """The image's BlockDeviceMappings, the root first."""
    return [
        {
            "DeviceName": device.device,
            "Ebs": {
                "DeleteOnTermination": device.delete_on_termination,
                "SnapshotId": device.snapshot or None,
                "VolumeSize": device.size_gib,
                "VolumeType": device.type,
                "Iops": shown_iops(device.type, device.size_gib, device.iops) if image.devices else None,
                "Throughput": shown_throughput(device.type, device.throughput) if image.devices else None,
                "Encrypted": device.encrypted,
            },
        }
        for device in image_devices(image)
    ]


def _item(ctx: Context, image: Image) -> dict[str, Any]:
    owner = image.account or SYSTEM_ACCOUNT
    return {
        "ImageId": image.id,
        "ImageLocation": f"{image.account or 'amazon'}/{image.name}",
        "State": str(image.state),
        "OwnerId": owner,
        "CreationDate": iso(image.created),
        "Public": image.public or not image.account,
        "ProductCodes": None,
        "Architecture": image.architecture,
        "ImageType": "machine",
        "PlatformDetails": "Linux/UNIX",
        "UsageOperation": "RunInstances",
        "BlockDeviceMappings": mappings(image),
        "Description": image.description or None,
        "EnaSupport": image.ena,
        "SriovNetSupport": image.sriov or None,
        "Hypervisor": "xen",
        "ImageOwnerAlias": None if image.account else "amazon",
        "Name": image.name,
        "RootDeviceName": image.root_device,
        "RootDeviceType": "ebs",
        "Tags": tag_list(image.tags),
        "VirtualizationType": "hvm",
        "BootMode": image.boot_mode or None,
        "ImdsSupport": "v2.0" if image.imds_v2 else None,
        "SourceInstanceId": image.source_instance or None,
        "SourceImageId": image.source_image or None,
        "SourceImageRegion": ctx.cloud.region if image.source_image else None,
        "StateReason": {"Code": "Server.InternalError", "Message": image.message} if image.message else None,
    }


IMAGES = Listing(
    operation="DescribeImages",
    noun=lookup.IMAGE,
    ids="ImageIds",
    items="Images",
    filters=Filters(
        {
            "architecture": "architecture",
            "block-device-mapping.delete-on-termination": "BlockDeviceMappings[].Ebs.DeleteOnTermination",
            "block-device-mapping.device-name": "BlockDeviceMappings[].DeviceName",
            "block-device-mapping.encrypted": "BlockDeviceMappings[].Ebs.Encrypted",
            "block-device-mapping.snapshot-id": "BlockDeviceMappings[].Ebs.SnapshotId",
            "block-device-mapping.volume-size": "BlockDeviceMappings[].Ebs.VolumeSize",
            "block-device-mapping.volume-type": "BlockDeviceMappings[].Ebs.VolumeType",
            "boot-mode": "BootMode",
            "creation-date": "CreationDate",
            "description": "description",
            "ena-support": "EnaSupport",
            "hypervisor": "Hypervisor",
            "image-id": "id",
            "image-type": "ImageType",
            "is-public": "Public",
            "kernel-id": "KernelId",
            "manifest-location": "ImageLocation",
            "name": "name",
            "owner-alias": "ImageOwnerAlias",
            "owner-id": "OwnerId",
            "platform": "Platform",
            "platform-details": "PlatformDetails",
            "product-code": "ProductCodes[].ProductCodeId",
            "product-code.type": "ProductCodes[].ProductCodeType",
            "ramdisk-id": "RamdiskId",
            "root-device-name": "root_device",
            "root-device-type": "RootDeviceType",
            "source-instance-id": "SourceInstanceId",
            "sriov-net-support": "SriovNetSupport",
            "state": "state",
            "state-reason-code": "StateReason.Code",
            "state-reason-message": "StateReason.Message",
            "usage-operation": "UsageOperation",
            "virtualization-type": "VirtualizationType",
        }
    ),
    describe=_items,
)


@operation("ec2", "DescribeImages")
async def describe_images(ctx: Context, input: Input) -> Output:
    scope = None
    if input.get("Owners"):
        scope = {"account": [_owner(ctx, owner) for owner in input["Owners"]]}
    listing = IMAGES
    if users := input.get("ExecutableUsers"):
        listing = replace(IMAGES, admits=_launchable(ctx, users))
    return await listing.answer(ctx, input, scope=scope)


def _launchable(ctx: Context, users: Sequence[str]) -> Callable[[Image], bool]:
    """Tells the images that one of these users may launch: everybody (``all``), oneself, or by permission."""
    own = not {"self", ctx.caller.account}.isdisjoint(users)

    def admits(image: Image) -> bool:
        shared = not set(image.users).isdisjoint(users)
        return shared or (own and not image.public) or ("all" in users and image.public)

    return admits


def _owner(ctx: Context, owner: str) -> str:
    """The account of an owner as a request names it. The system's images have none."""
    if owner == "self":
        return ctx.caller.account
    if owner in ("amazon", SYSTEM_ACCOUNT):
        return ""
    if owner == "aws-marketplace":
        return owner
    if len(owner) == 12 and owner.isdigit():
        return owner
    raise ApiError("InvalidUserID.Malformed", f'Invalid user id: "{owner}"')
