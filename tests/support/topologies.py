"""Random clouds of one host, small enough that most of what is asked of them is near some border."""

from __future__ import annotations

import random

from gureum.hostspec import (
    AclEntrySpec,
    AclSpec,
    GroupSpec,
    NetworkSpec,
    PeeringSpec,
    PortKind,
    PortSpec,
    RouteKind,
    RouteSpec,
    RouteTableSpec,
    RuleSpec,
    SubnetSpec,
    VpcSpec,
)

PORTS = (22, 80, 443, 1024, 49152, 65535)
PROTOCOLS = ("tcp", "udp", "icmp", "icmpv6")
OUTSIDE, OUTSIDE6 = "203.0.113.9", "2001:db8::9"
GROUPS = ("sg-1", "sg-2", "sg-3")


def networks(rng: random.Random) -> str:
    """Of rules: some network that covers all, some or nothing of a cloud."""
    vpc, subnet = rng.randint(1, 2), rng.randint(1, 2)
    return rng.choice(
        (
            "0.0.0.0/0", "0.0.0.0/0", "::/0", "::/0", f"10.{vpc}.0.0/16", f"10.{vpc}.{subnet}.0/24",
            f"10.{vpc}.{subnet}.{rng.randint(4, 6)}/32", f"10.{vpc}.{subnet}.4/31", "203.0.113.0/24",
            f"fd00:{vpc}::/56", f"fd00:{vpc}:0:{subnet}::/64", f"fd00:{vpc}:0:{subnet}::4/126",
            "198.18.0.0/22", "2001:db8::/64",
        )
    )  # fmt: skip


def traffic(rng: random.Random) -> dict[str, object]:
    protocol = rng.choice(("-1", "-1", "tcp", "tcp", "udp", "6", "17", "icmp", "icmpv6", "1", "58", "47"))
    if protocol in ("tcp", "udp", "6", "17") and rng.random() < 0.85:
        low, high = sorted(rng.choices(PORTS, k=2))
        return {"protocol": protocol, "from_port": low, "to_port": high}
    if protocol in ("icmp", "icmpv6", "1", "58") and rng.random() < 0.5:
        kinds = (0, 8) if protocol in ("icmp", "1") else (128, 129)
        return {"protocol": protocol, "from_port": rng.choice(kinds), "to_port": rng.choice((-1, 0, 1))}
    return {"protocol": protocol}


def rule(rng: random.Random) -> RuleSpec:
    peer = {"group": rng.choice(GROUPS)} if rng.random() < 0.35 else {"cidr": networks(rng)}
    return RuleSpec(egress=rng.random() < 0.5, **traffic(rng), **peer)  # type: ignore[arg-type]


def acl(rng: random.Random, id: str) -> AclSpec:
    if rng.random() < 0.2:
        both = (False, True)
        entries = [AclEntrySpec(number=9, egress=e, cidr=c) for e in both for c in ("0.0.0.0/0", "::/0")]
        return AclSpec(id=id, entries=tuple(entries))
    numbers = sorted(rng.sample(range(1, 100), rng.randrange(14)))
    return AclSpec(
        id=id,
        entries=tuple(
            AclEntrySpec(
                number=number,
                egress=rng.random() < 0.5,
                allow=rng.random() < 0.7,
                cidr=networks(rng),
                **(traffic(rng) if rng.random() < 0.6 else {}),  # type: ignore[arg-type]
            )
            for number in numbers
        ),
    )


def group(rng: random.Random, id: str) -> GroupSpec:
    rules = [rule(rng) for _ in range(rng.randrange(7))]
    for egress in (False, True):
        if rng.random() < 0.4:
            rules += [RuleSpec(egress=egress, cidr=cidr) for cidr in ("0.0.0.0/0", "::/0")]
    return GroupSpec(id=id, rules=tuple(rules))


def topology(rng: random.Random) -> NetworkSpec:
    """Two VPCs with a peering connection, each with an Internet gateway, a NAT gateway, IPv6, or without."""
    vpcs: list[VpcSpec] = []
    ports: list[PortSpec] = []
    for number in (1, 2):
        own = [port(rng, number, subnet, k) for subnet in (1, 2) for k in range(rng.randint(1, 2))]
        internet = rng.random() < 0.8
        if internet and rng.random() < 0.4:
            own.append(gateway(number))
        ports += own
        vpcs.append(vpc(rng, number, own, internet))
    return NetworkSpec(
        networks6=("fd00::/16",),
        vpcs=tuple(vpcs),
        ports=tuple(ports),
        groups=tuple(group(rng, id) for id in GROUPS),
        members={id: members(ports, id) for id in GROUPS},
        peerings=(PeeringSpec(id="pcx-1", number=1, vpcs=("vpc-1", "vpc-2")),),
    )


def members(ports: list[PortSpec], group: str) -> tuple[str, ...]:
    having = [each for each in ports if group in each.groups]
    return tuple(address for each in having for address in (each.private_ip, *each.ipv6))


def port(rng: random.Random, vpc: int, subnet: int, number: int) -> PortSpec:
    low = 10 * subnet + number
    return PortSpec(
        id=f"eni-{vpc}{low}",
        instance=f"i-{vpc}{low}",
        vpc=f"vpc-{vpc}",
        subnet=f"subnet-{vpc}{subnet}",
        mac=f"06:00:00:00:{vpc:02x}:{low:02x}",
        private_ip=f"10.{vpc}.{subnet}.{4 + number}",
        public_ip=f"198.18.{vpc}.{low}" if rng.random() < 0.4 else "",
        ipv6=(f"fd00:{vpc}:0:{subnet}::{4 + number:x}",) if rng.random() < 0.7 else (),
        groups=tuple(rng.sample(GROUPS, rng.randint(1, 3))),
        source_dest_check=rng.random() < 0.7,
    )


def gateway(vpc: int) -> PortSpec:
    """In a subnet of its own, whose way out is the Internet gateway."""
    return PortSpec(
        id=f"eni-{vpc}99",
        kind=PortKind.nat,
        vpc=f"vpc-{vpc}",
        subnet=f"subnet-{vpc}3",
        mac=f"06:00:00:00:{vpc:02x}:99",
        private_ip=f"10.{vpc}.3.99",
        public_ip=f"198.18.{vpc}.99",
        source_dest_check=False,
    )


def vpc(rng: random.Random, number: int, ports: list[PortSpec], internet: bool) -> VpcSpec:
    tables = [
        RouteTableSpec(id=f"rtb-{k}", number=k, routes=routes(rng, number, ports, internet)) for k in (1, 2)
    ]
    outwards = RouteKind.internet if internet else RouteKind.blackhole
    out = RouteSpec(destination="0.0.0.0/0", kind=outwards)
    tables.append(RouteTableSpec(id="rtb-3", number=3, routes=(out,)))
    acls = tuple(acl(rng, f"acl-{k}") for k in (1, 2))
    return VpcSpec(
        id=f"vpc-{number}",
        network_id=number,
        cidr=f"10.{number}.0.0/16",
        cidrs=(f"fd00:{number}::/56",),
        subnets=tuple(
            SubnetSpec(
                id=f"subnet-{number}{k}",
                cidr=f"10.{number}.{k}.0/24",
                cidr6=f"fd00:{number}:0:{k}::/64",
                route_table=f"rtb-{k}",
                acl=rng.choice(("", "", acls[0].id, acls[1].id)),
            )
            for k in (1, 2, 3)
        ),
        route_tables=tuple(tables),
        acls=acls,
        internet=internet,
    )


def routes(rng: random.Random, vpc: int, ports: list[PortSpec], internet: bool) -> tuple[RouteSpec, ...]:
    other = 3 - vpc
    found = []
    networks = ("0.0.0.0/0", "::/0", "2001:db8::/32", f"fd00:{other}:0:2::/64")
    for network in (*networks, f"10.{other}.0.0/16", f"fd00:{other}::/56", "203.0.113.0/24"):
        targets = [port.id for port in ports if port.ipv6 or ":" not in network]
        kinds = [(RouteKind.blackhole, "")]
        kinds += [(RouteKind.port, rng.choice(targets))] if targets else []
        if network.startswith("10.") or network.endswith("/56"):
            kinds += [(RouteKind.peering, "pcx-1")] * 4
        elif ":" in network:
            kinds += [(RouteKind.internet, "")] * 3 * internet + [(RouteKind.egress, "eigw-1")] * 2
        elif internet:
            kinds += [(RouteKind.internet, "")] * 3
        kind, id = rng.choice(kinds)
        if rng.random() < 0.85:
            found.append(RouteSpec(destination=network, kind=kind, target=id))
    return tuple(found)
