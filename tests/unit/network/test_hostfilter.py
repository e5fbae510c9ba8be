"""The host's filter: guests find nothing where the storage is."""

from __future__ import annotations

from gureum.network.hostfilter import Outside6, host_table
from gureum.network.names import Names

NAMES = Names(47)


def forward(*storage: str) -> list[str]:
    return list(host_table(NAMES, "c", (), storage=storage).chains["forward"].rules)


def test_storage_is_denied_before_all_but_answers_is_accepted() -> None:
    """To the machine on which it is, which may ask guests."""
    rules = forward("10.0.0.1", "10.0.0.0/31", "fd00::1", "10.9.0.0/24")
    drops = [
        'iifname "gu47*" ip daddr { 10.0.0.0/31, 10.9.0.0/24 } counter name denied_storage drop',
        'iifname "gu47*" ip6 daddr { fd00::1/128 } counter name denied_storage drop',
    ]
    assert [rule.replace(NAMES.uplink_prefix, "gu47") for rule in rules[1:3]] == drops
    assert "ct direction reply ct state { established, related } accept" in rules[0]
    assert "accept" in rules[3]


def test_without_storage_there_is_no_such_rule() -> None:
    assert not [rule for rule in forward() if "denied_storage" in rule]


def test_whatever_is_hidden_behind_the_host_does_not_get_to_other_hosts() -> None:
    """They would take it for their neighbour, the host."""
    six = Outside6(networks=("fd80::/32",), hidden=("fd80::/32",), guests=("fd80::/56",))
    chains = host_table(NAMES, "c", (), uplink="eth0", six=six).chains
    [hidden] = [rule for rule in chains["hide"].rules if "ip6 saddr" in rule]
    sources = hidden.partition("{")[2].partition("}")[0]
    assert "fd67:75:1:" in sources
    [denied] = [rule for rule in chains["forward"].rules if "rt ip6 nexthop" in rule]
    assert f"ip6 saddr {{{sources}}}" in denied
    assert denied.endswith("drop")
