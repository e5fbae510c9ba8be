"""Plans of one NetworkSpec after the other: what stayed the same costs nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import IPv4Network

import msgspec

from gureum.hostspec import GroupSpec, NetworkSpec
from gureum.network import checks
from gureum.network.groups import expanded
from gureum.network.plan import PortPlans, VpcPlan, make_plan, referenced

RULES = ("groups", "members", "members6")
"""What of a plan says which flows its ports may have, and nothing else."""
RULE_PARTS = ("groups", "members", "prefixes")
"""The parts of a spec that make it."""


def differs_in_rules(old: VpcPlan, new: VpcPlan) -> bool:
    """Whether all else is the same."""
    return _same_but(RULES, old, new)


def _same_but(names: Collection[str], old: msgspec.Struct, new: msgspec.Struct) -> bool:
    """What stayed is mostly the same object, which is quick to see."""
    pairs = ((getattr(old, name), getattr(new, name)) for name in old.__struct_fields__ if name not in names)
    return all(one is other or one == other for one, other in pairs)


class Planner:
    """Makes plans of one spec after the other: what stayed the same is the same object, in the next plans,
    too, and if only rules changed, no more is looked at than these.
    """

    def __init__(self, public: IPv4Network) -> None:
        self._public = public
        self._spec: NetworkSpec | None = None
        self._plans: dict[int, VpcPlan] = {}
        self._ports: PortPlans = {}

    def plan(self, spec: NetworkSpec) -> dict[int, VpcPlan]:
        """As ``make_plan``."""
        old = self._spec
        if old is not None and _same_but(RULE_PARTS, old, spec):
            plans = self._with_rules(old, spec)
        else:
            plans = make_plan(spec, self._public, self._ports)
            plans = {id: _kept(self._plans.get(id), plan) for id, plan in plans.items()}
        self._spec, self._plans = spec, plans
        return plans

    def _with_rules(self, old: NetworkSpec, spec: NetworkSpec) -> dict[int, VpcPlan]:
        had = {group.id: group for group in old.groups}
        same_prefixes = old.prefixes == spec.prefixes
        changed = {
            checks.name(group.id): expanded(group, spec.prefixes)
            for group in spec.groups
            if had.pop(group.id, None) is not group or not same_prefixes
        }
        changed |= {id: GroupSpec(id=id) for id in had}
        return {id: _with_rules(plan, changed, spec.members, old.members) for id, plan in self._plans.items()}


def _with_rules(
    plan: VpcPlan,
    changed: Mapping[str, GroupSpec],
    members: Mapping[str, tuple[str, ...]],
    had: Mapping[str, tuple[str, ...]],
) -> VpcPlan:
    """The plan with other groups, and with these ``members`` where it had others."""
    groups = dict(plan.groups)
    groups.update({id: changed[id] for id in changed.keys() & groups.keys() if changed[id] != groups[id]})
    regrouped = [id for id in changed.keys() & groups.keys() if groups[id] is not plan.groups[id]]
    named = set(plan.members)
    if any(referenced(groups[id]) != referenced(plan.groups[id]) for id in regrouped):
        named = {id for group in groups.values() for id in referenced(group)}
    renewed = {
        id: checks.addresses(members.get(id, ()))
        for id in named
        if id not in plan.members or members.get(id) != had.get(id)
    }
    if not regrouped and not renewed and named == plan.members.keys():
        return plan
    order = sorted(named)
    return msgspec.structs.replace(
        plan,
        groups=groups if regrouped else plan.groups,
        members={id: renewed[id][0] if id in renewed else plan.members[id] for id in order},
        members6={id: renewed[id][1] if id in renewed else plan.members6[id] for id in order},
    )


def _kept(old: VpcPlan | None, new: VpcPlan) -> VpcPlan:
    """``new``, with the objects of ``old`` where they are equal."""
    if old is None:
        return new
    same = {
        name: value
        for name in new.__struct_fields__
        if (value := getattr(old, name)) is not getattr(new, name) and value == getattr(new, name)
    }
    kept = msgspec.structs.replace(new, **same)
    return old if all(getattr(old, name) is getattr(kept, name) for name in kept.__struct_fields__) else kept
