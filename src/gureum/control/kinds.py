"""Which kinds of records what hosts are told is made of."""

from __future__ import annotations

from gureum.resources import (
    DhcpOptions,
    EgressGateway,
    FlowLog,
    Instance,
    InstanceMigration,
    InternetGateway,
    NatGateway,
    NetworkAcl,
    NetworkInterface,
    PeeringConnection,
    PrefixList,
    RouteTable,
    SecurityGroup,
    Snapshot,
    Subnet,
    Volume,
    Vpc,
)

SPEC_KINDS = frozenset(
    kind.kind
    for kind in (
        DhcpOptions,
        EgressGateway,
        FlowLog,
        Instance,
        InstanceMigration,
        InternetGateway,
        NatGateway,
        NetworkAcl,
        NetworkInterface,
        PeeringConnection,
        PrefixList,
        RouteTable,
        SecurityGroup,
        Snapshot,
        Subnet,
        Volume,
        Vpc,
    )
)
