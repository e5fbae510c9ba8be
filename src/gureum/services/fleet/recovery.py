"""What is wanted of an instance whose host is lost, or whose machine dies."""

from __future__ import annotations

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Instance, InstanceState, RecoveryPolicy
from gureum.services.fleet.faults import invalid
from gureum.services.operation import Context, Input, Output, operation

PRIORITY_MAX = 100


@operation("fleet", "SetInstanceRecovery", write=True)
async def set_instance_recovery(ctx: Context, input: Input) -> Output:
    instance = await ctx.tx.get(Instance, input["InstanceId"])
    if instance is None or instance.state is InstanceState.terminated:
        raise ApiError(
            "ResourceNotFoundException",
            f"There is no instance {input['InstanceId']!r}. See DescribeInstances.",
        )
    recovery, policy, priority = instance.recovery, input.get("Policy"), input.get("Priority")
    if policy is not None:
        if policy not in list(RecoveryPolicy):
            raise invalid(f"Policy is one of: {', '.join(RecoveryPolicy)}.")
        recovery = replace(recovery, policy=RecoveryPolicy(policy))
    if priority is not None:
        if not 0 <= priority <= PRIORITY_MAX:
            raise invalid(f"Priority is 0 to {PRIORITY_MAX}.")
        recovery = replace(recovery, priority=priority)
    if recovery != instance.recovery:
        await ctx.tx.put(replace(instance, recovery=recovery))
    return {
        "Recovery": {
            "InstanceId": instance.id,
            "Policy": str(recovery.policy),
            "Priority": recovery.priority,
        }
    }
