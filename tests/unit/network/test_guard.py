"""What a port may send from, by the guard at its tap."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address

import pytest

from gureum.hostspec import NetworkSpec, PortSpec, SubnetSpec, VpcSpec
from gureum.network.guard import guard_table
from gureum.network.names import Names
from gureum.network.plan import make_plan
from support import nft

VPC = VpcSpec(
    id="vpc-1",
    network_id=1,
    cidr="10.6.0.0/16",
    cidrs=("fd80:0:0:100::/56",),
    subnets=(SubnetSpec(id="subnet-1", cidr="10.6.0.0/24", cidr6="fd80:0:0:100::/64"),),
)
OWN = "fd80:0:0:100::4"


def says(source: str, *, source_check: bool) -> str:
    port = PortSpec(
        id="eni-1",
        instance="i-1",
        vpc="vpc-1",
        subnet="subnet-1",
        mac="06:00:00:00:00:01",
        private_ip="10.6.0.4",
        ipv6=(OWN,),
        source_dest_check=source_check,
    )
    [plan] = make_plan(NetworkSpec(vpcs=(VPC,), ports=(port,)), IPv4Network("198.18.0.0/24")).values()
    tap = plan.ports["eni-1"].tap
    packet: dict[str, int | str] = {
        "iifname": tap,
        "ether saddr": 0x060000000001,
        "ether type": 0x86DD,
        "ip6 saddr": int(IPv6Address(source)),
        "ip6 daddr": int(IPv6Address("2001:db8::1")),
        "meta l4proto": 17,
        "th sport": 1024,
        "th dport": 53,
    }
    return nft.run(guard_table(plan), f"in_{tap}", packet)


@pytest.mark.parametrize("source_check", [True, False])
def test_a_port_sends_from_its_own_address(source_check: bool) -> None:
    assert says(OWN, source_check=source_check) == "accept"


def test_who_passes_on_for_others_sends_from_their_addresses() -> None:
    other = "2001:db8::2"
    assert (says(other, source_check=True), says(other, source_check=False)) == ("drop", "accept")


@pytest.mark.parametrize(
    "source",
    # The two ends of a link between host and VPC, a host's between hosts, and what is nobody's.
    [*Names(3).link6(7), "fd67:75:2:3::10", "::1", "ff02::1", "::ffff:10.6.0.4"],
)
def test_nobody_sends_from_addresses_of_hosts(source: str) -> None:
    assert says(source, source_check=False) != "accept"
