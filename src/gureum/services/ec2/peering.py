"""VPC peering connections: an offer of one VPC's owner, accepted by the other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import PeeringConnection, PeeringState, Vpc
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.cidrs import overlapping
from gureum.services.ec2.faults import incorrect_state, missing, unsupported
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

EXPIRES_SECONDS = 7 * 24 * 3600
"""How long an offer stands: VPC Peering Guide, "VPC peering connection lifecycle"."""
LIVE = (str(PeeringState.pending_acceptance), str(PeeringState.active))
MESSAGES = {
    PeeringState.pending_acceptance: "Pending Acceptance by {accepter}",
    PeeringState.active: "Active",
    PeeringState.rejected: "Rejected by {accepter}",
    PeeringState.expired: "Expired",
    PeeringState.deleted: "Deleted by {deleter}",
    PeeringState.failed: "{message}",
}


@operation("ec2", "CreateVpcPeeringConnection", write=True)
async def create_vpc_peering_connection(ctx: Context, input: Input) -> Output:
    if not input.get("PeerVpcId"):
        raise missing("PeerVpcId")
    if (input.get("PeerRegion") or ctx.cloud.region) != ctx.cloud.region:
        raise unsupported(f"Peering with another region than {ctx.cloud.region} is not supported by gureum.")
    requester = await lookup.one(ctx, lookup.VPC, input["VpcId"])
    owner = input.get("PeerOwnerId") or ctx.caller.account
    accepter = await ctx.tx.get(Vpc, input["PeerVpcId"])
    if accepter is not None and accepter.account != owner:
        accepter = None
    if accepter is None and owner == ctx.caller.account:
        raise lookup.VPC.absent([input["PeerVpcId"]])
    problem = _problem(requester, accepter)
    if accepter is not None:
        await _check_new(ctx, requester, accepter)
    numbers = [each.number for each in await ctx.tx.find(PeeringConnection)]
    expires = ctx.env.now() + EXPIRES_SECONDS
    peering = await ctx.tx.put(
        PeeringConnection(
            id=ctx.env.new_id("pcx"),
            account=ctx.caller.account,
            tags=specified_tags(input, "vpc-peering-connection")["vpc-peering-connection"],
            state=PeeringState.failed if problem else PeeringState.pending_acceptance,
            message=problem,
            number=max(numbers, default=0) + 1,
            requester=requester.id,
            accepter=input["PeerVpcId"],
            requester_account=ctx.caller.account,
            accepter_account=owner,
            expires=expires,
        )
    )
    return {"VpcPeeringConnection": (await _items(ctx, [peering]))[0]}


async def _check_new(ctx: Context, requester: Vpc, accepter: Vpc) -> None:
    live = await ctx.tx.find(PeeringConnection, vpcs=requester.id, state=LIVE)
    for each in live:
        if accepter.id in each.vpcs:
            raise ApiError(
                "VpcPeeringConnectionAlreadyExists",
                f"A VPC peering connection between these VPCs already exists: {each.id}",
            )
    if len(live) >= limits.PEERINGS_PER_VPC_MAX:
        raise ApiError(
            "VpcPeeringConnectionLimitExceeded",
            f"The VPC {requester.id} has reached the maximum number of peering connections.",
        )


def _problem(requester: Vpc, accepter: Vpc | None) -> str:
    """Why the connection fails; "" if it does not."""
    if accepter is None:
        return "Failed due to incorrect VPC-ID, Account ID, or overlapping CIDR range"
    if requester.id == accepter.id:
        raise ApiError("InvalidParameterValue", "A VPC cannot be peered with itself.")
    theirs = [ip_network(each) for each in (*accepter.cidrs, *accepter.cidrs6)]
    if any(overlapping(ip_network(each), theirs) for each in (*requester.cidrs, *requester.cidrs6)):
        return "Failed due to incorrect VPC-ID, Account ID, or overlapping CIDR range"
    return ""


@operation("ec2", "AcceptVpcPeeringConnection", write=True)
async def accept_vpc_peering_connection(ctx: Context, input: Input) -> Output:
    peering = await _offered(ctx, input["VpcPeeringConnectionId"], "accepted")
    vpcs = {vpc.id: vpc for vpc in await ctx.tx.get_many(Vpc, peering.vpcs)}
    if len(vpcs) < 2 or _problem(vpcs[peering.requester], vpcs[peering.accepter]):
        raise incorrect_state(f"A VPC of {peering.id} is gone, or their networks overlap now: delete it.")
    peering = await ctx.tx.put(replace(peering, state=PeeringState.active))
    return {"VpcPeeringConnection": (await _items(ctx, [peering]))[0]}


@operation("ec2", "RejectVpcPeeringConnection", write=True)
async def reject_vpc_peering_connection(ctx: Context, input: Input) -> Output:
    peering = await _offered(ctx, input["VpcPeeringConnectionId"], "rejected")
    await ctx.tx.put(replace(peering, state=PeeringState.rejected))
    return {"Return": True}


@operation("ec2", "DeleteVpcPeeringConnection", write=True)
async def delete_vpc_peering_connection(ctx: Context, input: Input) -> Output:
    """Either side may; routes to it stay, as blackholes."""
    peering = await lookup.one(ctx, lookup.PEERING, input["VpcPeeringConnectionId"])
    if peering.state is PeeringState.deleted:
        return {"Return": True}
    if peering.state not in (PeeringState.active, PeeringState.pending_acceptance):
        # In EC2's words: Terraform looks for "to deleting" and takes such a connection for gone.
        raise ApiError(
            "InvalidStateTransition",
            f"Invalid state transition for {peering.id}, attempted to transition from {peering.state} "
            "to deleting",
        )
    await ctx.tx.put(replace(peering, state=PeeringState.deleted, message=ctx.caller.account))
    return {"Return": True}


@operation("ec2", "ModifyVpcPeeringConnectionOptions", write=True)
async def modify_vpc_peering_connection_options(ctx: Context, input: Input) -> Output:
    peering = await lookup.one(ctx, lookup.PEERING, input["VpcPeeringConnectionId"])
    answer: dict[str, Any] = {}
    for side in ("AccepterPeeringConnectionOptions", "RequesterPeeringConnectionOptions"):
        options: Mapping[str, Any] = input.get(side) or {}
        if any(options.values()):
            raise unsupported(
                f"{', '.join(sorted(name for name in options if options[name]))} is not supported by gureum: "
                "names resolve to public addresses across a peering connection."
            )
        if options:
            answer[side] = dict(options)
    if peering.state is not PeeringState.active:
        raise _wrong_state(peering, "modified")
    return answer


async def _offered(ctx: Context, id: str, verb: str) -> PeeringConnection:
    peering = await lookup.one(ctx, lookup.PEERING, id)
    if peering.accepter_account != ctx.caller.account:
        raise ApiError(
            "OperationNotPermitted",
            f"{ctx.caller.account} cannot {verb.removesuffix('ed')} peering {id}: it is offered to another.",
        )
    if peering.state is not PeeringState.pending_acceptance or ctx.env.now() >= peering.expires:
        raise _wrong_state(peering, verb)
    return peering


def _wrong_state(peering: PeeringConnection, verb: str) -> ApiError:
    return ApiError(
        "InvalidStateTransition",
        f"Invalid state transition for {peering.id}: it is {peering.state} and cannot be {verb}.",
    )


async def _items(ctx: Context, peerings: Sequence[PeeringConnection]) -> list[dict[str, Any]]:
    wanted = {id for each in peerings for id in each.vpcs}
    vpcs = {vpc.id: vpc for vpc in await ctx.tx.get_many(Vpc, wanted)}
    return [_item(ctx, each, vpcs) for each in peerings]


def _item(ctx: Context, peering: PeeringConnection, vpcs: Mapping[str, Vpc]) -> dict[str, Any]:
    waiting = peering.state is PeeringState.pending_acceptance
    message = MESSAGES[peering.state].format(
        accepter=peering.accepter_account, deleter=peering.message, message=peering.message
    )
    return {
        "VpcPeeringConnectionId": peering.id,
        "RequesterVpcInfo": _side(
            ctx, peering.requester, peering.requester_account, vpcs.get(peering.requester)
        ),
        # Whose networks these are is nobody's business before the offer is accepted.
        "AccepterVpcInfo": _side(
            ctx, peering.accepter, peering.accepter_account, None if waiting else vpcs.get(peering.accepter)
        ),
        "Status": {"Code": str(peering.state), "Message": message},
        "ExpirationTime": datetime.fromtimestamp(int(peering.expires), UTC) if waiting else None,
        # Its owner's.
        "Tags": (tag_list(peering.tags) if peering.account == ctx.caller.account else None) or [],
    }


def _side(ctx: Context, id: str, account: str, vpc: Vpc | None) -> dict[str, Any]:
    side: dict[str, Any] = {"VpcId": id, "OwnerId": account, "Region": ctx.cloud.region}
    if vpc is not None:
        side["CidrBlock"] = vpc.cidr
        side["CidrBlockSet"] = [{"CidrBlock": each} for each in vpc.cidrs]
        side["Ipv6CidrBlockSet"] = [{"Ipv6CidrBlock": each} for each in vpc.cidrs6]
        side["PeeringOptions"] = {
            "AllowDnsResolutionFromRemoteVpc": False,
            "AllowEgressFromLocalClassicLinkToRemoteVpc": False,
            "AllowEgressFromLocalVpcToRemoteClassicLink": False,
        }
    return side


PEERINGS = Listing(
    operation="DescribeVpcPeeringConnections",
    noun=lookup.PEERING,
    ids="VpcPeeringConnectionIds",
    items="VpcPeeringConnections",
    filters=Filters(
        {
            "accepter-vpc-info.cidr-block": "AccepterVpcInfo.CidrBlock",
            "accepter-vpc-info.owner-id": "accepter_account",
            "accepter-vpc-info.vpc-id": "accepter",
            "expiration-time": "ExpirationTime",
            "requester-vpc-info.cidr-block": "RequesterVpcInfo.CidrBlock",
            "requester-vpc-info.owner-id": "requester_account",
            "requester-vpc-info.vpc-id": "requester",
            "status-message": "Status.Message",
            "vpc-peering-connection-id": "id",
        },
        index={"status-code": "state"},
    ),
    describe=_items,
    holders="accounts",
)


@operation("ec2", "DescribeVpcPeeringConnections")
async def describe_vpc_peering_connections(ctx: Context, input: Input) -> Output:
    return await PEERINGS.answer(ctx, input)
