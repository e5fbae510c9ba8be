"""Where in the network a new instance goes: subnet, security groups and addresses of RunInstances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gureum.errors import ApiError
from gureum.resources import Host, HostState, NetworkInterface, SecurityGroup, Subnet
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.allocation import check_private_address
from gureum.services.ec2.defaults import GROUP_NAME, default_vpc
from gureum.services.ec2.faults import invalid_combination, invalid_value, unsupported
from gureum.services.ec2.zones import chosen_zone
from gureum.services.operation import Context, Input

# What a network interface specification may say; everything else is refused if it is set.
_KNOWN = {
    "AssociatePublicIpAddress", "DeleteOnTermination", "Description", "DeviceIndex", "Groups",
    "PrivateIpAddress", "PrivateIpAddresses", "SubnetId",
}  # fmt: skip
_HARMLESS: dict[str, tuple[Any, ...]] = {"InterfaceType": ("", "interface")}


class Place(NamedTuple):
    """``private_ip`` is "" for any address. ``public``: give it a public address."""

    subnet: Subnet
    groups: tuple[SecurityGroup, ...]
    private_ip: str
    public: bool
    description: str
    delete_on_termination: bool


async def choose(ctx: Context, input: Input) -> Place:
    spec = _interface_spec(input)
    subnet = await _subnet(ctx, input, spec.get("SubnetId") or input.get("SubnetId"))
    groups = await _groups(ctx, input, spec, subnet)
    private_ip = _private_ip(input, spec)
    if private_ip:
        if input["MaxCount"] > 1:
            raise invalid_combination("A private IP address can be specified for one instance only.")
        await check_private_address(ctx.tx, subnet, private_ip)
    public = spec.get("AssociatePublicIpAddress")
    delete = spec.get("DeleteOnTermination")
    return Place(
        subnet,
        groups,
        private_ip,
        subnet.map_public_ip if public is None else public,
        spec.get("Description") or "",
        delete is not False,
    )


def _interface_spec(input: Input) -> Mapping[str, Any]:
    specs = input.get("NetworkInterfaces") or ()
    if not specs:
        return {}
    if len(specs) > 1:
        raise unsupported("Instances with more than one network interface are not supported by gureum yet.")
    spec: Mapping[str, Any] = specs[0]
    if spec.get("NetworkInterfaceId"):
        raise unsupported("Launching with an existing network interface is not supported by gureum yet.")
    for member, value in spec.items():
        if value and member not in _KNOWN and value not in _HARMLESS.get(member, ()):
            raise unsupported(f"{member} of a network interface is not supported by gureum yet.")
    if spec.get("DeviceIndex") is None:
        raise invalid_value("Each network interface requires a device index.")
    if spec["DeviceIndex"] != 0:
        raise invalid_value("The primary network interface must have the device index 0.")
    for member, what in (
        ("SubnetId", "an instance-level subnet ID"),
        ("SecurityGroupIds", "instance-level security groups"),
        ("SecurityGroups", "instance-level security groups"),
        ("PrivateIpAddress", "an instance-level private IP address"),
    ):
        if input.get(member):
            raise invalid_combination(
                f"Network interfaces and {what} may not be specified on the same request"
            )
    return spec


def _private_ip(input: Input, spec: Mapping[str, Any]) -> str:
    listed = spec.get("PrivateIpAddresses") or ()
    if len(listed) > 1:
        raise unsupported("Secondary private IP addresses are not supported by gureum yet.")
    if listed and listed[0].get("Primary") is False:
        raise invalid_value("The primary private IP address must be specified.")
    found = {
        address
        for address in (
            input.get("PrivateIpAddress"),
            spec.get("PrivateIpAddress"),
            *(entry.get("PrivateIpAddress") for entry in listed),
        )
        if address
    }
    if len(found) > 1:
        raise invalid_combination("Only one primary private IP address can be specified.")
    return found.pop() if found else ""


async def _subnet(ctx: Context, input: Input, id: str | None) -> Subnet:
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
    wanted = {zone} if zone else await _zones_with_hosts(ctx)
    chosen = [subnet for subnet in subnets if subnet.zone in wanted]
    if not chosen:
        raise ApiError("MissingInput", f"No default subnet for availability zone: '{zone or 'null'}'.")
    filled = [
        (
            await ctx.tx.count(NetworkInterface, subnet=subnet.id) if len(chosen) > 1 else 0,
            subnet.zone,
            subnet,
        )
        for subnet in chosen
    ]
    return min(filled, key=lambda entry: entry[:2])[2]


async def _zones_with_hosts(ctx: Context) -> set[str]:
    """Where an instance could run now; before any host is up, the first zone."""
    up = {host.zone for host in await ctx.tx.find(Host) if host.state is HostState.up}
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
