"""Snapshots: create, describe, delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Image, ImageState, Snapshot, SnapshotState, Volume, VolumeState
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.block_devices import gib
from gureum.services.ec2.faults import incorrect_state, invalid_value, unsupported
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.images import SYSTEM_ACCOUNT
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

DESCRIPTION_LENGTH_MAX = 255


async def _items(ctx: Context, snapshots: Sequence[Snapshot]) -> list[dict[str, Any]]:
    return [_item(snapshot) for snapshot in snapshots]


def _item(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "SnapshotId": snapshot.id,
        "VolumeId": snapshot.volume,
        "State": str(snapshot.state),
        "StateMessage": snapshot.message or None,
        "StartTime": snapshot.started,
        "Progress": "100%" if snapshot.state is SnapshotState.completed else "0%",
        "OwnerId": snapshot.account or SYSTEM_ACCOUNT,
        "OwnerAlias": None if snapshot.account else "amazon",
        "Description": snapshot.description,
        "VolumeSize": gib(snapshot.size_bytes),
        "Encrypted": False,
        "StorageTier": "standard",
        "Tags": tag_list(snapshot.tags),
    }


SNAPSHOTS = Listing(
    operation="DescribeSnapshots",
    noun=lookup.SNAPSHOT,
    ids="SnapshotIds",
    items="Snapshots",
    filters=Filters(
        {
            "description": "description",
            "encrypted": "Encrypted",
            "owner-alias": "OwnerAlias",
            "owner-id": "OwnerId",
            "progress": "Progress",
            "snapshot-id": "id",
            "start-time": "started",
            "storage-tier": "StorageTier",
            "transfer-type": "TransferType",
            "volume-size": "VolumeSize",
        },
        index={"status": "state", "volume-id": "volume"},
    ),
    describe=_items,
)


@operation("ec2", "DescribeSnapshots")
async def describe_snapshots(ctx: Context, input: Input) -> Output:
    scope = None
    if input.get("OwnerIds"):
        scope = {"account": [_owner(ctx, owner) for owner in input["OwnerIds"]]}
    elif restorers := input.get("RestorableByUserIds"):
        # Everybody can restore the system's snapshots, and nobody else's but their own.
        own = {"self", ctx.caller.account} & set(restorers)
        scope = {"account": [ctx.caller.account, ""] if own else [""] if "all" in restorers else []}
    return await SNAPSHOTS.answer(ctx, input, scope=scope)


def _owner(ctx: Context, owner: str) -> str:
    if owner == "self":
        return ctx.caller.account
    return "" if owner in ("amazon", SYSTEM_ACCOUNT) else owner


@operation("ec2", "CreateSnapshot", write=True)
async def create_snapshot(ctx: Context, input: Input) -> Output:
    if input.get("OutpostArn") or (input.get("Location") or "regional") != "regional":
        raise unsupported("Snapshots are kept in the region; other places are not supported by gureum.")
    description = input.get("Description") or ""
    if len(description) > DESCRIPTION_LENGTH_MAX:
        raise invalid_value(f"Description can be at most {DESCRIPTION_LENGTH_MAX} characters long")
    volume = await lookup.one(ctx, lookup.VOLUME, input["VolumeId"])
    if volume.state not in (VolumeState.available, VolumeState.in_use):
        raise incorrect_state(f"Volume '{volume.id}' is in the '{volume.state}' state.")
    tags = specified_tags(input, "snapshot")["snapshot"]
    if await ctx.tx.count(Snapshot, account=ctx.caller.account) >= limits.SNAPSHOTS_MAX:
        raise ApiError("SnapshotLimitExceeded", "The maximum number of snapshots has been reached.")
    snapshot = await ctx.tx.put(
        Snapshot(
            id=ctx.env.new_id("snap"),
            account=ctx.caller.account,
            tags=tags,
            volume=volume.id,
            size_bytes=volume.size_bytes,
            description=description,
            pool=volume.pool,
            host=volume.host,
            started=ctx.env.utcnow(),
        )
    )
    return _item(snapshot)


@operation("ec2", "DeleteSnapshot", write=True)
async def delete_snapshot(ctx: Context, input: Input) -> Output:
    snapshot = await lookup.one(ctx, lookup.SNAPSHOT, input["SnapshotId"])
    if snapshot.account != ctx.caller.account:
        raise ApiError("UnauthorizedOperation", "You do not own this snapshot.", 403)
    image = await _image_of(ctx, snapshot)
    if image is not None:
        raise ApiError(
            "InvalidSnapshot.InUse", f"The snapshot {snapshot.id} is currently in use by {image.id}"
        )
    if await ctx.tx.count(Volume, source=snapshot.id, state=str(VolumeState.creating)):
        raise ApiError(
            "InvalidSnapshot.InUse", f"The snapshot {snapshot.id} is being copied to a new volume; try again."
        )
    await ctx.tx.put(replace(snapshot, state=SnapshotState.deleting))
    return {}


async def _image_of(ctx: Context, snapshot: Snapshot) -> Image | None:
    """The image that needs the snapshot."""
    images = [await ctx.tx.get(Image, snapshot.image)] if snapshot.image else await ctx.tx.find(Image)
    for image in images:
        if image is not None and image.snapshot == snapshot.id and image.state is not ImageState.deregistered:
            return image
    return None
