"""Start, stop, reboot and terminate. All instances of a request change, or none."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Address, Instance, InstanceState, NetworkInterface, StateReason, Volume
from gureum.services.ec2 import capacity, keepers, lookup
from gureum.services.ec2.allocation import public_addresses
from gureum.services.ec2.describe import state
from gureum.services.ec2.faults import incorrect_instance_state, unsupported
from gureum.services.operation import Context, Input, Output, operation

USER_SHUTDOWN = StateReason(
    "Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown"
)


def user_initiated(now: datetime) -> str:
    """The state transition reason of what a user asked for."""
    return f"User initiated ({now:%Y-%m-%d %H:%M:%S} GMT)"


def _change(before: Instance, after: Instance) -> dict[str, Any]:
    return {
        "InstanceId": before.id,
        "CurrentState": state(after.state),
        "PreviousState": state(before.state),
    }


@operation("ec2", "StartInstances", write=True)
async def start_instances(ctx: Context, input: Input) -> Output:
    if input.get("AdditionalInfo"):
        raise unsupported("AdditionalInfo is reserved.")
    instances = await lookup.many(ctx, lookup.INSTANCE, input["InstanceIds"])
    changes = []
    for instance in instances:
        if instance.state in (InstanceState.pending, InstanceState.running):
            changes.append(_change(instance, instance))
            continue
        if instance.state is not InstanceState.stopped:
            raise incorrect_instance_state(
                f"The instance '{instance.id}' is not in a state from which it can be started."
            )
        if all(device.device != instance.root_device for device in instance.devices):
            raise incorrect_instance_state(
                f"Instance '{instance.id}' does not have a volume attached at root ({instance.root_device})"
            )
        await capacity.require_room(ctx.tx, instance)
        await _give_public_addresses(ctx, instance)
        host = await _host(ctx, instance)
        started = await ctx.tx.put(
            replace(
                instance,
                state=InstanceState.pending,
                state_reason=None,
                transition_reason="",
                generation=instance.next_generation,
                reboots=0,
                force=False,
                launched=ctx.env.utcnow(),
                host=host,
            )
        )
        changes.append(_change(instance, started))
    return {"StartingInstances": changes}


async def _host(ctx: Context, instance: Instance) -> str | None:
    """Where it has to start; None: where placement finds that it can."""
    volumes = await ctx.tx.find(Volume, instances=instance.id)
    # A volume that moves may bind it to another host than the one where it was.
    if capacity.anywhere(volumes) or await capacity.homes(ctx.tx, volumes) - {instance.host}:
        return None
    if instance.host is not None:
        for volume in volumes:
            await keepers.give(ctx.tx, volume, instance.host)
    return instance.host


async def _give_public_addresses(ctx: Context, instance: Instance) -> None:
    """An automatic public address comes anew with every start; an elastic one stays."""
    for interface in await ctx.tx.get_many(NetworkInterface, instance.interfaces):
        if interface.public_ip:
            continue
        if interface.address:
            address = await ctx.tx.get(Address, interface.address)
            public_ip = address.public_ip if address is not None else ""
        elif interface.auto_public:
            [public_ip] = await public_addresses(ctx.tx, ctx.env, ctx.cloud, 1)
        else:
            continue
        await ctx.tx.put(replace(interface, public_ip=public_ip))


@operation("ec2", "StopInstances", write=True)
async def stop_instances(ctx: Context, input: Input) -> Output:
    if input.get("Hibernate"):
        raise ApiError(
            "UnsupportedHibernationConfiguration", "Hibernation is not supported by gureum for this instance."
        )
    force = bool(input.get("Force") or input.get("SkipOsShutdown"))
    instances = await lookup.many(ctx, lookup.INSTANCE, input["InstanceIds"])
    changes = [_change(instance, await _stop(ctx, instance, force)) for instance in instances]
    return {"StoppingInstances": changes}


async def _stop(ctx: Context, instance: Instance, force: bool) -> Instance:
    if instance.disable_api_stop:
        raise ApiError(
            "OperationNotPermitted",
            f"The instance '{instance.id}' may not be stopped. Modify its 'disableApiStop' instance "
            "attribute and try again.",
        )
    if instance.state is InstanceState.stopped:
        return instance
    if instance.state is InstanceState.stopping:
        if not force or instance.force:
            return instance
        return await ctx.tx.put(replace(instance, force=True))
    if instance.state is not InstanceState.running:
        raise incorrect_instance_state(
            f"The instance '{instance.id}' is not in a state from which it can be stopped."
        )
    return await ctx.tx.put(
        replace(
            instance,
            state=InstanceState.stopping,
            state_reason=USER_SHUTDOWN,
            transition_reason=user_initiated(ctx.env.utcnow()),
            force=force,
        )
    )


@operation("ec2", "RebootInstances", write=True)
async def reboot_instances(ctx: Context, input: Input) -> Output:
    instances = await lookup.many(ctx, lookup.INSTANCE, input["InstanceIds"])
    for instance in instances:
        if instance.state is not InstanceState.running:
            raise incorrect_instance_state(
                f"The instance '{instance.id}' is not in a state from which it can be rebooted."
            )
        await ctx.tx.put(replace(instance, reboots=instance.reboots + 1))
    return {}


@operation("ec2", "TerminateInstances", write=True)
async def terminate_instances(ctx: Context, input: Input) -> Output:
    force = bool(input.get("Force") or input.get("SkipOsShutdown"))
    instances = await lookup.many(ctx, lookup.INSTANCE, input["InstanceIds"])
    for instance in instances:
        if instance.disable_api_termination and instance.state is not InstanceState.terminated:
            raise ApiError(
                "OperationNotPermitted",
                f"The instance '{instance.id}' may not be terminated. Modify its 'disableApiTermination' "
                "instance attribute and try again.",
            )
    changes = [_change(instance, await _terminate(ctx, instance, force)) for instance in instances]
    return {"TerminatingInstances": changes}


async def _terminate(ctx: Context, instance: Instance, force: bool) -> Instance:
    if instance.state is InstanceState.terminated:
        return instance
    if instance.state is InstanceState.shutting_down:
        if not force or instance.force:
            return instance
        return await ctx.tx.put(replace(instance, force=True))
    return await ctx.tx.put(
        replace(
            instance,
            state=InstanceState.shutting_down,
            state_reason=USER_SHUTDOWN,
            transition_reason=user_initiated(ctx.env.utcnow()),
            force=force or instance.force,
        )
    )
