"""What is the same for all operations that make an image: its name, its tags, how many there may be."""

from __future__ import annotations

import re

from gureum.errors import ApiError
from gureum.resources import Image, ImageState
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.tagging import specified_tags
from gureum.services.operation import Context, Input

_NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}\Z")


async def checked_name(ctx: Context, name: str) -> str:
    """Raises unless a new image of the account may have this name."""
    if not _NAME.match(name):
        raise ApiError(
            "InvalidAMIName.Malformed",
            "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, spaces, "
            "and the characters ( ) [ ] . / - ' @ _",
        )
    for image in await ctx.tx.find(Image, account=ctx.caller.account, name=name):
        if lookup.IMAGE.visible(image) and image.state is not ImageState.failed:
            raise ApiError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {image.id}")
    if await ctx.tx.count(Image, account=ctx.caller.account) >= limits.IMAGES_MAX:
        raise ApiError("ResourceLimitExceeded", "The maximum number of images has been reached.")
    return name


def image_tags(input: Input) -> tuple[dict[str, str], dict[str, str]]:
    """Those for the image and those for its snapshots."""
    tags = specified_tags(input, "image", "snapshot")
    return tags["image"], tags["snapshot"]
