"""VPCs, their subnets, and how they are joined to each other. IPv4 in dotted form, networks in CIDR form."""

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
        """Who sees it. What failed was never offered."""
        if self.state is PeeringState.failed:
            return (self.requester_account,)
        return self.requester_account, self.accepter_account

    kind: ClassVar[str] = "vpc-peering-connection"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpcs", "accounts", "state")
    transitions: ClassVar[Transitions] = table(
        PeeringState,
        pending_acceptance="active rejected expired deleted failed",
        active="deleted",
        failed="deleted",
    )


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
