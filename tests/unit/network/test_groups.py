from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gureum.errors import NetworkError
from gureum.hostspec import GroupSpec, RuleSpec
from gureum.network.groups import Lookup, compile_group, cut, expanded

NETWORKS = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/9",
    "10.128.0.0/9",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "192.168.0.0/24",
]
PROBES = ["10.1.2.3", "10.200.0.1", "10.1.0.0", "192.168.0.255", "8.8.8.8"]

spans = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 6), st.sampled_from(NETWORKS)).map(
        lambda each: (each[0], each[0] + each[1], each[2])
    ),
    max_size=12,
)


@given(spans)
def test_pieces_mean_what_the_spans_mean(given_spans: list[tuple[int, int, str]]) -> None:
    pieces = cut(given_spans)
    for key in range(28):
        for probe in map(IPv4Address, PROBES):
            wanted = any(a <= key <= b and probe in IPv4Network(n) for a, b, n in given_spans)
            hits = [
                n for a, b, networks in pieces if a <= key <= b for n in networks if probe in IPv4Network(n)
            ]
            assert len(hits) == wanted, "each key and address must be in exactly one element, or in none"


def group(*rules: RuleSpec) -> GroupSpec:
    return GroupSpec(id="sg-1", rules=rules)


def compiled(group: GroupSpec, egress: bool) -> tuple[str, ...]:
    """With the elements of sets where their names will be."""
    return tuple(
        rule if isinstance(rule, str) else f"{rule.match} {{ {', '.join(rule.elements)} }} accept"
        for rule in compile_group(group, egress)
    )


def test_everything_from_anywhere() -> None:
    every = RuleSpec(cidr="0.0.0.0/0")
    some = RuleSpec(protocol="tcp", from_port=1, to_port=2, cidr="10.0.0.0/8")
    assert compiled(group(every, some), False) == ("meta nfproto ipv4 accept",)
    assert compiled(group(every, some, RuleSpec(cidr="::/0")), False) == ("accept",)


def test_everything_from_both_halves_is_everything() -> None:
    halves = [RuleSpec(cidr=cidr) for cidr in ("0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1")]
    assert compiled(group(*halves), False) == ("accept",)


def test_overlapping_ports_are_cut() -> None:
    rules = (
        RuleSpec(protocol="tcp", from_port=80, to_port=90, cidr="10.0.0.0/8"),
        RuleSpec(protocol="tcp", from_port=85, to_port=443, cidr="0.0.0.0/0"),
        RuleSpec(protocol="udp", from_port=53, to_port=53, cidr="10.0.0.0/8"),
    )
    assert compiled(group(*rules), False) == (
        "ip saddr . meta l4proto . th dport "
        "{ 10.0.0.0/8 . 6 . 80-84, 0.0.0.0/0 . 6 . 85-443, 10.0.0.0/8 . 17 . 53 } accept",
    )


def test_directions_are_apart() -> None:
    both = group(RuleSpec(egress=True, protocol="tcp", from_port=80, to_port=80, cidr="10.0.0.0/8"))
    assert compiled(both, False) == ()
    assert compiled(both, True) == ("ip daddr . meta l4proto . th dport { 10.0.0.0/8 . 6 . 80 } accept",)


@pytest.mark.parametrize(
    ("from_port", "to_port", "wanted"),
    [
        (-1, -1, "ip saddr . meta l4proto { 10.0.0.0/8 . 1 } accept"),
        (8, -1, "ip saddr . meta l4proto . th sport { 10.0.0.0/8 . 1 . 2048-2303 } accept"),
        (3, 4, "ip saddr . meta l4proto . th sport { 10.0.0.0/8 . 1 . 772 } accept"),
    ],
)
def test_icmp_types_and_codes(from_port: int, to_port: int, wanted: str) -> None:
    rule = RuleSpec(protocol="icmp", from_port=from_port, to_port=to_port, cidr="10.0.0.0/8")
    assert compiled(group(rule), False) == (wanted,)


def test_group_peers_are_sets_of_members() -> None:
    rules = (
        RuleSpec(protocol="tcp", from_port=22, to_port=22, group="sg-2"),
        RuleSpec(protocol="tcp", from_port=20, to_port=30, group="sg-2"),
        RuleSpec(group="sg-3"),
        RuleSpec(protocol="50", group="sg-4"),
    )
    assert compiled(group(*rules), False) == (
        "ip saddr @m_sg-2 meta l4proto . th dport { 6 . 20-30 } accept",
        "ip saddr @m_sg-3 accept",
        "ip saddr @m_sg-4 meta l4proto { 50 } accept",
        "ip6 saddr @m6_sg-2 meta l4proto . th dport { 6 . 20-30 } accept",
        "ip6 saddr @m6_sg-3 accept",
        "ip6 saddr @m6_sg-4 meta l4proto { 50 } accept",
    )


def test_families_are_apart() -> None:
    rules = (
        RuleSpec(protocol="tcp", from_port=80, to_port=80, cidr="2001:DB8::1/32"),
        RuleSpec(protocol="icmpv6", from_port=128, to_port=-1, cidr="::/0"),
        RuleSpec(protocol="tcp", from_port=22, to_port=22, cidr="10.1.2.3/8"),
    )
    assert compiled(group(*rules), False) == (
        "ip saddr . meta l4proto . th dport { 10.0.0.0/8 . 6 . 22 } accept",
        "ip6 saddr . meta l4proto . th dport { 2001:db8::/32 . 6 . 80 } accept",
        "ip6 saddr . meta l4proto . th sport { ::/0 . 58 . 32768-33023 } accept",
    )


def test_a_prefix_list_is_one_set() -> None:
    networks = [f"10.{number}.0.0/24" for number in range(200)] + [f"fd00:{n:x}::/48" for n in range(200)]
    named = group(
        RuleSpec(protocol="tcp", from_port=443, to_port=443, prefix_list="pl-1"), RuleSpec(group="sg-2")
    )
    lines = compiled(expanded(named, {"pl-1": networks}), False)
    assert len(lines) == 4
    assert sum(line.count("{") == 1 and line.count(" . 6 . 443") == 200 for line in lines) == 2
    assert compiled(expanded(named, {}), False) == compiled(group(RuleSpec(group="sg-2")), False)


def lookups(*rules: RuleSpec) -> list[Lookup]:
    return [rule for rule in compile_group(group(*rules), False) if isinstance(rule, Lookup)]


def test_only_networks_and_ranges_need_sets_of_intervals() -> None:
    single = RuleSpec(protocol="tcp", from_port=22, to_port=22, cidr="10.1.2.3/32")
    single6 = RuleSpec(protocol="tcp", from_port=22, to_port=22, cidr="2001:db8::1/128")
    other = RuleSpec(protocol="tcp", from_port=80, to_port=81, cidr="10.1.2.4/32")
    network = RuleSpec(protocol="tcp", from_port=80, to_port=80, cidr="10.1.3.0/24")
    assert [(each.interval, each.elements) for each in lookups(single, single6)] == [
        (False, ("10.1.2.3 . 6 . 22",)),
        (False, ("2001:db8::1 . 6 . 22",)),
    ]
    assert [each.interval for each in lookups(single, other)] == [True]
    assert [each.interval for each in lookups(single, network)] == [True]


def test_no_two_lookups_of_a_chain_are_of_one_kind() -> None:
    """Each has a set that is named after its kind, and the type of a set cannot be changed."""
    ports = {"from_port": 80, "to_port": 81}
    rules = [
        RuleSpec(protocol=protocol, cidr=cidr, group=other, **ports)
        for protocol in ("tcp", "icmp", "50")
        for cidr, other in (("10.0.0.0/8", ""), ("2001:db8::/32", ""), ("", "sg-2"), ("", "sg-3"))
    ]
    found = lookups(*rules)
    assert len({each.kind for each in found}) == len(found) == 14
    assert {
        each.kind for each in lookups(RuleSpec(protocol="tcp", from_port=1, to_port=1, group="sg-2"))
    } == {
        "4p_sg-2",
        "6p_sg-2",
    }


@pytest.mark.parametrize(
    "rule",
    [
        RuleSpec(protocol="tcp", from_port=5, to_port=4, cidr="0.0.0.0/0"),
        RuleSpec(protocol="tcp", from_port=5, to_port=65536, cidr="0.0.0.0/0"),
        RuleSpec(protocol="gre; flush ruleset", cidr="0.0.0.0/0"),
        RuleSpec(protocol="256", cidr="0.0.0.0/0"),
        RuleSpec(cidr="10.0.0.0/33"),
        RuleSpec(cidr="all"),
        RuleSpec(cidr="10.0.0.0/ 8"),
        RuleSpec(cidr="10.0.0.0/-1"),
        RuleSpec(cidr="::/129"),
        RuleSpec(cidr="fe80::1%eth0/64"),
    ],
)
def test_nonsense_is_refused(rule: RuleSpec) -> None:
    with pytest.raises(NetworkError):
        compiled(group(rule), False)
