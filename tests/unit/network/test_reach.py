from __future__ import annotations

import pytest

from gureum.hostspec import GroupSpec, NetworkSpec, PortSpec, RuleSpec
from gureum.network.reach import allows

OUT = RuleSpec(egress=True, cidr="0.0.0.0/0")


def port(number: int, *groups: str, vpc: str = "vpc-1") -> PortSpec:
    return PortSpec(
        id=f"eni-{number}",
        instance=f"i-{number}",
        vpc=vpc,
        subnet="subnet-1",
        mac="06:00:00:00:00:01",
        private_ip=f"10.0.0.{number}",
        groups=groups,
    )


def network(*rules: RuleSpec, members: tuple[str, ...] = ()) -> NetworkSpec:
    return NetworkSpec(
        ports=(port(1, "sg-out"), port(2, "sg-in"), port(3, "sg-in", vpc="vpc-2"), port(4)),
        groups=(GroupSpec(id="sg-out", rules=(OUT,)), GroupSpec(id="sg-in", rules=rules)),
        members={"sg-out": members},
    )


@pytest.mark.parametrize(
    ("rule", "protocol", "number", "wanted"),
    [
        (RuleSpec(protocol="tcp", from_port=80, to_port=90, cidr="10.0.0.0/24"), "tcp", 85, True),
        (RuleSpec(protocol="tcp", from_port=80, to_port=90, cidr="10.0.0.0/24"), "tcp", 91, False),
        (RuleSpec(protocol="tcp", from_port=80, to_port=90, cidr="10.0.0.0/24"), "udp", 85, False),
        (RuleSpec(protocol="6", from_port=80, to_port=90, cidr="10.0.0.0/24"), "tcp", 85, True),
        (RuleSpec(protocol="tcp", from_port=80, to_port=90, cidr="10.0.1.0/24"), "tcp", 85, False),
        (RuleSpec(cidr="10.0.0.1/32"), "50", -1, True),
        (RuleSpec(protocol="icmp", from_port=8, to_port=-1, cidr="10.0.0.1/32"), "icmp", 8, True),
        (RuleSpec(protocol="icmp", from_port=8, to_port=-1, cidr="10.0.0.1/32"), "icmp", 0, False),
        (RuleSpec(cidr="::/0"), "tcp", 1, False),
        (RuleSpec(group="sg-out"), "tcp", 1, True),
        (RuleSpec(group="sg-in"), "tcp", 1, False),
    ],
)
def test_rules(rule: RuleSpec, protocol: str, number: int, wanted: bool) -> None:
    assert allows(network(rule, members=("10.0.0.1",)), "eni-1", "eni-2", protocol, number) is wanted


def test_defaults() -> None:
    everything = network(RuleSpec(cidr="0.0.0.0/0"))
    assert allows(everything, "eni-1", "eni-2", "tcp", 1)
    assert not allows(everything, "eni-1", "eni-3", "tcp", 1), "another VPC"
    assert not allows(everything, "eni-2", "eni-1", "tcp", 1), "no egress rule"
    assert not allows(everything, "eni-1", "eni-4", "tcp", 1), "no group"
