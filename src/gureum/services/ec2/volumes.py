"""Volumes: create, describe, modify, delete."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Attachment, Instance, Modification, Pool, Snapshot, Volume, VolumeState
from gureum.services.ec2 import encryption, limits, lookup, migrating, multi_attach, volume_moves
from gureum.services.ec2.block_devices import (
    DEFAULT_KIND,
    Disk,
    check_disk,
    copied_percent,
    gib,
    new_volume,
    pool_for,
    settled,
    shown_iops,
    shown_throughput,
    usable_snapshot,
)
from gureum.services.ec2.capacity import require_room_in
from gureum.services.ec2.faults import incorrect_state, invalid_value, missing, unsupported
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.ec2.zones import chosen_zone, zone_ids
from gureum.services.operation import Context, Input, Output, operation


async def items(ctx: Context, volumes: Sequence[Volume]) -> list[dict[str, Any]]:
    return [item(ctx, volume) for volume in volumes]


def item(ctx: Context, volume: Volume) -> dict[str, Any]:
    size = gib(volume.size_bytes)
    return {
        "VolumeId": volume.id,
        "Size": size,
        "SnapshotId": volume.snapshot,
        "AvailabilityZone": volume.zone,
        "AvailabilityZoneId": zone_ids(ctx.cloud).get(volume.zone),
        "State": str(volume.state),
        "CreateTime": volume.created,
        "Attachments": [attachment_item(volume, each) for each in volume.attachments],
        "Encrypted": volume.encrypted,
        "KmsKeyId": encryption.shown_key(ctx, volume.encrypted),
        "SseType": "sse-kms" if volume.encrypted else None,
        "Iops": shown_iops(volume.type, size, volume.iops),
        "Throughput": shown_throughput(volume.type, volume.throughput),
        "Tags": tag_list(volume.tags),
        "VolumeType": volume.type,
        "MultiAttachEnabled": volume.multi_attach,
    }


def attachment_item(volume: Volume, attachment: Attachment, state: str = "") -> dict[str, Any]:
    """One of a volume's attachments; ``state`` in place of its own."""
    return {
        "VolumeId": volume.id,
        "InstanceId": attachment.instance,
        "Device": attachment.device,
        "State": state or str(attachment.state),
        "AttachTime": attachment.attached,
        "DeleteOnTermination": attachment.delete_on_termination,
    }


def _attachment(name: str) -> Any:
    """A filter's values from a field of the attachments."""

    def source(volume: Volume) -> tuple[str, ...]:
        values = [getattr(each, name) for each in volume.attachments]
        return tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in values)

    return source


VOLUMES = Listing(
    operation="DescribeVolumes",
    noun=lookup.VOLUME,
    ids="VolumeIds",
    items="Volumes",
    filters=Filters(
        {
            "attachment.attach-time": "Attachments[].AttachTime",
            "attachment.delete-on-termination": _attachment("delete_on_termination"),
            "attachment.device": _attachment("device"),
            "attachment.status": _attachment("state"),
            "availability-zone": "zone",
            "availability-zone-id": "AvailabilityZoneId",
            "create-time": "created",
            "encrypted": "Encrypted",
            "fast-restored": "FastRestored",
            "multi-attach-enabled": "MultiAttachEnabled",
            "size": "Size",
            "snapshot-id": "snapshot",
            "volume-id": "id",
            "volume-type": "type",
        },
        index={"attachment.instance-id": "instances", "status": "state"},
    ),
    describe=items,
)


@operation("ec2", "DescribeVolumes")
async def describe_volumes(ctx: Context, input: Input) -> Output:
    return await VOLUMES.answer(ctx, input)


@operation("ec2", "CreateVolume", write=True)
async def create_volume(ctx: Context, input: Input) -> Output:
    for member in ("OutpostArn", "Operator", "VolumeInitializationRate"):
        if input.get(member):
            raise unsupported(f"The option {member} is not supported by gureum yet.")
    name = input.get("AvailabilityZone")
    if name and name not in ctx.cloud.zones:
        # RunInstances has other words for it.
        raise ApiError("InvalidZone.NotFound", f"The zone '{name}' does not exist.")
    zone = chosen_zone(ctx.cloud, name, input.get("AvailabilityZoneId"))
    if not zone:
        raise missing("AvailabilityZone")
    tags = specified_tags(input, "volume")["volume"]
    disk = await _new_disk(ctx, input)
    several = bool(input.get("MultiAttachEnabled"))
    if several:
        multi_attach.check_new(disk.type, disk.pool)
        disk = disk._replace(target="")
    if await ctx.tx.count(Volume, account=ctx.caller.account) >= limits.VOLUMES_MAX:
        raise ApiError("VolumeLimitExceeded", "The maximum number of volumes has been reached.")
    volume = await new_volume(ctx, disk, zone)
    volume = await ctx.tx.put(replace(volume, tags=tags, multi_attach=several))
    answer = item(ctx, volume)
    del answer["Attachments"]
    return answer


async def _new_disk(ctx: Context, input: Input) -> Disk:
    size = input.get("Size")
    disk = Disk(
        size or 0,
        type=input.get("VolumeType") or DEFAULT_KIND,
        iops=input.get("Iops") or 0,
        throughput=input.get("Throughput") or 0,
    )
    snapshot: Snapshot | None = None
    if input.get("SnapshotId"):
        snapshot = await usable_snapshot(ctx, input["SnapshotId"])
        least = gib(snapshot.size_bytes)
        if size is not None and size < least:
            raise invalid_value(
                f"Volume of {size}GiB is smaller than snapshot '{snapshot.id}'; "
                f"it must have at least {least}GiB."
            )
        disk = disk._replace(size_gib=size or least)
    elif size is None:
        raise missing("size/snapshot")
    return await settled(ctx, disk, input, snapshot)


@operation("ec2", "DeleteVolume", write=True)
async def delete_volume(ctx: Context, input: Input) -> Output:
    volume = await lookup.one(ctx, lookup.VOLUME, input["VolumeId"])
    if volume.attachments:
        raise ApiError(
            "VolumeInUse", f"Volume {volume.id} is currently attached to {', '.join(volume.instances)}"
        )
    if volume.state is VolumeState.deleting:
        raise lookup.VOLUME.absent([volume.id])
    if volume.state not in (VolumeState.available, VolumeState.error):
        raise incorrect_state(f"Volume {volume.id} is in the '{volume.state}' state.")
    await ctx.tx.put(replace(volume, state=VolumeState.deleting))
    return {}


@operation("ec2", "ModifyVolume", write=True)
async def modify_volume(ctx: Context, input: Input) -> Output:
    volume = await lookup.one(ctx, lookup.VOLUME, input["VolumeId"])
    if volume.state not in (VolumeState.available, VolumeState.in_use):
        raise incorrect_state(f"Volume {volume.id} is in the '{volume.state}' state.")
    if volume.modifying:
        raise ApiError(
            "IncorrectModificationState", f"Volume {volume.id} is being modified: wait until that is done."
        )
    if volume.target:
        raise ApiError(
            "IncorrectModificationState",
            f"Volume {volume.id} is on its way to the pool '{volume.target}': wait until it is there, or "
            "cancel that (CancelVolumeMove).",
        )
    await migrating.require_volume_settled(ctx.tx, volume)
    disk, several = _modified(volume, input), multi_attach.changed(volume, input)
    if disk.size_bytes > volume.size_bytes:
        await require_room_in(ctx.tx, volume.pool)
    before, now = volume, ctx.env.utcnow()
    target = pool_for(ctx, disk.type)
    if target not in (volume.pool, pool_for(ctx, volume.type)):
        volume = volume_moves.begun(await volume_moves.prepared(ctx.tx, volume, target), target, now)
    volume = await ctx.tx.put(
        replace(
            volume,
            size_bytes=max(disk.size_bytes, volume.size_bytes),
            type=disk.type,
            iops=disk.iops,
            throughput=disk.throughput,
            multi_attach=several,
            modification=Modification(
                state="modifying",
                started=now,
                original_size_bytes=before.size_bytes,
                original_type=before.type,
                original_iops=before.iops,
                original_throughput=before.throughput,
                original_multi_attach=before.multi_attach,
                target_size_bytes=max(disk.size_bytes, volume.size_bytes),
                target_type=disk.type,
                target_iops=disk.iops,
                target_throughput=disk.throughput,
                target_multi_attach=several,
            ),
        )
    )
    return {"VolumeModification": _modification_item(ctx, volume)}


def _modified(volume: Volume, input: Input) -> Disk:
    """What the volume is to be. IOPS and throughput of the old type do not carry over to a new one."""
    size, type = input.get("Size"), input.get("VolumeType") or volume.type
    iops, throughput = input.get("Iops"), input.get("Throughput")
    others = input.get("VolumeType") or None, input.get("MultiAttachEnabled")
    if all(each is None for each in (size, iops, throughput, *others)):
        raise ApiError(
            "InvalidParameterCombination",
            "At least one of size, volume type, iops or throughput is required.",
        )
    before = gib(volume.size_bytes)
    if size is not None and size < before:
        raise invalid_value(f"New size cannot be smaller than existing size: {size}GiB < {before}GiB")
    same = type == volume.type
    return check_disk(
        Disk(
            size or before,
            type=type,
            iops=iops or (volume.iops if same else 0),
            throughput=throughput or (volume.throughput if same else 0),
        )
    )


_PROGRESS = {"completed": 100, "optimizing": 50}


def _progress(ctx: Context, volume: Volume) -> int:
    """In percent; of one that moves, how much is there."""
    state = volume.modification.state if volume.modification is not None else ""
    if state != "modifying" or not volume.target:
        return _PROGRESS.get(state, 0)
    return copied_percent(ctx, volume)


def _modification_item(ctx: Context, volume: Volume) -> dict[str, Any]:
    modification = volume.modification
    assert modification is not None
    before = gib(modification.original_size_bytes)
    # The first version did not keep targets apart from what the volume became.
    after = gib(modification.target_size_bytes or volume.size_bytes)
    type = modification.target_type or volume.type
    return {
        "VolumeId": volume.id,
        "ModificationState": modification.state,
        "StatusMessage": modification.message or None,
        "TargetSize": after,
        "TargetIops": shown_iops(type, after, modification.target_iops),
        "TargetVolumeType": type,
        "TargetThroughput": shown_throughput(type, modification.target_throughput),
        "TargetMultiAttachEnabled": modification.target_multi_attach,
        "OriginalSize": before,
        "OriginalIops": shown_iops(modification.original_type, before, modification.original_iops),
        "OriginalVolumeType": modification.original_type,
        "OriginalThroughput": shown_throughput(modification.original_type, modification.original_throughput),
        "OriginalMultiAttachEnabled": modification.original_multi_attach,
        "Progress": _progress(ctx, volume),
        "StartTime": modification.started,
        "EndTime": modification.ended,
    }


async def _modification_items(ctx: Context, volumes: Sequence[Volume]) -> list[dict[str, Any]]:
    return [_modification_item(ctx, volume) for volume in volumes]


MODIFICATIONS = Listing(
    operation="DescribeVolumesModifications",
    noun=lookup.VOLUME,
    ids="VolumeIds",
    items="VolumesModifications",
    filters=Filters(
        {
            "modification-state": "ModificationState",
            "original-iops": "OriginalIops",
            "original-size": "OriginalSize",
            "original-volume-type": "OriginalVolumeType",
            "originalMultiAttachEnabled": "OriginalMultiAttachEnabled",
            "start-time": "StartTime",
            "target-iops": "TargetIops",
            "target-size": "TargetSize",
            "target-volume-type": "TargetVolumeType",
            "targetMultiAttachEnabled": "TargetMultiAttachEnabled",
            "volume-id": "id",
        },
        tags=False,
    ),
    describe=_modification_items,
    admits=lambda volume: volume.modification is not None,
)


@operation("ec2", "DescribeVolumesModifications")
async def describe_volumes_modifications(ctx: Context, input: Input) -> Output:
    """The latest modification of each volume that was ever modified."""
    for volume in await lookup.many(ctx, lookup.VOLUME, input.get("VolumeIds") or ()):
        if volume.modification is None:
            raise ApiError(
                "InvalidVolumeModification.NotFound", f"Modification for volume '{volume.id}' does not exist."
            )
    return await MODIFICATIONS.answer(ctx, input)


async def _status_items(ctx: Context, volumes: Sequence[Volume]) -> list[dict[str, Any]]:
    pools = {pool.id: pool for pool in await ctx.tx.get_many(Pool, {volume.pool for volume in volumes})}
    users = {instance for volume in volumes for instance in volume.instances}
    stalls = {instance.id: instance.impaired for instance in await ctx.tx.get_many(Instance, users)}
    return [
        _status_item(
            ctx, volume, pools.get(volume.pool), " ".join(stalls.get(each, "") for each in volume.instances)
        )
        for volume in volumes
    ]


def _status_item(ctx: Context, volume: Volume, pool: Pool | None, stall: str) -> dict[str, Any]:
    """``stall``: why its instances make no progress, which may be another volume's doing."""
    status = {VolumeState.error: "impaired", VolumeState.creating: "insufficient-data"}.get(
        volume.state, "ok"
    )
    message, since = volume.message, volume.created
    if pool is not None and volume.host is not None and volume.host in pool.away:
        status, message, since = "impaired", pool.away[volume.host], ctx.env.utcnow()
    elif volume.id in stall:
        status, message, since = "impaired", stall, ctx.env.utcnow()
    detail = {"ok": "passed", "impaired": "failed"}.get(status, status)
    return {
        "VolumeId": volume.id,
        "AvailabilityZone": volume.zone,
        "AvailabilityZoneId": zone_ids(ctx.cloud).get(volume.zone),
        "Actions": [],
        "Events": [_failure_event(volume, message, since)] if message else [],
        "VolumeStatus": {"Status": status, "Details": [{"Name": "io-enabled", "Status": detail}]},
        "AttachmentStatuses": [{"InstanceId": instance} for instance in volume.instances],
    }


def _failure_event(volume: Volume, message: str, since: datetime) -> dict[str, Any]:
    """Why the volume failed, or can't be used now. EC2 has no other place for words about a volume."""
    return {
        "EventId": f"evol-{volume.id.partition('-')[2]}",
        "EventType": "io-enabled:failed",
        "Description": message,
        "NotBefore": since,
        "InstanceId": next(iter(volume.instances), None),
    }


VOLUME_STATUSES = Listing(
    operation="DescribeVolumeStatus",
    noun=lookup.VOLUME,
    ids="VolumeIds",
    items="VolumeStatuses",
    filters=Filters(
        {
            "action.code": "Actions[].Code",
            "action.description": "Actions[].Description",
            "action.event-id": "Actions[].EventId",
            "availability-zone": "zone",
            "availability-zone-id": "AvailabilityZoneId",
            "event.description": "Events[].Description",
            "event.event-id": "Events[].EventId",
            "event.event-type": "Events[].EventType",
            "event.not-after": "Events[].NotAfter",
            "event.not-before": "Events[].NotBefore",
            "volume-status.details-name": "VolumeStatus.Details[].Name",
            "volume-status.details-status": "VolumeStatus.Details[].Status",
            "volume-status.status": "VolumeStatus.Status",
        },
        tags=False,
    ),
    describe=_status_items,
)


@operation("ec2", "DescribeVolumeStatus")
async def describe_volume_status(ctx: Context, input: Input) -> Output:
    return await VOLUME_STATUSES.answer(ctx, input)
