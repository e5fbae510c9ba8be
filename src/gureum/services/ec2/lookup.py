"""From the ids in a request to records, with EC2's errors for ids that are malformed or not there."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Generic, NamedTuple, TypeVar

from gureum.errors import ApiError
from gureum.resources import (
    Address,
    DhcpOptions,
    EgressGateway,
    FlowLog,
    Image,
    ImageState,
    Instance,
    InternetGateway,
    KeyPair,
    NatGateway,
    NetworkAcl,
    NetworkInterface,
    PeeringConnection,
    PlacementGroup,
    PrefixList,
    Record,
    RouteTable,
    SecurityGroup,
    Snapshot,
    SnapshotState,
    Subnet,
    Volume,
    VolumeState,
    Vpc,
    VpcEndpoint,
)
from gureum.services.operation import Context

R = TypeVar("R", bound=Record)

_DIGITS = re.compile(r"[0-9a-f]{8}(?:[0-9a-f]{9})?\Z")


class Noun(NamedTuple, Generic[R]):
    """A kind of resource as its errors name it.

    ``missing`` and ``missing_many`` have a place for the id or ids. ``malformed`` is the error code for
    an id that is none; empty where EC2 says that it does not exist.
    """

    record: type[R]
    prefix: str
    not_found: str
    missing: str
    missing_many: str
    malformed: str
    malformed_text: str = 'Invalid id: "{id}" (expecting "{prefix}-...")'
    shared: bool = False
    """Records without an account belong to the system, and everybody sees them."""
    visible: Callable[[R], bool] = lambda record: True
    holders: Callable[[R], Collection[str]] = lambda record: (record.account,)
    """The accounts whose own it is."""

    def well_formed(self, id: str) -> bool:
        prefix, dash, digits = id.partition("-")
        return bool(dash) and prefix == self.prefix and _DIGITS.match(digits) is not None

    def check(self, id: str) -> None:
        """Raises the error for a malformed id, where there is one."""
        if self.malformed and not self.well_formed(id):
            raise ApiError(self.malformed, self.malformed_text.format(id=id, prefix=self.prefix))

    def absent(self, ids: Sequence[str]) -> ApiError:
        text = self.missing if len(ids) == 1 else self.missing_many
        return ApiError(self.not_found, text.format(ids=", ".join(ids)))

    def owned(self, record: R, account: str) -> bool:
        mine = account in self.holders(record) or (self.shared and not record.account)
        return mine and self.visible(record)


INSTANCE = Noun(
    Instance, "i", "InvalidInstanceID.NotFound", "The instance ID '{ids}' does not exist",
    "The instance IDs '{ids}' do not exist", "InvalidInstanceID.Malformed",
)  # fmt: skip
IMAGE = Noun(
    Image, "ami", "InvalidAMIID.NotFound", "The image id '[{ids}]' does not exist",
    "The image ids '[{ids}]' do not exist", "InvalidAMIID.Malformed", shared=True,
    visible=lambda image: image.state is not ImageState.deregistered and not image.cancelled,
)  # fmt: skip
VOLUME = Noun(
    Volume, "vol", "InvalidVolume.NotFound", "The volume '{ids}' does not exist.",
    "The volumes '{ids}' do not exist.", "InvalidParameterValue",
    "Value ({id}) for parameter volumes is invalid. Expected: 'vol-...'.",
    visible=lambda volume: volume.state is not VolumeState.deleted and not volume.staged,
)  # fmt: skip
SNAPSHOT = Noun(
    Snapshot, "snap", "InvalidSnapshot.NotFound", "The snapshot '{ids}' does not exist.",
    "The snapshots '{ids}' do not exist.", "InvalidParameterValue",
    "Value ({id}) for parameter snapshotId is invalid. Expected: 'snap-...'.", shared=True,
    visible=lambda snapshot: snapshot.state is not SnapshotState.deleting,
)  # fmt: skip
GROUP = Noun(
    SecurityGroup, "sg", "InvalidGroup.NotFound", "The security group '{ids}' does not exist",
    "The security groups '{ids}' do not exist", "InvalidGroupId.Malformed",
)  # fmt: skip
VPC = Noun(
    Vpc, "vpc", "InvalidVpcID.NotFound", "The vpc ID '{ids}' does not exist",
    "The vpc IDs '{ids}' do not exist", "",
)  # fmt: skip
SUBNET = Noun(
    Subnet, "subnet", "InvalidSubnetID.NotFound", "The subnet ID '{ids}' does not exist",
    "The subnet IDs '{ids}' do not exist", "",
)  # fmt: skip
INTERFACE = Noun(
    NetworkInterface, "eni", "InvalidNetworkInterfaceID.NotFound",
    "The networkInterface ID '{ids}' does not exist", "The networkInterface IDs '{ids}' do not exist",
    "InvalidNetworkInterfaceId.Malformed",
)  # fmt: skip
ADDRESS = Noun(
    Address, "eipalloc", "InvalidAllocationID.NotFound", "The allocation ID '{ids}' does not exist",
    "The allocation IDs '{ids}' do not exist", "",
)  # fmt: skip
KEY_PAIR = Noun(
    KeyPair, "key", "InvalidKeyPair.NotFound", "The key pair ID '{ids}' does not exist",
    "The key pair IDs '{ids}' do not exist", "",
)  # fmt: skip
PLACEMENT_GROUP = Noun(
    PlacementGroup, "pg", "InvalidPlacementGroup.Unknown", "The Placement Group '{ids}' is unknown.",
    "The Placement Groups '{ids}' are unknown.", "InvalidPlacementGroupId.Malformed",
)  # fmt: skip

INTERNET_GATEWAY = Noun(
    InternetGateway, "igw", "InvalidInternetGatewayID.NotFound",
    "The internetGateway ID '{ids}' does not exist", "The internetGateway IDs '{ids}' do not exist", "",
)  # fmt: skip
EGRESS_GATEWAY = Noun(
    EgressGateway, "eigw", "InvalidGatewayID.NotFound", "The gateway ID '{ids}' does not exist",
    "The gateway IDs '{ids}' do not exist", "",
)  # fmt: skip
ROUTE_TABLE = Noun(
    RouteTable, "rtb", "InvalidRouteTableID.NotFound", "The routeTable ID '{ids}' does not exist",
    "The routeTable IDs '{ids}' do not exist", "InvalidRouteTableId.Malformed",
)  # fmt: skip
NETWORK_ACL = Noun(
    NetworkAcl, "acl", "InvalidNetworkAclID.NotFound", "The networkAcl ID '{ids}' does not exist",
    "The networkAcl IDs '{ids}' do not exist", "",
)  # fmt: skip
DHCP_OPTIONS = Noun(
    DhcpOptions, "dopt", "InvalidDhcpOptionID.NotFound", "The dhcpOption ID '{ids}' does not exist",
    "The dhcpOption IDs '{ids}' do not exist", "",
)  # fmt: skip
PEERING = Noun(
    PeeringConnection, "pcx", "InvalidVpcPeeringConnectionID.NotFound",
    "The vpcPeeringConnection ID '{ids}' does not exist",
    "The vpcPeeringConnection IDs '{ids}' do not exist", "InvalidVpcPeeringConnectionId.Malformed",
    holders=lambda peering: peering.accounts,
)  # fmt: skip
NAT_GATEWAY = Noun(
    NatGateway, "nat", "NatGatewayNotFound", "NAT gateway {ids} was not found",
    "NAT gateways {ids} were not found", "NatGatewayMalformed",
)  # fmt: skip
PREFIX_LIST = Noun(
    PrefixList, "pl", "InvalidPrefixListID.NotFound", "The prefix list ID '{ids}' does not exist",
    "The prefix list IDs '{ids}' do not exist", "InvalidPrefixListId.Malformed", shared=True,
)  # fmt: skip
FLOW_LOG = Noun(
    FlowLog, "fl", "InvalidFlowLogId.NotFound", "The flow log ID '{ids}' does not exist",
    "The flow log IDs '{ids}' do not exist", "",
)  # fmt: skip
VPC_ENDPOINT = Noun(
    VpcEndpoint, "vpce", "InvalidVpcEndpointId.NotFound", "The Vpc Endpoint Id '{ids}' does not exist",
    "The Vpc Endpoint Ids '{ids}' do not exist", "",
)  # fmt: skip


async def many(ctx: Context, noun: Noun[R], ids: Sequence[str]) -> list[R]:
    """The records of these ids, each once, in the order asked for.

    Raises for the first malformed id, then for all that do not exist.
    """
    wanted = list(dict.fromkeys(ids))
    for id in wanted:
        noun.check(id)
    found = {record.id: record for record in await ctx.tx.get_many(noun.record, wanted)}
    account = ctx.caller.account
    absent = [id for id in wanted if id not in found or not noun.owned(found[id], account)]
    if absent:
        raise noun.absent(absent)
    return [found[id] for id in wanted]


async def one(ctx: Context, noun: Noun[R], id: str) -> R:
    noun.check(id)
    record = await ctx.tx.get(noun.record, id)
    if record is None or not noun.owned(record, ctx.caller.account):
        raise noun.absent([id])
    return record
