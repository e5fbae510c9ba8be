"""The networks of a VPC: which it may have, and further ones besides its first."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import (
    CidrAssociation,
    PeeringConnection,
    PeeringState,
    RouteTable,
    SecurityGroup,
    Subnet,
    Vpc,
)
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.cidrs import contains, invalid_range, networks, overlapping, parse4, within
from gureum.services.ec2.defaults import (
    ACL6_NUMBER,
    GROUP_NAME,
    allow_all,
    default_acl,
    everything_out,
)
from gureum.services.ec2.faults import invalid_combination, missing, unsupported
from gureum.services.ec2.networks6 import network6
from gureum.services.operation import Cloud, Context, Input, Output, operation

PREFIX_MIN, PREFIX_MAX = 16, 28
"""A VPC's or subnet's network is at most 65,536 addresses and at least 16."""

_FORBIDDEN = networks(("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"))
_A, _B, _C = networks(("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
_INTERNAL = IPv4Network("198.19.0.0/16")
_DEFAULT_VPC = IPv4Network("172.31.0.0/16")
_LOCAL6 = IPv6Network("fc00::/7")
_POOLS = (
    "Ipv4IpamPoolId",
    "Ipv4NetmaskLength",
    "Ipv6IpamPoolId",
    "Ipv6NetmaskLength",
    "Ipv6Pool",
    "Ipv6CidrBlock",
)


def refuse_pools(ctx: Context, input: Input) -> None:
    """Raises UnsupportedOperation for address managers and for networks of one's own."""
    for member in _POOLS:
        if input.get(member) is not None:
            raise unsupported(
                f"{member} is not supported by gureum: give CidrBlock, or AmazonProvidedIpv6CidrBlock."
            )
    border = input.get("Ipv6CidrBlockNetworkBorderGroup")
    if border and border != ctx.cloud.region:
        raise unsupported(f"The cloud has one network border group, {ctx.cloud.region}; not {border}.")


def check_range(cloud: Cloud, network: IPv4Network) -> None:
    """Raises InvalidVpc.Range for a network that no VPC can have."""
    if not PREFIX_MIN <= network.prefixlen <= PREFIX_MAX:
        rule = f"It has to be a /{PREFIX_MIN} to /{PREFIX_MAX}."
        raise invalid_range("InvalidVpc.Range", network, rule)
    if overlapping(network, _FORBIDDEN):
        rule = f"No VPC can have networks in {', '.join(map(str, _FORBIDDEN))}."
        raise invalid_range("InvalidVpc.Range", network, rule)
    if network.overlaps(IPv4Network(cloud.public_cidr)):
        raise ApiError(
            "InvalidVpc.Range",
            f"The CIDR '{network}' is restricted: the cloud's public addresses are in {cloud.public_cidr}.",
        )


async def new_network6(ctx: Context, number: int) -> str:
    """The IPv6 network for the VPC with this network id. Raises InsufficientCidrBlocks."""
    taken = (
        {cidr for vpc in await ctx.tx.find(Vpc) for cidr in vpc.cidrs6} if ctx.cloud.ipv6_prefix else set()
    )
    return str(network6(ctx.cloud, number, taken))


def primary(vpc: Vpc) -> CidrAssociation:
    """The VPC's first network as an association like the others."""
    return CidrAssociation(id=vpc.id.replace("vpc-", "vpc-cidr-assoc-", 1), cidr=vpc.cidr)


def association_item(association: CidrAssociation, state: str = "associated") -> dict[str, Any]:
    return {
        "AssociationId": association.id,
        "CidrBlock": association.cidr,
        "CidrBlockState": {"State": state},
    }


def address_attribute(cidr6: str) -> str:
    """Whether an IPv6 network is for the cloud alone."""
    return "private" if IPv6Network(cidr6).subnet_of(_LOCAL6) else "public"


def association_item6(association: CidrAssociation, region: str, state: str = "associated") -> dict[str, Any]:
    return {
        "AssociationId": association.id,
        "Ipv6CidrBlock": association.cidr,
        "Ipv6CidrBlockState": {"State": state},
        "NetworkBorderGroup": region,
        "Ipv6Pool": "Amazon",
        "Ipv6AddressAttribute": address_attribute(association.cidr),
        "IpSource": "amazon",
    }


def _answer(ctx: Context, vpc: str, association: CidrAssociation, state: str) -> Output:
    if ":" in association.cidr:
        item = association_item6(association, ctx.cloud.region, state)
        return {"VpcId": vpc, "Ipv6CidrBlockAssociation": item}
    return {"VpcId": vpc, "CidrBlockAssociation": association_item(association, state)}


@operation("ec2", "AssociateVpcCidrBlock", write=True)
async def associate_vpc_cidr_block(ctx: Context, input: Input) -> Output:
    refuse_pools(ctx, input)
    cidr, ipv6 = input.get("CidrBlock"), input.get("AmazonProvidedIpv6CidrBlock")
    if cidr and ipv6:
        raise invalid_combination("Specify cidrBlock or amazonProvidedIpv6CidrBlock, not both.")
    if not cidr and not ipv6:
        raise missing("cidrBlock or amazonProvidedIpv6CidrBlock")
    vpc = await lookup.one(ctx, lookup.VPC, input["VpcId"])
    if ipv6:
        if len(vpc.cidrs6) >= limits.CIDRS6_PER_VPC_MAX:
            raise limit_exceeded(vpc.id, limits.CIDRS6_PER_VPC_MAX)
        network = await new_network6(ctx, vpc.network_id)
        await _admit_ipv6(ctx, vpc)
    else:
        if len(vpc.cidrs) >= limits.CIDRS_PER_VPC_MAX:
            raise limit_exceeded(vpc.id, limits.CIDRS_PER_VPC_MAX)
        network = str(await _additional(ctx, vpc, parse4(cidr or "", "cidrBlock")))
    association = CidrAssociation(id=ctx.env.new_id("vpc-cidr-assoc"), cidr=network)
    await ctx.tx.put(replace(vpc, associations=(*vpc.associations, association)))
    return _answer(ctx, vpc.id, association, "associating")


def limit_exceeded(id: str, most: int) -> ApiError:
    return ApiError(
        "CidrLimitExceeded", f"This network {id} has met its maximum number of allowed CIDRs: {most}"
    )


async def _admit_ipv6(ctx: Context, vpc: Vpc) -> None:
    """As EC2, let the default ACL and the default security group allow IPv6 as they allow IPv4."""
    acl = await default_acl(ctx.tx, vpc.id)
    if not any(":" in entry.cidr or entry.number == ACL6_NUMBER for entry in acl.entries):
        await ctx.tx.put(replace(acl, entries=(*acl.entries, *allow_all(ACL6_NUMBER, "::/0"))))
    [group] = await ctx.tx.find(SecurityGroup, vpc=vpc.id, name=GROUP_NAME)
    out = [rule for rule in group.rules if rule.egress and rule.protocol == "-1"]
    if any(rule.cidr == "0.0.0.0/0" for rule in out) and not any(rule.cidr6 for rule in out):
        await ctx.tx.put(replace(group, rules=(*group.rules, everything_out(ctx.env, "::/0"))))


async def _additional(ctx: Context, vpc: Vpc, network: IPv4Network) -> IPv4Network:
    """The network, if the VPC may have it in addition. Raises InvalidVpc.Range.

    The rules: Amazon VPC User Guide, "VPC CIDR blocks", IPv4 CIDR block association restrictions.
    """
    check_range(ctx.cloud, network)
    if overlapping(network, networks(vpc.cidrs)):
        raise ApiError("InvalidVpc.Range", f"The CIDR '{network}' conflicts with another CIDR of the VPC.")
    if within(network, _restricted(IPv4Network(vpc.cidr))):
        raise ApiError(
            "InvalidVpc.Range",
            f"The CIDR '{network}' is restricted. Use a CIDR from the same private address range as the "
            "current VPC CIDR, or use a publicly-routable CIDR.",
        )
    for table in await ctx.tx.find(RouteTable, vpc=vpc.id):
        routed = networks(route.destination for route in table.routes if "/" in route.destination)
        if any(contains(network, each) for each in routed):
            raise ApiError(
                "InvalidVpc.Range",
                f"The CIDR '{network}' is the same as or larger than a destination of {table.id}.",
            )
    for peering in await ctx.tx.find(PeeringConnection, vpcs=vpc.id, state=str(PeeringState.active)):
        for other in await ctx.tx.get_many(Vpc, [id for id in peering.vpcs if id != vpc.id]):
            if overlapping(network, networks(other.cidrs)):
                raise ApiError(
                    "InvalidVpc.Range",
                    f"The CIDR '{network}' overlaps with a CIDR of the VPC {other.id}, peer by {peering.id}.",
                )
    return network


def _restricted(first: IPv4Network) -> list[IPv4Network | IPv6Network]:
    """Where no further network may be taken from, by the range of the VPC's first one."""
    if contains(_A, first):
        return [_B, _C, _INTERNAL]
    if contains(_B, first):
        return [_A, _C, _DEFAULT_VPC, _INTERNAL]
    if contains(_C, first):
        return [_A, _B, _INTERNAL]
    return [_A, _B, _C, _INTERNAL]


@operation("ec2", "DisassociateVpcCidrBlock", write=True)
async def disassociate_vpc_cidr_block(ctx: Context, input: Input) -> Output:
    id = input["AssociationId"]
    found = await ctx.tx.find(Vpc, account=ctx.caller.account, association_ids=id)
    if not found:
        await _refuse_primary(ctx, id)
        raise ApiError(
            "InvalidVpcCidrBlockAssociationID.NotFound",
            f"The vpc CIDR block association ID '{id}' does not exist",
        )
    vpc = found[0]
    association = next(each for each in vpc.associations if each.id == id)
    [network] = networks([association.cidr])
    for subnet in await ctx.tx.find(Subnet, vpc=vpc.id):
        cidrs = [subnet.cidr, subnet.ipv6.cidr if subnet.ipv6 is not None else subnet.cidr]
        if overlapping(network, networks(cidrs)):
            raise ApiError(
                "InvalidCidrBlock.InUse",
                f"The vpc {vpc.id} currently has a subnet within CIDR block {network}",
            )
    left = tuple(each for each in vpc.associations if each.id != id)
    await ctx.tx.put(replace(vpc, associations=left))
    return _answer(ctx, vpc.id, association, "disassociating")


async def _refuse_primary(ctx: Context, id: str) -> None:
    vpc = await ctx.tx.get(Vpc, id.replace("vpc-cidr-assoc-", "vpc-", 1))
    if vpc is not None and vpc.account == ctx.caller.account and id == primary(vpc).id:
        raise ApiError(
            "OperationNotPermitted",
            f"The vpc CIDR block with association ID {id} may not be disassociated. "
            "It is the primary IPv4 CIDR block of the VPC",
        )
