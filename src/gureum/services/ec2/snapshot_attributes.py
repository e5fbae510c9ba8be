"""The attributes of a snapshot: createVolumePermission and productCodes."""

from __future__ import annotations

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.services.ec2 import lookup
from gureum.services.ec2.faults import unknown_attribute
from gureum.services.ec2.sharing import Sharing, changed
from gureum.services.ec2.snapshots import own
from gureum.services.operation import Context, Input, Output, operation

PERMISSION = "createVolumePermission"


@operation("ec2", "DescribeSnapshotAttribute")
async def describe_snapshot_attribute(ctx: Context, input: Input) -> Output:
    snapshot = await lookup.one(ctx, lookup.SNAPSHOT, input["SnapshotId"])
    match input["Attribute"]:
        case "createVolumePermission":
            shown = Sharing(snapshot.public, snapshot.users).shown()
            return {"SnapshotId": snapshot.id, "CreateVolumePermissions": shown}
        case "productCodes":
            return {"SnapshotId": snapshot.id, "ProductCodes": []}
        case other:
            raise unknown_attribute(other)


@operation("ec2", "ModifySnapshotAttribute", write=True)
async def modify_snapshot_attribute(ctx: Context, input: Input) -> Output:
    snapshot = await own(ctx, input["SnapshotId"])
    if (attribute := input.get("Attribute")) not in (None, "", PERMISSION):
        raise unknown_attribute(str(attribute))
    before = Sharing(snapshot.public, snapshot.users)
    after = changed(before, input, input.get("CreateVolumePermission"), "GroupNames")
    if after.public and snapshot.encrypted:
        raise ApiError("InvalidParameterCombination", "Encrypted snapshots cannot be shared publicly")
    await ctx.tx.put(replace(snapshot, public=after.public, users=after.users))
    return {}


@operation("ec2", "ResetSnapshotAttribute", write=True)
async def reset_snapshot_attribute(ctx: Context, input: Input) -> Output:
    snapshot = await own(ctx, input["SnapshotId"])
    if input["Attribute"] != PERMISSION:
        raise unknown_attribute(input["Attribute"])
    await ctx.tx.put(replace(snapshot, public=False, users=()))
    return {}
