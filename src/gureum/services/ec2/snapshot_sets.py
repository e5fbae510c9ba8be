"""CreateSnapshots: of all volumes of an instance."""

from __future__ import annotations

from gureum.resources import Instance, InstanceState, Snapshot, Volume
from gureum.services.ec2 import lookup, snapshots
from gureum.services.ec2.capacity import require_room_in
from gureum.services.ec2.descriptions import checked_description
from gureum.services.ec2.faults import incorrect_state, invalid_value
from gureum.services.ec2.tagging import check_count, specified_tags
from gureum.services.operation import Context, Input, Output, operation

STATES = (InstanceState.running, InstanceState.stopping, InstanceState.stopped)


@operation("ec2", "CreateSnapshots", write=True)
async def create_snapshots(ctx: Context, input: Input) -> Output:
    snapshots.check_place(input)
    description = checked_description(input)
    tags = specified_tags(input, "snapshot")["snapshot"]
    chosen = await _chosen(ctx, input["InstanceSpecification"])
    await snapshots.check_limit(ctx, len(chosen))
    taken = []
    for volume in chosen:
        own = tags
        if input.get("CopyTagsFromSource") == "volume":
            own = {**volume.tags, **tags}
            check_count(own)
        taken.append(await ctx.tx.put(snapshots.of_volume(ctx, volume, description, own)))
    return {"Snapshots": [_info(ctx, snapshot) for snapshot in taken]}


async def _chosen(ctx: Context, specification: Input) -> list[Volume]:
    """The volumes to take snapshots of, in the order of the instance's devices. Raises if there are none."""
    instance = await lookup.one(ctx, lookup.INSTANCE, specification["InstanceId"])
    if instance.state not in STATES:
        raise incorrect_state(f"Instance '{instance.id}' is in the '{instance.state}' state.")
    excluded = set(specification.get("ExcludeDataVolumeIds") or ())
    devices = instance.devices
    root = next((each.volume for each in devices if each.device == instance.root_device), "")
    if root in excluded:
        raise invalid_value(
            f"{root} is the root volume: ExcludeBootVolume leaves it out, not ExcludeDataVolumeIds."
        )
    if foreign := excluded - {each.volume for each in devices}:
        raise invalid_value(f"{sorted(foreign)[0]} is not attached to instance '{instance.id}'.")
    if specification.get("ExcludeBootVolume"):
        excluded.add(root)
    chosen = await volumes_of(ctx, instance, excluded)
    if not chosen:
        raise invalid_value(f"No volume of instance '{instance.id}' is left to take a snapshot of.")
    return chosen


async def volumes_of(ctx: Context, instance: Instance, besides: set[str]) -> list[Volume]:
    """Its volumes that snapshots can be taken of, in the order of its devices."""
    ids = [each.volume for each in instance.devices if each.volume not in besides]
    found = {volume.id: volume for volume in await ctx.tx.get_many(Volume, ids)}
    chosen = [found[id] for id in ids if id in found]
    for volume in chosen:
        await snapshots.check_volume(ctx.tx, volume)
        await require_room_in(ctx.tx, volume.pool)
    return chosen


def _info(ctx: Context, snapshot: Snapshot) -> Output:
    """SnapshotInfo: less than DescribeSnapshots shows."""
    shown = snapshots.item(ctx, snapshot)
    names = (
        "Description", "Tags", "Encrypted", "VolumeId", "State", "VolumeSize", "StartTime", "Progress",
        "OwnerId", "SnapshotId", "SseType",
    )  # fmt: skip
    return {name: shown[name] for name in names}
