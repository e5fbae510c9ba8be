from __future__ import annotations

from ipaddress import IPv4Network

import msgspec

from gureum.hostspec import NetworkSpec, PortKind, PortSpec, SubnetSpec, VpcSpec
from gureum.network.filters import filter_table
from gureum.network.guard import guard_table
from gureum.network.links import wanted_routes
from gureum.network.names import Names
from gureum.network.natgateway import ports, table
from gureum.network.plan import VpcPlan, make_plan

NAMES = Names(4)
GATEWAY = PortSpec(
    id="eni-00000000000000abc",
    kind=PortKind.nat,
    vpc="vpc-1",
    subnet="subnet-1",
    mac="06:00:00:00:00:01",
    private_ip="10.0.0.9",
    public_ip="198.18.16.9",
)


def plan(port: PortSpec = GATEWAY) -> VpcPlan:
    vpc = VpcSpec(
        id="vpc-1",
        network_id=1,
        cidr="10.0.0.0/16",
        cidrs=("10.1.0.0/16",),
        subnets=(SubnetSpec(id="subnet-1", cidr="10.0.0.0/24"),),
    )
    return make_plan(NetworkSpec(vpcs=(vpc,), ports=(port,)), IPv4Network("198.18.16.0/22"))[1]


def test_it_lets_out_what_is_the_vpcs_and_in_what_answers() -> None:
    vpc = plan()
    (gateway,) = ports(vpc).values()
    found = table(vpc, gateway)
    forward = found.chains["forward"]
    assert "policy drop" in forward.hook
    accepts = [rule for rule in forward.rules if rule.endswith(" accept")]
    assert accepts == ['iifname "inner" oifname "up" ip saddr { 10.0.0.0/16, 10.1.0.0/16 } accept']
    assert any("@flows" in rule for rule in forward.rules)
    assert found.chains["translate"].rules == ('iifname "inner" oifname "up" snat ip to 198.18.16.9',)


def test_without_a_public_address_it_translates_back_into_the_vpc() -> None:
    vpc = plan(msgspec.structs.replace(GATEWAY, public_ip=""))
    (gateway,) = ports(vpc).values()
    assert table(vpc, gateway).chains["translate"].rules == (
        'iifname "inner" oifname "inner" snat ip to 10.0.0.9',
    )
    assert not wanted_routes(NAMES, [vpc])


def test_its_public_address_is_its_own_and_not_translated_in_the_vpc() -> None:
    vpc = plan()
    (tap,) = ports(vpc)
    assert wanted_routes(NAMES, [vpc]) == {("198.18.16.9", NAMES.nat_uplink(tap))}
    assert len(NAMES.nat_uplink(tap)) <= 15
    routed = filter_table(vpc, NAMES, "198.19.4.1")
    assert not routed.sets["public"].elements
    assert guard_table(vpc).chains[f"in_{tap}"].rules == ("ether type ip accept",)
