"""The attributes of an image: description, launchPermission and those that cannot be changed."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Image
from gureum.services.ec2 import lookup
from gureum.services.ec2.descriptions import checked_description
from gureum.services.ec2.faults import (
    invalid_combination,
    invalid_value,
    missing,
    unknown_attribute,
    unsupported,
)
from gureum.services.ec2.registration import own_image
from gureum.services.ec2.sharing import Sharing, changed
from gureum.services.operation import Context, Input, Output, operation

PERMISSION = "launchPermission"


@operation("ec2", "DescribeImageAttribute")
async def describe_image_attribute(ctx: Context, input: Input) -> Output:
    image = await lookup.one(ctx, lookup.IMAGE, input["ImageId"])
    return {"ImageId": image.id, **_shown(image, input["Attribute"])}


def _shown(image: Image, attribute: str) -> dict[str, Any]:
    shown: dict[str, dict[str, Any]] = {
        "description": {"Description": {"Value": image.description}},
        PERMISSION: {"LaunchPermissions": Sharing(image.public, image.users).shown()},
        "productCodes": {"ProductCodes": []},
        "bootMode": {"BootMode": {"Value": image.boot_mode}},
        "sriovNetSupport": {"SriovNetSupport": {"Value": image.sriov}},
        "imdsSupport": {"ImdsSupport": {"Value": "v2.0" if image.imds_v2 else ""}},
        "deregistrationProtection": {"DeregistrationProtection": {"Value": "disabled"}},
        "kernel": {"KernelId": {}},
        "ramdisk": {"RamdiskId": {}},
        "tpmSupport": {"TpmSupport": {}},
        "uefiData": {"UefiData": {}},
        "lastLaunchedTime": {"LastLaunchedTime": {}},
    }
    if attribute == "blockDeviceMapping":
        # As EC2 does since it deprecated the attribute.
        raise ApiError(
            "AuthFailure",
            "Unauthorized attempt to access restricted resource",
            401,
        )
    if attribute not in shown:
        raise ApiError("InvalidRequest", "The request received was invalid")
    return shown[attribute]


@operation("ec2", "ModifyImageAttribute", write=True)
async def modify_image_attribute(ctx: Context, input: Input) -> Output:
    """One attribute a call: by its own member, or as Attribute with Value, UserIds or UserGroups."""
    image = await own_image(ctx, input["ImageId"])
    attribute = _attribute(input)
    match attribute:
        case "description":
            value = _value(input, "Description")
            image = replace(image, description=checked_description({"Description": value}))
        case "launchPermission":
            image = _shared(image, input)
        case "imdsSupport":
            if (value := _value(input, "ImdsSupport")) != "v2.0":
                raise invalid_value(f"Value ({value}) for parameter imdsSupport is invalid. Expected: v2.0")
            image = replace(image, imds_v2=True)
        case "productCodes":
            raise unsupported("Product codes are of AWS Marketplace, which gureum does not have.")
        case _:
            raise unknown_attribute(attribute)
    await ctx.tx.put(image)
    return {}


def _value(input: Input, member: str) -> str:
    value: str | None = (input.get(member) or {}).get("Value", input.get("Value"))
    if value is None:
        raise missing("value")
    return value


def _attribute(input: Input) -> str:
    members = {
        "Description": "description",
        "ImdsSupport": "imdsSupport",
        "LaunchPermission": PERMISSION,
        "ProductCodes": "productCodes",
    }
    named = {attribute for member, attribute in members.items() if input.get(member)}
    if input.get("Attribute"):
        named.add(input["Attribute"])
    if not named and (input.get("OperationType") or input.get("UserIds") or input.get("UserGroups")):
        named = {PERMISSION}
    if not named:
        raise missing("attribute")
    if len(named) > 1:
        raise invalid_combination(
            "Only one attribute can be modified at a time, not: " + ", ".join(sorted(named))
        )
    return named.pop()


def _shared(image: Image, input: Input) -> Image:
    for member in ("OrganizationArns", "OrganizationalUnitArns"):
        if input.get(member):
            raise unsupported("There are no organizations in gureum: name accounts.")
    before = Sharing(image.public, image.users)
    after = changed(before, input, input.get("LaunchPermission"), "UserGroups")
    if after.public and any(device.encrypted for device in image.devices):
        raise invalid_combination("An image with encrypted snapshots cannot be public.")
    return replace(image, public=after.public, users=after.users)


@operation("ec2", "ResetImageAttribute", write=True)
async def reset_image_attribute(ctx: Context, input: Input) -> Output:
    image = await own_image(ctx, input["ImageId"])
    if input["Attribute"] != PERMISSION:
        raise unknown_attribute(input["Attribute"])
    await ctx.tx.put(replace(image, public=False, users=()))
    return {}
