"""Gateway endpoints of VPCs, and the system's prefix lists that they route.

An endpoint is recorded and its route shown as EC2 does. But no service answers behind one yet: the system's
prefix lists have no networks, so the route takes no packet from any other one; it is shown as a blackhole,
and the endpoint says why in its LastError.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import PrefixList, RouteTable, VpcEndpoint
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.defaults import ENDPOINT_SERVICES, endpoint_service
from gureum.services.ec2.faults import (
    invalid_combination,
    invalid_parameter_value,
    invalid_value,
    missing,
    unsupported,
)
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

DEFAULT_POLICY = json.dumps(
    {
        "Version": "2008-10-17",
        "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}],
    }
)
POLICY_LENGTH_MAX = 20_480
GATEWAY = "Gateway"
_CREATE_UNSUPPORTED = (
    "SubnetIds",
    "SecurityGroupIds",
    "DnsOptions",
    "PrivateDnsEnabled",
    "SubnetConfigurations",
    "ServiceNetworkArn",
    "ResourceConfigurationArn",
)
_MODIFY_UNSUPPORTED = (
    "AddSubnetIds",
    "RemoveSubnetIds",
    "AddSecurityGroupIds",
    "RemoveSecurityGroupIds",
    "DnsOptions",
    "PrivateDnsEnabled",
    "SubnetConfigurations",
)


def _refuse(input: Input, members: Iterable[str]) -> None:
    for member in members:
        if input.get(member):
            raise unsupported(f"{member} is of interface endpoints, which gureum does not support.")
    if input.get("IpAddressType") not in (None, "ipv4"):
        raise unsupported("Gateway endpoints are for IPv4 only in gureum.")


@operation("ec2", "CreateVpcEndpoint", write=True)
async def create_vpc_endpoint(ctx: Context, input: Input) -> Output:
    type = input.get("VpcEndpointType") or GATEWAY
    if type.lower() != GATEWAY.lower():
        raise unsupported(f"Endpoints of the type {type} are not supported by gureum; {GATEWAY} ones are.")
    _refuse(input, _CREATE_UNSUPPORTED)
    if (input.get("ServiceRegion") or ctx.cloud.region) != ctx.cloud.region:
        raise unsupported(f"The cloud has one region, {ctx.cloud.region}.")
    vpc = await lookup.one(ctx, lookup.VPC, input["VpcId"])
    if not input.get("ServiceName"):
        raise missing("serviceName")
    prefix_list = await _prefix_list(ctx, input["ServiceName"])
    tags = specified_tags(input, "vpc-endpoint")["vpc-endpoint"]
    if await ctx.tx.count(VpcEndpoint, vpc=vpc.id) >= limits.GATEWAY_ENDPOINTS_PER_VPC_MAX:
        raise ApiError(
            "VpcEndpointLimitExceeded",
            f"The maximum number of gateway endpoints of VPC '{vpc.id}' has been reached.",
        )
    tables = await _tables(ctx, input.get("RouteTableIds") or (), vpc.id, prefix_list.id)
    endpoint = await ctx.tx.put(
        VpcEndpoint(
            id=ctx.env.new_id("vpce"),
            account=ctx.caller.account,
            tags=tags,
            vpc=vpc.id,
            service=prefix_list.name,
            prefix_list=prefix_list.id,
            route_tables=tables,
            policy=_policy(input.get("PolicyDocument")),
            created=ctx.env.utcnow(),
        )
    )
    return {"VpcEndpoint": _item(endpoint), "ClientToken": input.get("ClientToken")}


async def _prefix_list(ctx: Context, service: str) -> PrefixList:
    found = await ctx.tx.find(PrefixList, account="", name=service)
    if not found:
        known = ", ".join(endpoint_service(ctx.cloud, each) for each in ENDPOINT_SERVICES)
        raise ApiError(
            "InvalidServiceName",
            f"The Vpc Endpoint Service '{service}' does not exist. There are gateway endpoints for {known}.",
        )
    return found[0]


async def _tables(ctx: Context, ids: Sequence[str], vpc: str, prefix_list: str) -> tuple[str, ...]:
    """Raises for a table of another VPC, or one that has a route for the prefix list already."""
    tables: list[RouteTable] = await lookup.many(ctx, lookup.ROUTE_TABLE, ids)
    for table in tables:
        if table.vpc != vpc:
            raise invalid_value(f"Route table {table.id} and VPC {vpc} belong to different networks.")
        routed = {route.destination for route in table.routes}
        others = await ctx.tx.find(VpcEndpoint, route_tables=table.id)
        if prefix_list in routed | {other.prefix_list for other in others}:
            raise ApiError(
                "RouteAlreadyExists",
                f"route table {table.id} already has a route with destination-prefix-list-id {prefix_list}",
            )
    return tuple(table.id for table in tables)


def _policy(text: str | None) -> str:
    if not text:
        return ""
    try:
        fine = len(text) <= POLICY_LENGTH_MAX and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        fine = False
    if not fine:
        raise invalid_parameter_value(
            "policyDocument",
            "policyDocument",
            f"It has to be a JSON object of at most {POLICY_LENGTH_MAX} characters.",
        )
    return text


@operation("ec2", "ModifyVpcEndpoint", write=True)
async def modify_vpc_endpoint(ctx: Context, input: Input) -> Output:
    _refuse(input, _MODIFY_UNSUPPORTED)
    endpoint = await lookup.one(ctx, lookup.VPC_ENDPOINT, input["VpcEndpointId"])
    if input.get("ResetPolicy") and input.get("PolicyDocument"):
        raise invalid_combination("Specify PolicyDocument or ResetPolicy, not both.")
    policy = _policy(input.get("PolicyDocument")) or endpoint.policy
    leaving = await lookup.many(ctx, lookup.ROUTE_TABLE, input.get("RemoveRouteTableIds") or ())
    left = tuple(id for id in endpoint.route_tables if id not in {table.id for table in leaving})
    added = [id for id in input.get("AddRouteTableIds") or () if id not in endpoint.route_tables]
    await ctx.tx.put(
        replace(
            endpoint,
            policy="" if input.get("ResetPolicy") else policy,
            route_tables=left + await _tables(ctx, added, endpoint.vpc, endpoint.prefix_list),
        )
    )
    return {"Return": True}


@operation("ec2", "DeleteVpcEndpoints", write=True)
async def delete_vpc_endpoints(ctx: Context, input: Input) -> Output:
    """Those that are not there are told one by one; the others go."""
    ids = list(dict.fromkeys(input["VpcEndpointIds"]))
    found = {each.id: each for each in await ctx.tx.get_many(VpcEndpoint, ids)}
    unsuccessful = []
    for id in ids:
        if id in found and lookup.VPC_ENDPOINT.owned(found[id], ctx.caller.account):
            await ctx.tx.delete(found[id])
            continue
        absent = lookup.VPC_ENDPOINT.absent([id])
        error = {"Code": absent.code, "Message": absent.message}
        unsuccessful.append({"ResourceId": id, "Error": error})
    return {"Unsuccessful": unsuccessful}


def _item(endpoint: VpcEndpoint) -> dict[str, Any]:
    return {
        "VpcEndpointId": endpoint.id,
        "VpcEndpointType": GATEWAY,
        "VpcId": endpoint.vpc,
        "ServiceName": endpoint.service,
        "State": "available",
        "PolicyDocument": endpoint.policy or DEFAULT_POLICY,
        "RouteTableIds": list(endpoint.route_tables),
        "SubnetIds": [],
        "Groups": [],
        "NetworkInterfaceIds": [],
        "DnsEntries": [],
        "IpAddressType": "ipv4",
        "PrivateDnsEnabled": False,
        "RequesterManaged": False,
        "CreationTimestamp": endpoint.created,
        "OwnerId": endpoint.account,
        "LastError": {
            "Code": "ServiceNotServed",
            "Message": f"This cloud has no service behind {endpoint.service}: the route takes no traffic.",
        },
        "Tags": tag_list(endpoint.tags),
    }


async def _items(ctx: Context, endpoints: Sequence[VpcEndpoint]) -> list[dict[str, Any]]:
    return [_item(endpoint) for endpoint in endpoints]


VPC_ENDPOINTS = Listing(
    operation="DescribeVpcEndpoints",
    noun=lookup.VPC_ENDPOINT,
    ids="VpcEndpointIds",
    items="VpcEndpoints",
    filters=Filters(
        {
            "ip-address-type": "IpAddressType",
            "service-name": "service",
            "service-region": lambda endpoint: (endpoint.service.split(".")[2],),
            "vpc-endpoint-id": "id",
            "vpc-endpoint-state": "State",
            "vpc-endpoint-type": "VpcEndpointType",
        },
        index={"vpc-id": "vpc"},
    ),
    describe=_items,
)


@operation("ec2", "DescribeVpcEndpoints")
async def describe_vpc_endpoints(ctx: Context, input: Input) -> Output:
    return await VPC_ENDPOINTS.answer(ctx, input)


async def _prefix_items(ctx: Context, lists: Sequence[PrefixList]) -> list[dict[str, Any]]:
    return [
        {
            "PrefixListId": each.id,
            "PrefixListName": each.name,
            "Cidrs": [entry.cidr for entry in each.entries],
        }
        for each in lists
    ]


PREFIX_LISTS = Listing(
    operation="DescribePrefixLists",
    noun=lookup.PREFIX_LIST,
    ids="PrefixListIds",
    items="PrefixLists",
    filters=Filters({"prefix-list-id": "id"}, index={"prefix-list-name": "name"}, tags=False),
    describe=_prefix_items,
)


@operation("ec2", "DescribePrefixLists")
async def describe_prefix_lists(ctx: Context, input: Input) -> Output:
    """The system's, one for each service that has gateway endpoints."""
    return await PREFIX_LISTS.answer(ctx, input, scope={"account": ""})
