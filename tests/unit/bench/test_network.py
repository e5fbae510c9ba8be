from __future__ import annotations

from gureum.bench.network import changes, cloud, group
from gureum.network.groups import compile_group
from gureum.network.names import Names
from gureum.network.plan import make_plan


def test_no_two_groups_have_a_rule_in_common() -> None:
    own = [
        {(rule.cidr, rule.protocol, rule.from_port) for rule in group(number).rules if not rule.egress}
        for number in (0, 1, 255, 256, 999)
    ]
    assert sum(map(len, own)) == len(set().union(*own)) == 5 * 49
    assert len(compile_group(group(999), egress=False)) == 1


def test_changes_are_of_one_thing() -> None:
    before = cloud(3, rules=4)
    found = changes(before)
    assert {name: len(spec.ports) for name, spec in found.items()} == {
        "one port more": 4,
        "one rule more": 3,
        "one port less": 2,
    }
    assert len(found["one rule more"].groups[0].rules) == len(before.groups[0].rules) + 1
    assert found["one rule more"].groups[1:] == before.groups[1:]
    assert make_plan(cloud(1000, rules=2), Names(0).public)[1].ports
