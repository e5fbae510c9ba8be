"""Network interfaces: create, delete and modify. Attaching is in ``interface_attachments``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Instance, InstanceState, NetworkInterface, SecondaryAddress
from gureum.services.ec2 import interface_options as options
from gureum.services.ec2 import interfaces, limits, lookup
from gureum.services.ec2.allocation import new_mac, public_addresses, remove_interface
from gureum.services.ec2.faults import invalid_combination, invalid_value, missing, unsupported
from gureum.services.ec2.placement import checked_groups, groups_or_default
from gureum.services.ec2.tagging import specified_tags
from gureum.services.operation import Context, Input, Output, operation


@operation("ec2", "CreateNetworkInterface", write=True)
async def create_network_interface(ctx: Context, input: Input) -> Output:
    options.refuse_unsupported(input)
    tags = specified_tags(input, "network-interface")["network-interface"]
    description = options.checked_description(input.get("Description") or "")
    subnet = await lookup.one(ctx, lookup.SUBNET, input["SubnetId"])
    if await ctx.tx.count(NetworkInterface, account=ctx.caller.account) >= limits.INTERFACES_MAX:
        raise ApiError(
            "NetworkInterfaceLimitExceeded", "The maximum number of network interfaces has been reached."
        )
    groups = await groups_or_default(ctx, input.get("Groups") or (), subnet.vpc)
    wanted = options.with_subnets_ipv6(input, options.parse(input), subnet)
    wanted = await options.check_free(ctx, subnet, wanted)
    addresses = await options.allocate(ctx, subnet, wanted)
    interface = await ctx.tx.put(
        NetworkInterface(
            id=ctx.env.new_id("eni"),
            account=ctx.caller.account,
            tags=tags,
            vpc=subnet.vpc,
            subnet=subnet.id,
            zone=subnet.zone,
            mac=new_mac(ctx.env),
            private_ip=addresses.primary,
            secondary=tuple(SecondaryAddress(private_ip=each) for each in addresses.secondary),
            ipv6=addresses.ipv6,
            groups=tuple(group.id for group in groups),
            description=description,
        )
    )
    [item] = await interfaces.items(ctx, [interface])
    return {"NetworkInterface": item, "ClientToken": input.get("ClientToken")}


@operation("ec2", "DeleteNetworkInterface", write=True)
async def delete_network_interface(ctx: Context, input: Input) -> Output:
    interface = await lookup.one(ctx, lookup.INTERFACE, input["NetworkInterfaceId"])
    if interface.instance or interface.requester:
        # As EC2 words it; it has InvalidNetworkInterface.InUse for attaching only.
        raise invalid_value(f"Network interface '{interface.id}' is currently in use.")
    await remove_interface(ctx.tx, interface)
    return {}


_MODIFIABLE = ("AssociatePublicIpAddress", "Attachment", "Description", "Groups", "SourceDestCheck")
_UNMODIFIABLE = (
    "AssociatedSubnetIds",
    "ConnectionTrackingSpecification",
    "EnablePrimaryIpv6",
    "EnaSrdSpecification",
)


@operation("ec2", "ModifyNetworkInterfaceAttribute", write=True)
async def modify_network_interface_attribute(ctx: Context, input: Input) -> Output:
    for member in _UNMODIFIABLE:
        if input.get(member):
            raise unsupported(f"{member} of a network interface is not supported by gureum.")
    wanted = [member for member in _MODIFIABLE if input.get(member) is not None]
    if not wanted:
        raise invalid_combination("No attributes specified.")
    if len(wanted) > 1:
        raise invalid_combination(f"Fields for multiple attribute types specified: {', '.join(wanted)}")
    interface = await lookup.one(ctx, lookup.INTERFACE, input["NetworkInterfaceId"])
    options.check_unmanaged(interface)
    member = wanted[0]
    value = input[member]
    match member:
        case "Description":
            after = replace(interface, description=options.checked_description(value.get("Value") or ""))
        case "SourceDestCheck":
            after = await _source_dest_check(ctx, interface, value)
        case "Groups":
            groups = await checked_groups(ctx, value, interface.vpc)
            if not groups:
                raise invalid_value("A network interface needs at least one security group.")
            after = replace(interface, groups=tuple(dict.fromkeys(group.id for group in groups)))
        case "Attachment":
            after = _attachment(interface, value)
        case _:
            after = await _automatic_address(ctx, interface, value)
    if after != interface:
        await ctx.tx.put(after)
    return {}


async def _source_dest_check(
    ctx: Context, interface: NetworkInterface, value: Mapping[str, Any]
) -> NetworkInterface:
    if value.get("Value") is None:
        raise missing("SourceDestCheck.Value")
    check = bool(value["Value"])
    instance = await ctx.tx.get(Instance, interface.instance or "")
    if instance is not None and interface.device_index == 0:
        await ctx.tx.put(replace(instance, source_dest_check=check))
    return replace(interface, source_dest_check=check)


def _attachment(interface: NetworkInterface, value: Mapping[str, Any]) -> NetworkInterface:
    """Only whether the interface goes with its instance can be changed."""
    for member in ("DefaultEnaQueueCount", "EnaQueueCount"):
        if value.get(member) is not None:
            raise unsupported(f"{member} of a network interface is not supported by gureum.")
    id = value.get("AttachmentId") or ""
    if not id:
        raise missing("attachment.attachmentId")
    if not interface.instance or interface.attachment != id:
        raise ApiError(
            "InvalidAttachmentID.NotFound",
            f"The attachment '{id}' does not exist, or is not of interface '{interface.id}'.",
        )
    delete = value.get("DeleteOnTermination")
    if delete is None:
        raise missing("attachment.deleteOnTermination")
    return replace(interface, delete_on_termination=bool(delete))


async def _automatic_address(ctx: Context, interface: NetworkInterface, wanted: bool) -> NetworkInterface:
    """An automatic public address is the primary interface's alone, and only while it has no elastic one."""
    if not interface.instance or interface.device_index != 0:
        raise invalid_value(
            f"The interface '{interface.id}' is not the primary network interface of an instance, which "
            "alone can have an automatic public address."
        )
    if interface.address:
        return replace(interface, auto_public=wanted)
    public_ip = interface.public_ip if wanted else ""
    instance = await ctx.tx.get(Instance, interface.instance)
    runs = instance is not None and instance.state in (InstanceState.pending, InstanceState.running)
    if wanted and runs and not public_ip:
        [public_ip] = await public_addresses(ctx.tx, ctx.env, ctx.cloud, 1)
    return replace(interface, auto_public=wanted, public_ip=public_ip)
