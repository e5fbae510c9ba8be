"""Egress-only internet gateways: a way out for IPv6, and none in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gureum.errors import ApiError
from gureum.resources import EgressGateway
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

TYPE = "egress-only-internet-gateway"


@operation("ec2", "CreateEgressOnlyInternetGateway", write=True)
async def create_egress_only_internet_gateway(ctx: Context, input: Input) -> Output:
    vpc = await lookup.one(ctx, lookup.VPC, input["VpcId"])
    tags = specified_tags(input, TYPE)[TYPE]
    if await ctx.tx.count(EgressGateway, account=ctx.caller.account) >= limits.EGRESS_GATEWAYS_MAX:
        raise ApiError(
            "GatewayLimitExceeded", "The maximum number of egress-only internet gateways has been reached."
        )
    gateway = await ctx.tx.put(
        EgressGateway(id=ctx.env.new_id("eigw"), account=ctx.caller.account, tags=tags, vpc=vpc.id)
    )
    return {"ClientToken": input.get("ClientToken"), "EgressOnlyInternetGateway": _item(gateway)}


@operation("ec2", "DeleteEgressOnlyInternetGateway", write=True)
async def delete_egress_only_internet_gateway(ctx: Context, input: Input) -> Output:
    """Routes to it stay, as blackholes."""
    gateway = await lookup.one(ctx, lookup.EGRESS_GATEWAY, input["EgressOnlyInternetGatewayId"])
    await ctx.tx.delete(gateway)
    return {"ReturnCode": True}


def _item(gateway: EgressGateway) -> dict[str, Any]:
    return {
        "EgressOnlyInternetGatewayId": gateway.id,
        "Attachments": [{"VpcId": gateway.vpc, "State": "attached"}],
        "Tags": tag_list(gateway.tags) or [],
    }


async def _items(ctx: Context, gateways: Sequence[EgressGateway]) -> list[dict[str, Any]]:
    return [_item(gateway) for gateway in gateways]


EGRESS_GATEWAYS = Listing(
    operation="DescribeEgressOnlyInternetGateways",
    noun=lookup.EGRESS_GATEWAY,
    ids="EgressOnlyInternetGatewayIds",
    items="EgressOnlyInternetGateways",
    filters=Filters({}),
    describe=_items,
    page_max=255,
)


@operation("ec2", "DescribeEgressOnlyInternetGateways")
async def describe_egress_only_internet_gateways(ctx: Context, input: Input) -> Output:
    return await EGRESS_GATEWAYS.answer(ctx, input)
