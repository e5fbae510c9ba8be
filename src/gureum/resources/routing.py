"""Route tables, and the gateways that routes lead to."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

import msgspec

from gureum.resources.record import Record, Transitions, table


class Route(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``destination`` is a CIDR or a prefix list's id; ``target`` the id of a gateway (igw-, eigw-, nat-,
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


class InternetGateway(Record, frozen=True, kw_only=True, omit_defaults=True):
    """``vpc`` "": attached to none. A VPC has one at most."""

    vpc: str = ""

    kind: ClassVar[str] = "internet-gateway"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpc")


class EgressGateway(Record, frozen=True, kw_only=True, omit_defaults=True):
    """An egress-only Internet gateway: for IPv6, and connections that begin inside."""

    vpc: str

    kind: ClassVar[str] = "egress-only-internet-gateway"
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpc")


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
    indexes: ClassVar[tuple[str, ...]] = ("account", "vpc", "subnet", "state", "interface", "host")
    transitions: ClassVar[Transitions] = table(
        NatGatewayState,
        pending="available failed deleting",
        available="deleting",
        failed="deleting deleted",
        deleting="deleted",
    )


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
