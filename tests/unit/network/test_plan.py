from __future__ import annotations

from ipaddress import IPv4Network

import msgspec
import pytest

from gureum.errors import NetworkError
from gureum.hostspec import GroupSpec, NetworkSpec, PortSpec, RuleSpec, SubnetSpec, VpcSpec
from gureum.network.plan import make_plan

PUBLIC = IPv4Network("198.18.0.0/24")
VPC = VpcSpec(
    id="vpc-1",
    network_id=7,
    cidr="172.31.0.0/16",
    subnets=(SubnetSpec(id="subnet-1", cidr="172.31.16.0/20"),),
)
PORT = PortSpec(
    id="eni-1",
    instance="i-1",
    vpc="vpc-1",
    subnet="subnet-1",
    mac="06:00:00:00:00:01",
    private_ip="172.31.16.4",
    public_ip="198.18.0.9",
    hostname="ip-172-31-16-4.ec2.internal",
    groups=("sg-1",),
)
GROUP = GroupSpec(id="sg-1", rules=(RuleSpec(protocol="tcp", from_port=1, to_port=2, group="sg-2"),))


def changed(**fields: object) -> NetworkSpec:
    return NetworkSpec(vpcs=(VPC,), ports=(msgspec.structs.replace(PORT, **fields),), groups=(GROUP,))


def test_plan() -> None:
    spec = NetworkSpec(
        vpcs=(VPC,),
        ports=(PORT,),
        groups=(GROUP, GroupSpec(id="sg-9")),
        members={"sg-2": ("172.31.16.9", "172.31.16.4", "fd00::1"), "sg-8": ("1.2.3.4",)},
    )
    plan = make_plan(spec, PUBLIC)[7]
    assert (plan.gateways, plan.dns) == (("172.31.16.1",), "172.31.0.2")
    assert list(plan.groups) == ["sg-1"]
    assert plan.members == {"sg-2": ("172.31.16.4", "172.31.16.9")}
    port = plan.ports["eni-1"]
    assert (port.gateway, port.prefix, port.hostname) == ("172.31.16.1", 20, "ip-172-31-16-4")


def test_a_group_without_rules_denies() -> None:
    assert make_plan(changed(groups=("sg-unknown",)), PUBLIC)[7].groups["sg-unknown"].rules == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vpc": "vpc-2"}, "vpc-2"),
        ({"subnet": "subnet-2"}, "subnet-2"),
        ({"private_ip": "172.31.0.4"}, "not in its subnet"),
        ({"private_ip": "172.31.16.400"}, "172.31.16.400"),
        ({"private_ip": "172.31.16.4; reboot"}, "reboot"),
        ({"public_ip": "192.0.2.1"}, "not one of this cloud's"),
        ({"mac": "07:00:00:00:00:01"}, "no MAC"),
        ({"mac": "06:00:00:00:00"}, "no MAC"),
        ({"mac": "06:00:00:00:00:01 accept"}, "no MAC"),
        ({"hostname": "a b"}, "no host name"),
        ({"groups": ("sg 1",)}, "no id"),
        ({"id": "eni-1\nflush ruleset"}, "no id"),
    ],
)
def test_nonsense_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        make_plan(changed(**fields), PUBLIC)


@pytest.mark.parametrize(
    "fields",
    [
        {"domain": "ec2.internal --conf-file=x"},
        {"domain": ""},
        {"cidr": "172.31.0.1/16"},
        {"cidr": "fd00::/8"},
        {"network_id": -1},
        {"id": "vpc 1"},
    ],
)
def test_nonsense_vpcs_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(NetworkError):
        make_plan(NetworkSpec(vpcs=(msgspec.structs.replace(VPC, **fields),)), PUBLIC)


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "eni-2"},
        {"private_ip": "172.31.16.5", "public_ip": ""},
        {"id": "eni-2", "private_ip": "172.31.16.5"},
    ],
)
def test_nothing_is_there_twice(fields: dict[str, object]) -> None:
    other = msgspec.structs.replace(PORT, **fields)
    with pytest.raises(NetworkError):
        make_plan(NetworkSpec(vpcs=(VPC,), ports=(PORT, other)), PUBLIC)


def test_network_ids_are_unique() -> None:
    with pytest.raises(NetworkError, match="network id"):
        make_plan(NetworkSpec(vpcs=(VPC, msgspec.structs.replace(VPC, id="vpc-2"))), PUBLIC)
