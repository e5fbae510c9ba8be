"""VPCs and their attributes. Their networks are in ``vpc_cidrs``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import (
    CidrAssociation,
    EgressGateway,
    FlowLog,
    InternetGateway,
    NetworkAcl,
    NetworkInterface,
    PeeringConnection,
    PeeringState,
    Record,
    RouteTable,
    SecurityGroup,
    Subnet,
    Vpc,
    VpcEndpoint,
)
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.cidrs import parse4
from gureum.services.ec2.defaults import (
    GROUP_NAME,
    default_options,
    default_vpc,
    free_network_id,
    furnish,
    make_default_vpc,
)
from gureum.services.ec2.faults import (
    dependency_violation,
    invalid_combination,
    invalid_parameter_value,
    invalid_value,
    missing,
    unknown_attribute,
    unsupported,
)
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.ec2.vpc_cidrs import (
    association_item,
    association_item6,
    check_range,
    new_network6,
    primary,
    refuse_pools,
)
from gureum.services.operation import Context, Input, Output, operation

NAMED_MAX = 10
"""Dependents that the refusal to delete a VPC names."""


@operation("ec2", "CreateVpc", write=True)
async def create_vpc(ctx: Context, input: Input) -> Output:
    refuse_pools(ctx, input)
    if input.get("VpcEncryptionControl"):
        raise unsupported("VpcEncryptionControl is not supported by gureum.")
    if not input.get("CidrBlock"):
        raise missing("cidrBlock")
    _check_tenancy(input.get("InstanceTenancy") or "default")
    cidr = parse4(input["CidrBlock"], "cidrBlock")
    check_range(ctx.cloud, cidr)
    tags = specified_tags(input, "vpc")["vpc"]
    if await ctx.tx.count(Vpc, account=ctx.caller.account) >= limits.VPCS_MAX:
        raise ApiError("VpcLimitExceeded", "The maximum number of VPCs has been reached.")
    number = await free_network_id(ctx.tx)
    associations: tuple[CidrAssociation, ...] = ()
    if input.get("AmazonProvidedIpv6CidrBlock"):
        id = ctx.env.new_id("vpc-cidr-assoc")
        associations = (CidrAssociation(id=id, cidr=await new_network6(ctx, number)),)
    vpc = await ctx.tx.put(
        Vpc(
            id=ctx.env.new_id("vpc"),
            account=ctx.caller.account,
            tags=tags,
            cidr=str(cidr),
            network_id=number,
            dns_hostnames=False,
            dhcp_options=(await default_options(ctx.tx, ctx.env, ctx.cloud)).id,
            associations=associations,
        )
    )
    await furnish(ctx.tx, ctx.env, vpc)
    return {"Vpc": _item(vpc, ctx.cloud.region)}


def _check_tenancy(tenancy: str) -> None:
    if tenancy == "dedicated":
        raise unsupported("Dedicated tenancy is not supported by gureum: hosts are shared.")
    if tenancy != "default":
        raise invalid_parameter_value(tenancy, "instanceTenancy")


@operation("ec2", "CreateDefaultVpc", write=True)
async def create_default_vpc(ctx: Context, input: Input) -> Output:
    if await default_vpc(ctx.tx, ctx.caller.account) is not None:
        raise ApiError(
            "DefaultVpcAlreadyExists", "A Default VPC already exists for this account in this region."
        )
    vpc = await make_default_vpc(ctx.tx, ctx.env, ctx.cloud)
    return {"Vpc": _item(vpc, ctx.cloud.region)}


@operation("ec2", "DeleteVpc", write=True)
async def delete_vpc(ctx: Context, input: Input) -> Output:
    """Takes with it what every VPC has: the main route table, the default ACL and security group."""
    vpc = await lookup.one(ctx, lookup.VPC, input["VpcId"])
    tables = await ctx.tx.find(RouteTable, vpc=vpc.id)
    acls = await ctx.tx.find(NetworkAcl, vpc=vpc.id)
    groups = await ctx.tx.find(SecurityGroup, vpc=vpc.id)
    own: list[Record] = [table for table in tables if not table.main]
    own += [acl for acl in acls if not acl.default]
    own += [group for group in groups if group.name != GROUP_NAME]
    if dependents := [*await _dependents(ctx, vpc), *own]:
        ids = ", ".join(record.id for record in dependents[:NAMED_MAX])
        more = f" and {len(dependents) - NAMED_MAX} more" if len(dependents) > NAMED_MAX else ""
        raise dependency_violation(f"The vpc '{vpc.id}' has dependencies and cannot be deleted: {ids}{more}.")
    logs = await ctx.tx.find(FlowLog, resource=vpc.id)
    for record in (*tables, *acls, *groups, *logs, vpc):
        await ctx.tx.delete(record)
    return {}


async def _dependents(ctx: Context, vpc: Vpc) -> list[Record]:
    """What is in the VPC, or leads to it, and has to go first; in the order to remove it in."""
    peerings = await ctx.tx.find(PeeringConnection, vpcs=vpc.id)
    return [
        *await ctx.tx.find(VpcEndpoint, vpc=vpc.id),
        *(each for each in peerings if each.state in (PeeringState.pending_acceptance, PeeringState.active)),
        *await ctx.tx.find(NetworkInterface, vpc=vpc.id),
        *await ctx.tx.find(Subnet, vpc=vpc.id),
        *await ctx.tx.find(InternetGateway, vpc=vpc.id),
        *await ctx.tx.find(EgressGateway, vpc=vpc.id),
    ]


def _item(vpc: Vpc, region: str) -> dict[str, Any]:
    return {
        "VpcId": vpc.id,
        "OwnerId": vpc.account,
        "State": "available",
        "CidrBlock": vpc.cidr,
        "DhcpOptionsId": vpc.dhcp_options,
        "InstanceTenancy": vpc.tenancy,
        "Ipv6CidrBlockAssociationSet": [
            association_item6(each, region) for each in vpc.associations if ":" in each.cidr
        ],
        "CidrBlockAssociationSet": [
            association_item(each) for each in (primary(vpc), *vpc.associations) if ":" not in each.cidr
        ],
        "IsDefault": vpc.default,
        "Tags": tag_list(vpc.tags),
        "BlockPublicAccessStates": {"InternetGatewayBlockMode": "off"},
    }


async def _items(ctx: Context, vpcs: Sequence[Vpc]) -> list[dict[str, Any]]:
    return [_item(vpc, ctx.cloud.region) for vpc in vpcs]


VPCS = Listing(
    operation="DescribeVpcs",
    noun=lookup.VPC,
    ids="VpcIds",
    items="Vpcs",
    filters=Filters(
        {
            "cidr": "cidr",
            "cidr-block": "cidr",
            "cidr-block-association.association-id": "CidrBlockAssociationSet[].AssociationId",
            "cidr-block-association.cidr-block": "CidrBlockAssociationSet[].CidrBlock",
            "cidr-block-association.state": "CidrBlockAssociationSet[].CidrBlockState.State",
            "ipv6-cidr-block-association.association-id": "Ipv6CidrBlockAssociationSet[].AssociationId",
            "ipv6-cidr-block-association.ipv6-cidr-block": "Ipv6CidrBlockAssociationSet[].Ipv6CidrBlock",
            "ipv6-cidr-block-association.ipv6-pool": "Ipv6CidrBlockAssociationSet[].Ipv6Pool",
            "ipv6-cidr-block-association.state": "Ipv6CidrBlockAssociationSet[].Ipv6CidrBlockState.State",
            "is-default": "default",
            "isDefault": "default",
            "owner-id": "account",
            "state": "State",
            "vpc-id": "id",
        },
        index={"dhcp-options-id": "dhcp_options"},
    ),
    describe=_items,
)


@operation("ec2", "DescribeVpcs")
async def describe_vpcs(ctx: Context, input: Input) -> Output:
    return await VPCS.answer(ctx, input)


@operation("ec2", "DescribeVpcAttribute")
async def describe_vpc_attribute(ctx: Context, input: Input) -> Output:
    vpc = await lookup.one(ctx, lookup.VPC, input["VpcId"])
    values = {
        "enableDnsSupport": ("EnableDnsSupport", vpc.dns_support),
        "enableDnsHostnames": ("EnableDnsHostnames", vpc.dns_hostnames),
        "enableNetworkAddressUsageMetrics": ("EnableNetworkAddressUsageMetrics", False),
    }
    attribute = input["Attribute"]
    if attribute not in values:
        raise unknown_attribute(attribute)
    member, value = values[attribute]
    return {"VpcId": vpc.id, member: {"Value": value}}


@operation("ec2", "ModifyVpcAttribute", write=True)
async def modify_vpc_attribute(ctx: Context, input: Input) -> Output:
    """One attribute at a time, as EC2."""
    vpc = await lookup.one(ctx, lookup.VPC, input["VpcId"])
    members = ("EnableDnsSupport", "EnableDnsHostnames", "EnableNetworkAddressUsageMetrics")
    given = [member for member in members if input.get(member) is not None]
    if not given:
        raise invalid_combination("No VPC attribute was specified.")
    if len(given) > 1:
        raise invalid_combination("Multiple VPC attributes specified at the same time: modify one a request.")
    value = input[given[0]].get("Value")
    if value is None:
        raise missing(f"{given[0][0].lower()}{given[0][1:]}.Value")
    if given == ["EnableDnsSupport"]:
        await ctx.tx.put(replace(vpc, dns_support=value))
    elif given == ["EnableDnsHostnames"]:
        if value and not vpc.dns_support:
            raise invalid_value(
                f"DNS host names need DNS resolution: set enableDnsSupport of '{vpc.id}' to true first."
            )
        await ctx.tx.put(replace(vpc, dns_hostnames=value))
    elif value:
        raise unsupported("Metrics of network address usage are not supported by gureum.")
    return {}
