"""Route tables and their associations with subnets. Their routes are in ``routes``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import NetworkInterface, Route, RouteTable, Subnet, Vpc, VpcEndpoint
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.faults import dependency_violation, invalid_value, missing, unsupported
from gureum.services.ec2.filters import Filters
from gureum.services.ec2.listing import Listing
from gureum.services.ec2.routing import Targets, load_targets, resolve
from gureum.services.ec2.tagging import specified_tags, tag_list
from gureum.services.operation import Context, Input, Output, operation

ASSOCIATED = {"State": "associated"}
_MEMBERS = {
    "eigw": "EgressOnlyInternetGatewayId",
    "igw": "GatewayId",
    "nat": "NatGatewayId",
    "pcx": "VpcPeeringConnectionId",
    "vpce": "GatewayId",
}


@operation("ec2", "CreateRouteTable", write=True)
async def create_route_table(ctx: Context, input: Input) -> Output:
    vpc = await lookup.one(ctx, lookup.VPC, input["VpcId"])
    tags = specified_tags(input, "route-table")["route-table"]
    taken = {table.number for table in await ctx.tx.find(RouteTable, vpc=vpc.id)}
    if len(taken) >= limits.ROUTE_TABLES_PER_VPC_MAX:
        raise ApiError(
            "RouteTableLimitExceeded",
            f"The maximum number of route tables of VPC '{vpc.id}' has been reached.",
        )
    table = await ctx.tx.put(
        RouteTable(
            id=ctx.env.new_id("rtb"),
            account=ctx.caller.account,
            tags=tags,
            vpc=vpc.id,
            number=next(number for number in range(1, len(taken) + 2) if number not in taken),
        )
    )
    return {"RouteTable": (await _items(ctx, [table]))[0], "ClientToken": input.get("ClientToken")}


@operation("ec2", "DeleteRouteTable", write=True)
async def delete_route_table(ctx: Context, input: Input) -> Output:
    table = await lookup.one(ctx, lookup.ROUTE_TABLE, input["RouteTableId"])
    used = table.main or await ctx.tx.count(Subnet, route_table=table.id)
    if used or await ctx.tx.count(VpcEndpoint, route_tables=table.id):
        raise dependency_violation(f"The routeTable '{table.id}' has dependencies and cannot be deleted.")
    await ctx.tx.delete(table)
    return {}


@operation("ec2", "AssociateRouteTable", write=True)
async def associate_route_table(ctx: Context, input: Input) -> Output:
    for member in ("GatewayId", "PublicIpv4Pool"):
        if input.get(member):
            raise unsupported(f"{member}: gureum associates route tables with subnets only.")
    if not input.get("SubnetId"):
        raise missing("subnetId")
    table = await lookup.one(ctx, lookup.ROUTE_TABLE, input["RouteTableId"])
    subnet = await lookup.one(ctx, lookup.SUBNET, input["SubnetId"])
    _check_vpc(table, subnet)
    if subnet.route_table and subnet.route_table != table.id:
        raise ApiError(
            "Resource.AlreadyAssociated",
            f"the specified association for route table {table.id} conflicts with an existing association",
        )
    if not subnet.route_table:
        association = ctx.env.new_id("rtbassoc")
        subnet = await ctx.tx.put(replace(subnet, route_table=table.id, route_association=association))
    return {"AssociationId": subnet.route_association, "AssociationState": ASSOCIATED}


def _check_vpc(table: RouteTable, subnet: Subnet) -> None:
    if table.vpc != subnet.vpc:
        raise invalid_value(f"Route table {table.id} and subnet {subnet.id} belong to different networks.")


@operation("ec2", "DisassociateRouteTable", write=True)
async def disassociate_route_table(ctx: Context, input: Input) -> Output:
    """The subnet follows the VPC's main table then."""
    found = await _association(ctx, input["AssociationId"])
    if isinstance(found, RouteTable):
        raise invalid_value(f"cannot disassociate the main route table association {found.main_association}")
    await ctx.tx.put(replace(found, route_table="", route_association=""))
    return {}


async def _association(ctx: Context, id: str) -> Subnet | RouteTable:
    """Who has this association: a subnet with a table of its own, or a VPC's main table."""
    account = ctx.caller.account
    found: list[Subnet | RouteTable] = []
    if id:  # "" is what those without an association have
        found += await ctx.tx.find(Subnet, account=account, route_association=id)
        found += await ctx.tx.find(RouteTable, account=account, main_association=id)
    if not found:
        raise ApiError("InvalidAssociationID.NotFound", f"The association ID '{id}' does not exist")
    return found[0]


@operation("ec2", "ReplaceRouteTableAssociation", write=True)
async def replace_route_table_association(ctx: Context, input: Input) -> Output:
    """With the association of a main table, the other one becomes the main table."""
    found = await _association(ctx, input["AssociationId"])
    table = await lookup.one(ctx, lookup.ROUTE_TABLE, input["RouteTableId"])
    if isinstance(found, RouteTable):
        id = await _replace_main(ctx, found, table)
    elif found.route_table == table.id:
        id = found.route_association
    else:
        _check_vpc(table, found)
        id = ctx.env.new_id("rtbassoc")
        await ctx.tx.put(replace(found, route_table=table.id, route_association=id))
    return {"NewAssociationId": id, "AssociationState": ASSOCIATED}


async def _replace_main(ctx: Context, main: RouteTable, table: RouteTable) -> str:
    if main.id == table.id:
        return main.main_association
    if main.vpc != table.vpc:
        raise invalid_value(f"Route tables {main.id} and {table.id} belong to different networks.")
    id = ctx.env.new_id("rtbassoc")
    await ctx.tx.put(replace(main, main=False, main_association=""))
    await ctx.tx.put(replace(table, main=True, main_association=id))
    return id


async def _items(ctx: Context, tables: Sequence[RouteTable]) -> list[dict[str, Any]]:
    ids = [table.id for table in tables]
    vpcs = {vpc.id: vpc for vpc in await ctx.tx.get_many(Vpc, {table.vpc for table in tables})}
    subnets = await ctx.tx.find(Subnet, route_table=ids)
    endpoints = await ctx.tx.find(VpcEndpoint, route_tables=ids)
    targets = await load_targets(ctx.tx, tables)
    return [
        {
            "RouteTableId": table.id,
            "VpcId": table.vpc,
            "OwnerId": table.account,
            "Associations": _associations(table, subnets),
            "PropagatingVgws": [],
            "Routes": [
                *_local_routes(vpcs[table.vpc]),
                *(_route(route, table.vpc, targets) for route in table.routes),
                *(
                    _route(Route(destination=each.prefix_list, target=each.id), table.vpc, targets)
                    for each in endpoints
                    if table.id in each.route_tables
                ),
            ],
            "Tags": tag_list(table.tags) or [],
        }
        for table in tables
    ]


def _associations(table: RouteTable, subnets: Sequence[Subnet]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if table.main:
        found.append({"Main": True, "RouteTableAssociationId": table.main_association})
    found += [
        {"Main": False, "RouteTableAssociationId": subnet.route_association, "SubnetId": subnet.id}
        for subnet in subnets
        if subnet.route_table == table.id
    ]
    return [{**each, "RouteTableId": table.id, "AssociationState": ASSOCIATED} for each in found]


def _local_routes(vpc: Vpc) -> list[dict[str, Any]]:
    return [
        {**destination(cidr), "GatewayId": "local", "Origin": "CreateRouteTable", "State": "active"}
        for cidr in (*vpc.cidrs, *vpc.cidrs6)
    ]


def destination(text: str) -> dict[str, str]:
    """A route's destination in the member that it belongs to."""
    if text.startswith("pl-"):
        return {"DestinationPrefixListId": text}
    return {"DestinationIpv6CidrBlock" if ":" in text else "DestinationCidrBlock": text}


def _route(route: Route, vpc: str, targets: Targets) -> dict[str, Any]:
    return {
        **destination(route.destination),
        **_target(route.target, targets.interfaces),
        "Origin": "CreateRoute",
        "State": "active" if resolve(route, vpc, targets) is not None else "blackhole",
    }


def _target(id: str, interfaces: Mapping[str, NetworkInterface]) -> dict[str, str | None]:
    prefix = id.partition("-")[0]
    if prefix in _MEMBERS:
        return {_MEMBERS[prefix]: id}
    interface = interfaces.get(id)
    instance = interface.instance if interface is not None else None
    return {
        "NetworkInterfaceId": id,
        "InstanceId": instance,
        "InstanceOwnerId": interface.account if interface is not None and instance else None,
    }


ROUTE_TABLES = Listing(
    operation="DescribeRouteTables",
    noun=lookup.ROUTE_TABLE,
    ids="RouteTableIds",
    items="RouteTables",
    filters=Filters(
        {
            "association.gateway-id": "Associations[].GatewayId",
            "association.main": "Associations[].Main",
            "association.route-table-association-id": "Associations[].RouteTableAssociationId",
            "association.route-table-id": "Associations[].RouteTableId",
            "association.subnet-id": "Associations[].SubnetId",
            "owner-id": "account",
            "route-table-id": "id",
            "route.destination-cidr-block": "Routes[].DestinationCidrBlock",
            "route.destination-ipv6-cidr-block": "Routes[].DestinationIpv6CidrBlock",
            "route.destination-prefix-list-id": "Routes[].DestinationPrefixListId",
            "route.egress-only-internet-gateway-id": "Routes[].EgressOnlyInternetGatewayId",
            "route.gateway-id": "Routes[].GatewayId",
            "route.instance-id": "Routes[].InstanceId",
            "route.nat-gateway-id": "Routes[].NatGatewayId",
            "route.network-interface-id": "Routes[].NetworkInterfaceId",
            "route.origin": "Routes[].Origin",
            "route.state": "Routes[].State",
            "route.transit-gateway-id": "Routes[].TransitGatewayId",
            "route.vpc-peering-connection-id": "Routes[].VpcPeeringConnectionId",
        },
        index={"vpc-id": "vpc"},
    ),
    describe=_items,
    page_max=100,
)


@operation("ec2", "DescribeRouteTables")
async def describe_route_tables(ctx: Context, input: Input) -> Output:
    return await ROUTE_TABLES.answer(ctx, input)
