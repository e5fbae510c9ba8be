"""Instances on their way from one host to another: begun, looked at, cancelled."""

from __future__ import annotations

from typing import Any

from gureum.control import migrations
from gureum.control.filters import gib
from gureum.control.move import CannotMove
from gureum.errors import ApiError
from gureum.resources import Host, Instance, InstanceMigration, MigrationState
from gureum.resources.migration import UNDECIDED
from gureum.services.ec2 import pagination
from gureum.services.fleet.faults import invalid
from gureum.services.operation import Context, Input, Output, operation

PAGE_DEFAULT = 100
CANCELLED = "it was cancelled (CancelInstanceMigration)"


@operation("fleet", "DescribeInstanceMigrations")
async def describe_instance_migrations(ctx: Context, input: Input) -> Output:
    """Those under way, and those that ended less than a day ago."""
    ids, instances = input.get("MigrationIds"), input.get("InstanceIds")
    size = input.get("MaxResults") or PAGE_DEFAULT
    if ids:
        if instances or input.get("MaxResults") or input.get("NextToken"):
            raise invalid("MigrationIds cannot be used together with InstanceIds, MaxResults or NextToken.")
        found = await ctx.tx.get_many(InstanceMigration, set(ids))
        if absent := sorted(set(ids) - {migration.id for migration in found}):
            raise ApiError("ResourceNotFoundException", f"There is no migration {absent[0]!r}.")
        return {"InstanceMigrations": [_item(ctx, each) for each in found]}
    token = input.get("NextToken")
    after = pagination.decode(token, "DescribeInstanceMigrations") if token else None
    index = {"instance": list(instances)} if instances else {}
    page = await ctx.tx.find(InstanceMigration, after=after, limit=size + 1, **index)
    output: dict[str, Any] = {"InstanceMigrations": [_item(ctx, each) for each in page[:size]]}
    if len(page) > size:
        output["NextToken"] = pagination.encode(page[size - 1].id, "DescribeInstanceMigrations")
    return output


@operation("fleet", "MigrateInstance", write=True)
async def migrate_instance(ctx: Context, input: Input) -> Output:
    instance = await _instance(ctx, input["InstanceId"])
    host, rate = input.get("HostId") or "", input.get("BytesPerSecond") or 0
    if host and await ctx.tx.get(Host, host) is None:
        raise invalid(f"There is no host {host!r}. See DescribeHosts.")
    if rate < 0:
        raise invalid("BytesPerSecond has to be above 0.")
    try:
        await _require_copied(ctx, instance)
        migration = await migrations.begin(ctx.tx, ctx.env, instance, host, rate)
    except CannotMove as error:
        raise _wrong_state(f"Instance {instance.id} can't be migrated now: {error}.") from error
    return {"InstanceMigration": _item(ctx, migration)}


@operation("fleet", "CancelInstanceMigration", write=True)
async def cancel_instance_migration(ctx: Context, input: Input) -> Output:
    instance = await _instance(ctx, input["InstanceId"])
    migration = await ctx.tx.get(InstanceMigration, instance.migration)
    if migration is None:
        raise _wrong_state(f"Instance {instance.id} is not being migrated.")
    if migration.state is MigrationState.switching:
        raise _wrong_state(f"Instance {instance.id} is on host {migration.destination} already.")
    if migration.state in UNDECIDED:
        migration = await migrations.abort(ctx.tx, migration, "cancelled", CANCELLED)
    return {"InstanceMigration": _item(ctx, migration)}


async def _require_copied(ctx: Context, instance: Instance) -> None:
    """Raises CannotMove for what its host would refuse a moment later."""
    host = await ctx.tx.get(Host, instance.host or "")
    size = ctx.hosts.size(host.id, instance.id, instance.generation) if host is not None else None
    if host is not None and size is not None and size.is_tied(host.accelerator):
        raise CannotMove(
            "it is emulated and has got memory while it ran, which QEMU can't copy. Resize it to a type with "
            f"{gib(size.memory_min_bytes)} (gureum instance resize), or stop it and start it"
        )


async def _instance(ctx: Context, id: str) -> Instance:
    instance = await ctx.tx.get(Instance, id)
    if instance is None:
        raise ApiError(
            "ResourceNotFoundException", f"There is no instance {id!r}. See DescribeInstances of ec2."
        )
    return instance


def _wrong_state(message: str) -> ApiError:
    return ApiError("InvalidStateException", message)


def _item(ctx: Context, migration: InstanceMigration) -> dict[str, Any]:
    item: dict[str, Any] = {
        "MigrationId": migration.id,
        "InstanceId": migration.instance,
        "State": str(migration.state),
        "SourceHostId": migration.source,
        "TargetHostId": migration.destination,
        "Draining": migration.drains,
        "Reason": migration.reason or None,
        "BytesPerSecond": migration.bytes_per_second or None,
        "StartTime": migration.started,
        "SwitchTime": migration.switched,
        "EndTime": migration.ended,
        "Message": migration.message or None,
    }
    if migration.switched is not None:
        return {
            **item,
            "CopiedBytes": migration.copied_bytes,
            "DiskCopiedBytes": migration.copied_disk_bytes if migration.copies else None,
            "DowntimeMilliseconds": migration.downtime_ms or None,
            "CopyMilliseconds": migration.copy_ms or None,
        }
    seen = ctx.hosts.migrating(migration.source, migration.instance)
    if migration.state is not MigrationState.copying or seen is None or seen.migration != migration.id:
        return item
    gain = (seen.passed_bytes_per_second or seen.bytes_per_second) - seen.dirty_bytes_per_second
    return {
        **item,
        "CopiedBytes": seen.copied_bytes,
        "RemainingBytes": seen.remaining_bytes,
        "TotalBytes": seen.total_bytes,
        "DiskCopiedBytes": seen.disk_done_bytes if migration.copies else None,
        "DiskTotalBytes": seen.disk_total_bytes if migration.copies else None,
        "RateBytesPerSecond": seen.bytes_per_second,
        "DirtyBytesPerSecond": seen.dirty_bytes_per_second,
        "RemainingSeconds": -(-seen.remaining_bytes // gain) if gain > 0 else None,
    }
