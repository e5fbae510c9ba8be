from __future__ import annotations

from ipaddress import IPv4Network

import msgspec
import pytest

from gureum.hostspec import (
    AclEntrySpec,
    AclSpec,
    GroupSpec,
    NetworkSpec,
    PortSpec,
    RuleSpec,
    SubnetSpec,
    VpcSpec,
)
from gureum.network.bundles import Compiler, renewed_sets
from gureum.network.filters import changed_addresses, filter_table
from gureum.network.guard import guard_table
from gureum.network.hostfilter import host_table
from gureum.network.names import Names, tap_name
from gureum.network.plan import VpcPlan, make_plan
from gureum.network.ruleset import Table, change_table, emptied, with_sets

NAMES = Names(0)
VPC = VpcSpec(
    id="vpc-1", network_id=1, cidr="172.31.0.0/16", subnets=(SubnetSpec(id="subnet-1", cidr="172.31.0.0/20"),)
)
GROUPS = (GroupSpec(id="sg-1", rules=(RuleSpec(group="sg-2"),)), GroupSpec(id="sg-2"))


def port(number: int, **fields: object) -> PortSpec:
    values: dict[str, object] = {
        "id": f"eni-{number}",
        "instance": f"i-{number}",
        "vpc": "vpc-1",
        "subnet": "subnet-1",
        "mac": f"06:00:00:00:00:{number:02x}",
        "private_ip": f"172.31.0.{number}",
        "groups": ("sg-1",),
        **fields,
    }
    return PortSpec(**values)  # type: ignore[arg-type]


def plan(*ports: PortSpec, members: tuple[str, ...] = ()) -> VpcPlan:
    spec = NetworkSpec(vpcs=(VPC,), ports=ports, groups=GROUPS, members={"sg-2": members})
    return make_plan(spec, IPv4Network("198.18.0.0/24"))[1]


def change(old: VpcPlan, new: VpcPlan) -> list[str]:
    link = NAMES.link(1)[1]
    return (
        change_table(guard_table(old), guard_table(new))
        + change_table(filter_table(old, NAMES, link), filter_table(new, NAMES, link))
    ).splitlines()


def test_one_more_port_is_a_handful_of_elements_however_many_there_are() -> None:
    few = change(plan(port(4)), plan(port(4), port(5)))
    many = [port(number) for number in range(10, 200)]
    assert change(plan(*many), plan(*many, port(5))) == few
    assert len(few) <= 8


@pytest.mark.parametrize("others", [(), (port(4),)])
def test_a_port_that_stood_by_gets_elements_and_nothing_else(others: tuple[PortSpec, ...]) -> None:
    acl = AclSpec(id="acl-1", entries=(AclEntrySpec(number=1, egress=False, protocol="6", cidr="0.0.0.0/0"),))
    vpc = msgspec.structs.replace(
        VPC, acls=(acl,), subnets=(SubnetSpec(id="subnet-1", cidr="172.31.0.0/20", acl="acl-1"),)
    )
    one = port(5, groups=("sg-1", "sg-2"), public_ip="198.18.0.7")

    def planned(**ports: tuple[PortSpec, ...]) -> VpcPlan:
        spec = NetworkSpec(vpcs=(vpc,), groups=GROUPS, members={"sg-2": ()}, **ports)  # type: ignore[arg-type]
        return make_plan(spec, IPv4Network("198.18.0.0/24"))[1]

    before, after = planned(ports=others, standby=(one,)), planned(ports=(*others, one))
    found = change(before, after)
    assert all(line.startswith("add element") for line in found)
    assert any("@" not in line and "egress" in line for line in found)
    # Until then nothing leads to it, and of what it sends nothing passes.
    elements = [
        line
        for table in (guard_table(before), filter_table(before, NAMES, NAMES.link(1)[1]))
        for each in table.sets.values()
        for line in each.elements
    ]
    assert not any(tap_name("eni-5") in line or "198.18.0.7" in line for line in elements)
    assert f"in_{tap_name('eni-5')}" in guard_table(before).chains


def test_a_member_more_is_one_element() -> None:
    found = change(plan(port(4)), plan(port(4), members=("172.31.0.9",)))
    assert found == ["add element inet gureum m_sg-2 { 172.31.0.9 }"]


def test_ports_with_the_same_groups_share_a_chain() -> None:
    table = filter_table(plan(port(4), port(5), port(6, groups=("sg-2", "sg-1"))), NAMES, "198.19.0.3")
    # The second group has no rules.
    assert set(table.sets["ingress"].elements.values()) == {"goto in_only_sg-1"}
    assert table.chains["in_only_sg-1"].rules[-1] == "goto refuse_in_group"


def test_a_port_without_groups_is_closed() -> None:
    table = filter_table(plan(port(4, groups=())), NAMES, "198.19.0.3")
    (target,) = table.sets["ingress"].elements.values()
    assert table.chains[target.removeprefix("goto ")].rules == ("counter name denied_in drop",)


def test_what_lets_everything_pass_needs_no_chain() -> None:
    every = tuple(RuleSpec(egress=True, cidr=cidr) for cidr in ("0.0.0.0/0", "::/0"))
    spec = NetworkSpec(vpcs=(VPC,), ports=(port(4),), groups=(GroupSpec(id="sg-1", rules=every),))
    table = filter_table(make_plan(spec, IPv4Network("198.18.0.0/24"))[1], NAMES, "198.19.0.3")
    assert set(table.sets["egress"].elements.values()) == {"accept"}
    assert set(table.sets["ingress"].elements.values()) == {"goto refuse_in_group"}


def test_a_filter_without_elements_lets_nothing_pass() -> None:
    table = emptied(filter_table(plan(port(4), members=("172.31.0.9",)), NAMES, "198.19.0.3"))
    assert not any(value.elements for value in table.sets.values())
    assert table.chains["forward_egress"].rules[-2:] == ("iifname vmap @egress", "drop")
    assert table.chains["forward_ingress"].rules[-1] == "oifname vmap @ingress"
    assert "policy drop" in table.chains["forward_ingress"].hook


def web(*ports: int) -> VpcPlan:
    """A group that lets in the world to these ports, and everything out."""
    rules = [RuleSpec(egress=True, cidr="0.0.0.0/0")]
    rules += [RuleSpec(protocol="tcp", from_port=each, to_port=each, cidr="10.0.0.0/8") for each in ports]
    spec = NetworkSpec(
        vpcs=(VPC,), ports=(port(4),), groups=(GroupSpec(id="sg-1", rules=tuple(rules)), GroupSpec(id="sg-2"))
    )
    return make_plan(spec, IPv4Network("198.18.0.0/24"))[1]


def test_a_rule_more_is_one_element() -> None:
    name = "inet gureum in_4pr_sg-1"
    assert change(web(80), web(80, 443)) == [f"add element {name} {{ 10.0.0.0/8 . 6 . 443 }}"]
    assert change(web(80, 443), web(443)) == [f"delete element {name} {{ 10.0.0.0/8 . 6 . 80 }}"]


def test_groups_that_let_out_the_same_share_a_chain() -> None:
    every = (RuleSpec(egress=True, cidr="0.0.0.0/0"),)
    spec = NetworkSpec(
        vpcs=(VPC,),
        ports=(port(4), port(5, groups=("sg-2",))),
        groups=(GroupSpec(id="sg-1", rules=every), GroupSpec(id="sg-2", rules=every)),
    )
    table = filter_table(make_plan(spec, IPv4Network("198.18.0.0/24"))[1], NAMES, "198.19.0.3")
    assert len(set(table.sets["egress"].elements.values())) == 1


def test_a_group_that_stayed_is_not_compiled_again() -> None:
    compiler, groups = Compiler(), {"sg-1": web(80).groups["sg-1"], "sg-2": GroupSpec(id="sg-2")}
    before = compiler.compile(groups)
    after = compiler.compile({**groups, "sg-1": web(80, 443).groups["sg-1"]})
    assert after["sg-1"][0] != before["sg-1"][0]
    assert after["sg-2"] is before["sg-2"]
    # Equal is enough.
    assert compiler.compile(web(80, 443).groups)["sg-1"] is after["sg-1"]


def test_what_is_other_elements_is_told_apart_from_what_is_other_chains() -> None:
    compiler, old = Compiler(), web(80)
    table = filter_table(old, NAMES, "198.19.0.3", compiler=compiler)
    sets = renewed_sets(old, web(80, 443), compiler)
    assert sets is not None
    changed, _ = with_sets(table, sets)
    assert changed == filter_table(web(80, 443), NAMES, "198.19.0.3")
    # No set any more; then, no set yet.
    assert renewed_sets(web(80, 443), web(), compiler) is None
    assert renewed_sets(web(), web(80), compiler) is None
    few, more = plan(port(4)), plan(port(4), members=("172.31.0.9", "fd00::9"))
    compiler = Compiler()
    table = filter_table(few, NAMES, "198.19.0.3", compiler=compiler)
    sets = renewed_sets(few, more, compiler)
    assert sets is not None
    assert with_sets(table, sets)[0] == filter_table(more, NAMES, "198.19.0.3")


def test_addresses_whose_flows_are_forgotten() -> None:
    public = {"public_ip": "198.18.0.9"}
    old = plan(port(4, **public), port(5))
    assert changed_addresses(None, old) == set()
    assert changed_addresses(old, old) == set()
    assert changed_addresses(old, plan(port(4), port(5))) == {"198.18.0.9"}
    assert changed_addresses(old, plan(port(4, **public))) == {"172.31.0.5"}
    assert changed_addresses(old, plan(port(5))) == {"172.31.0.4", "198.18.0.9"}
    replaced = msgspec.structs.replace(port(5), id="eni-9", mac="06:00:00:00:00:99")
    assert changed_addresses(old, plan(port(4, **public), replaced)) == {"172.31.0.5"}


def test_a_host_without_resolvers_lets_nothing_in() -> None:
    assert not any("th dport 53" in rule for rule in host_table(NAMES, "cloud", ()).chains["host"].rules)
    assert any(
        "192.0.2.1" in rule for rule in host_table(NAMES, "cloud", ("192.0.2.1",)).chains["host"].rules
    )


def test_a_guest_may_ask_the_services_of_its_link_only_so_often() -> None:
    """They are answered by processes that all guests share; EC2 bounds them in the same way."""
    table = filter_table(plan(port(4)), NAMES, "198.19.0.3")
    rules = list(table.chains["local"].rules)
    limit = next(number for number, rule in enumerate(rules) if "@asking" in rule)
    established = next(number for number, rule in enumerate(rules) if rule.startswith("ct state"))
    assert limit < established
    assert 'iifname != "up"' in rules[limit]
    assert "1024/second" in rules[limit]
    assert table.sets["asking"].flags == "dynamic,timeout"
    assert "timeout 60s;" in change_table(Table(name="inet gureum", counters=table.counters), table)


def first(rules: tuple[str, ...], part: str) -> int:
    return next(number for number, rule in enumerate(rules) if part in rule)


@pytest.mark.parametrize("chain", ["forward_egress", "local"])
def test_what_a_port_keeps_in_connection_tracking_is_bounded(chain: str) -> None:
    table = filter_table(plan(port(4)), NAMES, "198.19.0.3")
    rules = table.chains[chain].rules
    # Only what begins is counted, and how often that is done is bounded first: counting is not free.
    assert first(rules, "invalid : drop") < first(rules, "@rushing") < first(rules, "@flows")
    for rule in rules[first(rules, "@rushing") : first(rules, "@flows") + 2]:
        assert rule.startswith('iifname != "up" ')
        assert rule.endswith("counter name too_many_flows drop")
    assert "iifname ." in rules[first(rules, "@flows")]
    if chain == "forward_egress":
        assert first(rules, "@flows") < first(rules, "vmap @egress")


def test_what_a_guest_keeps_in_the_hosts_connection_tracking_is_bounded() -> None:
    table = host_table(NAMES, "cloud", ())
    rules = table.chains["forward"].rules
    assert first(rules, "established") < first(rules, "@rushing") < first(rules, "@flows")
    for rule in rules[first(rules, "@rushing") : first(rules, "@flows") + 2]:
        assert rule.startswith('iifname "gu0-*" ct state new ')
        assert "{ ip saddr " in rule
    assert "too_many_flows" in table.counters
    assert {"rushing", "flows"} <= table.sets.keys()


def test_more_ports_are_no_more_rules() -> None:
    """Flows are counted by elements, which packets make."""

    def size(*ports: PortSpec) -> int:
        table = filter_table(plan(*ports), NAMES, "198.19.0.3")
        return sum(len(chain.rules) for chain in table.chains.values())

    assert size(*(port(number) for number in range(4, 100))) == size(port(4))


def test_sets_say_how_much_they_hold() -> None:
    """The kernel makes room for that at once, in each VPC."""
    table = filter_table(plan(port(4)), NAMES, "198.19.0.3")
    assert all(value.size for value in table.sets.values() if value.flags.startswith("dynamic"))
    assert " size 65536;" in change_table(Table(name="inet gureum", counters=table.counters), table)
