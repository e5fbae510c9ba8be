"""The rules of security groups as chains and sets, and where packets of ports with these groups go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from gureum.hostspec import GroupSpec
from gureum.network.acls import IN, OUT, refusal
from gureum.network.groups import FOUR, SIX, Family, compile_group, member_set
from gureum.network.plan import VpcPlan
from gureum.network.ruleset import Chain, Set


class Rules(msgspec.Struct, frozen=True):
    """Of a group, in one direction: its chain, the same as the only one of a port, and the sets of both."""

    chain: Chain
    alone: Chain
    sets: dict[str, Set]


class Compiler:
    """The rules of groups, by id, for ingress and for egress; of those that it knows already, the same."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[GroupSpec, tuple[Rules, Rules]]] = {}

    def compile(self, groups: Mapping[str, GroupSpec]) -> dict[str, tuple[Rules, Rules]]:
        known = self._known
        self._known = {
            id: found
            if (found := known.get(id)) is not None and (found[0] is group or found[0] == group)
            else (group, (_rules(group, IN), _rules(group, OUT)))
            for id, group in groups.items()
        }
        return {id: rules for id, (_, rules) in self._known.items()}

    def renew(self, groups: Mapping[str, GroupSpec]) -> dict[str, Set] | None:
        """The sets of these groups, of those that are known, by name; None if these need other sets or chains
        than before.
        """
        sets: dict[str, Set] = {}
        for id, group in groups.items():
            had = self._known[id][1] if id in self._known else ()
            self._known[id] = group, (_rules(group, IN), _rules(group, OUT))
            for old, new in zip(had, self._known[id][1], strict=False):
                if old.chain != new.chain or old.sets.keys() != new.sets.keys():
                    return None
                sets |= new.sets
            if not had:
                return None
        return sets


def renewed_sets(old: VpcPlan, new: VpcPlan, compiler: Compiler) -> dict[str, Set] | None:
    """The sets that are different if nothing is but rules of groups, and members; None if chains are, too."""
    if old.groups.keys() != new.groups.keys() or old.members.keys() != new.members.keys():
        return None
    sets = compiler.renew({id: each for id, each in new.groups.items() if old.groups[id] is not each})
    if sets is not None:
        for id, addresses in new.members.items():
            if old.members[id] is not addresses:
                sets[member_set(id)] = address_set(FOUR, addresses)
            if old.members6[id] is not new.members6[id]:
                sets[member_set(id, SIX)] = address_set(SIX, new.members6[id])
    return sets


def address_set(family: Family, addresses: Iterable[str]) -> Set:
    return Set(family.type, dict.fromkeys(addresses, ""))


class Bundle(NamedTuple):
    verdict: str
    chains: dict[str, Chain]
    sets: dict[str, Set]


def bundle(compiled: Mapping[str, tuple[Rules, Rules]], direction: str, groups: tuple[str, ...]) -> Bundle:
    """Where the packets of ports with these groups go, and what is needed for that.

    Most ports have one group, and most groups let everything out: then there is one chain less, or none.
    What most groups let out is the same: chains for that are shared, if they have no sets of their own.
    """
    refused = f"goto {refusal(direction)}"
    own = [(id, rules) for id in groups if (rules := compiled[id][direction == OUT]).chain.rules]
    if any(rules.chain is EVERYTHING for _, rules in own):
        return Bundle("accept", {}, {})
    if not own:
        return Bundle(refused, {}, {})
    if len(own) == 1:
        id, rules = own[0]
        shared = direction == OUT and not rules.sets
        name = f"{direction}_only_{_digest(rules.chain.rules) if shared else id}"
        return Bundle(f"goto {name}", {name: rules.alone}, rules.sets)
    name = f"{direction}_bundle_{_digest(tuple(id for id, _ in own))}"
    chains = {f"{direction}_{id}": rules.chain for id, rules in own}
    sets = {key: found for _, rules in own for key, found in rules.sets.items()}
    jumps = Chain((*(f"jump {key}" for key in chains), refused))
    return Bundle(f"goto {name}", {name: jumps, **chains}, sets)


EVERYTHING = Chain(("accept",))


@lru_cache(maxsize=16384)
def _digest(texts: tuple[str, ...]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _rules(group: GroupSpec, direction: str) -> Rules:
    lines: list[str] = []
    sets: dict[str, Set] = {}
    for rule in compile_group(group, direction == OUT):
        if isinstance(rule, str):
            lines.append(rule)
            continue
        # A set of another kind is another set: what it is cannot be changed.
        name = f"{direction}_{rule.kind}_{group.id}"
        sets[name] = Set(
            rule.type, dict.fromkeys(rule.elements, ""), flags="interval" if rule.interval else ""
        )
        lines.append(f"{rule.match} @{name} accept")
    chain = Chain(tuple(lines))
    if chain == EVERYTHING:
        return Rules(EVERYTHING, EVERYTHING, {})
    return Rules(chain, Chain((*lines, f"goto {refusal(direction)}")), sets)
