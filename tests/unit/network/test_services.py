from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

from gureum.hostspec import DhcpSpec, NetworkSpec, PortSpec, SubnetSpec, VpcSpec
from gureum.network.dhcp import Lease
from gureum.network.dhcp6 import Lease6
from gureum.network.plan import VpcPlan, make_plan
from gureum.network.services import lease, lease6

PORT = PortSpec(
    id="eni-1",
    instance="i-1",
    vpc="vpc-1",
    subnet="subnet-1",
    mac="06:00:00:00:00:05",
    private_ip="10.0.1.5",
    ipv6=("fd00:1::5",),
)


def plan(mtu: int = 1500, **fields: Any) -> VpcPlan:
    vpc = VpcSpec(
        id="vpc-1",
        network_id=1,
        cidr="10.0.0.0/16",
        cidrs=("fd00:1::/56",),
        subnets=(
            SubnetSpec(id="subnet-1", cidr="10.0.1.0/24", cidr6="fd00:1::/64"),
            SubnetSpec(id="subnet-2", cidr="10.0.2.0/24"),
        ),
        **fields,
    )
    other = PortSpec(
        id="eni-2", vpc="vpc-1", subnet="subnet-2", mac="06:00:00:00:00:06", private_ip="10.0.2.6"
    )
    spec = NetworkSpec(mtu=mtu, vpcs=(vpc,), ports=(PORT, other))
    return make_plan(spec, IPv4Network("198.18.0.0/22"))[1]


def test_a_guest_is_told_what_its_port_and_the_options_say() -> None:
    options = DhcpSpec(
        domain="example.org",
        servers=("10.9.9.9", ""),
        ntp=("10.0.0.8",),
        netbios=("10.0.0.7",),
        netbios_type=2,
    )
    found = plan(mtu=1450, dhcp=options)
    assert lease(found, found.ports["eni-1"]) == Lease(
        mac="06:00:00:00:00:05",
        address="10.0.1.5",
        prefix=24,
        router="10.0.1.1",
        hostname="ip-10-0-1-5",
        mtu=1450,
        domain="example.org",
        servers=("10.9.9.9", "10.0.0.2"),
        ntp=("10.0.0.8",),
        netbios=("10.0.0.7",),
        netbios_type=2,
    )
    assert lease6(found, found.ports["eni-1"]) == Lease6(
        addresses=("fd00:1::5",), servers=("fd00:ec2::253",), domain="example.org"
    )


def test_the_resolver_is_named_where_it_is_wanted_and_there() -> None:
    def servers(**fields: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        found = plan(**fields)
        port = found.ports["eni-1"]
        return lease(found, port).servers, lease6(found, port).servers

    assert servers() == (("10.0.0.2",), ("fd00:ec2::253",))
    assert servers(dns_support=False) == ((), ())
    assert servers(dhcp=DhcpSpec(servers=("10.9.9.9",))) == (("10.9.9.9",), ())
    assert servers(dhcp=DhcpSpec(servers=())) == ((), ())


def test_ipv6_is_served_where_the_subnet_has_it() -> None:
    found = plan()
    assert {id: found.has_ipv6(port) for id, port in found.ports.items()} == {"eni-1": True, "eni-2": False}
