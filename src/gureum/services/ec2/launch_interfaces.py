"""The network interfaces of the instances that RunInstances makes: their addresses and their records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from gureum.resources import Address, Instance, InterfaceAttachment, NetworkInterface, SecondaryAddress
from gureum.services.ec2.allocation import ipv6_addresses, new_mac, private_addresses
from gureum.services.ec2.interface_options import Addresses, deal
from gureum.services.ec2.placement import Place
from gureum.services.operation import Context

Row = list[Addresses]
"""Of one instance: the addresses of each of its interfaces."""


async def addresses(ctx: Context, places: Sequence[Place], low: int, high: int) -> list[Row]:
    """For ``high`` instances, or for as many as there are addresses for if that is at least ``low``.

    Raises InsufficientFreeAddressesInSubnet.
    """
    free: dict[str, Iterator[str]] = {}
    new = [place for place in places if place.interface is None]
    for subnet in {place.subnet.id: place.subnet for place in new}.values():
        wanted = [place.wanted for place in new if place.subnet.id == subnet.id]
        each = sum(one.free_count for one in wanted)
        if each:
            given = [ip for one in wanted for ip in one.given]
            found = await private_addresses(ctx.tx, subnet, low * each, high * each, given)
            high = min(high, len(found) // each)
            free[subnet.id] = iter(found)
    taken: set[str] = set()
    return [[await _addresses(ctx, place, free, taken) for place in places] for _ in range(high)]


async def _addresses(
    ctx: Context, place: Place, free: dict[str, Iterator[str]], taken: set[str]
) -> Addresses:
    """Of one interface. ``taken``: IPv6 addresses that others of the same request have got."""
    if place.interface is not None:
        return Addresses(place.interface.private_ip)
    taken |= set(place.wanted.ipv6)
    ipv6 = await ipv6_addresses(ctx.tx, ctx.env, place.subnet, place.wanted.ipv6_count, taken)
    taken |= set(ipv6)
    return deal(place.wanted, free.get(place.subnet.id, iter(())), iter(ipv6))


async def create(
    ctx: Context, instance: Instance, places: Sequence[Place], tags: dict[str, str], row: Row, public_ip: str
) -> list[NetworkInterface]:
    """The interfaces of a new instance; ``tags`` and ``public_ip`` are for those that are new."""
    made = []
    for place, found in zip(places, row, strict=True):
        if place.interface is None:
            public = public_ip if place.public else ""
            interface = _interface(ctx, instance, place, tags, found, public)
        else:
            interface = await _existing(ctx, instance, place, place.interface)
        made.append(await ctx.tx.put(interface))
    return made


def _interface(
    ctx: Context, instance: Instance, place: Place, tags: dict[str, str], found: Addresses, public_ip: str
) -> NetworkInterface:
    return NetworkInterface(
        id=ctx.env.new_id("eni"),
        account=ctx.caller.account,
        tags=tags,
        vpc=place.subnet.vpc,
        subnet=place.subnet.id,
        zone=place.subnet.zone,
        mac=new_mac(ctx.env),
        private_ip=found.primary,
        secondary=tuple(SecondaryAddress(private_ip=each) for each in found.secondary),
        ipv6=found.ipv6,
        groups=tuple(group.id for group in place.groups),
        description=place.description,
        instance=instance.id,
        attachment=ctx.env.new_id("eni-attach"),
        device_index=place.device_index,
        attached=instance.launched,
        delete_on_termination=place.delete_on_termination,
        public_ip=public_ip,
        auto_public=place.public,
    )


async def _existing(
    ctx: Context, instance: Instance, place: Place, interface: NetworkInterface
) -> NetworkInterface:
    for address in await ctx.tx.find(Address, interface=interface.id):
        await ctx.tx.put(replace(address, instance=instance.id))
    return replace(
        interface,
        instance=instance.id,
        attachment=ctx.env.new_id("eni-attach"),
        attachment_state=InterfaceAttachment.attached,
        device_index=place.device_index,
        attached=instance.launched,
        delete_on_termination=place.delete_on_termination,
    )
