"""What must always hold of instances that get another type by what they use."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from gureum.control.autosize import within
from gureum.resources import Instance, InstanceMigration
from gureum.resources.migration import UNDER_WAY
from gureum.services.ec2.instance_types import TYPES
from gureum.sim.violation import Violation
from gureum.store.base import Reader

if TYPE_CHECKING:
    from gureum.sim.world import World


class Last(NamedTuple):
    """What was known of an instance: its policy's last change, when that was found, and its type."""

    changed: float
    found: float
    type: str


async def always(world: World, reader: Reader, instances: Collection[Instance]) -> None:
    """A change for what an instance uses is to a type within its bounds, and the next is after its rest."""
    now = asyncio.get_running_loop().time()
    for instance in instances:
        policy, before = instance.autosize, world.autosized.get(instance.id)
        if policy is None:
            continue
        type = await _becomes(reader, instance)
        if before is None or policy.changed == before.changed:
            found = before.found if before is not None else now
            world.autosized[instance.id] = Last(policy.changed, found, type)
            continue
        world.autosized[instance.id] = Last(policy.changed, now, type)
        if type != before.type and not within(policy, TYPES[type]):
            raise Violation(
                f"{instance.id} became a {type}, outside of {policy.smallest} to {policy.largest}"
            )
        passed = max(policy.changed - before.changed, now - before.found)
        if before.changed and passed < policy.cooldown:
            raise Violation(f"{instance.id} became a {type} {passed:g} s after it became a {before.type}")


async def _becomes(reader: Reader, instance: Instance) -> str:
    migration = await reader.get(InstanceMigration, instance.migration) if instance.migration else None
    return migration.type if migration is not None and migration.state in UNDER_WAY else instance.type
