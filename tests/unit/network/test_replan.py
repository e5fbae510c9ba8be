"""Plans of one spec after the other: what is kept must be what would be made."""

from __future__ import annotations

import random
from ipaddress import IPv4Network

import pytest
from msgspec.structs import replace

from gureum.errors import NetworkError
from gureum.hostspec import GroupSpec, NetworkSpec, PortSpec, RuleSpec, SubnetSpec, VpcSpec
from gureum.network import plan, replan
from gureum.network.plan import make_plan
from gureum.network.replan import Planner, differs_in_rules

PUBLIC = IPv4Network("198.18.0.0/24")
VPCS = tuple(
    VpcSpec(
        id=f"vpc-{n}",
        network_id=n,
        cidr="10.0.0.0/16",
        subnets=(SubnetSpec(id=f"sub-{n}", cidr="10.0.0.0/20"),),
    )
    for n in (1, 2)
)


def port(number: int, *groups: str) -> PortSpec:
    vpc = 1 + number % 2
    return PortSpec(
        id=f"eni-{number}",
        vpc=f"vpc-{vpc}",
        subnet=f"sub-{vpc}",
        mac=f"06:00:00:00:00:{number:02x}",
        private_ip=f"10.0.0.{10 + number}",
        groups=groups,
    )


def group(number: int, *rules: RuleSpec) -> GroupSpec:
    return GroupSpec(id=f"sg-{number}", rules=rules)


SPEC = NetworkSpec(
    vpcs=VPCS,
    ports=tuple(port(number, f"sg-{number % 3}") for number in range(6)),
    groups=tuple(group(number, RuleSpec(group="sg-1"), RuleSpec(prefix_list="pl-1")) for number in range(3)),
    members={"sg-1": ("10.0.0.11", "fd00::1")},
    prefixes={"pl-1": ("192.0.2.0/24",)},
)


def random_rules(rng: random.Random) -> tuple[RuleSpec, ...]:
    peers = [{"group": f"sg-{rng.randrange(4)}"}, {"prefix_list": "pl-1"}, {"cidr": "10.0.0.0/8"}]
    return tuple(
        RuleSpec(protocol="tcp", from_port=rng.randrange(9), to_port=9, **rng.choice(peers))
        for _ in range(rng.randrange(3))
    )


def changed(spec: NetworkSpec, rng: random.Random) -> NetworkSpec:
    match rng.randrange(6):
        case 0:
            kept = [each for each in spec.groups if rng.random() < 0.9]
            return replace(spec, groups=(*kept, group(9, *random_rules(rng)))[: rng.randrange(1, 5)])
        case 1 | 2:
            at = rng.randrange(len(spec.groups) or 1)
            groups = [
                replace(each, rules=random_rules(rng)) if number == at else each
                for number, each in enumerate(spec.groups)
            ]
            return replace(spec, groups=tuple(groups))
        case 3:
            return replace(spec, members={f"sg-{n}": (f"10.0.0.{rng.randrange(9)}",) for n in range(4)})
        case 4:
            return replace(spec, prefixes={"pl-1": (f"192.0.{rng.randrange(3)}.0/24",)})
        case _:
            ports = [port(number, f"sg-{rng.randrange(4)}") for number in range(8) if rng.random() < 0.8]
            return replace(spec, ports=tuple(ports))


def test_they_are_those_of_the_spec_whatever_changed() -> None:
    rng, planner, spec = random.Random(1), Planner(PUBLIC), SPEC
    for _ in range(500):
        assert planner.plan(spec) == make_plan(spec, PUBLIC)
        spec = changed(spec, rng)


def test_a_rule_is_all_that_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = Planner(PUBLIC)
    before = planner.plan(SPEC)
    rule = RuleSpec(protocol="tcp", from_port=22, to_port=22, cidr="10.0.0.0/8")
    spec = replace(SPEC, groups=(SPEC.groups[0], replace(SPEC.groups[1], rules=(rule,)), SPEC.groups[2]))
    monkeypatch.setattr(replan, "make_plan", None)
    after = planner.plan(spec)
    assert differs_in_rules(before[1], after[1])
    assert after[1].ports is before[1].ports
    assert [id for id in after[2].groups if after[2].groups[id] is not before[2].groups[id]] == ["sg-1"]
    assert planner.plan(spec)[1] is after[1]


def test_a_port_that_stayed_is_not_planned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = Planner(PUBLIC)
    before = planner.plan(SPEC)
    planned: list[str] = []
    make = plan.plan_port
    monkeypatch.setattr(plan, "plan_port", lambda port, subnet: planned.append(port.id) or make(port, subnet))
    after = planner.plan(replace(SPEC, ports=(*SPEC.ports, port(7))))
    assert planned == ["eni-7"]
    assert not differs_in_rules(before[2], after[2])
    assert after[1] is before[1]


def test_after_nonsense_the_next_is_compared_with_the_last_good_one() -> None:
    planner = Planner(PUBLIC)
    planner.plan(SPEC)
    bad = replace(SPEC, groups=(*SPEC.groups, group(0), GroupSpec(id="a b")))
    with pytest.raises(NetworkError):
        planner.plan(bad)
    with pytest.raises(NetworkError):
        planner.plan(replace(SPEC, ports=(*SPEC.ports, SPEC.ports[0])))
    other = replace(SPEC, groups=SPEC.groups[:1])
    assert planner.plan(other) == make_plan(other, PUBLIC)
