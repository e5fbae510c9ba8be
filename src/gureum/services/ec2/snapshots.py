"""Snapshots: create, describe, delete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Image, Snapshot, SnapshotState, Volume, VolumeState
from gureum.resources.volume import shared
from gureum.services.ec2 import limits, lookup, migrating
from gureum.services.ec2.block_devices import copied_percent, gib
from gureum.services.ec2.capacity import require_room_in
from gureum.services.ec2.descriptions import checked_description
from gureum.services.ec2.encryption import shown_key
from gureum.services.ec2.faults import incorrect_state, unsupported
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.images import SYSTEM_ACCOUNT
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation
from gureum.store.base import Reader


async def _items(ctx: Context, snapshots: Sequence[Snapshot]) -> list[dict[str, Any]]:
    waiting = {each.staging for each in snapshots if each.staging and each.state is SnapshotState.pending}
    made_of = {volume.id: volume for volume in await ctx.tx.get_many(Volume, waiting)}
    return [item(ctx, snapshot, made_of.get(snapshot.staging)) for snapshot in snapshots]


def item(ctx: Context, snapshot: Snapshot, staging: Volume | None = None) -> dict[str, Any]:
    """``staging``: the volume that is made for it, of one that is pending."""
    return {
        "SnapshotId": snapshot.id,
        "VolumeId": snapshot.volume,
        "State": str(snapshot.state),
        "StateMessage": snapshot.message or None,
        "StartTime": snapshot.started,
        "Progress": f"{_progress(ctx, snapshot, staging)}%",
        "OwnerId": snapshot.account or SYSTEM_ACCOUNT,
        "OwnerAlias": None if snapshot.account else "amazon",
        "Description": snapshot.description,
        "VolumeSize": gib(snapshot.size_bytes),
        "Encrypted": snapshot.encrypted,
        "KmsKeyId": shown_key(ctx, snapshot.encrypted),
        "SseType": "sse-kms" if snapshot.encrypted else None,
        "StorageTier": "standard",
        "TransferType": "standard" if snapshot.staging else None,
        "CompletionTime": snapshot.completed,
        "Tags": tag_list(snapshot.tags),
    }


def _progress(ctx: Context, snapshot: Snapshot, staging: Volume | None) -> int:
    """In percent. What is copied to be encrypted takes its time, all others none."""
    if snapshot.state is SnapshotState.completed:
        return 100
    return copied_percent(ctx, staging) if staging is not None else 0


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
        # Everybody can restore the system's snapshots, and nobody else's but their own: there is one account.
        own = {"self", ctx.caller.account} & set(restorers)
        scope = {"account": [ctx.caller.account, ""] if own else [""] if "all" in restorers else []}
    return await SNAPSHOTS.answer(ctx, input, scope=scope)


def _owner(ctx: Context, owner: str) -> str:
    if owner == "self":
        return ctx.caller.account
    return "" if owner in ("amazon", SYSTEM_ACCOUNT) else owner


@operation("ec2", "CreateSnapshot", write=True)
async def create_snapshot(ctx: Context, input: Input) -> Output:
    check_place(input)
    description = checked_description(input)
    volume = await lookup.one(ctx, lookup.VOLUME, input["VolumeId"])
    await check_volume(ctx.tx, volume)
    await require_room_in(ctx.tx, volume.pool)
    tags = specified_tags(input, "snapshot")["snapshot"]
    await check_limit(ctx)
    snapshot = await ctx.tx.put(of_volume(ctx, volume, description, tags))
    return item(ctx, snapshot)


def check_place(input: Input) -> None:
    if input.get("OutpostArn") or (input.get("Location") or "regional") != "regional":
        raise unsupported("Snapshots are kept in the region; other places are not supported by gureum.")


async def check_volume(reader: Reader, volume: Volume, off_first: bool = False) -> None:
    """``off_first``: the snapshot is taken when the volume's machine is off."""
    if volume.state not in (VolumeState.available, VolumeState.in_use):
        raise incorrect_state(f"Volume '{volume.id}' is in the '{volume.state}' state.")
    if volume.target and not shared(volume.pool):
        raise incorrect_state(
            f"Volume '{volume.id}' is on its way from its host's own pool to the pool '{volume.target}': "
            "wait until it is there, or cancel that (CancelVolumeMove), and try again."
        )
    if not shared(volume.pool) and not off_first:
        # Which host's copy is the volume is not decided yet.
        await migrating.require_volume_settled(reader, volume)


async def check_limit(ctx: Context, count: int = 1) -> None:
    """Raises if the account may not have so many more."""
    if await ctx.tx.count(Snapshot, account=ctx.caller.account) + count > limits.SNAPSHOTS_MAX:
        raise ApiError("SnapshotLimitExceeded", "The maximum number of snapshots has been reached.")


def of_volume(ctx: Context, volume: Volume, description: str, tags: Mapping[str, str]) -> Snapshot:
    """A new snapshot, not yet stored."""
    return Snapshot(
        id=ctx.env.new_id("snap"),
        account=ctx.caller.account,
        tags=dict(tags),
        volume=volume.id,
        size_bytes=volume.size_bytes,
        description=description,
        pool=volume.pool,
        host=volume.host,
        encrypted=volume.encrypted,
        key=volume.key,
        origin=volume.origin or (volume.source if volume.source.startswith("ami-") else ""),
        started=ctx.env.utcnow(),
    )


@operation("ec2", "DeleteSnapshot", write=True)
async def delete_snapshot(ctx: Context, input: Input) -> Output:
    await delete(ctx, await lookup.one(ctx, lookup.SNAPSHOT, input["SnapshotId"]))
    return {}


async def own(ctx: Context, id: str) -> Snapshot:
    """One that the caller may change. Raises ApiError."""
    snapshot = await lookup.one(ctx, lookup.SNAPSHOT, id)
    require_own(ctx, snapshot)
    return snapshot


def require_own(ctx: Context, snapshot: Snapshot) -> None:
    if snapshot.account != ctx.caller.account:
        raise ApiError("UnauthorizedOperation", "You do not own this snapshot.", 403)


async def delete(ctx: Context, snapshot: Snapshot) -> None:
    """Raises ApiError if it is somebody else's, or in use."""
    require_own(ctx, snapshot)
    for image in await ctx.tx.find(Image, snapshots=snapshot.id):
        if lookup.IMAGE.visible(image):
            raise ApiError(
                "InvalidSnapshot.InUse", f"The snapshot {snapshot.id} is currently in use by {image.id}"
            )
    if await ctx.tx.count(Volume, source=snapshot.id, state=str(VolumeState.creating)):
        raise ApiError(
            "InvalidSnapshot.InUse", f"The snapshot {snapshot.id} is being copied to a new volume; try again."
        )
    await ctx.tx.put(replace(snapshot, state=SnapshotState.deleting))
