"""The routes of route tables: CreateRoute, ReplaceRoute, DeleteRoute."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import (
    InternetGateway,
    NatGateway,
    NatGatewayState,
    NetworkInterface,
    PeeringConnection,
    PeeringState,
    PrefixList,
    Route,
    RouteTable,
    Subnet,
    Vpc,
    VpcEndpoint,
)
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.cidrs import Network, networks, parse4, parse6, within
from gureum.services.ec2.faults import invalid_combination, invalid_value, missing, unsupported
from gureum.services.operation import Context, Input, Output, operation

_DESTINATIONS = ("DestinationCidrBlock", "DestinationIpv6CidrBlock", "DestinationPrefixListId")
_TARGETS = (
    "EgressOnlyInternetGatewayId",
    "GatewayId",
    "InstanceId",
    "NatGatewayId",
    "NetworkInterfaceId",
    "VpcEndpointId",
    "VpcPeeringConnectionId",
)
_UNSUPPORTED = (
    "CarrierGatewayId",
    "CoreNetworkArn",
    "LocalGatewayId",
    "OdbNetworkArn",
    "TransitGatewayId",
)
_RESERVED: tuple[Network, ...] = (
    IPv4Network("169.254.0.0/16"),
    IPv4Network("224.0.0.0/4"),
    IPv6Network("fe80::/10"),
    IPv6Network("ff00::/8"),
)
"""Link-local and multicast: the metadata service, and what is not routed."""


class Destination(NamedTuple):
    """``text`` is what a record has. ``network`` is None for a prefix list."""

    text: str
    network: Network | None


@operation("ec2", "CreateRoute", write=True)
async def create_route(ctx: Context, input: Input) -> Output:
    table = await lookup.one(ctx, lookup.ROUTE_TABLE, input["RouteTableId"])
    to = _destination(input)
    target = await _target(ctx, input, table)
    await _check_route(ctx, table, to, target)
    if await _is_there(ctx, table, to):
        raise ApiError("RouteAlreadyExists", f"The route identified by {to.text} already exists.")
    table = replace(table, routes=(*table.routes, Route(destination=to.text, target=target)))
    await _check_count(ctx, table)
    await ctx.tx.put(table)
    return {"Return": True}


@operation("ec2", "ReplaceRoute", write=True)
async def replace_route(ctx: Context, input: Input) -> Output:
    table = await lookup.one(ctx, lookup.ROUTE_TABLE, input["RouteTableId"])
    to = _destination(input)
    if input.get("LocalTarget") or await _is_local(ctx, table, to):
        raise unsupported(
            "The targets of local routes cannot be changed in gureum; add more specific routes."
        )
    target = await _target(ctx, input, table)
    if all(route.destination != to.text for route in table.routes):
        raise invalid_value(
            f"There is no route defined for '{to.text}' in the route table. Use CreateRoute instead."
        )
    await _check_route(ctx, table, to, target)
    routes = (
        replace(route, target=target) if route.destination == to.text else route for route in table.routes
    )
    await ctx.tx.put(replace(table, routes=tuple(routes)))
    return {}


@operation("ec2", "DeleteRoute", write=True)
async def delete_route(ctx: Context, input: Input) -> Output:
    table = await lookup.one(ctx, lookup.ROUTE_TABLE, input["RouteTableId"])
    to = _destination(input)
    if await _is_local(ctx, table, to):
        raise invalid_value(f"cannot remove local route {to.text} in route table {table.id}")
    if (endpoint := await _endpoint(ctx, table, to)) is not None:
        raise invalid_value(
            f"cannot remove VPC endpoint route {to.text} in route table {table.id}: "
            f"remove the table from {endpoint.id} with ModifyVpcEndpoint."
        )
    left = tuple(route for route in table.routes if route.destination != to.text)
    if len(left) == len(table.routes):
        raise ApiError(
            "InvalidRoute.NotFound",
            f"no route with destination-cidr-block {to.text} in route table {table.id}",
        )
    await ctx.tx.put(replace(table, routes=left))
    return {}


def _destination(input: Input) -> Destination:
    given = [member for member in _DESTINATIONS if input.get(member)]
    if not given:
        raise missing("destinationCidrBlock or destinationIpv6CidrBlock or destinationPrefixListId")
    if len(given) > 1:
        raise invalid_combination(f"Specify one destination, not {' and '.join(given)}.")
    [member], text = given, input[given[0]]
    if member == "DestinationPrefixListId":
        return Destination(text, None)
    network: Network
    if member == "DestinationCidrBlock":
        network = parse4(text, "destinationCidrBlock")
    else:
        network = parse6(text, "destinationIpv6CidrBlock")
    return Destination(str(network), network)


async def _target(ctx: Context, input: Input, table: RouteTable) -> str:
    """The id that the record has. Raises for a target that cannot be one of this table."""
    for member in _UNSUPPORTED:
        if input.get(member):
            raise unsupported(f"Routes with {member} are not supported by gureum.")
    given = [member for member in _TARGETS if input.get(member)]
    if not given:
        raise missing(
            "gatewayId, egressOnlyInternetGatewayId, natGatewayId, networkInterfaceId, instanceId or "
            "vpcPeeringConnectionId"
        )
    if len(given) > 1:
        raise invalid_combination(f"Specify one target, not {' and '.join(given)}.")
    [member], id = given, input[given[0]]
    if member == "GatewayId":
        return await _gateway(ctx, table, id)
    if member == "EgressOnlyInternetGatewayId":
        egress = await lookup.one(ctx, lookup.EGRESS_GATEWAY, id)
        _same_vpc(table, egress.vpc, f"egress-only internet gateway {id}")
        return egress.id
    if member == "VpcEndpointId":
        raise _no_endpoint(await lookup.one(ctx, lookup.VPC_ENDPOINT, id))
    if member == "NatGatewayId":
        return await _nat(ctx, table, id)
    if member == "VpcPeeringConnectionId":
        return await _peering(ctx, table, id)
    if member == "InstanceId":
        return await _instance(ctx, table, id)
    interface = await lookup.one(ctx, lookup.INTERFACE, id)
    _same_vpc(table, interface.vpc, f"interface {id}")
    return interface.id


def _same_vpc(table: RouteTable, vpc: str, what: str) -> None:
    if table.vpc != vpc:
        raise invalid_value(f"route table {table.id} and {what} belong to different networks")


async def _gateway(ctx: Context, table: RouteTable, id: str) -> str:
    prefix = id.partition("-")[0]
    if id == "local":
        raise invalid_value(
            "The route to the target local is there for each CIDR of the VPC; none can be added."
        )
    if prefix == "vpce":
        raise _no_endpoint(await lookup.one(ctx, lookup.VPC_ENDPOINT, id))
    if prefix == "eigw":
        raise invalid_value(
            f"{id} is an egress-only internet gateway: give it as egressOnlyInternetGatewayId."
        )
    if prefix in ("vgw", "cagw", "lgw"):
        raise unsupported(f"Routes to gateways of the kind {prefix}- are not supported by gureum.")
    gateway = await ctx.tx.get(InternetGateway, id)
    if gateway is None or gateway.account != ctx.caller.account:
        raise ApiError("InvalidGatewayID.NotFound", f"The gateway ID '{id}' does not exist")
    _same_vpc(table, gateway.vpc, f"network gateway {id}")
    return id


def _no_endpoint(endpoint: VpcEndpoint) -> ApiError:
    """A gateway endpoint gets its routes by its own operations."""
    return ApiError(
        "RouteNotSupported",
        f"Route table contains unsupported route target: {endpoint.id}. VPC Endpoints of this type cannot be "
        "used as route targets.",
    )


async def _nat(ctx: Context, table: RouteTable, id: str) -> str:
    nat = await ctx.tx.get(NatGateway, id)
    gone = (NatGatewayState.deleting, NatGatewayState.deleted, NatGatewayState.failed)
    if nat is None or nat.account != ctx.caller.account or nat.state in gone:
        raise ApiError("InvalidNatGatewayID.NotFound", f"The natGateway ID '{id}' does not exist")
    _same_vpc(table, nat.vpc, f"nat gateway {id}")
    return id


def _check_family(target: str, to: Destination, six: bool) -> None:
    """Raises for a NAT gateway as the target of an IPv6 destination, and an egress-only one of IPv4."""
    if six and target.startswith("nat-"):
        raise invalid_value(f"NAT gateways translate IPv4 only: {target} cannot be the target for {to.text}")
    if not six and target.startswith("eigw-"):
        raise invalid_value(
            f"Egress-only internet gateways are for IPv6 only: {target} cannot be the target for {to.text}"
        )


async def _peering(ctx: Context, table: RouteTable, id: str) -> str:
    """One that waits for its acceptance may be a target: the route is a blackhole until then."""
    lookup.PEERING.check(id)
    peering = await ctx.tx.get(PeeringConnection, id)
    usable = (PeeringState.pending_acceptance, PeeringState.active)
    if peering is None or ctx.caller.account not in peering.accounts or peering.state not in usable:
        raise lookup.PEERING.absent([id])
    if table.vpc not in peering.vpcs:
        raise invalid_value(
            f"route table {table.id} and VPC peering connection {id} belong to different networks"
        )
    return id


async def _instance(ctx: Context, table: RouteTable, id: str) -> str:
    """The instance's one interface."""
    instance = await lookup.one(ctx, lookup.INSTANCE, id)
    interfaces = await ctx.tx.find(NetworkInterface, instance=instance.id)
    if not interfaces:
        raise ApiError("InvalidInstanceID", f"There are no interfaces attached to instance '{id}'.")
    if len(interfaces) > 1:
        raise ApiError(
            "InvalidInstanceID",
            f"There are multiple interfaces attached to instance '{id}'. Please specify an interface ID for "
            "the operation instead.",
        )
    _same_vpc(table, interfaces[0].vpc, f"interface {interfaces[0].id}")
    return interfaces[0].id


async def _vpc(ctx: Context, table: RouteTable) -> Vpc:
    vpc = await ctx.tx.get(Vpc, table.vpc)
    assert vpc is not None
    return vpc


async def _is_local(ctx: Context, table: RouteTable, to: Destination) -> bool:
    vpc = await _vpc(ctx, table)
    return to.text in (*vpc.cidrs, *vpc.cidrs6)


async def _is_there(ctx: Context, table: RouteTable, to: Destination) -> bool:
    """Whether the table has a route to this destination: added, local, or a gateway endpoint's."""
    added = any(route.destination == to.text for route in table.routes)
    return added or await _is_local(ctx, table, to) or await _endpoint(ctx, table, to) is not None


async def _endpoint(ctx: Context, table: RouteTable, to: Destination) -> VpcEndpoint | None:
    if to.network is not None:
        return None
    endpoints = await ctx.tx.find(VpcEndpoint, route_tables=table.id)
    return next((each for each in endpoints if each.prefix_list == to.text), None)


async def _check_route(ctx: Context, table: RouteTable, to: Destination, target: str) -> None:
    """Whether the table may have a route to this destination by this target.

    One inside the VPC must be for a whole subnet, and lead to an interface or NAT gateway (Amazon VPC User
    Guide, "Configure route tables", more specific routes than the local one).
    """
    if to.network is None:
        prefix_list = await lookup.one(ctx, lookup.PREFIX_LIST, to.text)
        _check_family(target, to, prefix_list.family != "IPv4")
        return
    _check_family(target, to, isinstance(to.network, IPv6Network))
    if within(to.network, _RESERVED):
        raise invalid_value(f"The destination CIDR block {to.text} is reserved: it is not routed in a VPC.")
    vpc = await _vpc(ctx, table)
    local = (*vpc.cidrs, *vpc.cidrs6)
    if not within(to.network, networks(local)):
        return
    if target.partition("-")[0] not in ("eni", "nat"):
        raise invalid_value(
            "Route target is not supported. This route only supports interface and instance targets."
        )
    subnets = await ctx.tx.find(Subnet, vpc=table.vpc)
    whole = {subnet.cidr for subnet in subnets} | {
        each.ipv6.cidr for each in subnets if each.ipv6 is not None
    }
    if to.text not in whole and to.text not in local:
        raise invalid_value(
            f"The destination CIDR block {to.text} is more specific than the local route, but not the CIDR "
            "block of a subnet."
        )


async def _check_count(ctx: Context, table: RouteTable) -> None:
    """Raises RouteLimitExceeded. A prefix list counts as all the entries that it can have."""
    lists = [route.destination for route in table.routes if route.destination.startswith("pl-")]
    counts = {each.id: each.max_entries for each in await ctx.tx.get_many(PrefixList, lists)}
    if sum(counts.get(route.destination, 1) for route in table.routes) > limits.ROUTES_PER_TABLE_MAX:
        raise ApiError(
            "RouteLimitExceeded",
            f"The maximum number of routes of route table '{table.id}' has been reached.",
        )
