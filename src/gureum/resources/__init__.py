"""The records of the store, one module per noun."""

from gureum.resources.encryption import EbsDefaults, VolumeKey
from gureum.resources.event import Event, Severity
from gureum.resources.filtering import (
    AclEntry,
    NetworkAcl,
    Permission,
    PrefixEntry,
    PrefixList,
    SecurityGroup,
)
from gureum.resources.host import Fence, Host, HostCertificate, HostState, HostToken
from gureum.resources.image import Image, ImageDevice, ImageState
from gureum.resources.instance import (
    BlockDevice,
    Instance,
    InstanceState,
    MetadataOptions,
    Recovery,
    RecoveryPolicy,
    Resize,
    StateReason,
)
from gureum.resources.interface import (
    Address,
    InterfaceAttachment,
    NetworkInterface,
    SecondaryAddress,
)
from gureum.resources.keypair import KeyPair
from gureum.resources.migration import InstanceMigration, MigrationState
from gureum.resources.placement import BalanceMode, FleetSettings, PlacementGroup, SpreadLevel, Strategy
from gureum.resources.pool import Pool
from gureum.resources.record import KINDS, Record
from gureum.resources.routing import (
    EgressGateway,
    InternetGateway,
    NatGateway,
    NatGatewayState,
    Route,
    RouteTable,
    VpcEndpoint,
)
from gureum.resources.token import ClientToken
from gureum.resources.upgrade import HostUpgrade, Upgrade, UpgradeState, UpgradeStep
from gureum.resources.volume import (
    Attachment,
    AttachmentState,
    Modification,
    Move,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)
from gureum.resources.vpc import (
    CidrAssociation,
    DhcpOptions,
    FlowLog,
    PeeringConnection,
    PeeringState,
    Subnet,
    Vpc,
)

__all__ = [
    "KINDS",
    "AclEntry",
    "Address",
    "Attachment",
    "AttachmentState",
    "BalanceMode",
    "BlockDevice",
    "CidrAssociation",
    "ClientToken",
    "DhcpOptions",
    "EbsDefaults",
    "EgressGateway",
    "Event",
    "Fence",
    "FleetSettings",
    "FlowLog",
    "Host",
    "HostCertificate",
    "HostState",
    "HostToken",
    "HostUpgrade",
    "Image",
    "ImageDevice",
    "ImageState",
    "Instance",
    "InstanceMigration",
    "InstanceState",
    "InterfaceAttachment",
    "InternetGateway",
    "KeyPair",
    "MetadataOptions",
    "MigrationState",
    "Modification",
    "Move",
    "NatGateway",
    "NatGatewayState",
    "NetworkAcl",
    "NetworkInterface",
    "PeeringConnection",
    "PeeringState",
    "Permission",
    "PlacementGroup",
    "Pool",
    "PrefixEntry",
    "PrefixList",
    "Record",
    "Recovery",
    "RecoveryPolicy",
    "Resize",
    "Route",
    "RouteTable",
    "SecondaryAddress",
    "SecurityGroup",
    "Severity",
    "Snapshot",
    "SnapshotState",
    "SpreadLevel",
    "StateReason",
    "Strategy",
    "Subnet",
    "Upgrade",
    "UpgradeState",
    "UpgradeStep",
    "Volume",
    "VolumeKey",
    "VolumeState",
    "Vpc",
    "VpcEndpoint",
]
