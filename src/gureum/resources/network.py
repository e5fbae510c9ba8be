"""VPCs and what is in them. IPv4 in dotted form, networks in CIDR form, IPv6 compressed and lower case."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import ClassVar

import msgspec

from gureum.resources.record import Record, Transitions, table


class CidrAssociation(msgspec.Struct, frozen=True, kw_only=True):
    """A network that a VPC or subnet has besides its first. ``id`` is ``vpc-cidr-assoc-...`` or the like."""

    id: str
    cidr: str


class Vpc(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``network_id`` is a number unique in the cloud: the VXLAN id. ``cidr`` is the first IPv4 network;
    ``associations`` are further ones, IPv4 and IPv6.
    """

    cidr: str
    network_id: int
    default: bool = False
    dns_support: bool = True
    dns_hostnames: bool = True
    dhcp_options: str = "default"
    tenancy: str = "default"
    associations: tuple[CidrAssociation, ...] = ()

    @property
    def cidrs(self) -> tuple[str, ...]:
        """All its IPv4 networks."""
        return self.cidr, *(each.cidr for each in self.associations if ":" not in each.cidr)

    @property
    def cidrs6(self) -> tuple[str, ...]:
        return tuple(each.cidr for each in self.associations if ":" in each.cidr)

    @property
    def default_of(self) -> str | None:
        """The account whose default VPC it is."""
        return self.account if self.default else None

    @property
    def association_ids(self) -> tuple[str, ...]:
        return tuple(each.id for each in self.associations)

    kind: ClassVar[str] = "vpc"
    indexes: ClassVar[tuple[str, ...]] = ("account", "default_of", "dhcp_options", "association_ids")


class Subnet(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``route_table`` "" follows the VPC's main table; ``route_association`` goes with an explicit one.

    ``acl`` is always set, and its association's id with it.
    """

    vpc: str
    zone: str
    cidr: str
    default_for_az: bool = False
    map_public_ip: bool = False
    ipv6: CidrAssociation | None = None
    assign_ipv6: bool = False
    route_table: str = ""
    route_association: str = ""
    acl: str = ""
    acl_association: str = ""
    dns_a_record: bool = False
    dns_aaaa_record: bool = False

    @property
    def ipv6_association(self) -> str | None:
        return self.ipv6.id if self.ipv6 is not None else None

    kind: ClassVar[str] = "subnet"
    indexes: ClassVar[tuple[str, ...]] = (
        "account",
        "vpc",
        "zone",
        "route_table",
        "route_association",
        "acl",
        "acl_association",
        "ipv6_association",
    )


class InternetGateway(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``vpc`` "": attached to none. A VPC has one at most."""

    vpc: str = ""

    kind: ClassVar[str] = "internet-gateway"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpc")


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``destination`` is a CIDR or a prefix list's id; ``target`` the id of a gateway (igw-, nat-,
    pcx-, vpce-) or an interface (eni-). A target that is gone or cannot carry traffic makes it a blackhole.
    """

    destination: str
    target: str


class RouteTable(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Without the local routes, which every table has: one for each network of the VPC.

    ``number`` (1 to 65535) is its own in the VPC: the mark of packets that it routes. The ``main`` table has
    an association without a subnet.
    """

    vpc: str
    number: int
    main: bool = False
    main_association: str = ""
    routes: tuple[Route, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(sorted({route.target for route in self.routes}))

    kind: ClassVar[str] = "route-table"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpc", "main_association", "targets")


class AclEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``number`` 1 to 32766; the last rule, which denies, is implied. ``protocol``: "-1" or a number.

    Ports are -1 where they do not apply; for icmp they are type and code, -1 for all.
    """

    number: int
    egress: bool = False
    protocol: str = "-1"
    allow: bool = True
    cidr: str
    from_port: int = -1
    to_port: int = -1


class NetworkAcl(Record, frozen=True, kw_only=True, omit_defaults=True):
    vpc: str
    default: bool = False
    entries: tuple[AclEntry, ...] = ()

    kind: ClassVar[str] = "network-acl"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpc")


class DhcpOptions(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``options``: AWS's keys (domain-name, domain-name-servers, ...) to values in order."""

    options: Mapping[str, tuple[str, ...]]

    kind: ClassVar[str] = "dhcp-options"
    indexes: ClassVar[tuple[str, ...]] = ("account",)


class PeeringState(StrEnum):
    """EC2's states of a VPC peering connection that gureum has."""

    pending_acceptance = "pending-acceptance"
    active = "active"
    rejected = "rejected"
    expired = "expired"
    deleted = "deleted"
    failed = "failed"


class PeeringConnection(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Between ``requester`` and ``accepter``, two VPCs. ``number`` is unique in the cloud.

    ``expires``: until when it can be accepted. ``purge_at``: when one that ended disappears (Unix times).
    """

    state: PeeringState = PeeringState.pending_acceptance
    message: str = ""
    number: int
    requester: str
    accepter: str
    requester_account: str
    accepter_account: str
    expires: float = 0.0
    purge_at: float = 0.0

    @property
    def vpcs(self) -> tuple[str, str]:
        return self.requester, self.accepter

    @property
    def accounts(self) -> tuple[str, ...]:
        return self.requester_account, self.accepter_account

    kind: ClassVar[str] = "vpc-peering-connection"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpcs", "accounts", "state")
    transitions: ClassVar[Transitions] = table(
        PeeringState,
        pending_acceptance="active rejected expired deleted failed",
        active="deleted",
        failed="deleted",
    )


class NatGatewayState(StrEnum):
    pending = "pending"
    failed = "failed"
    available = "available"
    deleting = "deleting"
    deleted = "deleted"


class NatGateway(Record, frozen=True, kw_only=True, omit_defaults=True):
    """Works on ``host`` (None before placement), as a port with a small namespace in a machine's place.

    ``public``: translates to the elastic address of its interface; otherwise to its private one, inside the
    VPC and its peers only.
    """

    state: NatGatewayState = NatGatewayState.pending
    failure: str = ""
    failure_message: str = ""
    vpc: str
    subnet: str
    zone: str
    interface: str
    host: str | None = None
    public: bool = True
    created: datetime
    deleted: datetime | None = None
    purge_at: float = 0.0
    client_token: str = ""

    kind: ClassVar[str] = "nat-gateway"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpc", "subnet", "state", "interface")
    transitions: ClassVar[Transitions] = table(
        NatGatewayState,
        pending="available failed deleting",
        available="deleting",
        failed="deleting deleted",
        deleting="deleted",
    )


class PrefixEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    cidr: str
    description: str = ""


class PrefixList(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A managed prefix list. Without an account: the system's. ``revision`` is what AWS calls its version.

    ``state`` names what was done to it last, in AWS's words: that is what clients wait for.
    """

    state: str = "create-complete"
    name: str
    family: str = "IPv4"
    max_entries: int
    revision: int = 1
    entries: tuple[PrefixEntry, ...] = ()
    history: tuple[tuple[PrefixEntry, ...], ...] = ()
    """The entries of earlier revisions, the first one first."""

    kind: ClassVar[str] = "prefix-list"
    indexes: ClassVar[tuple[str, ...]] = ("account", "name")


class FlowLog(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``resource``: a VPC, subnet or interface. ``traffic``: ALL, ACCEPT or REJECT. ``interval_seconds``: 60
    or 600. ``format``: AWS's field names in order. Written on each host, to a file named for the log.
    """

    resource: str
    traffic: str
    interval_seconds: int = 600
    format: str = ""
    created: datetime

    kind: ClassVar[str] = "flow-log"
    indexes: ClassVar[tuple[str, ...]] = ("account", "resource")


class VpcEndpoint(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A gateway endpoint: routes of ``route_tables`` for the service's prefix list."""

    vpc: str
    service: str
    prefix_list: str
    route_tables: tuple[str, ...] = ()
    policy: str = ""
    created: datetime

    kind: ClassVar[str] = "vpc-endpoint"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpc", "route_tables")


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

    @property
    def prefix_lists(self) -> tuple[str, ...]:
        return tuple(sorted({rule.prefix_list for rule in self.rules if rule.prefix_list}))

    kind: ClassVar[str] = "security-group"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpc", "name", "referenced", "prefix_lists")


class SecondaryAddress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A further private address of an interface, and the elastic address that is translated to it."""

    private_ip: str
    public_ip: str = ""
    address: str = ""


class InterfaceAttachment(StrEnum):
    """An interface given with a launch is ``attached`` from the start, as its machine has it when it runs."""

    attaching = "attaching"
    attached = "attached"
    detaching = "detaching"


class NetworkInterface(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``private_ip`` is unique in its VPC. ``address`` is the allocation id of an associated elastic address.

    ``public_ip`` is that one's, else an automatic one that goes with a stop. ``auto_public``: it gets an
    automatic one whenever it runs without an elastic one.

    ``host`` is where its port is now: the instance's host while that has it there, or the NAT gateway's;
    None for nowhere. It changes in the same transaction as the instance's.

    ``type``: "interface", or "nat_gateway" for one that belongs to ``requester`` and cannot be changed.
    """

    vpc: str
    subnet: str
    zone: str
    mac: str
    private_ip: str
    secondary: tuple[SecondaryAddress, ...] = ()
    ipv6: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    description: str = ""
    type: str = "interface"
    requester: str = ""
    instance: str | None = None
    host: str | None = None
    attachment: str = ""
    attachment_state: InterfaceAttachment = InterfaceAttachment.attached
    force_detach: bool = False
    device_index: int = 0
    attached: datetime | None = None
    delete_on_termination: bool = True
    source_dest_check: bool = True
    public_ip: str = ""
    auto_public: bool = False
    address: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """All its private addresses, IPv4 and IPv6, the primary one first."""
        return self.private_ip, *(each.private_ip for each in self.secondary), *self.ipv6

    @property
    def changing(self) -> tuple[str, ...]:
        """The state of its attachment while that is under way."""
        settled = self.attachment_state is InterfaceAttachment.attached
        return () if settled or self.instance is None else (str(self.attachment_state),)

    @property
    def publics(self) -> tuple[str, ...]:
        return tuple(ip for ip in (self.public_ip, *(each.public_ip for each in self.secondary)) if ip)

    @property
    def crowded(self) -> str | None:
        """Its subnet, if it has secondary addresses there, which counting interfaces misses."""
        return self.subnet if self.secondary else None

    kind: ClassVar[str] = "network-interface"
    indexes: ClassVar[tuple[str, ...]] = (
        "account",
        "vpc",
        "subnet",
        "crowded",
        "instance",
        "host",
        "groups",
        "addresses",
        "publics",
        "attachment",
        "changing",
    )


class Address(Record, frozen=True, kw_only=True, omit_defaults=True):
    """An elastic address. ``id`` is eipalloc-..."""

    public_ip: str
    association: str = ""
    interface: str = ""
    instance: str = ""
    private_ip: str = ""

    kind: ClassVar[str] = "address"
    indexes: ClassVar[tuple[str, ...]] = ("account", "public_ip", "interface", "association")
