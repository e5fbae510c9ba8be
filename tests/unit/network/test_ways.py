from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from gureum.hostspec import (
    NetworkSpec,
    PortSpec,
    RouteKind,
    RouteSpec,
    RouteTableSpec,
    SubnetSpec,
    VpcSpec,
)
from gureum.network import links, routes
from gureum.network.filters import filter_table
from gureum.network.hostfilter import Outside6, host_table
from gureum.network.names import UPLINK, Names
from gureum.network.plan import make_plan
from gureum.network.ways import goes_out6, without6

PUBLIC = IPv4Network("198.18.0.0/22")
IN, OUT = RouteKind.internet, RouteKind.egress


def vpc(*six: tuple[str, RouteKind], internet: bool = True, cidr6: str = "fd81:1::/56") -> VpcSpec:
    return VpcSpec(
        id="vpc-1",
        network_id=1,
        cidr="10.0.0.0/16",
        cidrs=(cidr6,),
        internet=internet,
        subnets=(
            SubnetSpec(
                id="subnet-1", cidr="10.0.1.0/24", cidr6=cidr6.replace("/56", "/64"), route_table="rtb-1"
            ),
        ),
        route_tables=(
            RouteTableSpec(
                id="rtb-1",
                number=7,
                routes=tuple(RouteSpec(destination=each, kind=kind) for each, kind in six),
            ),
        ),
    )


def spec(found: VpcSpec, *networks6: str) -> NetworkSpec:
    port = PortSpec(
        id="eni-1",
        vpc="vpc-1",
        subnet="subnet-1",
        mac="06:00:00:00:00:01",
        private_ip="10.0.1.4",
        ipv6=("fd81:1::4",),
    )
    return NetworkSpec(vpcs=(found,), ports=(port,), networks6=networks6)


@pytest.mark.parametrize(
    ("found", "networks6", "goes"),
    [
        (vpc(("::/0", IN)), ("fd81::/16",), True),
        (vpc(("::/0", OUT)), ("fd81::/16",), True),
        (vpc(("::/0", OUT), internet=False), ("fd81::/16",), True),
        (vpc(("::/0", IN), internet=False), ("fd81::/16",), False),
        (vpc(("0.0.0.0/0", IN)), ("fd81::/16",), False),
        (vpc(("::/0", RouteKind.blackhole)), ("fd81::/16",), False),
        (vpc(("::/0", IN)), (), False),
        (vpc(("::/0", IN)), ("fd82::/16", "2001:db8::/32"), False),
    ],
)
def test_who_has_a_way_out(found: VpcSpec, networks6: tuple[str, ...], goes: bool) -> None:
    assert goes_out6(found, networks6) is goes
    plan = make_plan(spec(found, *networks6), PUBLIC)[1]
    assert plan.outside6 is goes
    wanted = routes.wanted(plan, "198.19.0.2").routes
    if "::/0" in (route.destination for route in found.route_tables[0].routes):
        led = wanted[routes.FIRST_TABLE + 7, "::/0"]
        assert (led == f"via fe80::1 dev {UPLINK} onlink") is goes
        assert goes or led in ("unreachable", "blackhole")
    hosts = links.wanted_routes(Names(0), [plan])
    assert (("fd81:1::4", "gu0-1") in hosts) is goes


ALL = "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"


@pytest.mark.parametrize(
    ("six", "ranges"),
    [
        ((("::/0", IN),), (ALL,)),
        ((("::/0", OUT),), ()),
        ((("::/0", OUT), ("2001:db8::/32", IN)), ("2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",)),
        (
            (("::/0", IN), ("8000::/1", OUT), ("8000::/2", IN)),
            ("::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "8000::-bfff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ),
        ((("::/1", IN), ("::/2", IN)), ("::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",)),
        ((("::/1", IN), ("::/2", OUT)), ("4000::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",)),
    ],
)
def test_what_comes_in_is_what_answers_go_to(
    six: tuple[tuple[str, RouteKind], ...], ranges: tuple[str, ...]
) -> None:
    plan = make_plan(spec(vpc(*six), "fd81::/16"), PUBLIC)[1]
    assert plan.inbound6 == {7: ranges}
    table = filter_table(plan, Names(0), "198.19.0.3")
    assert list(table.sets["inbound6"].elements) == [f"7 . {each}" for each in ranges]


def test_a_vpc_without_a_way_has_none_in_its_filter() -> None:
    plan = make_plan(spec(vpc(), "fd81::/16"), PUBLIC)[1]
    chains = filter_table(plan, Names(0), "198.19.0.3").chains
    assert not [rule for rule in chains["forward_egress"].rules if "outside6" in rule]
    assert not [rule for rule in chains["forward_ingress"].rules if "nfproto ipv6 accept" in rule]


def test_what_is_led_to_the_hosts_is_not_hidden() -> None:
    def hide(hidden: tuple[str, ...], uplink: str = "") -> tuple[str, str]:
        six = Outside6(networks=("fd81::/32", "2001:db8::/48"), hidden=hidden, guests=("fd81::/56",))
        chains = host_table(Names(1), "c", (), uplink, six=six).chains
        neighbours = [rule for rule in chains["forward"].rules if "nexthop" in rule]
        return chains["hide"].rules[-1], "".join(neighbours)

    assert "ip6 saddr { fd67:75:1:1::/64 } " in hide(())[0]
    masquerade, neighbours = hide(("fd81::/32",))
    assert masquerade.startswith("ip6 saddr { fd81::/32, fd67:75:1:1::/64 } ip6 daddr != { fd81::/32, 2001:")
    assert neighbours == ""
    assert "ip6 saddr { fd81::/32, fd67:75:1:1::/64 }" in hide(("fd81::/32",), "eth0")[1]
    assert hide((), "eth0")[1] == ""


def test_links_have_addresses_of_their_own() -> None:
    names = Names(63)
    assert names.link6(0) == ("fd67:75:1:3f::1", "fd67:75:1:3f::2")
    assert names.link6(127) == ("fd67:75:1:3f::7f:1", "fd67:75:1:3f::7f:2")


def test_a_kernel_without_ipv6_is_asked_for_none() -> None:
    found = spec(vpc(("::/0", IN), ("0.0.0.0/0", IN)), "fd81::/16")
    plan = make_plan(without6(found), PUBLIC)[1]
    wanted = routes.wanted(plan, "198.19.0.2")
    assert not [destination for _, destination in wanted.routes if ":" in destination]
    assert not [address for _, address in wanted.neighbours if ":" in address]
    assert wanted.routes[routes.FIRST_TABLE + 7, "0.0.0.0/0"].startswith("via 198.19.0.2")
