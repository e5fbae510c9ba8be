"""What the metadata service shows, as a tree: EC2's "instance metadata categories".

A directory is a dict, a leaf is bytes. A directory's listing has one name a line, with a "/" after those of
directories; ``public-keys`` lists "0=name" as EC2 does.
"""

from __future__ import annotations

import json
from typing import TypeAlias

from gureum.hostspec import Metadata, MetadataInterface

Tree: TypeAlias = "dict[str, Tree | bytes]"

VERSIONS = (
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-03-28",
    "2018-08-17",
    "2018-09-24",
    "2019-10-01",
    "2020-10-27",
    "2021-01-03",
    "2021-03-23",
    "2021-07-15",
    "2022-07-09",
    "2022-09-24",
    "2024-04-11",
    "latest",
)
"""EC2's own list. All answer alike."""

_DIRECTIONS = {
    "north": "n",
    "south": "s",
    "east": "e",
    "west": "w",
    "central": "c",
    "northeast": "ne",
    "northwest": "nw",
    "southeast": "se",
    "southwest": "sw",
}


def render(metadata: Metadata, path: str) -> bytes | None:
    """The body for a path like "/latest/meta-data/ami-id"; None if there is nothing (404)."""
    if not path.startswith("/"):
        return None
    parts = [part for part in path.split("/") if part]
    if not parts:
        return "\n".join(VERSIONS).encode()
    if parts[0] not in VERSIONS:
        return None
    node: Tree | bytes = _root(metadata)
    for part in parts[1:]:
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    if isinstance(node, bytes):
        # A leaf has no trailing slash; user data of no bytes is no user data.
        return None if path.endswith("/") and len(parts) > 1 else node
    if parts[1:] == ["meta-data", "public-keys"]:
        return "\n".join(f"{index}={metadata.key_name}" for index in node).encode()
    return _listing(node)


def _listing(node: Tree) -> bytes:
    return "\n".join(f"{name}/" if isinstance(child, dict) else name for name, child in node.items()).encode()


def _root(metadata: Metadata) -> Tree:
    root: Tree = {"dynamic": {"instance-identity": {"document": _document(metadata)}}}
    root["meta-data"] = _meta_data(metadata)
    if metadata.user_data:
        root["user-data"] = metadata.user_data
    return root


def _leaves(values: dict[str, str]) -> Tree:
    """Leaves for all that have a value."""
    return {name: value.encode() for name, value in values.items() if value}


def _meta_data(metadata: Metadata) -> Tree:
    first = _primary(metadata)
    tree: Tree = {
        "ami-id": metadata.image.encode(),
        "ami-launch-index": str(metadata.launch_index).encode(),
        "ami-manifest-path": b"(unknown)",
        "block-device-mapping": _leaves(metadata.block_devices),
        "hostname": first.private_dns.encode(),
        "instance-action": b"none",
        "instance-id": metadata.instance.encode(),
        "instance-life-cycle": b"on-demand",
        "instance-type": metadata.type.encode(),
        "local-hostname": first.private_dns.encode(),
        "local-ipv4": first.private_ip.encode(),
        "mac": first.mac.encode(),
        "network": {"interfaces": {"macs": {nic.mac: _interface(nic) for nic in metadata.interfaces}}},
        "placement": _leaves(
            {
                "availability-zone": metadata.zone,
                "availability-zone-id": zone_id(metadata.region, metadata.zone),
                "group-name": metadata.group,
                "partition-number": str(metadata.partition or ""),
                "region": metadata.region,
            }
        ),
        "profile": b"default-hvm",
        **_leaves(
            {
                "ipv6": "".join(first.ipv6[:1]),
                "public-hostname": first.public_dns,
                "public-ipv4": first.public_ip,
            }
        ),
        "reservation-id": metadata.reservation.encode(),
        "security-groups": "\n".join(first.group_names).encode(),
        "services": {"domain": b"amazonaws.com", "partition": b"aws"},
    }
    if metadata.public_key:
        tree["public-keys"] = {"0": {"openssh-key": metadata.public_key.encode()}}
    if metadata.tags:
        tree["tags"] = {"instance": {key: value.encode() for key, value in metadata.tags.items()}}
    return dict(sorted(tree.items()))


def _primary(metadata: Metadata) -> MetadataInterface:
    if not metadata.interfaces:
        return MetadataInterface(
            id="", mac="", private_ip="", private_dns="", subnet="", subnet_cidr="", vpc="", vpc_cidr=""
        )
    return min(metadata.interfaces, key=lambda nic: nic.device_index)


def _interface(nic: MetadataInterface) -> Tree:
    """Lists of addresses begin with the first one's; networks that the VPC was given later come after."""
    addresses = ((nic.private_ip, nic.public_ip), *nic.secondary)
    networks = dict.fromkeys((nic.vpc_cidr, *nic.vpc_cidrs))
    tree: Tree = {
        "device-number": str(nic.device_index).encode(),
        **_leaves(
            {
                "interface-id": nic.id,
                "ipv6s": "\n".join(nic.ipv6),
                "local-hostname": nic.private_dns,
                "local-ipv4s": "\n".join(private for private, _ in addresses),
                "mac": nic.mac,
                "owner-id": nic.owner,
                "public-hostname": nic.public_dns,
                "public-ipv4s": "\n".join(public for _, public in addresses if public),
                "security-group-ids": "\n".join(nic.group_ids),
                "security-groups": "\n".join(nic.group_names),
                "subnet-id": nic.subnet,
                "subnet-ipv4-cidr-block": nic.subnet_cidr,
                "subnet-ipv6-cidr-blocks": nic.subnet_cidr6,
                "vpc-id": nic.vpc,
                "vpc-ipv4-cidr-block": nic.vpc_cidr,
                "vpc-ipv4-cidr-blocks": "\n".join(each for each in networks if "." in each),
                "vpc-ipv6-cidr-blocks": "\n".join(each for each in networks if ":" in each),
            }
        ),
    }
    if associations := {public: private.encode() for private, public in addresses if public}:
        tree["ipv4-associations"] = dict(associations)
    return dict(sorted(tree.items()))


def _document(metadata: Metadata) -> bytes:
    """The instance identity document: its fields and their order are EC2's."""
    fields = {
        "accountId": metadata.account,
        "architecture": "x86_64",
        "availabilityZone": metadata.zone,
        "billingProducts": None,
        "devpayProductCodes": None,
        "marketplaceProductCodes": None,
        "imageId": metadata.image,
        "instanceId": metadata.instance,
        "instanceType": metadata.type,
        "kernelId": None,
        "pendingTime": metadata.launched or None,
        "privateIp": _primary(metadata).private_ip,
        "ramdiskId": None,
        "region": metadata.region,
        "version": "2017-09-30",
    }
    return json.dumps(fields, indent=2).encode()


def zone_id(region: str, zone: str) -> str:
    """ "use1-az1" for us-east-1a; "" if the names are not of that form."""
    area, _, rest = region.partition("-")
    *middle, number = rest.split("-")
    letter = zone.removeprefix(region)
    if not area or len(letter) != 1 or not letter.isalpha() or not number.isdecimal():
        return ""
    words = "".join(_DIRECTIONS.get(word, word[:1]) for word in middle)
    return f"{area}{words}{number}-az{ord(letter.lower()) - ord('a') + 1}"
