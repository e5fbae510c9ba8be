"""NAT gateways: a way out for instances without public addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from gureum.errors import ApiError
from gureum.resources import (
    Address,
    Host,
    HostState,
    InternetGateway,
    NatGateway,
    NatGatewayState,
    NetworkInterface,
    SecondaryAddress,
    Subnet,
)
from gureum.services.ec2 import interface_options as options
from gureum.services.ec2 import limits, lookup
from gureum.services.ec2.allocation import new_mac
from gureum.services.ec2.capacity import serves
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

INTERFACE_TYPE = "nat_gateway"
SECONDARY_MAX = 7
"""EC2's quota of private addresses of a NAT gateway is 8."""
_GONE = (NatGatewayState.deleted, NatGatewayState.failed)
_UNSUPPORTED = ("AvailabilityZoneAddresses", "SecondaryAllocationIds")


@operation("ec2", "CreateNatGateway", write=True)
async def create_nat_gateway(ctx: Context, input: Input) -> Output:
    public = _is_public(input)
    if not input.get("SubnetId"):
        raise missing("SubnetId")
    subnet = await lookup.one(ctx, lookup.SUBNET, input["SubnetId"])
    if input.get("VpcId") and input["VpcId"] != subnet.vpc:
        raise invalid_combination(f"The subnet '{subnet.id}' is not in the VPC '{input['VpcId']}'.")
    await _check_quota(ctx, subnet)
    address = await _address(ctx, input, subnet) if public else None
    tags = specified_tags(input, "natgateway")["natgateway"]
    nat = NatGateway(
        id=ctx.env.new_id("nat"),
        account=ctx.caller.account,
        tags=tags,
        vpc=subnet.vpc,
        subnet=subnet.id,
        zone=subnet.zone,
        interface=ctx.env.new_id("eni"),
        public=public,
        created=ctx.env.utcnow(),
        client_token=input.get("ClientToken") or "",
    )
    interface = await _interface(ctx, input, nat, subnet, address)
    nat = await ctx.tx.put(nat)
    [item] = await _items(ctx, [nat], {interface.id: interface})
    return {"ClientToken": input.get("ClientToken"), "NatGateway": item}


def _is_public(input: Input) -> bool:
    for member in _UNSUPPORTED:
        if input.get(member):
            raise unsupported(f"{member} is not supported by gureum: a NAT gateway has one public address.")
    if (input.get("AvailabilityMode") or "zonal") != "zonal":
        raise unsupported("Regional NAT gateways are not supported by gureum; make one in each zone.")
    connectivity = input.get("ConnectivityType") or "public"
    if connectivity not in ("public", "private"):
        raise invalid_parameter_value(connectivity, "connectivityType", "Expected: public, private.")
    if connectivity == "private" and input.get("AllocationId"):
        raise invalid_combination("A private NAT gateway cannot have an elastic address.")
    if connectivity == "public" and not input.get("AllocationId"):
        raise missing("AllocationId")
    count, listed = input.get("SecondaryPrivateIpAddressCount"), input.get("SecondaryPrivateIpAddresses")
    if count and listed:
        raise invalid_combination("Specify SecondaryPrivateIpAddresses or their count, not both.")
    if (count or listed) and connectivity == "public":
        raise unsupported("A public NAT gateway of gureum has one private address.")
    if not 0 <= (count or len(listed or ())) <= SECONDARY_MAX:
        raise invalid_parameter_value(count, "secondaryPrivateIpAddressCount", f"At most {SECONDARY_MAX}.")
    return connectivity == "public"


async def _check_quota(ctx: Context, subnet: Subnet) -> None:
    nats = [nat for nat in await ctx.tx.find(NatGateway, vpc=subnet.vpc) if nat.state not in _GONE]
    if sum(nat.zone == subnet.zone for nat in nats) >= limits.NAT_GATEWAYS_PER_ZONE_MAX:
        raise ApiError(
            "NatGatewayLimitExceeded",
            f"The maximum of {limits.NAT_GATEWAYS_PER_ZONE_MAX} NAT gateways for the Availability Zone "
            f"'{subnet.zone}' has been reached.",
        )


async def _address(ctx: Context, input: Input, subnet: Subnet) -> Address:
    address = await lookup.one(ctx, lookup.ADDRESS, input["AllocationId"])
    if address.association:
        raise ApiError(
            "Resource.AlreadyAssociated",
            f"Elastic IP address [{address.id}] is already associated",
        )
    if not await ctx.tx.count(InternetGateway, vpc=subnet.vpc):
        raise ApiError("Gateway.NotAttached", f"Network {subnet.vpc} has no Internet gateway attached")
    return address


async def _interface(
    ctx: Context, input: Input, nat: NatGateway, subnet: Subnet, address: Address | None
) -> NetworkInterface:
    """Its own interface, which nobody else can change, with the elastic address on it."""
    addresses = await _private_addresses(ctx, input, subnet)
    interface = await ctx.tx.put(
        NetworkInterface(
            id=nat.interface,
            account=ctx.caller.account,
            vpc=subnet.vpc,
            subnet=subnet.id,
            zone=subnet.zone,
            mac=new_mac(ctx.env),
            private_ip=addresses.primary,
            secondary=tuple(SecondaryAddress(private_ip=each) for each in addresses.secondary),
            description=f"Interface for NAT Gateway {nat.id}",
            type=INTERFACE_TYPE,
            requester=nat.id,
            attachment=ctx.env.new_id("ela-attach"),
            attached=nat.created,
            source_dest_check=False,
            public_ip=address.public_ip if address else "",
            address=address.id if address else "",
        )
    )
    if address is not None:
        await ctx.tx.put(
            replace(
                address,
                association=ctx.env.new_id("eipassoc"),
                interface=interface.id,
                private_ip=addresses.primary,
            )
        )
    return interface


async def _private_addresses(ctx: Context, input: Input, subnet: Subnet) -> options.Addresses:
    wanted = options.Wanted(
        input.get("PrivateIpAddress") or "",
        tuple(input.get("SecondaryPrivateIpAddresses") or ()),
        input.get("SecondaryPrivateIpAddressCount") or 0,
    )
    if len(set(wanted.given)) < len(wanted.given):
        raise invalid_value("Each private IP address can be specified once only.")
    return await options.allocate(ctx, subnet, await options.check_free(ctx, subnet, wanted))


@operation("ec2", "DeleteNatGateway", write=True)
async def delete_nat_gateway(ctx: Context, input: Input) -> Output:
    nat = await lookup.one(ctx, lookup.NAT_GATEWAY, input["NatGatewayId"])
    if nat.state in (NatGatewayState.pending, NatGatewayState.available, NatGatewayState.failed):
        await ctx.tx.put(replace(nat, state=NatGatewayState.deleting))
    return {"NatGatewayId": nat.id}


async def _items(
    ctx: Context, nats: Sequence[NatGateway], known: dict[str, NetworkInterface] | None = None
) -> list[dict[str, Any]]:
    wanted = {nat.interface for nat in nats}
    interfaces = known or {each.id: each for each in await ctx.tx.get_many(NetworkInterface, wanted)}
    ids = {each.address for each in interfaces.values() if each.address}
    addresses = {each.id: each for each in await ctx.tx.get_many(Address, ids)}
    up = [host for host in await ctx.tx.find(Host) if host.state is HostState.up]
    return [_item(nat, interfaces.get(nat.interface), addresses, _trouble(nat, up)) for nat in nats]


def _trouble(nat: NatGateway, up: Sequence[Host]) -> str:
    """Why it does not work, for people; "" if it does, for all that is known. ``up``: hosts that are."""
    if nat.state is NatGatewayState.pending and not any(serves(host, nat.zone) for host in up):
        return f"No host of {nat.zone} is up: it waits for one."
    if nat.state is NatGatewayState.available and all(host.id != nat.host for host in up):
        return (
            f"Its host, {nat.host}, is down: what is routed to it gets nowhere, as far as is known. It works "
            "again when the host is up, or elsewhere in its zone after `gureum host remove --force`."
        )
    return ""


def _item(
    nat: NatGateway, interface: NetworkInterface | None, addresses: dict[str, Address], trouble: str
) -> dict[str, Any]:
    return {
        "NatGatewayId": nat.id,
        "VpcId": nat.vpc,
        "SubnetId": nat.subnet,
        "State": str(nat.state),
        "FailureCode": nat.failure or None,
        "FailureMessage": nat.failure_message or trouble or None,
        "CreateTime": nat.created,
        "DeleteTime": nat.deleted,
        "ConnectivityType": "public" if nat.public else "private",
        "AvailabilityMode": "zonal",
        "NatGatewayAddresses": _addresses(interface, addresses) if interface else [],
        "Tags": tag_list(nat.tags),
    }


def _addresses(interface: NetworkInterface, addresses: dict[str, Address]) -> list[dict[str, Any]]:
    elastic = addresses.get(interface.address)
    first = {
        "AllocationId": interface.address or None,
        "AssociationId": elastic.association if elastic else None,
        "PublicIp": interface.public_ip or None,
        "NetworkInterfaceId": interface.id,
        "PrivateIp": interface.private_ip,
        "IsPrimary": True,
        "Status": "succeeded",
    }
    others = [
        {
            "NetworkInterfaceId": interface.id,
            "PrivateIp": each.private_ip,
            "IsPrimary": False,
            "Status": "succeeded",
        }
        for each in interface.secondary
    ]
    return [first, *others]


NAT_GATEWAYS = Listing(
    operation="DescribeNatGateways",
    noun=lookup.NAT_GATEWAY,
    ids="NatGatewayIds",
    items="NatGateways",
    filters=Filters(
        {"nat-gateway-id": "id"},
        index={"state": "state", "subnet-id": "subnet", "vpc-id": "vpc"},
    ),
    describe=_items,
)


@operation("ec2", "DescribeNatGateways")
async def describe_nat_gateways(ctx: Context, input: Input) -> Output:
    # This one operation calls its list of filters Filter.
    return await NAT_GATEWAYS.answer(ctx, {**input, "Filters": input.get("Filter")})
