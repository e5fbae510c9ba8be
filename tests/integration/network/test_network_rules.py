"""A change of rules alone: it touches what it changes, and after a failure everything is looked at again."""

from __future__ import annotations

import re

import msgspec
import pytest

from gureum.errors import NetworkError
from gureum.hostspec import GroupSpec, NetworkSpec, RuleSpec
from gureum.network import elements
from gureum.network import vpc as network_vpc
from gureum.network.namespaces import command, visit

from .conftest import ALL_OUT, INDEX, Rig, port, spec

pytestmark = pytest.mark.root

A, B = port(5, groups=("sg-1",)), port(6, groups=("sg-2",))
OUT = GroupSpec(id="sg-2", rules=(ALL_OUT,))


def web(*ports: int, peer: bool = False) -> NetworkSpec:
    rules = [RuleSpec(protocol="tcp", from_port=each, to_port=each, cidr="172.31.0.0/16") for each in ports]
    if peer:
        rules.append(RuleSpec(group="sg-2"))
    groups = (GroupSpec(id="sg-1", rules=(ALL_OUT, *rules)), OUT)
    return spec(A, B, groups=groups, members={"sg-2": (B.private_ip,)} if peer else {})


def ruleset() -> list[str]:
    """Sets have no order, and chains have that in which they came."""
    text = visit(f"gm{INDEX}-1", lambda: command(["nft", "-s", "list", "ruleset"]))
    # What packets put into sets, to count with.
    text = re.sub(r"elements = \{[^}]*(limit|ct count)[^}]*\}", "", text)
    return sorted(" ".join(sorted(line.replace(",", " ").split())) for line in text.splitlines())


async def test_a_rule_is_one_element_and_nobody_asks_what_there_is(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.network.apply(web(80))
    a, b = await rig.guest(A), await rig.guest(B)
    told: list[str] = []
    monkeypatch.setattr(network_vpc, "nft", told.append)
    with a.listen(80), a.listen(81):
        for ports in ((80, 81), (81,), (80,)):
            await rig.network.apply(web(*ports))
            reached = [each for each in (80, 81) if await rig.call(b.reaches, a.ip, each)]
            assert reached == list(ports)
        assert told == []
    monkeypatch.undo()
    # Groups, members and kinds of rules that come and go.
    for current in (web(80, peer=True), web(), web(81), web(81, 82, peer=True)):
        await rig.network.apply(current)
        changed = ruleset()
        await rig.network.close()
        rig.network = rig.make_network()
        await rig.network.apply(current)
        assert not set(ruleset()) ^ set(changed)


async def test_after_a_failure_everything_is_made_anew(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.network.apply(web(80))
    before = ruleset()

    def fail(batches: object) -> None:
        raise NetworkError("the kernel says no")

    monkeypatch.setattr(elements, "commit", fail)
    with pytest.raises(NetworkError, match="says no"):
        await rig.network.apply(web(80, 81))
    monkeypatch.undo()
    # Nobody knows what is there now: something else is.
    visit(f"gm{INDEX}-1", lambda: command(["nft", "flush", "set", "inet", "gureum", "in_4pr_sg-1"]))
    await rig.network.apply(web(80))
    assert ruleset() == before


async def test_nonsense_changes_nothing(rig: Rig) -> None:
    await rig.network.apply(web(80))
    before = ruleset()
    bad = RuleSpec(protocol="tcp", from_port=9, to_port=8, cidr="0.0.0.0/0")
    groups = (GroupSpec(id="sg-1", rules=(bad,)), OUT)
    with pytest.raises(NetworkError):
        await rig.network.apply(msgspec.structs.replace(web(80), groups=groups))
    assert ruleset() == before
    await rig.network.apply(web(80, 81))
    assert ruleset() != before
