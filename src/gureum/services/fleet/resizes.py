"""Instances that get another type while they run: begun, and looked at."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from gureum.control import resizes
from gureum.control.placement import NoCapacity
from gureum.control.resizes import CannotResize
from gureum.errors import ApiError
from gureum.resources import Growth, Instance, InstanceMigration, InstanceState
from gureum.resources.migration import UNDER_WAY
from gureum.services.ec2 import capacity, pagination
from gureum.services.ec2.instance_types import TYPES, machine_size
from gureum.services.fleet.faults import invalid
from gureum.services.operation import Context, Input, Output, operation

PAGE_DEFAULT = 100
MIB = 1 << 20
WAITING = "no host that is on has room: it grows when one is there that is woken for it"


@operation("fleet", "ResizeInstance", write=True)
async def resize_instance(ctx: Context, input: Input) -> Output:
    instance = await existing(ctx, input["InstanceId"])
    type = input["InstanceType"]
    if type not in TYPES:
        raise invalid(f"There is no instance type {type!r}. See DescribeInstanceTypes of ec2.")
    await resizes.require_interfaces(ctx.tx, instance, type)
    moves = input.get("MoveIfFull") is not False
    size = ctx.hosts.size(str(instance.host), instance.id, instance.generation)
    if instance.growth is not None:
        # Whatever else was asked for before.
        instance = await ctx.tx.put(replace(instance, growth=None))
    try:
        if type != instance.type:
            resizes.require_possible(instance, machine_size(type), size)
        if moves and await resizes.grows_later(ctx.tx, instance, type):
            later = replace(instance, growth=Growth(type=type, since=ctx.env.now()))
            return {"InstanceSize": await _item(ctx, await ctx.tx.put(later))}
        changed = await resizes.begin(ctx.tx, ctx.env, instance, type, size, moves)
    except CannotResize as error:
        raise ApiError(
            "InvalidStateException", f"Instance {instance.id} can't become a {type} now: {error}."
        ) from error
    except NoCapacity as error:
        raise capacity.insufficient(
            f"There is no room for instance {instance.id} as a {type}: {error}. Stop, terminate or migrate "
            "others, or choose a smaller type, and try again."
        ) from error
    return {"InstanceSize": await _item(ctx, changed)}


@operation("fleet", "DescribeInstanceSizes")
async def describe_instance_sizes(ctx: Context, input: Input) -> Output:
    ids, size = input.get("InstanceIds"), input.get("MaxResults") or PAGE_DEFAULT
    if ids:
        if input.get("MaxResults") or input.get("NextToken"):
            raise invalid("InstanceIds cannot be used together with MaxResults or NextToken.")
        found = [await existing(ctx, id) for id in sorted(set(ids))]
        return {"InstanceSizes": [await _item(ctx, each) for each in found]}
    token = input.get("NextToken")
    after = pagination.decode(token, "DescribeInstanceSizes") if token else None
    page = await ctx.tx.find(Instance, after=after, limit=size + 1)
    shown = [each for each in page[:size] if each.state is not InstanceState.terminated]
    output: dict[str, Any] = {"InstanceSizes": [await _item(ctx, each) for each in shown]}
    if len(page) > size:
        output["NextToken"] = pagination.encode(page[size - 1].id, "DescribeInstanceSizes")
    return output


async def existing(ctx: Context, id: str) -> Instance:
    """Raises ResourceNotFoundException."""
    instance = await ctx.tx.get(Instance, id)
    if instance is None or instance.state is InstanceState.terminated:
        raise ApiError(
            "ResourceNotFoundException", f"There is no instance {id!r}. See DescribeInstances of ec2."
        )
    return instance


async def _item(ctx: Context, instance: Instance) -> dict[str, Any]:
    wanted, resize = machine_size(instance.type), instance.resize
    item: dict[str, Any] = {
        "InstanceId": instance.id,
        "InstanceType": instance.type,
        "HostId": instance.host,
        "State": "settled",
        "TypeVCpus": wanted.vcpus,
        "TypeMemoryMiB": wanted.memory_mib,
        "Message": (resize.message or None) if resize is not None else None,
    }
    if instance.state is not InstanceState.running:
        return {**item, "State": str(instance.state)}
    migration = await ctx.tx.get(InstanceMigration, instance.migration) if instance.migration else None
    if instance.growth is not None:
        item |= {"State": "waiting", "TargetInstanceType": instance.growth.type, "Message": WAITING}
    elif resize is not None:
        item["State"] = "stuck" if resize.message else "resizing"
    elif migration is not None and migration.state in UNDER_WAY and migration.type != instance.type:
        item |= {"State": "moving", "TargetInstanceType": migration.type, "MigrationId": migration.id}
    size = ctx.hosts.size(str(instance.host), instance.id, instance.generation)
    if size is None:
        return item
    return {
        **item,
        "VCpus": size.vcpus,
        "MemoryMiB": size.memory_bytes // MIB,
        "VCpusMax": size.vcpus_max,
        "MemoryMiBMin": size.memory_min_bytes // MIB,
        "MemoryMiBMax": size.memory_max_bytes // MIB,
    }
