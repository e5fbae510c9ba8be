from __future__ import annotations

from gureum.network.ruleset import (
    Chain,
    Set,
    Table,
    change_elements,
    change_table,
    changed_elements,
    contents,
    emptied,
    replace_table,
    with_sets,
)

HOOK = "type filter hook forward priority 0; policy drop;"


def table(**parts: object) -> Table:
    values: dict[str, object] = {"name": "inet t", "counters": ("c",), **parts}
    return Table(**values)  # type: ignore[arg-type]


def test_replacing_declares_before_it_uses() -> None:
    text = replace_table(
        table(
            comment="me",
            sets={"m": Set("ifname : verdict", {'"a"': "goto x"})},
            chains={"base": Chain(("iifname vmap @m",), HOOK), "x": Chain(("drop",))},
        )
    )
    assert text.splitlines() == [
        "table inet t",
        "delete table inet t",
        'add table inet t { comment "me"; }',
        "add counter inet t c",
        "add map inet t m { type ifname : verdict; }",
        f"add chain inet t base {{ {HOOK} }}",
        "add chain inet t x",
        "add rule inet t base iifname vmap @m",
        "add rule inet t x drop",
        'add element inet t m { "a" : goto x }',
    ]


def test_no_change_is_no_transaction() -> None:
    one = table(sets={"s": Set("ipv4_addr", {"10.0.0.1": ""})}, chains={"x": Chain(("drop",))})
    two = table(sets={"s": Set("ipv4_addr", {"10.0.0.1": ""})}, chains={"x": Chain(("drop",))})
    assert change_table(one, two) == ""


def test_elements_that_changed() -> None:
    old = table(sets={"m": Set("ipv4_addr : ipv4_addr", {"1.1.1.1": "2.2.2.2", "3.3.3.3": "4.4.4.4"})})
    new = table(sets={"m": Set("ipv4_addr : ipv4_addr", {"1.1.1.1": "9.9.9.9", "5.5.5.5": "6.6.6.6"})})
    assert change_table(old, new).splitlines() == [
        "delete element inet t m { 1.1.1.1, 3.3.3.3 }",
        "add element inet t m { 1.1.1.1 : 9.9.9.9, 5.5.5.5 : 6.6.6.6 }",
    ]


def test_a_chain_that_changed_is_refilled() -> None:
    old = table(chains={"x": Chain(("accept",)), "y": Chain(("drop",))})
    new = table(chains={"x": Chain(("drop",)), "y": Chain(("drop",))})
    assert change_table(old, new).splitlines() == ["flush chain inet t x", "add rule inet t x drop"]


def test_chains_and_sets_go_after_what_uses_them() -> None:
    old = table(
        sets={"m": Set("ifname : verdict", {'"a"': "goto x"}), "s": Set("ipv4_addr")},
        chains={"base": Chain(("iifname vmap @m",), HOOK), "x": Chain(("ip saddr @s accept",))},
    )
    new = table(sets={"m": Set("ifname : verdict")}, chains={"base": Chain(("iifname vmap @m",), HOOK)})
    assert change_table(old, new).splitlines() == [
        "flush chain inet t x",
        'delete element inet t m { "a" }',
        "flush set inet t s",
        "delete chain inet t x",
        "delete set inet t s",
    ]


def test_another_shape_is_replaced_whole() -> None:
    assert change_table(table(), table(comment="other")).startswith("table inet t\ndelete table inet t\n")


def test_elements_alone_are_told_apart() -> None:
    chains = {"x": Chain(("drop",))}
    one, other = (
        Set("ipv4_addr", {"1.1.1.1": "", "2.2.2.2": ""}),
        Set("ipv4_addr", {"2.2.2.2": "", "3.3.3.3": ""}),
    )
    old = table(sets={"s": one, "t": one}, chains=chains)
    new = table(sets={"s": other, "t": one}, chains=dict(chains))
    found = changed_elements(old, new)
    assert found is not None
    assert change_elements(found) == change_table(old, new)
    assert with_sets(old, {"s": other, "unknown": other}) == (new, found)
    assert changed_elements(old, old) == []
    assert changed_elements(old, table(sets=old.sets, chains={"x": Chain(("accept",))})) is None
    assert changed_elements(old, table(sets={"s": one}, chains=chains)) is None
    assert changed_elements(old, table(sets=old.sets, chains=chains, comment="other")) is None


def test_what_fills_a_table() -> None:
    full = table(sets={"s": Set("ipv4_addr", {"1.1.1.1": ""}), "e": Set("ipv4_addr")}, chains={})
    assert replace_table(emptied(full)) + change_elements(contents(full)) == replace_table(full)
