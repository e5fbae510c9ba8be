"""The attributes of a snapshot: createVolumePermission and productCodes."""

from __future__ import annotations

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Snapshot
from gureum.services.ec2 import lookup
from gureum.services.ec2.faults import invalid_value
from gureum.services.ec2.sharing import Sharing, changed
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
            raise _unknown(other)


@operation("ec2", "ModifySnapshotAttribute", write=True)
async def modify_snapshot_attribute(ctx: Context, input: Input) -> Output:
    snapshot = await _own(ctx, input)
    if (attribute := input.get("Attribute")) not in (None, "", PERMISSION):
        raise _unknown(str(attribute))
    before = Sharing(snapshot.public, snapshot.users)
    after = changed(before, input, input.get("CreateVolumePermission"), "GroupNames")
    if after.public and snapshot.encrypted:
        raise ApiError("InvalidParameterCombination", "Encrypted snapshots cannot be shared publicly")
    await ctx.tx.put(replace(snapshot, public=after.public, users=after.users))
    return {}


@operation("ec2", "ResetSnapshotAttribute", write=True)
async def reset_snapshot_attribute(ctx: Context, input: Input) -> Output:
    snapshot = await _own(ctx, input)
    if input["Attribute"] != PERMISSION:
        raise _unknown(input["Attribute"])
    await ctx.tx.put(replace(snapshot, public=False, users=()))
    return {}


async def _own(ctx: Context, input: Input) -> Snapshot:
    snapshot = await lookup.one(ctx, lookup.SNAPSHOT, input["SnapshotId"])
    if snapshot.account != ctx.caller.account:
        raise ApiError("UnauthorizedOperation", "You do not own this snapshot.", 403)
    return snapshot


def _unknown(attribute: str) -> ApiError:
    return invalid_value(f"Value ({attribute}) for parameter attribute is invalid. Unknown attribute.")
