"""Elastic addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import Address, Instance, InstanceState, InternetGateway, NetworkInterface
from gureum.services.ec2 import limits, lookup, pagination
from gureum.services.ec2.allocation import is_public_free, public_addresses, unassociated
from gureum.services.ec2.describe import ipv4_addresses
from gureum.services.ec2.faults import (
    invalid_combination,
    invalid_parameter_value,
    invalid_value,
    missing,
    several_interfaces,
    unsupported,
)
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.interface_options import check_unmanaged
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

_FILTERS = Filters(
    {
        "allocation-id": "id",
        "association-id": "association",
        "domain": lambda address: ("vpc",),
        "instance-id": "instance",
        "network-border-group": "NetworkBorderGroup",
        "network-interface-id": "interface",
        "network-interface-owner-id": "NetworkInterfaceOwnerId",
        "private-ip-address": "private_ip",
        "public-ip": "public_ip",
        "subnet-id": "SubnetId",
    }
)


@operation("ec2", "AllocateAddress", write=True)
async def allocate_address(ctx: Context, input: Input) -> Output:
    for member in ("CustomerOwnedIpv4Pool", "IpamPoolId"):
        if input.get(member):
            raise unsupported(f"{member} is not supported by gureum.")
    if input.get("PublicIpv4Pool") not in (None, "", "amazon"):
        raise ApiError(
            "InvalidPublicIpv4PoolID.NotFound", f"The pool ID '{input['PublicIpv4Pool']}' does not exist."
        )
    domain = input.get("Domain") or "vpc"
    if domain not in ("vpc", "standard"):
        raise invalid_parameter_value(domain, "domain")
    if domain != "vpc":
        raise unsupported("Addresses are for use in VPCs only.")
    if (input.get("NetworkBorderGroup") or ctx.cloud.region) != ctx.cloud.region:
        raise invalid_value(f"The network border group '{input['NetworkBorderGroup']}' does not exist.")
    tags = specified_tags(input, "elastic-ip")["elastic-ip"]
    if await ctx.tx.count(Address, account=ctx.caller.account) >= limits.ADDRESSES_MAX:
        raise ApiError("AddressLimitExceeded", "The maximum number of addresses has been reached.")
    if wanted := input.get("Address"):
        if not await is_public_free(ctx.tx, ctx.cloud, wanted):
            raise ApiError("InvalidAddress.NotFound", f"Address '{wanted}' is not available.")
        public_ip = wanted
    else:
        [public_ip] = await public_addresses(ctx.tx, ctx.env, ctx.cloud, 1)
    address = await ctx.tx.put(
        Address(id=ctx.env.new_id("eipalloc"), account=ctx.caller.account, tags=tags, public_ip=public_ip)
    )
    return {
        "AllocationId": address.id,
        "PublicIp": address.public_ip,
        "Domain": "vpc",
        "PublicIpv4Pool": "amazon",
        "NetworkBorderGroup": ctx.cloud.region,
    }


async def _requested(ctx: Context, input: Input, by_number: ApiError) -> Address:
    """The address that a request names. All are of VPCs: their number alone gets the error ``by_number``."""
    id, public_ip = input.get("AllocationId"), input.get("PublicIp")
    if id and public_ip:
        raise invalid_combination("You may specify public IP or allocation id, but not both in the same call")
    if id:
        return await lookup.one(ctx, lookup.ADDRESS, id)
    if not public_ip:
        raise missing("AllocationId")
    _check_ips([public_ip])
    if not await ctx.tx.find(Address, account=ctx.caller.account, public_ip=public_ip):
        raise _not_found([public_ip])
    raise by_number


def _check_ips(texts: Sequence[str]) -> None:
    for text in texts:
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            raise invalid_parameter_value(text, "publicIp", "Invalid IPv4 address") from None


def _not_found(public_ips: Sequence[str]) -> ApiError:
    return ApiError("InvalidAddress.NotFound", f"Address '{', '.join(public_ips)}' not found.")


@operation("ec2", "ReleaseAddress", write=True)
async def release_address(ctx: Context, input: Input) -> Output:
    address = await _requested(
        ctx, input, invalid_value("You must specify an allocation id when releasing a VPC elastic IP address")
    )
    if address.association:
        raise ApiError("InvalidIPAddress.InUse", f"Address {address.public_ip} is in use.")
    await ctx.tx.delete(address)
    return {}


@operation("ec2", "AssociateAddress", write=True)
async def associate_address(ctx: Context, input: Input) -> Output:
    address = await _requested(
        ctx,
        input,
        invalid_combination("You must specify an allocation id when mapping an address to a VPC instance"),
    )
    interface = await _target(ctx, input)
    private_ip = input.get("PrivateIpAddress") or interface.private_ip
    if private_ip not in (each.private_ip for each in ipv4_addresses(interface)):
        raise invalid_value(f"The interface '{interface.id}' does not have the address {private_ip}")
    check_unmanaged(interface)
    if (address.interface, address.private_ip) == (interface.id, private_ip):
        return {"AssociationId": address.association}
    await check_gateway(ctx, interface.vpc)
    # In a VPC an address moves unless that is refused explicitly.
    if address.association and input.get("AllowReassociation") is False:
        raise ApiError(
            "Resource.AlreadyAssociated",
            f"resource {address.id} is already associated with associate-id {address.association}",
        )
    if address.association:
        address = await _release(ctx, address)
    return {"AssociationId": (await associate(ctx, address, interface.id, private_ip)).association}


async def check_gateway(ctx: Context, vpc: str) -> None:
    """Raises Gateway.NotAttached for a VPC without an Internet gateway."""
    if not await ctx.tx.count(InternetGateway, vpc=vpc):
        raise ApiError("Gateway.NotAttached", f"Network {vpc} is not attached to any internet gateway")


async def associate(ctx: Context, address: Address, interface_id: str, private_ip: str) -> Address:
    """Let a private address of an interface have an elastic one that nothing has, in place of any other."""
    interface = await ctx.tx.get(NetworkInterface, interface_id)
    assert interface is not None, "checked before"
    for other in await ctx.tx.find(Address, interface=interface.id):
        if other.private_ip == private_ip:
            await ctx.tx.put(unassociated(other))
    await ctx.tx.put(with_public(interface, private_ip, address.public_ip, address.id))
    return await ctx.tx.put(
        replace(
            address,
            association=ctx.env.new_id("eipassoc"),
            interface=interface.id,
            instance=interface.instance or "",
            private_ip=private_ip,
        )
    )


def with_public(
    interface: NetworkInterface, private_ip: str, public_ip: str, address: str
) -> NetworkInterface:
    """The interface with this public address for one of its private ones; ``address``: its allocation id."""
    if private_ip == interface.private_ip:
        return replace(interface, public_ip=public_ip, address=address)
    secondary = (
        replace(each, public_ip=public_ip, address=address) if each.private_ip == private_ip else each
        for each in interface.secondary
    )
    return replace(interface, secondary=tuple(secondary))


async def _target(ctx: Context, input: Input) -> NetworkInterface:
    """The interface that gets the address."""
    instance_id, interface_id = input.get("InstanceId"), input.get("NetworkInterfaceId")
    if instance_id and interface_id:
        raise invalid_combination("Specify an instance ID or a network interface ID, not both.")
    if interface_id:
        return await lookup.one(ctx, lookup.INTERFACE, interface_id)
    if not instance_id:
        raise missing("InstanceId or NetworkInterfaceId")
    instance = await lookup.one(ctx, lookup.INSTANCE, instance_id)
    if instance.state not in (InstanceState.running, InstanceState.stopped, InstanceState.stopping):
        raise ApiError(
            "InvalidInstanceID",
            f"The {instance.state} instance '{instance.id}' is not in a valid state for this operation.",
        )
    if len(instance.interfaces) > 1:
        raise several_interfaces(instance)
    interface = await ctx.tx.get(NetworkInterface, instance.interfaces[0])
    assert interface is not None
    return interface


@operation("ec2", "DisassociateAddress", write=True)
async def disassociate_address(ctx: Context, input: Input) -> Output:
    association, public_ip = input.get("AssociationId"), input.get("PublicIp")
    if association and public_ip:
        raise invalid_combination("You may specify public IP or association id, but not both")
    if not association and not public_ip:
        raise missing("AssociationId")
    own = await ctx.tx.find(Address, account=ctx.caller.account)
    if public_ip:
        _check_ips([public_ip])
        if all(address.public_ip != public_ip for address in own):
            raise _not_found([public_ip])
        raise invalid_value(
            "You must specify an association id when unmapping an address from a VPC instance"
        )
    found = [address for address in own if address.association == association]
    if not found:
        raise ApiError("InvalidAssociationID.NotFound", f"The association ID '{association}' does not exist")
    await _release(ctx, found[0])
    return {}


async def _release(ctx: Context, address: Address) -> Address:
    """Take an address off its interface, which gets an automatic one again if it had one and runs."""
    interface = await ctx.tx.get(NetworkInterface, address.interface)
    if interface is not None:
        check_unmanaged(interface)
    if interface is not None and interface.address != address.id:
        await ctx.tx.put(with_public(interface, address.private_ip, "", ""))
    elif interface is not None:
        instance = await ctx.tx.get(Instance, interface.instance or "")
        runs = instance is not None and instance.state in (InstanceState.pending, InstanceState.running)
        automatic = ""
        if interface.auto_public and runs:
            [automatic] = await public_addresses(ctx.tx, ctx.env, ctx.cloud, 1)
        await ctx.tx.put(replace(interface, public_ip=automatic, address=""))
    return await ctx.tx.put(unassociated(address))


@operation("ec2", "DescribeAddresses")
async def describe_addresses(ctx: Context, input: Input) -> Output:
    query = _FILTERS.parse(input.get("Filters"))
    addresses = [address for address in await _named(ctx, input) if query.admits(address)]
    found = await ctx.tx.get_many(NetworkInterface, {a.interface for a in addresses if a.interface})
    subnets = {interface.id: interface.subnet for interface in found}
    shown = [_item(ctx, address, subnets.get(address.interface)) for address in addresses]
    return {"Addresses": [item for item in shown if query.matches(item)]}


async def _named(ctx: Context, input: Input) -> Sequence[Address]:
    """The addresses of the ids together with those of the public addresses; all if neither is given."""
    ids, public_ips = input.get("AllocationIds") or (), input.get("PublicIps") or ()
    own = await ctx.tx.find(Address, account=ctx.caller.account)
    if not ids and not public_ips:
        return own
    _check_ips(public_ips)
    absent = [ip for ip in public_ips if ip not in {address.public_ip for address in own}]
    if absent:
        raise _not_found(absent)
    by_id = {address.id for address in await lookup.many(ctx, lookup.ADDRESS, ids)} if ids else set()
    return [address for address in own if address.id in by_id or address.public_ip in public_ips]


def _item(ctx: Context, address: Address, subnet: str | None) -> dict[str, Any]:
    return {
        "AllocationId": address.id,
        "PublicIp": address.public_ip,
        "Domain": "vpc",
        "PublicIpv4Pool": "amazon",
        "NetworkBorderGroup": ctx.cloud.region,
        "AssociationId": address.association or None,
        "InstanceId": address.instance or None,
        "NetworkInterfaceId": address.interface or None,
        "NetworkInterfaceOwnerId": address.account if address.interface else None,
        "PrivateIpAddress": address.private_ip or None,
        "SubnetId": subnet,
        "Tags": tag_list(address.tags),
    }


@operation("ec2", "DescribeAddressesAttribute")
async def describe_addresses_attribute(ctx: Context, input: Input) -> Output:
    """Reverse names cannot be set here, so there is none to show: as EC2, leave such addresses out."""
    pagination.page(input, "DescribeAddressesAttribute", ids="AllocationIds")
    await lookup.many(ctx, lookup.ADDRESS, input.get("AllocationIds") or ())
    return {"Addresses": []}
