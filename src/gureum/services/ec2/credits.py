"""The CPU credit option of burstable instances. It is kept and shown: no instance is slowed down here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Instance, InstanceState
from gureum.services.ec2 import launch_options as options
from gureum.services.ec2 import lookup
from gureum.services.ec2.faults import missing
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.instance_types import TYPES
from gureum.services.ec2.listing import Listing
from gureum.services.operation import Context, Input, Output, operation

_STANDARD_BY_DEFAULT = "t2"
"""The family that EC2 gives the standard option; the younger ones are unlimited."""


def option(instance: Instance) -> str:
    """What EC2 shows: an instance that is not burstable keeps what it had, and is standard without."""
    if instance.cpu_credits:
        return instance.cpu_credits
    type = TYPES[instance.type]
    return "unlimited" if type.burstable and type.family != _STANDARD_BY_DEFAULT else "standard"


async def _items(ctx: Context, instances: Sequence[Instance]) -> list[dict[str, Any]]:
    return [{"InstanceId": instance.id, "CpuCredits": option(instance)} for instance in instances]


def _listing(unlimited_only: bool) -> Listing[Instance]:
    return Listing(
        operation="DescribeInstanceCreditSpecifications",
        noun=lookup.INSTANCE,
        ids="InstanceIds",
        items="InstanceCreditSpecifications",
        filters=Filters({"instance-id": "id"}, tags=False),
        describe=_items,
        admits=(lambda instance: option(instance) == "unlimited") if unlimited_only else None,
    )


NAMED, UNLIMITED = _listing(unlimited_only=False), _listing(unlimited_only=True)


@operation("ec2", "DescribeInstanceCreditSpecifications")
async def describe_instance_credit_specifications(ctx: Context, input: Input) -> Output:
    """Of the instances that are named; without names of those that are unlimited."""
    listing = NAMED if input.get("InstanceIds") else UNLIMITED
    return await listing.answer(ctx, input)


@operation("ec2", "ModifyInstanceCreditSpecification", write=True)
async def modify_instance_credit_specification(ctx: Context, input: Input) -> Output:
    """Each instance by itself: those that cannot be changed are told in the answer."""
    changed, refused = [], []
    for entry in input["InstanceCreditSpecifications"]:
        id = entry.get("InstanceId") or ""
        if not entry.get("CpuCredits"):
            raise missing("CpuCredits")
        try:
            await _modify(ctx, id, entry)
        except ApiError as error:
            if error.code not in _PER_INSTANCE:
                raise
            refused.append({"InstanceId": id, "Error": {"Code": error.code, "Message": error.message}})
        else:
            changed.append({"InstanceId": id})
    return {
        "SuccessfulInstanceCreditSpecifications": changed,
        "UnsuccessfulInstanceCreditSpecifications": refused,
    }


_PER_INSTANCE = (
    "InvalidInstanceID.Malformed",
    "InvalidInstanceID.NotFound",
    "IncorrectInstanceState",
    "InstanceCreditSpecification.NotSupported",
)


async def _modify(ctx: Context, id: str, entry: Mapping[str, Any]) -> None:
    instance = await lookup.one(ctx, lookup.INSTANCE, id)
    if instance.state not in (InstanceState.running, InstanceState.stopped):
        raise ApiError(
            "IncorrectInstanceState",
            f"The instance '{id}' is not in a state from which its credit option can be modified.",
        )
    value = options.cpu_credits(entry, TYPES[instance.type])
    if value != instance.cpu_credits:
        await ctx.tx.put(replace(instance, cpu_credits=value))
