from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest

from gureum.errors import NetworkError
from gureum.hostspec import (
    AddressSpec,
    DhcpSpec,
    NetworkSpec,
    PeerHostSpec,
    PortSpec,
    RemoteSpec,
    SubnetSpec,
    VpcSpec,
)
from gureum.network.dns import addresses, arguments, hosts, servers
from gureum.network.plan import VpcPlan, make_plan

PORT = PortSpec(
    id="eni-1",
    instance="i-1",
    vpc="vpc-1",
    subnet="subnet-1",
    mac="06:00:00:00:00:05",
    private_ip="10.0.0.5",
    public_ip="198.18.0.5",
    secondary=(
        AddressSpec(private_ip="10.0.0.6", public_ip="198.18.0.6"),
        AddressSpec(private_ip="10.0.0.7"),
    ),
)
REMOTE = RemoteSpec(
    id="eni-2",
    vpc="vpc-1",
    host="host-2",
    addresses=(AddressSpec(private_ip="10.0.0.9", public_ip="198.18.0.9"),),
)


def plan(**fields: Any) -> VpcPlan:
    vpc = VpcSpec(
        id="vpc-1",
        network_id=1,
        cidr="10.0.0.0/16",
        **{"subnets": (SubnetSpec(id="subnet-1", cidr="10.0.0.0/24"),), **fields},
    )
    spec = NetworkSpec(
        number=1,
        hosts=(PeerHostSpec(id="host-2", number=2, address="192.0.2.2"),),
        vpcs=(vpc,),
        ports=(PORT,),
        remotes=(REMOTE,),
    )
    return make_plan(spec, IPv4Network("198.18.0.0/22"))[1]


def test_public_names_of_the_vpc_mean_private_addresses_wherever_they_are() -> None:
    assert hosts(plan()).splitlines() == [
        "10.0.0.5 ip-10-0-0-5.ec2.internal ec2-198-18-0-5.compute-1.amazonaws.com",
        "10.0.0.6 ip-10-0-0-6.ec2.internal ec2-198-18-0-6.compute-1.amazonaws.com",
        "10.0.0.9 ip-10-0-0-9.ec2.internal ec2-198-18-0-9.compute-1.amazonaws.com",
    ]
    assert (
        "10.0.0.9 ip-10-0-0-9.eu-west-1.compute.internal ec2-198-18-0-9.eu-west-1.compute.amazonaws.com"
        in (hosts(plan(domain="eu-west-1.compute.internal")))
    )
    assert hosts(plan(dns_hostnames=False)) == ""


def test_every_network_has_names_both_ways() -> None:
    found = arguments(plan(cidrs=("10.7.0.0/20", "fd00:1::/56")), "/etc/resolv.conf", "/run/hosts")
    assert [each for each in found if each.startswith("--synth-domain=")] == [
        "--synth-domain=ec2.internal,10.0.0.0/16,ip-",
        "--synth-domain=ec2.internal,10.7.0.0/20,ip-",
        "--synth-domain=compute-1.amazonaws.com,198.18.0.0/22,ec2-",
    ]


def test_resolver_answers_by_ipv6_where_there_is_some() -> None:
    assert addresses(plan()) == ("10.0.0.2", "169.254.169.253")
    assert addresses(plan(cidrs=("fd00:1::/56",))) == ("10.0.0.2", "169.254.169.253", "fd00:ec2::253")


def test_servers_are_those_of_the_dhcp_options() -> None:
    both = DhcpSpec(servers=("", "10.0.0.99"))
    assert servers(plan()) == ("10.0.0.2",)
    assert servers(plan(dhcp=both)) == ("10.0.0.2", "10.0.0.99")
    assert servers(plan(dhcp=both, dns_support=False)) == ("10.0.0.99",)
    assert servers(plan(dhcp=DhcpSpec(servers=()))) == ()


@pytest.mark.parametrize(
    "options",
    [
        DhcpSpec(servers=("10.0.0.1",) * 17),
        DhcpSpec(ntp=("fd00::1",)),
        DhcpSpec(netbios_type=256),
        DhcpSpec(domain="a b"),
    ],
)
def test_what_no_option_can_hold_is_refused(options: DhcpSpec) -> None:
    with pytest.raises(NetworkError):
        plan(dhcp=options)


def test_domain_is_told_as_dhcp_has_it() -> None:
    assert plan(dhcp=DhcpSpec(domain="Example.COM.")).dhcp.domain == "example.com"
