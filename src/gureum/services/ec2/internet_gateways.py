"""Internet gateways."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import InternetGateway, NetworkInterface
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.faults import dependency_violation, invalid_value
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

SCAN = 1000


@operation("ec2", "CreateInternetGateway", write=True)
async def create_internet_gateway(ctx: Context, input: Input) -> Output:
    tags = specified_tags(input, "internet-gateway")["internet-gateway"]
    if await ctx.tx.count(InternetGateway, account=ctx.caller.account) >= limits.INTERNET_GATEWAYS_MAX:
        raise ApiError(
            "InternetGatewayLimitExceeded", "The maximum number of internet gateways has been reached."
        )
    gateway = await ctx.tx.put(
        InternetGateway(id=ctx.env.new_id("igw"), account=ctx.caller.account, tags=tags)
    )
    return {"InternetGateway": _item(gateway)}


@operation("ec2", "AttachInternetGateway", write=True)
async def attach_internet_gateway(ctx: Context, input: Input) -> Output:
    gateway = await lookup.one(ctx, lookup.INTERNET_GATEWAY, input["InternetGatewayId"])
    vpc = await lookup.one(ctx, lookup.VPC, input["VpcId"])
    if gateway.vpc:
        raise ApiError(
            "Resource.AlreadyAssociated",
            f"resource {gateway.id} is already attached to network {gateway.vpc}",
        )
    if await ctx.tx.count(InternetGateway, vpc=vpc.id):
        raise invalid_value(f"Network {vpc.id} already has an internet gateway attached")
    await ctx.tx.put(replace(gateway, vpc=vpc.id))
    return {}


@operation("ec2", "DetachInternetGateway", write=True)
async def detach_internet_gateway(ctx: Context, input: Input) -> Output:
    gateway = await lookup.one(ctx, lookup.INTERNET_GATEWAY, input["InternetGatewayId"])
    vpc = input["VpcId"]
    if not gateway.vpc or gateway.vpc != vpc:
        raise ApiError("Gateway.NotAttached", f"resource {gateway.id} is not attached to network {vpc}")
    if await _has_public_addresses(ctx, vpc):
        raise dependency_violation(
            f"Network {vpc} has some mapped public address(es). Please unmap those public address(es) before "
            "detaching the gateway."
        )
    await ctx.tx.put(replace(gateway, vpc=""))
    return {}


async def _has_public_addresses(ctx: Context, vpc: str) -> bool:
    after = None
    while True:
        interfaces = await ctx.tx.find(NetworkInterface, vpc=vpc, after=after, limit=SCAN)
        if any(interface.publics for interface in interfaces):
            return True
        if len(interfaces) < SCAN:
            return False
        after = interfaces[-1].id
        await asyncio.sleep(0)


@operation("ec2", "DeleteInternetGateway", write=True)
async def delete_internet_gateway(ctx: Context, input: Input) -> Output:
    """Routes to it stay, as blackholes."""
    gateway = await lookup.one(ctx, lookup.INTERNET_GATEWAY, input["InternetGatewayId"])
    if gateway.vpc:
        raise dependency_violation(
            f"The internetGateway '{gateway.id}' has dependencies and cannot be deleted."
        )
    await ctx.tx.delete(gateway)
    return {}


def _item(gateway: InternetGateway) -> dict[str, Any]:
    return {
        "InternetGatewayId": gateway.id,
        "OwnerId": gateway.account,
        "Attachments": [{"VpcId": gateway.vpc, "State": "available"}] if gateway.vpc else [],
        "Tags": tag_list(gateway.tags) or [],
    }


async def _items(ctx: Context, gateways: Sequence[InternetGateway]) -> list[dict[str, Any]]:
    return [_item(gateway) for gateway in gateways]


INTERNET_GATEWAYS = Listing(
    operation="DescribeInternetGateways",
    noun=lookup.INTERNET_GATEWAY,
    ids="InternetGatewayIds",
    items="InternetGateways",
    filters=Filters(
        {
            "attachment.state": "Attachments[].State",
            "internet-gateway-id": "id",
            "owner-id": "account",
        },
        index={"attachment.vpc-id": "vpc"},
    ),
    describe=_items,
)


@operation("ec2", "DescribeInternetGateways")
async def describe_internet_gateways(ctx: Context, input: Input) -> Output:
    return await INTERNET_GATEWAYS.answer(ctx, input)
