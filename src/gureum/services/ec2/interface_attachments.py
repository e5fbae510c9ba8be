"""AttachNetworkInterface and DetachNetworkInterface."""

from __future__ import annotations

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import (
    Address,
    Instance,
    InstanceState,
    InterfaceAttachment,
    NetworkInterface,
)
from gureum.services.ec2 import interface_options as options
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.attachments import check_hot_plug
from gureum.services.ec2.faults import incorrect_state, invalid_value, unsupported
from gureum.services.operation import Context, Input, Output, operation


@operation("ec2", "AttachNetworkInterface", write=True)
async def attach_network_interface(ctx: Context, input: Input) -> Output:
    if input.get("NetworkCardIndex"):
        raise unsupported("Network cards other than 0 are not supported by gureum.")
    options.refuse_unsupported(input)
    interface = await lookup.one(ctx, lookup.INTERFACE, input["NetworkInterfaceId"])
    instance = await lookup.one(ctx, lookup.INSTANCE, input["InstanceId"])
    index: int = input["DeviceIndex"]
    options.check_unused(interface)
    await _check_attachable(ctx, interface, instance, index)
    await check_hot_plug(ctx, instance)
    interface = await ctx.tx.put(
        replace(
            interface,
            instance=instance.id,
            host=None if instance.state is InstanceState.stopped else instance.host,
            attachment=ctx.env.new_id("eni-attach"),
            attachment_state=InterfaceAttachment.attaching,
            force_detach=False,
            device_index=index,
            attached=ctx.env.utcnow(),
            delete_on_termination=False,
        )
    )
    for address in await ctx.tx.find(Address, interface=interface.id):
        await ctx.tx.put(replace(address, instance=instance.id))
    own = {each.id: each for each in await ctx.tx.get_many(NetworkInterface, instance.interfaces)}
    ids = sorted((*own, interface.id), key=lambda id: own[id].device_index if id in own else index)
    await ctx.tx.put(replace(instance, interfaces=tuple(ids)))
    return {"AttachmentId": interface.attachment, "NetworkCardIndex": 0}


async def _check_attachable(
    ctx: Context, interface: NetworkInterface, instance: Instance, index: int
) -> None:
    if instance.state not in (InstanceState.running, InstanceState.stopped):
        raise incorrect_state(f"Instance '{instance.id}' is not 'running' or 'stopped'.")
    if interface.zone != instance.zone:
        raise invalid_value(
            f"You may not attach a network interface to an instance if they are not in the same availability "
            f"zone: '{interface.id}' is in {interface.zone}, '{instance.id}' in {instance.zone}."
        )
    if not 0 <= index <= limits.DEVICE_INDEX_MAX:
        raise invalid_value(
            f"Value ({index}) for parameter deviceIndex is invalid. Expected: 1 to {limits.DEVICE_INDEX_MAX}."
        )
    others = await ctx.tx.get_many(NetworkInterface, instance.interfaces)
    if any(other.device_index == index for other in others):
        raise invalid_value(
            f"Instance '{instance.id}' already has an interface attached at device index '{index}'."
        )
    options.check_interface_count(len(others) + 1, instance.type)
    options.check_limits(1 + len(interface.secondary), len(interface.ipv6), instance.type)


@operation("ec2", "DetachNetworkInterface", write=True)
async def detach_network_interface(ctx: Context, input: Input) -> Output:
    id = input["AttachmentId"]
    if id.startswith("ela-attach-"):
        raise ApiError("OperationNotPermitted", "You are not allowed to manage 'ela-attach' attachments.")
    found = [
        each
        for each in await ctx.tx.find(NetworkInterface, attachment=id)
        if each.account == ctx.caller.account and each.instance
    ]
    if not found:
        raise ApiError("InvalidAttachmentID.NotFound", f"The interface attachment '{id}' does not exist.")
    [interface] = found
    options.check_unmanaged(interface)
    if interface.device_index == 0:
        raise ApiError(
            "OperationNotPermitted",
            f"The network interface at device index 0 cannot be detached: '{interface.id}' goes with its "
            "instance.",
        )
    force = bool(input.get("Force"))
    instance = await ctx.tx.get(Instance, interface.instance or "")
    if instance is not None:
        await check_hot_plug(ctx, instance)
    if interface.attachment_state is InterfaceAttachment.detaching and (interface.force_detach or not force):
        return {}
    await ctx.tx.put(replace(interface, attachment_state=InterfaceAttachment.detaching, force_detach=force))
    return {}
