"""The attributes of a volume: autoEnableIO and productCodes."""

from __future__ import annotations

from msgspec.structs import replace

from gureum.services.ec2 import lookup
from gureum.services.ec2.faults import missing, unknown_attribute
from gureum.services.operation import Context, Input, Output, operation


@operation("ec2", "DescribeVolumeAttribute")
async def describe_volume_attribute(ctx: Context, input: Input) -> Output:
    volume = await lookup.one(ctx, lookup.VOLUME, input["VolumeId"])
    attribute = input["Attribute"]
    if attribute == "autoEnableIO":
        return {"VolumeId": volume.id, "AutoEnableIO": {"Value": volume.auto_enable_io}}
    if attribute == "productCodes":
        return {"VolumeId": volume.id, "ProductCodes": []}
    raise unknown_attribute(attribute)


@operation("ec2", "ModifyVolumeAttribute", write=True)
async def modify_volume_attribute(ctx: Context, input: Input) -> Output:
    """AutoEnableIO is kept. There is nothing that it changes: no volume's I/O is ever disabled here."""
    volume = await lookup.one(ctx, lookup.VOLUME, input["VolumeId"])
    if input.get("AutoEnableIO") is None:
        raise missing("AutoEnableIO")
    await ctx.tx.put(replace(volume, auto_enable_io=bool(input["AutoEnableIO"].get("Value"))))
    return {}
