"""Further private addresses of interfaces, IPv4 and IPv6: assign and unassign."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from gureum.resources import Address, Instance, NetworkInterface, SecondaryAddress, Subnet
from gureum.services.ec2 import interface_options as options
from gureum.services.ec2 import lookup
from gureum.services.ec2.allocation import (
    check_ipv6_address,
    check_private_address,
    in_use,
    ipv6_addresses,
    parse_ipv6,
    private_addresses,
    unassociated,
)
from gureum.services.ec2.faults import invalid_combination, invalid_value, missing
from gureum.services.operation import Context, Input, Output, operation


async def _interface(ctx: Context, input: Input) -> NetworkInterface:
    options.refuse_unsupported(input)
    interface = await lookup.one(ctx, lookup.INTERFACE, input["NetworkInterfaceId"])
    options.check_unmanaged(interface)
    return interface


async def _subnet(ctx: Context, interface: NetworkInterface) -> Subnet:
    subnet = await ctx.tx.get(Subnet, interface.subnet)
    assert subnet is not None, "a subnet with interfaces is not deleted"
    return subnet


async def _check_room(ctx: Context, interface: NetworkInterface, ipv4: int, ipv6: int) -> None:
    instance = await ctx.tx.get(Instance, interface.instance or "")
    options.check_limits(ipv4, ipv6, instance.type if instance is not None else "")


def _asked(listed: Sequence[str] | None, count: int | None, names: tuple[str, str]) -> None:
    """Raises unless exactly one of the list and the count is given."""
    if listed and count:
        raise invalid_combination(f"The parameters {names[0]} and {names[1]} cannot be used together")
    if not listed and not count:
        raise missing(f"{names[0]} or {names[1]}")
    if count is not None and count < 0:
        raise invalid_value(f"Value ({count}) for parameter {names[1]} is invalid. It must be positive.")
    if listed and len(set(listed)) < len(listed):
        raise invalid_value(f"Each of {names[0]} can be specified once only.")


@operation("ec2", "AssignPrivateIpAddresses", write=True)
async def assign_private_ip_addresses(ctx: Context, input: Input) -> Output:
    interface = await _interface(ctx, input)
    listed, count = input.get("PrivateIpAddresses"), input.get("SecondaryPrivateIpAddressCount")
    _asked(listed, count, ("privateIpAddresses", "secondaryPrivateIpAddressCount"))
    subnet = await _subnet(ctx, interface)
    own = {each.private_ip for each in interface.secondary}
    added = [each for each in listed or () if each not in own]
    await _check_room(ctx, interface, 1 + len(own) + (count or len(added)), 0)
    if count:
        added = await private_addresses(ctx.tx, subnet, count, count)
        taken = [SecondaryAddress(private_ip=each) for each in added]
    else:
        reassign = bool(input.get("AllowReassignment"))
        taken = [await _take(ctx, interface, subnet, each, reassign) for each in added]
    if taken:
        await ctx.tx.put(replace(interface, secondary=(*interface.secondary, *taken)))
    return {
        "NetworkInterfaceId": interface.id,
        "AssignedPrivateIpAddresses": [{"PrivateIpAddress": each} for each in listed or added],
    }


async def _take(
    ctx: Context, interface: NetworkInterface, subnet: Subnet, address: str, reassign: bool
) -> SecondaryAddress:
    """A free address, or another interface's secondary one, which comes with its elastic address."""
    holders = await ctx.tx.find(NetworkInterface, subnet=subnet.id, addresses=address)
    if not holders or not reassign:
        await check_private_address(ctx.tx, subnet, address)
        return SecondaryAddress(private_ip=address)
    [holder] = holders
    moved = next((each for each in holder.secondary if each.private_ip == address), None)
    if moved is None:
        raise in_use(address)
    options.check_unmanaged(holder)
    left = tuple(each for each in holder.secondary if each.private_ip != address)
    await ctx.tx.put(replace(holder, secondary=left))
    if moved.address:
        elastic = await ctx.tx.get(Address, moved.address)
        assert elastic is not None, "an associated address is not released"
        await ctx.tx.put(replace(elastic, interface=interface.id, instance=interface.instance or ""))
    return moved


@operation("ec2", "UnassignPrivateIpAddresses", write=True)
async def unassign_private_ip_addresses(ctx: Context, input: Input) -> Output:
    interface = await _interface(ctx, input)
    listed = input.get("PrivateIpAddresses")
    if not listed:
        raise missing("privateIpAddresses")
    if interface.private_ip in listed:
        raise invalid_value(f"The primary address {interface.private_ip} cannot be unassigned.")
    absent = set(listed) - {each.private_ip for each in interface.secondary}
    if absent:
        raise invalid_value(
            f"Some of the specified addresses are not assigned to interface {interface.id}: "
            f"{', '.join(sorted(absent))}"
        )
    for each in interface.secondary:
        if each.private_ip in listed and each.address:
            elastic = await ctx.tx.get(Address, each.address)
            assert elastic is not None, "an associated address is not released"
            await ctx.tx.put(unassociated(elastic))
    left = tuple(each for each in interface.secondary if each.private_ip not in listed)
    await ctx.tx.put(replace(interface, secondary=left))
    return {}


@operation("ec2", "AssignIpv6Addresses", write=True)
async def assign_ipv6_addresses(ctx: Context, input: Input) -> Output:
    interface = await _interface(ctx, input)
    listed, count = input.get("Ipv6Addresses"), input.get("Ipv6AddressCount")
    _asked(listed, count, ("ipv6Addresses", "ipv6AddressCount"))
    subnet = await _subnet(ctx, interface)
    await _check_room(ctx, interface, 1, len(interface.ipv6) + (count or len(listed or ())))
    if count:
        added = await ipv6_addresses(ctx.tx, ctx.env, subnet, count)
    else:
        added = [await check_ipv6_address(ctx.tx, subnet, each) for each in listed or ()]
        if len(set(added)) < len(added):
            raise invalid_value("Each of ipv6Addresses can be specified once only.")
    await ctx.tx.put(replace(interface, ipv6=(*interface.ipv6, *added)))
    return {"NetworkInterfaceId": interface.id, "AssignedIpv6Addresses": added}


@operation("ec2", "UnassignIpv6Addresses", write=True)
async def unassign_ipv6_addresses(ctx: Context, input: Input) -> Output:
    interface = await _interface(ctx, input)
    listed = input.get("Ipv6Addresses")
    if not listed:
        raise missing("ipv6Addresses")
    removed = [str(parse_ipv6(each)) for each in listed]
    absent = set(removed) - set(interface.ipv6)
    if absent:
        raise invalid_value(
            f"Some of the specified addresses are not assigned to interface {interface.id}: "
            f"{', '.join(sorted(absent))}"
        )
    left = tuple(each for each in interface.ipv6 if each not in removed)
    await ctx.tx.put(replace(interface, ipv6=left))
    return {"NetworkInterfaceId": interface.id, "UnassignedIpv6Addresses": removed}
