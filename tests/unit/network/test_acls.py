from __future__ import annotations

from ipaddress import IPv4Network

from gureum.hostspec import AclEntrySpec, AclSpec, NetworkSpec, PortKind, PortSpec, SubnetSpec, VpcSpec
from gureum.network.acls import acl_chains, acl_maps
from gureum.network.plan import VpcPlan, make_plan

ALL = tuple(
    AclEntrySpec(number=100, egress=egress, cidr=cidr)
    for egress in (False, True)
    for cidr in ("0.0.0.0/0", "::/0")
)


def plan(*entries: AclEntrySpec, kind: PortKind = PortKind.machine, six: bool = True) -> VpcPlan:
    vpc = VpcSpec(
        id="vpc-1",
        network_id=1,
        cidr="10.0.0.0/16",
        cidrs=("fd00::/56",) if six else (),
        subnets=(
            SubnetSpec(id="subnet-1", cidr="10.0.1.0/24", cidr6="fd00::/64" if six else "", acl="acl-1"),
            SubnetSpec(id="subnet-2", cidr="10.0.2.0/24"),
        ),
        acls=(AclSpec(id="acl-1", entries=entries),),
    )
    ports = tuple(
        PortSpec(
            id=f"eni-{number}",
            kind=kind,
            vpc="vpc-1",
            subnet=f"subnet-{number}",
            mac=f"06:00:00:00:00:0{number}",
            private_ip=f"10.0.{number}.4",
            public_ip=f"198.18.0.{number}",
        )
        for number in (1, 2)
    )
    return make_plan(NetworkSpec(vpcs=(vpc,), ports=ports), IPv4Network("198.18.0.0/24"))[1]


def test_an_acl_that_allows_all_costs_nothing() -> None:
    assert acl_maps(plan(*ALL)) == ({}, {})
    assert acl_chains(plan(*ALL)) == {}


def test_without_ipv6_its_entries_do_not_count() -> None:
    only_four = [entry for entry in ALL if ":" not in entry.cidr]
    assert acl_chains(plan(*only_four, six=False)) == {}
    assert acl_chains(plan(*only_four)) != {}


def test_only_ports_of_its_subnets_are_asked() -> None:
    sent, got = acl_maps(plan())
    (tap,) = sent
    assert sent == {tap: "jump border_out_subnet-1"}
    assert got == {tap: "jump border_in_subnet-1"}


def test_entries_in_order_and_then_nothing() -> None:
    entries = (
        AclEntrySpec(number=20, cidr="0.0.0.0/0"),
        AclEntrySpec(number=10, protocol="6", from_port=22, to_port=22, allow=False, cidr="10.9.0.0/16"),
        AclEntrySpec(number=11, protocol="1", from_port=8, to_port=-1, cidr="10.9.0.0/16"),
        AclEntrySpec(number=12, protocol="47", cidr="::/0"),
        AclEntrySpec(number=13, protocol="17", from_port=0, to_port=65535, egress=True, cidr="fd00::/8"),
    )
    chains = acl_chains(plan(*entries))
    assert chains["acl_in_acl-1"].rules == (
        "ip saddr 10.9.0.0/16 meta l4proto 6 th dport 22-22 goto refuse_in_acl",
        "ip saddr 10.9.0.0/16 meta l4proto 1 th sport 2048-2303 return",
        "meta nfproto ipv6 meta l4proto 47 return",
        "meta nfproto ipv4 return",
        "goto refuse_in_acl",
    )
    assert chains["acl_out_acl-1"].rules == (
        "ip6 daddr fd00::/8 meta l4proto 17 return",
        "goto refuse_out_acl",
    )


def test_nothing_inside_the_subnet_is_asked() -> None:
    assert acl_chains(plan())["border_in_subnet-1"].rules == (
        "ip saddr 10.0.1.0/24 return",
        "ip6 saddr fd00::/64 return",
        "goto acl_in_acl-1",
    )


def test_a_nat_gateway_is_asked_at_both_its_links() -> None:
    chains = acl_chains(plan(kind=PortKind.nat))
    sent, _ = acl_maps(plan(kind=PortKind.nat))
    assert list(sent.values()) == ["jump border_nat_out_subnet-1"]
    assert chains["border_nat_out_subnet-1"].rules == (
        "jump border_in_subnet-1",
        "jump border_out_subnet-1",
    )
