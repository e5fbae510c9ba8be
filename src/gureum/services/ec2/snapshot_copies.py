"""CopySnapshot.

The pools have no copies, and need none: a volume that nobody sees is cloned from the source, which copies
nothing, the new snapshot is taken of it, and it goes. What is uploaded in blocks is made the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from gureum.resources import Host, Snapshot
from gureum.resources.volume import OF_NO_VOLUME
from gureum.services.ec2 import snapshots
from gureum.services.ec2.block_devices import Disk, gib, new_volume, settled, usable_snapshot
from gureum.services.ec2.descriptions import checked_description
from gureum.services.ec2.faults import invalid_value, unsupported
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

STAGED_KIND = "gp3"
"""The type of the volumes that nobody sees: one that allows any size."""


@operation("ec2", "CopySnapshot", write=True)
async def copy_snapshot(ctx: Context, input: Input) -> Output:
    for member in ("DestinationOutpostArn", "DestinationAvailabilityZone", "CompletionDurationMinutes"):
        if input.get(member):
            raise unsupported(f"The option {member} is not supported by gureum.")
    check_region(ctx, input["SourceRegion"], "SourceRegion")
    check_region(ctx, input.get("DestinationRegion") or ctx.cloud.region, "DestinationRegion")
    description = checked_description(input)
    tags = specified_tags(input, "snapshot")["snapshot"]
    source = await usable_snapshot(ctx, input["SourceSnapshotId"])
    copied = await copy(ctx, source, input, description, tags)
    return {"SnapshotId": copied.id, "Tags": tag_list(tags)}


def check_region(ctx: Context, region: str, parameter: str) -> None:
    if region != ctx.cloud.region:
        raise invalid_value(
            f"Invalid region '{region}' in parameter {parameter}: this cloud has {ctx.cloud.region} only."
        )


async def copy(
    ctx: Context, source: Snapshot, spec: Mapping[str, Any], description: str, tags: Mapping[str, str]
) -> Snapshot:
    """A new snapshot with the same data. ``spec``: Encrypted and KmsKeyId as the request has them."""
    disk = await settled(ctx, Disk(gib(source.size_bytes), type=STAGED_KIND), spec, source)
    return await staged(ctx, disk, source, description, tags)


async def staged(
    ctx: Context,
    disk: Disk,
    source: Snapshot | None,
    description: str,
    tags: Mapping[str, str],
    timeout_seconds: float = 0.0,
) -> Snapshot:
    """A new snapshot of a new volume that nobody sees, for which there is room.

    ``timeout_seconds`` as in Snapshot.
    """
    await snapshots.check_limit(ctx)
    id = ctx.env.new_id("snap")
    # It goes nowhere, and nobody asks what it is of.
    disk = disk._replace(snapshot="", target="")
    volume = await new_volume(ctx, disk, await _zone(ctx, source))
    volume = await ctx.tx.put(replace(volume, staged=id))
    snapshot = snapshots.of_volume(ctx, volume, description, tags)
    return await ctx.tx.put(
        replace(
            snapshot,
            id=id,
            volume=OF_NO_VOLUME,
            staging=volume.id,
            timeout_seconds=timeout_seconds,
        )
    )


async def _zone(ctx: Context, source: Snapshot | None) -> str:
    """One in which it can be made: that of the source's host, or of any that is up."""
    host = await ctx.tx.get(Host, source.host) if source is not None and source.host else None
    hosts = [host] if host is not None else await ctx.tx.find(Host)
    up = [each for each in hosts if each.schedulable]
    return next((each.zone for each in (*up, *hosts) if each.zone), ctx.cloud.zones[0])
