from __future__ import annotations

from typing import Any

import pytest

from gureum.hostspec import (
    AclEntrySpec,
    AclSpec,
    AddressSpec,
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
from gureum.network.reach import Path, allows, trace

OPEN = GroupSpec(id="sg-open", rules=(RuleSpec(cidr="0.0.0.0/0"), RuleSpec(egress=True, cidr="0.0.0.0/0")))
INTERNET = RouteSpec(destination="0.0.0.0/0", kind=RouteKind.internet)


def port(id: str, ip: str, vpc: str = "vpc-1", subnet: str = "subnet-1", **values: Any) -> PortSpec:
    defaults = {"instance": f"i-{id}", "mac": "02:00:00:00:00:01", "groups": ("sg-open",)}
    return PortSpec(id=id, vpc=vpc, subnet=subnet, private_ip=ip, **{**defaults, **values})


def vpc(number: int = 1, routes: tuple[RouteSpec, ...] = (INTERNET,), **values: Any) -> VpcSpec:
    """10.NUMBER.0.0/16 with the subnets 10.NUMBER.1.0/24 and .2.0/24; ACL acl-1 belongs to the second."""
    first = f"subnet-{number}"
    return VpcSpec(
        id=f"vpc-{number}",
        network_id=number,
        cidr=f"10.{number}.0.0/16",
        subnets=(
            SubnetSpec(id=first, cidr=f"10.{number}.1.0/24", route_table="rtb-1"),
            SubnetSpec(id=f"{first}b", cidr=f"10.{number}.2.0/24", route_table="rtb-2", acl="acl-1"),
        ),
        route_tables=(
            RouteTableSpec(id="rtb-1", number=1, routes=routes),
            RouteTableSpec(id="rtb-2", number=2, routes=values.pop("second", (INTERNET,))),
        ),
        **values,
    )


def spec(*ports: PortSpec, vpcs: tuple[VpcSpec, ...] = (), **values: Any) -> NetworkSpec:
    return NetworkSpec(vpcs=vpcs or (vpc(),), ports=ports, **{"groups": (OPEN,), **values})


A = port("eni-a", "10.1.1.4")
B = port("eni-b", "10.1.2.4", subnet="subnet-1b")


def steps(path: Path) -> list[tuple[str, str, bool]]:
    return [(hop.at, hop.step, hop.passes) for hop in (*path.hops, *path.answer)]


def test_a_flow_is_followed_hop_by_hop() -> None:
    acl = AclSpec(
        id="acl-1",
        entries=(
            AclEntrySpec(number=100, cidr="10.1.1.0/24"),
            AclEntrySpec(number=100, egress=True, cidr="0.0.0.0/0"),
        ),
    )
    path = trace(spec(A, B, vpcs=(vpc(acls=(acl,)),)), "eni-a", "10.1.2.4", "tcp", 80)
    assert steps(path) == [
        ("eni-a", "security groups, egress", True),
        ("rtb-1", "route", True),
        ("acl-1", "network ACL, ingress", True),
        ("eni-b", "security groups, ingress", True),
        ("acl-1", "answer: network ACL, egress", True),
        ("rtb-2", "answer: route", True),
    ]
    assert path.passes


def test_the_rule_that_decides_is_named() -> None:
    rules = (
        RuleSpec(protocol="tcp", from_port=22, to_port=22, cidr="0.0.0.0/0"),
        RuleSpec(protocol="tcp", from_port=80, to_port=90, group="sg-open"),
    )
    web = GroupSpec(id="sg-web", rules=rules)
    b = port("eni-b", "10.1.1.5", groups=("sg-web",))
    world = spec(A, b, groups=(OPEN, web), members={"sg-open": ("10.1.1.4",)})
    assert trace(world, "eni-a", "10.1.1.5", "tcp", 85).decided_by.at == "rtb-1"
    assert "sg-web: tcp 80-90 from sg-open" in [
        h.why for h in trace(world, "eni-a", "10.1.1.5", "tcp", 85).hops
    ]
    refused = trace(world, "eni-a", "10.1.1.5", "tcp", 91)
    assert (refused.decided_by.at, refused.decided_by.passes) == ("eni-b", False)
    assert "no ingress rule of sg-web" in refused.decided_by.why
    assert not allows(world, "eni-b", "eni-a", "tcp", 22)


@pytest.mark.parametrize(("answer", "passes"), [("1024-65535", True), ("1024-2000", False)])
def test_answers_need_an_acl_that_lets_them(answer: str, passes: bool) -> None:
    first, last = map(int, answer.split("-"))
    entries = (
        AclEntrySpec(number=1, cidr="0.0.0.0/0", protocol="6", from_port=80, to_port=80),
        AclEntrySpec(number=1, cidr="0.0.0.0/0", egress=True, protocol="6", from_port=first, to_port=last),
    )
    world = spec(A, B, vpcs=(vpc(acls=(AclSpec(id="acl-1", entries=entries),)),))
    assert trace(world, "eni-a", "10.1.2.4", "tcp", 80).passes is passes
    assert not trace(world, "eni-b", "10.1.1.4", "tcp", 80).passes


def test_the_first_matching_entry_of_an_acl_decides() -> None:
    entries = (
        AclEntrySpec(number=1, cidr="10.1.1.4/32", allow=False, protocol="1", from_port=8, to_port=-1),
        AclEntrySpec(number=2, cidr="0.0.0.0/0"),
        AclEntrySpec(number=2, cidr="0.0.0.0/0", egress=True),
    )
    world = spec(A, B, vpcs=(vpc(acls=(AclSpec(id="acl-1", entries=entries),)),))
    assert not allows(world, "eni-a", "eni-b", "icmp", 8)
    assert allows(world, "eni-a", "eni-b", "udp", 53)
    # Nothing inside a subnet passes its ACL.
    c = port("eni-c", "10.1.2.5", subnet="subnet-1b")
    none = AclSpec(id="acl-1")
    assert allows(spec(B, c, vpcs=(vpc(acls=(none,)),)), "eni-b", "eni-c", "tcp", 1)


def test_a_rule_may_name_a_prefix_list() -> None:
    rules = (RuleSpec(protocol="tcp", from_port=22, to_port=22, prefix_list="pl-1"), OPEN.rules[1])
    groups = (GroupSpec(id="sg-open", rules=rules),)
    world = spec(A, B, groups=groups, prefixes={"pl-1": ("9.0.0.0/8", "10.1.1.4/32")})
    assert "from pl-1" in str(trace(world, "eni-a", "10.1.2.4", "tcp", 22))
    assert allows(world, "eni-a", "eni-b", "tcp", 22)
    assert not allows(world, "eni-b", "eni-a", "tcp", 22)
    assert not allows(spec(A, B, groups=groups), "eni-a", "eni-b", "tcp", 22)


def test_the_longest_prefix_leads() -> None:
    routes = (
        INTERNET,
        RouteSpec(destination="9.0.0.0/8", kind=RouteKind.blackhole),
        RouteSpec(destination="9.9.0.0/16", kind=RouteKind.internet),
    )
    a = port("eni-a", "10.1.1.4", public_ip="198.18.0.4")
    world = spec(a, vpcs=(vpc(routes=routes),))
    assert trace(world, "eni-a", "9.9.1.1", "tcp", 443).passes
    assert trace(world, "eni-a", "9.8.1.1", "tcp", 443).decided_by.why.startswith("9.0.0.0/8 -> blackhole")
    nowhere = spec(a, vpcs=(vpc(routes=()),))
    assert trace(nowhere, "eni-a", "9.9.1.1", "tcp", 443).decided_by.why == "no route leads to 9.9.1.1"


def test_the_internet_needs_a_public_address() -> None:
    second = AddressSpec(private_ip="10.1.1.9", public_ip="198.18.0.9")
    a = port("eni-a", "10.1.1.4", public_ip="198.18.0.4", secondary=(second,))
    world = spec(a, B)
    assert trace(world, "eni-a", "1.1.1.1", "udp", 53).passes
    assert "no public address" in trace(world, "eni-b", "1.1.1.1", "udp", 53).decided_by.why
    assert trace(world, "1.1.1.1", "198.18.0.9", "tcp", 22).passes
    assert not trace(world, "1.1.1.1", "198.18.0.8", "tcp", 22).passes
    closed = spec(a, vpcs=(vpc(internet=False),))
    assert not trace(closed, "1.1.1.1", "198.18.0.9", "tcp", 22).passes


def test_public_addresses_are_outside_also_for_neighbours() -> None:
    """The receiver sees the sender's public address, and rules that name a group do not match."""
    group = GroupSpec(id="sg-in", rules=(RuleSpec(group="sg-open"),))
    a = port("eni-a", "10.1.1.4", public_ip="198.18.0.4")
    b = port("eni-b", "10.1.1.5", public_ip="198.18.0.5", groups=("sg-in",))
    world = spec(a, b, groups=(OPEN, group), members={"sg-open": ("10.1.1.4",)})
    assert trace(world, "eni-a", "10.1.1.5", "tcp", 80).passes
    assert not trace(world, "eni-a", "198.18.0.5", "tcp", 80).passes


def test_a_nat_gateway_is_a_way_out_and_not_in() -> None:
    nat = port(
        "eni-nat", "10.1.2.9", subnet="subnet-1b", kind=PortKind.nat, public_ip="198.18.0.9", groups=()
    )
    to_nat = (RouteSpec(destination="0.0.0.0/0", kind=RouteKind.port, target="eni-nat"),)
    world = spec(A, nat, vpcs=(vpc(routes=to_nat),))
    path = trace(world, "eni-a", "1.1.1.1", "tcp", 443)
    assert path.passes, path.decided_by
    assert ("eni-nat", "nat", True) in steps(path)
    assert not trace(world, "1.1.1.1", "198.18.0.9", "tcp", 443).passes
    assert not trace(world, "eni-a", "10.1.2.9", "tcp", 443).passes
    circle = spec(A, nat, vpcs=(vpc(routes=to_nat, second=to_nat),))
    assert not trace(circle, "eni-a", "1.1.1.1", "tcp", 443).passes


@pytest.mark.parametrize("check", [True, False])
def test_a_router_gets_what_is_for_others_without_its_check_only(check: bool) -> None:
    routes = (RouteSpec(destination="9.0.0.0/8", kind=RouteKind.port, target="eni-b"),)
    router = port("eni-b", "10.1.1.5", source_dest_check=check)
    world = spec(A, router, vpcs=(vpc(routes=routes),))
    assert trace(world, "eni-a", "9.1.1.1", "tcp", 80).passes is not check
    assert not trace(spec(A, vpcs=(vpc(routes=routes),)), "eni-a", "9.1.1.1", "tcp", 80).passes


def peered(back: bool = True, to: str = "10.2.0.0/16") -> NetworkSpec:
    there = (RouteSpec(destination=to, kind=RouteKind.peering, target="pcx-1"),)
    home = (RouteSpec(destination="10.1.0.0/16", kind=RouteKind.peering, target="pcx-1"),) if back else ()
    other = port("eni-c", "10.2.1.4", vpc="vpc-2", subnet="subnet-2")
    return spec(
        A,
        other,
        vpcs=(vpc(routes=there), vpc(2, routes=home)),
        peerings=(PeeringSpec(id="pcx-1", number=1, vpcs=("vpc-1", "vpc-2")),),
    )


def test_peers_need_routes_both_ways() -> None:
    assert trace(peered(), "eni-a", "10.2.1.4", "tcp", 80).passes
    refused = trace(peered(back=False), "eni-a", "10.2.1.4", "tcp", 80)
    assert refused.decided_by.why == "no route leads back to 10.1.1.4"


def test_a_peering_is_no_transit() -> None:
    refused = trace(peered(to="0.0.0.0/0"), "eni-a", "1.1.1.1", "tcp", 80)
    assert refused.decided_by.step == "peering"


def test_without_peering_vpcs_are_worlds_apart() -> None:
    other = port("eni-c", "10.2.1.4", vpc="vpc-2", subnet="subnet-2")
    world = spec(A, other, vpcs=(vpc(), vpc(2)))
    assert not allows(world, "eni-a", "eni-c", "tcp", 80)


def test_ipv6_goes_by_its_own_rules() -> None:
    group = GroupSpec(
        id="sg-6", rules=(RuleSpec(cidr="::/0", protocol="icmpv6"), RuleSpec(egress=True, cidr="fd00::/8"))
    )
    a = port("eni-a", "10.1.1.4", ipv6=("fd00:1::4",), groups=("sg-6",))
    b = port("eni-b", "10.1.1.5", ipv6=("fd00:1::5",), groups=("sg-6",))
    world = spec(a, b, vpcs=(vpc(cidrs=("fd00:1::/56",)),), groups=(group,))
    assert trace(world, "eni-a", "fd00:1::5", "icmpv6", 128).passes
    assert not trace(world, "eni-a", "fd00:1::5", "tcp", 22).passes
    assert not allows(world, "eni-a", "eni-b", "icmp", 8)
    with pytest.raises(ValueError, match="no IPv6 address"):
        trace(spec(A), "eni-a", "fd00:1::5", "tcp", 22)
