"""What must always hold of instances that get another type by what they use."""

from __future__ import annotations

import asyncio
from typing import cast

from msgspec.structs import replace

from gureum.control.autosize import within
from gureum.resources import Instance, InstanceMigration
from gureum.services.ec2.instance_types import TYPES
from gureum.sim.violation import Violation
from gureum.store.view import Writes


class Sizes:
    """A change for what an instance uses is to a type within its bounds, and the next is after its rest.

    It looks at each commit, so it sees the policy by which the change was decided.
    """

    def __init__(self) -> None:
        self._changed: dict[str, float] = {}
        """When the last change of an instance was committed, on the event loop's clock."""
        self._wrong = ""

    def committed(self, writes: Writes) -> None:
        for (kind, id), write in writes.items():
            if kind == Instance.kind and write.before is not None and write.after is not None:
                before, after = cast(Instance, write.before), cast(Instance, write.after)
                self._wrong = self._wrong or self._judged(id, before, after, writes)

    def _judged(self, id: str, before: Instance, after: Instance, writes: Writes) -> str:
        was, policy = before.autosize, after.autosize
        if was is None or policy is None or policy.changed == was.changed:
            return ""
        if replace(was, changed=policy.changed) != policy:
            return ""  # two commits at once: by which policy is not seen
        now = asyncio.get_running_loop().time()
        last, self._changed[id] = self._changed.get(id, now), now
        type = _becomes(after, writes)
        if not within(policy, TYPES[type]):
            return f"{id} became a {type}, outside of {policy.smallest} to {policy.largest}"
        passed = max(policy.changed - was.changed, now - last)
        if was.changed and passed < policy.cooldown:
            return f"{id} became a {type} {passed:g} s after it became a {before.type}"
        return ""

    def always(self) -> None:
        if self._wrong:
            raise Violation(self._wrong)


def _becomes(instance: Instance, writes: Writes) -> str:
    write = writes.get((InstanceMigration.kind, instance.migration))
    begun = write.after if write is not None else None
    return begun.type if isinstance(begun, InstanceMigration) else instance.type
