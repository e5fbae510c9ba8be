"""The records of the store, one module per noun."""

from gureum.resources.host import Host, HostState
from gureum.resources.image import Image, ImageState
from gureum.resources.instance import BlockDevice, Instance, InstanceState, MetadataOptions, StateReason
from gureum.resources.keypair import KeyPair
from gureum.resources.network import (
    Address,
    NetworkInterface,
    Permission,
    SecurityGroup,
    Subnet,
    Vpc,
)
from gureum.resources.record import KINDS, Record
from gureum.resources.token import ClientToken
from gureum.resources.volume import (
    Attachment,
    AttachmentState,
    Modification,
    Snapshot,
    SnapshotState,
    Volume,
    VolumeState,
)

__all__ = [
    "KINDS",
    "Address",
    "Attachment",
    "AttachmentState",
    "BlockDevice",
    "ClientToken",
    "Host",
    "HostState",
    "Image",
    "ImageState",
    "Instance",
    "InstanceState",
    "KeyPair",
    "MetadataOptions",
    "Modification",
    "NetworkInterface",
    "Permission",
    "Record",
    "SecurityGroup",
    "Snapshot",
    "SnapshotState",
    "StateReason",
    "Subnet",
    "Volume",
    "VolumeState",
    "Vpc",
]
