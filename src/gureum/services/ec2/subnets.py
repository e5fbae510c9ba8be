"""Subnets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import CidrAssociation, FlowLog, NetworkInterface, Subnet, Vpc
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.allocation import usable
from gureum.services.ec2.cidrs import invalid_range, networks, overlapping, parse4, parse6, within
from gureum.services.ec2.defaults import default_acl, default_subnet, default_vpc
from gureum.services.ec2.faults import (
    dependency_violation,
    invalid_combination,
    invalid_parameter_value,
    invalid_value,
    missing,
    unsupported,
)
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.placement import zones_with_hosts
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.ec2.vpc_cidrs import PREFIX_MAX, PREFIX_MIN, address_attribute, limit_exceeded
from gureum.services.ec2.zones import chosen_zone, zone_ids
from gureum.services.operation import Context, Input, Output, operation

PREFIX6 = 64
_CREATE_UNSUPPORTED = (
    "OutpostArn",
    "Ipv6Native",
    "Ipv4IpamPoolId",
    "Ipv4NetmaskLength",
    "Ipv6IpamPoolId",
    "Ipv6NetmaskLength",
)
_MODIFY_UNSUPPORTED = (
    "MapCustomerOwnedIpOnLaunch",
    "CustomerOwnedIpv4Pool",
    "EnableDns64",
    "EnableLniAtDeviceIndex",
    "DisableLniAtDeviceIndex",
)
_MODIFIABLE = {
    "MapPublicIpOnLaunch": "map_public_ip",
    "AssignIpv6AddressOnCreation": "assign_ipv6",
    "EnableResourceNameDnsARecordOnLaunch": "dns_a_record",
    "EnableResourceNameDnsAAAARecordOnLaunch": "dns_aaaa_record",
}


def _refuse(input: Input, members: Sequence[str]) -> None:
    for member in members:
        # False asks for what is so anyway.
        if input.get(member) not in (None, False, {"Value": False}):
            raise unsupported(f"{member} is not supported by gureum.")


@operation("ec2", "CreateSubnet", write=True)
async def create_subnet(ctx: Context, input: Input) -> Output:
    _refuse(input, _CREATE_UNSUPPORTED)
    vpc = await lookup.one(ctx, lookup.VPC, input["VpcId"])
    if not input.get("CidrBlock"):
        raise missing("cidrBlock")
    tags = specified_tags(input, "subnet")["subnet"]
    others = await ctx.tx.find(Subnet, vpc=vpc.id)
    zone = await _zone(ctx, input, others)
    cidr = _free_cidr(input["CidrBlock"], vpc, others)
    ipv6 = None
    if input.get("Ipv6CidrBlock"):
        ipv6 = _new_ipv6(ctx, input["Ipv6CidrBlock"], vpc, others)
    if len(others) >= limits.SUBNETS_PER_VPC_MAX:
        raise ApiError(
            "SubnetLimitExceeded", f"The maximum number of subnets of VPC '{vpc.id}' has been reached."
        )
    subnet = await ctx.tx.put(
        Subnet(
            id=ctx.env.new_id("subnet"),
            account=ctx.caller.account,
            tags=tags,
            vpc=vpc.id,
            zone=zone,
            cidr=cidr,
            ipv6=ipv6,
            acl=(await default_acl(ctx.tx, vpc.id)).id,
            acl_association=ctx.env.new_id("aclassoc"),
        )
    )
    return {"Subnet": (await _items(ctx, [subnet]))[0]}


async def _zone(ctx: Context, input: Input, others: Sequence[Subnet]) -> str:
    """The zone asked for, or of those with hosts the one that has the fewest subnets of the VPC."""
    name, id = input.get("AvailabilityZone"), input.get("AvailabilityZoneId")
    if name and name not in ctx.cloud.zones:
        raise invalid_parameter_value(
            name,
            "availabilityZone",
            "Subnets can currently only be created in the following availability zones: "
            f"{', '.join(ctx.cloud.zones)}.",
        )
    if name or id:
        return chosen_zone(ctx.cloud, name, id)
    there = [subnet.zone for subnet in others]
    return min(sorted(await zones_with_hosts(ctx)), key=there.count)


def _free_cidr(text: str, vpc: Vpc, others: Sequence[Subnet]) -> str:
    """Raises InvalidSubnet.Range for what is not in the VPC, InvalidSubnet.Conflict for what is taken."""
    network = parse4(text, "cidrBlock")
    if not PREFIX_MIN <= network.prefixlen <= PREFIX_MAX or not within(network, networks(vpc.cidrs)):
        rule = f"It has to be a /{PREFIX_MIN} to /{PREFIX_MAX} within {' or '.join(vpc.cidrs)}."
        raise invalid_range("InvalidSubnet.Range", network, rule)
    if overlapping(network, networks(subnet.cidr for subnet in others)):
        raise ApiError("InvalidSubnet.Conflict", f"The CIDR '{network}' conflicts with another subnet")
    return str(network)


def _new_ipv6(ctx: Context, text: str, vpc: Vpc, others: Sequence[Subnet]) -> CidrAssociation:
    network = parse6(text, "ipv6CidrBlock")
    if network.prefixlen != PREFIX6 or not within(network, networks(vpc.cidrs6)):
        raise ApiError(
            "InvalidSubnet.Range",
            f"The CIDR '{network}' is invalid. It has to be a /{PREFIX6} of an IPv6 CIDR of '{vpc.id}'.",
        )
    if overlapping(network, networks(subnet.ipv6.cidr for subnet in others if subnet.ipv6 is not None)):
        raise ApiError("InvalidSubnet.Conflict", f"The CIDR '{network}' conflicts with another subnet")
    return CidrAssociation(id=ctx.env.new_id("subnet-cidr-assoc"), cidr=str(network))


@operation("ec2", "CreateDefaultSubnet", write=True)
async def create_default_subnet(ctx: Context, input: Input) -> Output:
    _refuse(input, ("Ipv6Native",))
    zone = chosen_zone(ctx.cloud, input.get("AvailabilityZone"), input.get("AvailabilityZoneId"))
    if not zone:
        raise missing("availabilityZone")
    vpc = await default_vpc(ctx.tx, ctx.caller.account)
    if vpc is None:
        raise ApiError("DefaultVpcDoesNotExist", "No default VPC exists for this account in this region.")
    for subnet in await ctx.tx.find(Subnet, vpc=vpc.id, zone=zone):
        if subnet.default_for_az:
            raise ApiError(
                "DefaultSubnetAlreadyExistsInAvailabilityZone",
                f"'{subnet.id}' is already the default subnet in {zone}.",
            )
    subnet = await ctx.tx.put(await default_subnet(ctx.tx, ctx.env, vpc, zone))
    return {"Subnet": (await _items(ctx, [subnet]))[0]}


@operation("ec2", "DeleteSubnet", write=True)
async def delete_subnet(ctx: Context, input: Input) -> Output:
    subnet = await lookup.one(ctx, lookup.SUBNET, input["SubnetId"])
    if await ctx.tx.count(NetworkInterface, subnet=subnet.id):
        raise dependency_violation(
            f"The subnet '{subnet.id}' has dependencies and cannot be deleted: it has network interfaces."
        )
    for log in await ctx.tx.find(FlowLog, resource=subnet.id):
        await ctx.tx.delete(log)
    await ctx.tx.delete(subnet)
    return {}


@operation("ec2", "ModifySubnetAttribute", write=True)
async def modify_subnet_attribute(ctx: Context, input: Input) -> Output:
    _refuse(input, _MODIFY_UNSUPPORTED)
    subnet = await lookup.one(ctx, lookup.SUBNET, input["SubnetId"])
    naming = input.get("PrivateDnsHostnameTypeOnLaunch")
    if naming == "resource-name":
        raise unsupported("Host names of type resource-name are not supported by gureum; use ip-name.")
    if naming not in (None, "ip-name"):
        raise invalid_parameter_value(naming, "privateDnsHostnameTypeOnLaunch")
    changes: dict[str, bool] = {}
    for member, field in _MODIFIABLE.items():
        if input.get(member) is None:
            continue
        if input[member].get("Value") is None:
            raise missing(f"{member[0].lower()}{member[1:]}.Value")
        changes[field] = input[member]["Value"]
    if not changes and naming is None and not any(member in input for member in _MODIFY_UNSUPPORTED):
        raise invalid_combination("No subnet attribute was specified.")
    if changes.get("assign_ipv6") and subnet.ipv6 is None:
        raise invalid_value(
            f"Invalid value 'true' for assignIpv6AddressOnCreation: '{subnet.id}' has no IPv6 CIDR block."
        )
    await ctx.tx.put(replace(subnet, **changes))
    return {}


@operation("ec2", "AssociateSubnetCidrBlock", write=True)
async def associate_subnet_cidr_block(ctx: Context, input: Input) -> Output:
    _refuse(input, ("Ipv6IpamPoolId", "Ipv6NetmaskLength"))
    subnet = await lookup.one(ctx, lookup.SUBNET, input["SubnetId"])
    if not input.get("Ipv6CidrBlock"):
        raise missing("ipv6CidrBlock")
    if subnet.ipv6 is not None:
        raise limit_exceeded(subnet.id, 1)
    vpc = await ctx.tx.get(Vpc, subnet.vpc)
    assert vpc is not None
    others = await ctx.tx.find(Subnet, vpc=vpc.id)
    association = _new_ipv6(ctx, input["Ipv6CidrBlock"], vpc, others)
    await ctx.tx.put(replace(subnet, ipv6=association))
    return {
        "SubnetId": subnet.id,
        "Ipv6CidrBlockAssociation": _association_item(association, "associating"),
    }


@operation("ec2", "DisassociateSubnetCidrBlock", write=True)
async def disassociate_subnet_cidr_block(ctx: Context, input: Input) -> Output:
    id = input["AssociationId"]
    found = await ctx.tx.find(Subnet, account=ctx.caller.account, ipv6_association=id)
    if not found:
        raise ApiError(
            "InvalidSubnetCidrBlockAssociationID.NotFound",
            f"The subnet CIDR block with association ID '{id}' does not exist",
        )
    subnet = found[0]
    refused = f"The subnet IPv6 CIDR block with association ID {id} may not be disassociated, because its "
    if subnet.assign_ipv6:
        raise ApiError(
            "InvalidCidrBlock.InUse", refused + "subnet has assign-ipv6-address-on-creation set to true."
        )
    if any(interface.ipv6 for interface in await ctx.tx.find(NetworkInterface, subnet=subnet.id)):
        raise ApiError("InvalidCidrBlock.InUse", refused + "addresses are assigned to network interfaces.")
    assert subnet.ipv6 is not None
    await ctx.tx.put(replace(subnet, ipv6=None))
    return {
        "SubnetId": subnet.id,
        "Ipv6CidrBlockAssociation": _association_item(subnet.ipv6, "disassociating"),
    }


def _association_item(association: CidrAssociation, state: str) -> dict[str, Any]:
    return {
        "AssociationId": association.id,
        "Ipv6CidrBlock": association.cidr,
        "Ipv6CidrBlockState": {"State": state},
        "Ipv6AddressAttribute": address_attribute(association.cidr),
        "IpSource": "amazon",
    }


async def _free_addresses(ctx: Context, subnet: Subnet) -> int:
    """How many private IPv4 addresses are left."""
    first = await ctx.tx.count(NetworkInterface, subnet=subnet.id)
    crowded = await ctx.tx.find(NetworkInterface, crowded=subnet.id)
    return usable(subnet) - first - sum(len(interface.secondary) for interface in crowded)


async def _items(ctx: Context, subnets: Sequence[Subnet]) -> list[dict[str, Any]]:
    ids = zone_ids(ctx.cloud)
    return [
        {
            "SubnetId": subnet.id,
            "SubnetArn": f"arn:aws:ec2:{ctx.cloud.region}:{subnet.account}:subnet/{subnet.id}",
            "OwnerId": subnet.account,
            "State": "available",
            "VpcId": subnet.vpc,
            "CidrBlock": subnet.cidr,
            "AvailableIpAddressCount": await _free_addresses(ctx, subnet),
            "AvailabilityZone": subnet.zone,
            "AvailabilityZoneId": ids.get(subnet.zone),
            "DefaultForAz": subnet.default_for_az,
            "MapPublicIpOnLaunch": subnet.map_public_ip,
            "MapCustomerOwnedIpOnLaunch": False,
            "AssignIpv6AddressOnCreation": subnet.assign_ipv6,
            "Ipv6CidrBlockAssociationSet": [
                _association_item(each, "associated") for each in (subnet.ipv6,) if each is not None
            ],
            "EnableDns64": False,
            "Ipv6Native": False,
            "PrivateDnsNameOptionsOnLaunch": {
                "HostnameType": "ip-name",
                "EnableResourceNameDnsARecord": subnet.dns_a_record,
                "EnableResourceNameDnsAAAARecord": subnet.dns_aaaa_record,
            },
            "BlockPublicAccessStates": {"InternetGatewayBlockMode": "off"},
            "Tags": tag_list(subnet.tags) or [],
        }
        for subnet in subnets
    ]


SUBNETS = Listing(
    operation="DescribeSubnets",
    noun=lookup.SUBNET,
    ids="SubnetIds",
    items="Subnets",
    filters=Filters(
        {
            "availability-zone-id": "AvailabilityZoneId",
            "availabilityZoneId": "AvailabilityZoneId",
            "available-ip-address-count": "AvailableIpAddressCount",
            "cidr": "cidr",
            "cidr-block": "cidr",
            "cidrBlock": "cidr",
            "customer-owned-ipv4-pool": "CustomerOwnedIpv4Pool",
            "default-for-az": "default_for_az",
            "defaultForAz": "default_for_az",
            "enable-dns64": "EnableDns64",
            "enable-lni-at-device-index": "EnableLniAtDeviceIndex",
            "ipv6-cidr-block-association.association-id": "Ipv6CidrBlockAssociationSet[].AssociationId",
            "ipv6-cidr-block-association.ipv6-cidr-block": "Ipv6CidrBlockAssociationSet[].Ipv6CidrBlock",
            "ipv6-cidr-block-association.state": "Ipv6CidrBlockAssociationSet[].Ipv6CidrBlockState.State",
            "ipv6-native": "Ipv6Native",
            "map-customer-owned-ip-on-launch": "MapCustomerOwnedIpOnLaunch",
            "map-public-ip-on-launch": "map_public_ip",
            "mapPublicIpOnLaunch": "map_public_ip",
            "outpost-arn": "OutpostArn",
            "owner-id": "account",
            "private-dns-name-options-on-launch.enable-resource-name-dns-a-record": (
                "PrivateDnsNameOptionsOnLaunch.EnableResourceNameDnsARecord"
            ),
            "private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record": (
                "PrivateDnsNameOptionsOnLaunch.EnableResourceNameDnsAAAARecord"
            ),
            "private-dns-name-options-on-launch.hostname-type": "PrivateDnsNameOptionsOnLaunch.HostnameType",
            "state": "State",
            "subnet-arn": "SubnetArn",
            "subnet-id": "id",
        },
        index={"availability-zone": "zone", "availabilityZone": "zone", "vpc-id": "vpc"},
    ),
    describe=_items,
)


@operation("ec2", "DescribeSubnets")
async def describe_subnets(ctx: Context, input: Input) -> Output:
    return await SUBNETS.answer(ctx, input)
