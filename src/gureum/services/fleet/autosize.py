"""Instances that get another type by what they use: between which bounds, and what should become of each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from gureum.control.autosize import Level
from gureum.resources import Autosize, AutosizeMode, Instance, InstanceState
from gureum.services.ec2 import pagination
from gureum.services.ec2.instance_types import TYPES
from gureum.services.fleet.faults import invalid
from gureum.services.fleet.resizes import PAGE_DEFAULT, existing
from gureum.services.operation import Context, Input, Output, operation

OFF = "off"
MODES = (OFF, *AutosizeMode)
TARGET_DEFAULT, TARGET_MIN, TARGET_MAX = 60, 10, 90
COOLDOWN_DEFAULT, COOLDOWN_MIN, COOLDOWN_MAX = 300, 60, 86400


@operation("fleet", "SetInstanceAutosize", write=True)
async def set_instance_autosize(ctx: Context, input: Input) -> Output:
    """What is not said stays as it is, or is the default."""
    instance = await existing(ctx, input["InstanceId"])
    mode = input.get("Mode")
    if mode not in (None, *MODES):
        raise invalid(f"Mode is one of: {', '.join(MODES)}.")
    policy = None if mode == OFF else _policy(instance, mode, input)
    if policy != instance.autosize:
        instance = await ctx.tx.put(replace(instance, autosize=policy))
    return {"InstanceAutosize": _item(instance)}


def _policy(instance: Instance, mode: str | None, input: Input) -> Autosize:
    before = instance.autosize
    smallest = input.get("MinInstanceType") or (before.smallest if before else "")
    largest = input.get("MaxInstanceType") or (before.largest if before else "")
    for name, type in (("MinInstanceType", smallest), ("MaxInstanceType", largest)):
        if not type:
            raise invalid(f"{name} is missing: between which types is {instance.id} to be?")
        if type not in TYPES:
            raise invalid(f"{name}: there is no instance type {type!r}. See DescribeInstanceTypes of ec2.")
    low, high = TYPES[smallest], TYPES[largest]
    if low.vcpus > high.vcpus or low.memory_bytes > high.memory_bytes:
        raise invalid(
            f"MinInstanceType is to be no larger than MaxInstanceType: {smallest} is, than {largest}."
        )
    target = input.get("TargetPercent")
    if target is None:
        target = before.target if before else TARGET_DEFAULT
    if not TARGET_MIN <= target <= TARGET_MAX:
        raise invalid(f"TargetPercent is {TARGET_MIN} to {TARGET_MAX}.")
    cooldown = input.get("CoolDownSeconds")
    if cooldown is None:
        cooldown = before.cooldown if before else COOLDOWN_DEFAULT
    if not COOLDOWN_MIN <= cooldown <= COOLDOWN_MAX:
        raise invalid(f"CoolDownSeconds is {COOLDOWN_MIN} to {COOLDOWN_MAX}.")
    return Autosize(
        mode=AutosizeMode(mode) if mode else before.mode if before else AutosizeMode.recommend,
        target=target,
        smallest=smallest,
        largest=largest,
        cooldown=cooldown,
        changed=before.changed if before else 0.0,
    )


@operation("fleet", "DescribeInstanceAutosizes")
async def describe_instance_autosizes(ctx: Context, input: Input) -> Output:
    ids, size = input.get("InstanceIds"), input.get("MaxResults") or PAGE_DEFAULT
    if ids:
        if input.get("MaxResults") or input.get("NextToken"):
            raise invalid("InstanceIds cannot be used together with MaxResults or NextToken.")
        found = [await existing(ctx, id) for id in sorted(set(ids))]
        return {"InstanceAutosizes": [_described(ctx, each) for each in found]}
    token = input.get("NextToken")
    after = pagination.decode(token, "DescribeInstanceAutosizes") if token else None
    page = await ctx.tx.find(Instance, autosized="yes", after=after, limit=size + 1)
    shown = [each for each in page[:size] if each.state is not InstanceState.terminated]
    output: dict[str, Any] = {"InstanceAutosizes": [_described(ctx, each) for each in shown]}
    if len(page) > size:
        output["NextToken"] = pagination.encode(page[size - 1].id, "DescribeInstanceAutosizes")
    return output


def _item(instance: Instance) -> dict[str, Any]:
    policy = instance.autosize
    item: dict[str, Any] = {"InstanceId": instance.id, "InstanceType": instance.type, "Mode": OFF}
    if policy is None:
        return item
    return {
        **item,
        "Mode": str(policy.mode),
        "TargetPercent": policy.target,
        "MinInstanceType": policy.smallest,
        "MaxInstanceType": policy.largest,
        "CoolDownSeconds": policy.cooldown,
        "LastChangedAt": datetime.fromtimestamp(policy.changed, UTC) if policy.changed else None,
    }


def _described(ctx: Context, instance: Instance) -> dict[str, Any]:
    """With what is known of its use."""
    item, sight = _item(instance), ctx.hosts.autosize(instance.id)
    if sight is None:
        return item
    verdict = sight.verdict
    return {
        **item,
        "ObservedSeconds": int(sight.seconds),
        "Recent": _level(sight.seen.upper),
        "Peak": _level(sight.seen.peak),
        "RecommendedInstanceType": verdict.type or None,
        "StoppedInstanceType": verdict.stopped or None,
        "Reason": verdict.reason,
        "HeldBecause": sight.held or None,
    }


def _level(level: Level | None) -> dict[str, float] | None:
    if level is None:
        return None
    item = {"CpuPercent": round(100 * level.cpu, 1)}
    if level.memory is not None:
        item["MemoryPercent"] = round(100 * level.memory, 1)
    return item
