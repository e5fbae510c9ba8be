"""Describes of VPCs and subnets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gureum.resources import NetworkInterface, Subnet, Vpc
from gureum.services.ec2 import lookup
from gureum.services.ec2.allocation import usable
from gureum.services.ec2.faults import invalid_value
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import tag_list
from gureum.services.ec2.zones import zone_ids
from gureum.services.operation import Context, Input, Output, operation


async def _vpc_items(ctx: Context, vpcs: Sequence[Vpc]) -> list[dict[str, Any]]:
    return [
        {
            "VpcId": vpc.id,
            "OwnerId": vpc.account,
            "State": "available",
            "CidrBlock": vpc.cidr,
            "DhcpOptionsId": vpc.dhcp_options,
            "InstanceTenancy": "default",
            "Ipv6CidrBlockAssociationSet": [],
            "CidrBlockAssociationSet": [
                {
                    "AssociationId": vpc.id.replace("vpc-", "vpc-cidr-assoc-", 1),
                    "CidrBlock": vpc.cidr,
                    "CidrBlockState": {"State": "associated"},
                }
            ],
            "IsDefault": vpc.default,
            "Tags": tag_list(vpc.tags),
            "BlockPublicAccessStates": {"InternetGatewayBlockMode": "off"},
        }
        for vpc in vpcs
    ]


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
            "dhcp-options-id": "dhcp_options",
            "ipv6-cidr-block-association.association-id": "Ipv6CidrBlockAssociationSet[].AssociationId",
            "ipv6-cidr-block-association.ipv6-cidr-block": "Ipv6CidrBlockAssociationSet[].Ipv6CidrBlock",
            "ipv6-cidr-block-association.ipv6-pool": "Ipv6CidrBlockAssociationSet[].Ipv6Pool",
            "ipv6-cidr-block-association.state": ("Ipv6CidrBlockAssociationSet[].Ipv6CidrBlockState.State"),
            "is-default": "default",
            "isDefault": "default",
            "owner-id": "account",
            "state": "State",
            "vpc-id": "id",
        }
    ),
    describe=_vpc_items,
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
        raise invalid_value(f"Value ({attribute}) for parameter attribute is invalid. Unknown attribute.")
    member, value = values[attribute]
    return {"VpcId": vpc.id, member: {"Value": value}}


async def _subnet_items(ctx: Context, subnets: Sequence[Subnet]) -> list[dict[str, Any]]:
    ids = zone_ids(ctx.cloud)
    return [
        {
            "SubnetId": subnet.id,
            "SubnetArn": f"arn:aws:ec2:{ctx.cloud.region}:{subnet.account}:subnet/{subnet.id}",
            "OwnerId": subnet.account,
            "State": "available",
            "VpcId": subnet.vpc,
            "CidrBlock": subnet.cidr,
            "AvailableIpAddressCount": (
                usable(subnet) - await ctx.tx.count(NetworkInterface, subnet=subnet.id)
            ),
            "AvailabilityZone": subnet.zone,
            "AvailabilityZoneId": ids.get(subnet.zone),
            "DefaultForAz": subnet.default_for_az,
            "MapPublicIpOnLaunch": subnet.map_public_ip,
            "MapCustomerOwnedIpOnLaunch": False,
            "AssignIpv6AddressOnCreation": False,
            "Ipv6CidrBlockAssociationSet": [],
            "EnableDns64": False,
            "Ipv6Native": False,
            "PrivateDnsNameOptionsOnLaunch": {
                "HostnameType": "ip-name",
                "EnableResourceNameDnsARecord": False,
                "EnableResourceNameDnsAAAARecord": False,
            },
            "BlockPublicAccessStates": {"InternetGatewayBlockMode": "off"},
            "Tags": tag_list(subnet.tags),
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
            "ipv6-cidr-block-association.state": ("Ipv6CidrBlockAssociationSet[].Ipv6CidrBlockState.State"),
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
    describe=_subnet_items,
)


@operation("ec2", "DescribeSubnets")
async def describe_subnets(ctx: Context, input: Input) -> Output:
    return await SUBNETS.answer(ctx, input)
