"""VPCs, subnets, interfaces, security groups, addresses. IPv4 in dotted form, networks in CIDR form."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

import msgspec

from gureum.resources.record import Record


class Vpc(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``network_id`` is a number unique in the cloud (later the VXLAN id)."""

    cidr: str
    network_id: int
    default: bool = False
    dns_support: bool = True
    dns_hostnames: bool = True
    dhcp_options: str = "default"
    internet_gateway: str = ""

    kind: ClassVar[str] = "vpc"
    indexes: ClassVar[tuple[str, ...]] = ("account",)


class Subnet(Record, frozen=True, kw_only=True, omit_defaults=True):
    vpc: str
    zone: str
    cidr: str
    default_for_az: bool = False
    map_public_ip: bool = False

    kind: ClassVar[str] = "subnet"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpc", "zone")


class Permission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One security group rule with one peer, as DescribeSecurityGroupRules shows it.

    ``protocol`` is tcp, udp, icmp, icmpv6, a number as text, or "-1" for all. Ports are -1 where they do not
    apply; for icmp they are type and code, -1 for all. Exactly one of the peers is set.
    """

    id: str
    egress: bool = False
    protocol: str
    from_port: int = -1
    to_port: int = -1
    cidr: str = ""
    cidr6: str = ""
    prefix_list: str = ""
    group: str = ""
    group_account: str = ""
    description: str = ""
    tags: dict[str, str] = {}


class SecurityGroup(Record, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    description: str
    vpc: str
    rules: tuple[Permission, ...] = ()

    @property
    def referenced(self) -> tuple[str, ...]:
        """The ids of the groups that its rules name."""
        return tuple(sorted({rule.group for rule in self.rules if rule.group}))

    kind: ClassVar[str] = "security-group"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpc", "name", "referenced")


class NetworkInterface(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``private_ip`` is unique in its VPC. ``address`` is the allocation id of an associated elastic address.

    ``public_ip`` is that one's, else an automatic one that goes with a stop. ``auto_public``: it gets an
    automatic one whenever it runs without an elastic one.
    """

    vpc: str
    subnet: str
    zone: str
    mac: str
    private_ip: str
    groups: tuple[str, ...] = ()
    description: str = ""
    instance: str | None = None
    attachment: str = ""
    device_index: int = 0
    attached: datetime | None = None
    delete_on_termination: bool = True
    source_dest_check: bool = True
    public_ip: str = ""
    auto_public: bool = False
    address: str = ""

    kind: ClassVar[str] = "network-interface"
    indexes: ClassVar[tuple[str, ...]] = (
        "account",
        "vpc",
        "subnet",
        "instance",
        "groups",
        "private_ip",
        "public_ip",
    )


class Address(Record, frozen=True, kw_only=True, omit_defaults=True):
    """An elastic address. ``id`` is eipalloc-..."""

    public_ip: str
    association: str = ""
    interface: str = ""
    instance: str = ""
    private_ip: str = ""

    kind: ClassVar[str] = "address"
    indexes: ClassVar[tuple[str, ...]] = ("account", "public_ip", "interface")
