"""Where in the network a new instance goes: subnet, security groups and addresses of RunInstances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gureum.control.fleet import Taken
from gureum.errors import ApiError
from gureum.resources import Host, NetworkInterface, SecurityGroup, Subnet
from gureum.services.ec2 import capacity, limits, lookup
from gureum.services.ec2 import interface_options as options
from gureum.services.ec2.defaults import GROUP_NAME, default_vpc
from gureum.services.ec2.faults import invalid_combination, invalid_value, unsupported
from gureum.services.ec2.interface_options import Wanted
from gureum.services.ec2.zones import chosen_zone
from gureum.services.operation import Context, Input

# What the request says of the instance's only interface, where it does not list interfaces.
_OF_INSTANCE = ("Ipv6AddressCount", "Ipv6Addresses", "PrivateIpAddress", "SubnetId")

# What an interface that there is already has by itself.
_OF_INTERFACE = (
    "AssociatePublicIpAddress",
    "DeleteOnTermination",
    "Description",
    "Groups",
    "Ipv6AddressCount",
    "Ipv6Addresses",
    "PrivateIpAddress",
    "PrivateIpAddresses",
    "SecondaryPrivateIpAddressCount",
    "SubnetId",
)


class Place(NamedTuple):
    """One interface of a new instance. ``public``: give it a public address.

    ``interface``: one that there is already, which keeps its groups and addresses.
    """

    subnet: Subnet
    groups: tuple[SecurityGroup, ...]
    wanted: Wanted
    public: bool
    description: str
    delete_on_termination: bool
    device_index: int = 0
    interface: NetworkInterface | None = None


async def choose(ctx: Context, input: Input, machine: Taken) -> tuple[Place, ...]:
    """The interfaces by device index, the primary one first.

    A zone that was not asked for is one with room for such a machine.
    """
    type = machine.type
    specs = _specs(input)
    options.check_interface_count(len(specs), type)
    primary = await _place(ctx, input, specs[0], machine, alone=len(specs) == 1)
    others = [await _further(ctx, input, spec, primary.subnet) for spec in specs[1:]]
    places = (primary, *others)
    _check_several(places)
    if input["MaxCount"] > 1 and any(place.interface is not None for place in places):
        raise invalid_combination("A network interface can be specified for one instance only.")
    if input["MaxCount"] > 1 and any(place.wanted.by_number for place in places):
        raise invalid_combination("A private IP address can be specified for one instance only.")
    for place in places:
        options.check_limits(*_counts(place), type)
    return places


def _specs(input: Input) -> list[Mapping[str, Any]]:
    """The request's interface specifications by device index; one of the instance's own if it has none."""
    specs: list[Mapping[str, Any]] = list(input.get("NetworkInterfaces") or ())
    if not specs:
        return [{"DeviceIndex": 0, **{name: input[name] for name in _OF_INSTANCE if name in input}}]
    for member, what in (
        ("SubnetId", "an instance-level subnet ID"),
        ("SecurityGroupIds", "instance-level security groups"),
        ("SecurityGroups", "instance-level security groups"),
        ("PrivateIpAddress", "an instance-level private IP address"),
        ("Ipv6Addresses", "instance-level IPv6 addresses"),
        ("Ipv6AddressCount", "an instance-level IPv6 address count"),
    ):
        if input.get(member):
            raise invalid_combination(
                f"Network interfaces and {what} may not be specified on the same request"
            )
    for spec in specs:
        options.refuse_unsupported(spec)
        for member in ("AssociateCarrierIpAddress", "NetworkCardIndex"):
            if spec.get(member):
                raise unsupported(f"{member} of a network interface is not supported by gureum.")
        index = spec.get("DeviceIndex")
        if index is None:
            raise invalid_value("Each network interface requires a device index.")
        if not 0 <= index <= limits.DEVICE_INDEX_MAX:
            raise invalid_value(
                f"Value ({index}) for parameter deviceIndex is invalid. Expected: 0 to "
                f"{limits.DEVICE_INDEX_MAX}."
            )
    specs.sort(key=lambda spec: int(spec["DeviceIndex"]))
    if specs[0]["DeviceIndex"] != 0:
        raise invalid_value("The primary network interface must have the device index 0.")
    if len({spec["DeviceIndex"] for spec in specs}) < len(specs):
        raise invalid_value("Each network interface requires a unique device index.")
    return specs


async def _place(ctx: Context, input: Input, spec: Mapping[str, Any], machine: Taken, alone: bool) -> Place:
    if spec.get("NetworkInterfaceId"):
        return await _existing(ctx, input, spec)
    subnet = await _subnet(ctx, input, spec.get("SubnetId"), machine)
    groups = await _groups(ctx, input, spec, subnet)
    public = spec.get("AssociatePublicIpAddress")
    if public and not alone:
        raise invalid_combination(
            "The associatePublicIPAddress parameter cannot be specified when launching with multiple "
            "network interfaces."
        )
    automatic = alone and (subnet.map_public_ip if public is None else bool(public))
    return await _new(ctx, spec, subnet, groups, automatic)


async def _further(ctx: Context, input: Input, spec: Mapping[str, Any], primary: Subnet) -> Place:
    """An interface besides the primary one: in the same zone and VPC, if nothing else is said its subnet."""
    if spec.get("AssociatePublicIpAddress"):
        raise invalid_combination(
            "The associatePublicIPAddress parameter can only be specified for the network interface with "
            "DeviceIndex 0."
        )
    if spec.get("NetworkInterfaceId"):
        return await _existing(ctx, input, spec)
    subnet = primary
    if spec.get("SubnetId"):
        subnet = await lookup.one(ctx, lookup.SUBNET, spec["SubnetId"])
    groups = await groups_or_default(ctx, spec.get("Groups") or (), subnet.vpc)
    return await _new(ctx, spec, subnet, tuple(groups), public=False)


async def _new(
    ctx: Context, spec: Mapping[str, Any], subnet: Subnet, groups: tuple[SecurityGroup, ...], public: bool
) -> Place:
    wanted = options.with_subnets_ipv6(spec, options.parse(spec), subnet)
    return Place(
        subnet,
        groups,
        await options.check_free(ctx, subnet, wanted),
        public,
        options.checked_description(spec.get("Description") or ""),
        spec.get("DeleteOnTermination") is not False,
        spec["DeviceIndex"],
    )


async def _existing(ctx: Context, input: Input, spec: Mapping[str, Any]) -> Place:
    for member in _OF_INTERFACE:
        if spec.get(member):
            raise invalid_combination(
                f"A network interface may not specify both a network interface ID and {member}"
            )
    interface = await lookup.one(ctx, lookup.INTERFACE, spec["NetworkInterfaceId"])
    options.check_unused(interface)
    placement = input.get("Placement") or {}
    zone = chosen_zone(ctx.cloud, placement.get("AvailabilityZone"), placement.get("AvailabilityZoneId"))
    if zone and interface.zone != zone:
        raise invalid_value(f"The interface '{interface.id}' is in zone {interface.zone}, not in {zone}")
    subnet = await ctx.tx.get(Subnet, interface.subnet)
    assert subnet is not None, "a subnet with interfaces is not deleted"
    return Place(subnet, (), Wanted(), False, "", False, spec["DeviceIndex"], interface)


def _check_several(places: tuple[Place, ...]) -> None:
    primary, given = places[0].subnet, [ip for place in places for ip in place.wanted.given]
    if any(place.subnet.zone != primary.zone or place.subnet.vpc != primary.vpc for place in places):
        raise invalid_combination(
            "All network interfaces of an instance must be in one VPC and one availability zone at launch."
        )
    existing = [place.interface.id for place in places if place.interface is not None]
    if len(set(given)) < len(given) or len(set(existing)) < len(existing):
        raise invalid_value("Each network interface and each private IP address can be specified once only.")


def _counts(place: Place) -> tuple[int, int]:
    """IPv4 and IPv6 addresses of an interface."""
    if place.interface is not None:
        return 1 + len(place.interface.secondary), len(place.interface.ipv6)
    return place.wanted.total, place.wanted.total6


async def _subnet(ctx: Context, input: Input, id: str | None, machine: Taken) -> Subnet:
    placement = input.get("Placement") or {}
    zone = chosen_zone(ctx.cloud, placement.get("AvailabilityZone"), placement.get("AvailabilityZoneId"))
    if id:
        subnet = await lookup.one(ctx, lookup.SUBNET, id)
        if zone and subnet.zone != zone:
            raise invalid_value(f"The subnet '{id}' is in zone {subnet.zone}, not in {zone}")
        return subnet
    vpc = await default_vpc(ctx.tx, ctx.caller.account)
    if vpc is None:
        raise ApiError("VPCIdNotSpecified", "No default VPC for this user.")
    subnets = [subnet for subnet in await ctx.tx.find(Subnet, vpc=vpc.id) if subnet.default_for_az]
    wanted = {zone} if zone else await zones_with_hosts(ctx)
    chosen = [subnet for subnet in subnets if subnet.zone in wanted]
    if not chosen:
        raise ApiError("MissingInput", f"No default subnet for availability zone: '{zone or 'null'}'.")
    if len(chosen) == 1:
        return chosen[0]
    filled = {subnet.id: await ctx.tx.count(NetworkInterface, subnet=subnet.id) for subnet in chosen}
    ordered = sorted(chosen, key=lambda subnet: (filled[subnet.id], subnet.zone))
    for subnet in ordered:
        admission = await capacity.admit(ctx.tx, machine._replace(zone=subnet.zone), input["MinCount"], ())
        if admission.refusal is None:
            return subnet
    return ordered[0]


async def zones_with_hosts(ctx: Context) -> set[str]:
    """Where an instance could run now; before any host is up, the first zone."""
    up = {host.zone for host in await ctx.tx.find(Host) if host.schedulable}
    return up & set(ctx.cloud.zones) or set(ctx.cloud.zones[:1])


async def _groups(
    ctx: Context, input: Input, spec: Mapping[str, Any], subnet: Subnet
) -> tuple[SecurityGroup, ...]:
    ids = [*(spec.get("Groups") or ()), *(input.get("SecurityGroupIds") or ())]
    names = input.get("SecurityGroups") or ()
    groups = await checked_groups(ctx, ids, subnet.vpc)
    if names:
        groups += await named_groups(ctx, names, subnet.vpc)
    if not groups:
        groups = await ctx.tx.find(SecurityGroup, account=ctx.caller.account, vpc=subnet.vpc, name=GROUP_NAME)
    return tuple({group.id: group for group in groups}.values())


async def groups_or_default(ctx: Context, ids: Sequence[str], vpc: str) -> list[SecurityGroup]:
    """The groups of these ids, or the VPC's own if there are none."""
    groups = await checked_groups(ctx, list(dict.fromkeys(ids)), vpc)
    if not groups:
        groups = await ctx.tx.find(SecurityGroup, account=ctx.caller.account, vpc=vpc, name=GROUP_NAME)
    return groups


async def checked_groups(ctx: Context, ids: Sequence[str], vpc: str) -> list[SecurityGroup]:
    """The groups that an interface of this VPC is to have."""
    groups = await lookup.many(ctx, lookup.GROUP, ids)
    if len(groups) > limits.GROUPS_PER_INTERFACE_MAX:
        raise ApiError(
            "SecurityGroupsPerInterfaceLimitExceeded",
            f"The maximum number of security groups per interface ({limits.GROUPS_PER_INTERFACE_MAX}) "
            "has been reached.",
        )
    for group in groups:
        if group.vpc != vpc:
            raise ApiError(
                "InvalidParameter", f"Security group {group.id} and the subnet belong to different networks."
            )
    return groups


async def named_groups(ctx: Context, names: Sequence[str], vpc: str) -> list[SecurityGroup]:
    """Groups by name, which EC2 allows in the default VPC only."""
    default = await default_vpc(ctx.tx, ctx.caller.account)
    if default is None or default.id != vpc:
        raise invalid_combination("The parameter groupName cannot be used with the parameter subnet")
    found = await ctx.tx.find(SecurityGroup, account=ctx.caller.account, vpc=vpc, name=list(names))
    absent = set(names) - {group.name for group in found}
    if absent:
        raise ApiError(
            "InvalidGroup.NotFound",
            f"The security group '{min(absent)}' does not exist in default VPC '{vpc}'",
        )
    return found
