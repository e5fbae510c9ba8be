"""Random clouds: what the generated rules say is what the reference model says."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import msgspec
import pytest

from gureum.hostspec import NetworkSpec
from gureum.network.reach import Path, trace
from gureum.network.ruleset import Chain, Table
from support import topologies
from support.nftworld import Change, World

CLOUDS = 700
PROBES = 12


def probes(rng: random.Random, spec: NetworkSpec) -> Iterator[tuple[str, str, str, int]]:
    """Source, address, protocol, and port or type."""
    sources = [port for port in spec.ports if port.instance]
    for _ in range(PROBES):
        source, target = rng.choice(sources), rng.choice(spec.ports)
        six = bool(source.ipv6) and rng.random() < 0.4
        addresses = [*target.ipv6] if six else [target.private_ip, *filter(None, [target.public_ip])]
        addresses += [topologies.OUTSIDE6 if six else topologies.OUTSIDE]
        if not addresses or target == source:
            continue
        protocol = rng.choice(("tcp", "tcp", "udp", "icmpv6" if six else "icmp"))
        kinds = {"icmp": (8,), "icmpv6": (128,)}.get(protocol, topologies.PORTS)
        yield source.id, rng.choice(addresses), protocol, rng.choice(kinds)


def clear(spec: NetworkSpec, address: str, path: Path) -> bool:
    """Whether the model says what it means: of an answer that takes another way it only says that there is
    one, and a machine that passes something on may answer for any address but the cloud's public ones.
    """
    ways = [hop.why for hop in path.hops if hop.step == "route"]
    back = [hop.why for hop in path.answer if hop.step == "answer: route"]
    if any("passes it on" in hop.why for hop in path.hops):
        return not address.startswith("198.18.") and all(why.endswith("local") for why in back)
    targets = {why.rpartition(" ")[2] for why in ways}
    return all(why.rpartition(" ")[2] in targets for why in back)


def disagreements(seed: int, clouds: int, change: Change | None = None) -> tuple[list[object], int, int]:
    """What model and rules say differently, how much passed, and how much was asked."""
    rng = random.Random(seed)
    found: list[object] = []
    passed = asked = 0
    for _ in range(clouds):
        spec = topologies.topology(rng)
        world = World(spec, change)
        for source, address, protocol, number in probes(rng, spec):
            path = trace(spec, source, address, protocol, number)
            if not clear(spec, address, path):
                continue
            asked += 1
            passed += path.passes
            if world.passes(source, address, protocol, number) != path.passes:
                found.append((spec, source, address, protocol, number, path))
    return found, passed, asked


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rules_and_model_agree(seed: int) -> None:
    found, passed, asked = disagreements(seed, CLOUDS)
    assert not found, found[0]
    assert asked > 7 * CLOUDS
    assert passed > CLOUDS


def rewrite(table: Table, wanted: str, change: Callable[[str, Chain], Chain]) -> Table:
    """With other chains in place of those whose names begin so."""
    chains = {
        key: change(key, chain) if key.startswith(wanted) else chain for key, chain in table.chains.items()
    }
    return msgspec.structs.replace(table, chains=chains)


def backwards(table: Table) -> Table:
    """Entries of ACLs in the wrong order."""
    return rewrite(
        table, "acl_", lambda _, chain: Chain((*reversed(chain.rules[:-1]), chain.rules[-1]), chain.hook)
    )


def swapped(table: Table) -> Table:
    """What ports get is asked the rules for what they send."""
    sets = {**table.sets, "ingress": table.sets["egress"]}
    return msgspec.structs.replace(table, sets=sets)


def other_members(table: Table) -> Table:
    """The members of another group."""
    if "m_sg-1" not in table.sets or "m_sg-2" not in table.sets:
        return table
    sets = {**table.sets, "m_sg-1": table.sets["m_sg-2"]}
    return msgspec.structs.replace(table, sets=sets)


def stateful(table: Table) -> Table:
    """ACLs that are asked only when a flow begins."""

    def late(_: str, chain: Chain) -> Chain:
        rules = [rule for rule in chain.rules if "@acl_" not in rule]
        acl = [rule for rule in chain.rules if "@acl_" in rule]
        at = next(number for number, rule in enumerate(rules) if rule.startswith("ct state")) + 1
        return Chain((*rules[:at], *acl, *rules[at:]), chain.hook)

    return rewrite(table, "forward_", late)


def inside_too(table: Table) -> Table:
    """ACLs that are asked for what stays in its subnet."""
    return rewrite(
        table, "border_", lambda _, chain: Chain(tuple(r for r in chain.rules if "return" not in r))
    )


@pytest.mark.parametrize("mistake", [backwards, swapped, other_members, stateful, inside_too])
def test_mistakes_are_found(mistake: Change) -> None:
    found, _, _ = disagreements(1, 200, mistake)
    assert found
