"""Placement groups, and what is asked of an instance's place: group, partition, tenancy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Instance, InstanceState, PlacementGroup, SpreadLevel, Strategy
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.faults import (
    incorrect_instance_state,
    invalid_combination,
    invalid_parameter_value,
    missing,
    unsupported,
)
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

NAME_LENGTH_MAX = 255
PARTITIONS_MAX = 7
PARTITIONS_DEFAULT = 2
TENANCIES = ("default", "dedicated")
LIVE = tuple(str(state) for state in InstanceState if state is not InstanceState.terminated)


class Asked(NamedTuple):
    """What a launch says of its instances' place."""

    group: PlacementGroup | None = None
    partition: int = 0
    tenancy: str = "default"


async def asked(ctx: Context, given: Mapping[str, Any] | None) -> Asked:
    """Raises for what does not go together."""
    given = given or {}
    refuse_unsupported(given)
    group = await _named(ctx, given.get("GroupName"), given.get("GroupId"))
    partition = _checked_partition(group, given.get("PartitionNumber"))
    return Asked(group, partition, _checked_tenancy(given.get("Tenancy")))


def refuse_unsupported(given: Mapping[str, Any]) -> None:
    """Raises UnsupportedOperation for what would have to be ignored."""
    for member in ("HostId", "HostResourceGroupArn", "SpreadDomain"):
        if given.get(member):
            raise unsupported(
                f"{member} is not supported by gureum: there are no Dedicated Hosts. With the tenancy "
                "'dedicated' an instance shares its host with nobody else's."
            )
    if given.get("Affinity") not in (None, "", "default"):
        raise unsupported("The affinity 'host' needs Dedicated Hosts, which are not supported by gureum.")


def _checked_tenancy(value: str | None) -> str:
    if value == "host":
        raise unsupported("The tenancy 'host' needs Dedicated Hosts, which are not supported by gureum.")
    if value and value not in TENANCIES:
        raise invalid_parameter_value(value, "tenancy", f"Expected: {', '.join(TENANCIES)}.")
    return value or "default"


def _checked_partition(group: PlacementGroup | None, number: int | None) -> int:
    if number is None:
        return 0
    if group is None or group.strategy is not Strategy.partitions:
        raise invalid_combination(
            "A partition number can be specified only with a placement group of the strategy partition."
        )
    if not 1 <= number <= group.partitions:
        raise invalid_parameter_value(
            number, "partitionNumber", f"The placement group has the partitions 1 to {group.partitions}."
        )
    return number


async def _named(ctx: Context, name: str | None, id: str | None) -> PlacementGroup | None:
    if name and id:
        raise invalid_combination("Specify the name of a placement group or its ID, not both.")
    if id:
        group = await ctx.tx.get(PlacementGroup, id)
        if group is None or group.account != ctx.caller.account:
            raise _unknown(id)
        return group
    return (await _by_names(ctx, [name]))[0] if name else None


async def _by_names(ctx: Context, names: Sequence[str]) -> list[PlacementGroup]:
    found = await ctx.tx.find(PlacementGroup, account=ctx.caller.account, name=list(names))
    if absent := sorted(set(names) - {group.name for group in found}):
        raise _unknown(absent[0])
    return found


def _unknown(name: str) -> ApiError:
    return ApiError("InvalidPlacementGroup.Unknown", f"The Placement Group '{name}' is unknown.")


def in_group(instance: Instance, wanted: Asked) -> Instance:
    """The instance with what was asked for."""
    group = wanted.group
    return replace(
        instance,
        group=group.id if group is not None else "",
        group_name=group.name if group is not None else "",
        partition=wanted.partition,
        tenancy=wanted.tenancy,
    )


def _item(ctx: Context, group: PlacementGroup) -> dict[str, Any]:
    return {
        "GroupName": group.name,
        "GroupId": group.id,
        "GroupArn": arn(ctx, group),
        "State": "available",
        "Strategy": str(group.strategy),
        "PartitionCount": group.partitions or None,
        "SpreadLevel": str(group.spread) if group.strategy is Strategy.spread else None,
        "Tags": tag_list(group.tags),
    }


def arn(ctx: Context, group: PlacementGroup) -> str:
    return f"arn:aws:ec2:{ctx.cloud.region}:{group.account}:placement-group/{group.name}"


@operation("ec2", "CreatePlacementGroup", write=True)
async def create_placement_group(ctx: Context, input: Input) -> Output:
    for member in ("LinkedGroupId", "Operator", "ParentGroupId"):
        if input.get(member):
            raise unsupported(f"{member} of a placement group is not supported by gureum.")
    name = input.get("GroupName") or ""
    if not name:
        raise missing("GroupName")
    if len(name) > NAME_LENGTH_MAX or not name.isascii() or not name.isprintable():
        raise invalid_parameter_value(
            name, "groupName", f"It must have 1 to {NAME_LENGTH_MAX} ASCII characters."
        )
    strategy = _checked_strategy(input.get("Strategy"))
    partitions = _checked_count(input.get("PartitionCount"), strategy)
    spread = _checked_spread(input.get("SpreadLevel"), strategy)
    tags = specified_tags(input, "placement-group")["placement-group"]
    if await ctx.tx.count(PlacementGroup, account=ctx.caller.account, name=name):
        raise ApiError("InvalidPlacementGroup.Duplicate", f"The Placement Group '{name}' already exists.")
    if await ctx.tx.count(PlacementGroup, account=ctx.caller.account) >= limits.PLACEMENT_GROUPS_MAX:
        raise ApiError(
            "PlacementGroupLimitExceeded",
            f"The maximum number of placement groups ({limits.PLACEMENT_GROUPS_MAX}) has been reached.",
        )
    group = await ctx.tx.put(
        PlacementGroup(
            id=ctx.env.new_id("pg"),
            account=ctx.caller.account,
            tags=tags,
            name=name,
            strategy=strategy,
            partitions=partitions,
            spread=spread,
        )
    )
    return {"PlacementGroup": _item(ctx, group)}


def _checked_strategy(value: str | None) -> Strategy:
    try:
        return Strategy(value or Strategy.cluster)
    except ValueError:
        expected = f"Expected: {', '.join(Strategy)}."
        raise invalid_parameter_value(value, "strategy", expected) from None


def _checked_count(count: int | None, strategy: Strategy) -> int:
    if strategy is not Strategy.partitions:
        if count is not None:
            raise invalid_combination("A partition count can be specified for the strategy partition only.")
        return 0
    if count is not None and not 1 <= count <= PARTITIONS_MAX:
        raise invalid_parameter_value(count, "partitionCount", f"It must be 1 to {PARTITIONS_MAX}.")
    return count or PARTITIONS_DEFAULT


def _checked_spread(value: str | None, strategy: Strategy) -> SpreadLevel:
    if value and strategy is not Strategy.spread:
        raise invalid_combination("A spread level can be specified for the strategy spread only.")
    try:
        return SpreadLevel(value or SpreadLevel.rack)
    except ValueError:
        expected = f"Expected: {', '.join(SpreadLevel)}."
        raise invalid_parameter_value(value, "spreadLevel", expected) from None


@operation("ec2", "DeletePlacementGroup", write=True)
async def delete_placement_group(ctx: Context, input: Input) -> Output:
    if not input.get("GroupName"):
        raise missing("GroupName")
    [group] = await _by_names(ctx, [input["GroupName"]])
    if await ctx.tx.count(Instance, groups=group.id, state=LIVE):
        raise ApiError(
            "InvalidPlacementGroup.InUse",
            f"The placement group '{group.name}' is in use and may not be deleted.",
        )
    await ctx.tx.delete(group)
    return {}


@operation("ec2", "DescribePlacementGroups")
async def describe_placement_groups(ctx: Context, input: Input) -> Output:
    def group_arn(group: PlacementGroup) -> tuple[str, ...]:
        return (arn(ctx, group),)

    filters = Filters(
        {
            "group-arn": group_arn,
            "group-id": "id",
            "group-name": "name",
            "spread-level": lambda group: (str(group.spread),) if group.strategy is Strategy.spread else (),
            "state": lambda group: ("available",),
            "strategy": "strategy",
        }
    )
    query = filters.parse(input.get("Filters"))
    chosen: dict[str, PlacementGroup] = {}
    if names := input.get("GroupNames"):
        chosen.update((group.id, group) for group in await _by_names(ctx, names))
    if ids := input.get("GroupIds"):
        chosen.update((group.id, group) for group in await lookup.many(ctx, lookup.PLACEMENT_GROUP, ids))
    if not names and not ids:
        found = await ctx.tx.find(PlacementGroup, account=ctx.caller.account)
        chosen = {group.id: group for group in found}
    ordered = sorted(chosen.values(), key=lambda group: group.name)
    return {"PlacementGroups": [_item(ctx, group) for group in ordered if query.admits(group)]}


@operation("ec2", "ModifyInstancePlacement", write=True)
async def modify_instance_placement(ctx: Context, input: Input) -> Output:
    """An empty GroupName takes the instance out of its group."""
    refuse_unsupported(input)
    instance = await lookup.one(ctx, lookup.INSTANCE, input["InstanceId"])
    members = ("GroupName", "GroupId", "PartitionNumber", "Tenancy", "Affinity")
    if all(input.get(member) is None for member in members):
        raise missing("one of GroupName, GroupId, PartitionNumber, Tenancy")
    if instance.state is not InstanceState.stopped:
        raise incorrect_instance_state(f"The instance '{instance.id}' is not in the 'stopped' state.")
    if input.get("GroupName") is None and input.get("GroupId") is None:
        group = await ctx.tx.get(PlacementGroup, instance.group) if instance.group else None
        partition = instance.partition
    else:
        group = await _named(ctx, input.get("GroupName"), input.get("GroupId"))
        partition = 0
    if input.get("PartitionNumber") is not None:
        partition = _checked_partition(group, input["PartitionNumber"])
    tenancy = _checked_tenancy(input.get("Tenancy") or instance.tenancy)
    if group is not None and group.strategy is Strategy.partitions and not partition:
        partition = await _emptiest(ctx, group)
    changed = in_group(instance, Asked(group, partition, tenancy))
    if changed != instance:
        await ctx.tx.put(changed)
    return {"Return": True}


async def _emptiest(ctx: Context, group: PlacementGroup) -> int:
    members = [each.partition for each in await ctx.tx.find(Instance, groups=group.id, state=LIVE)]
    return min(range(1, group.partitions + 1), key=lambda number: (members.count(number), number))
