"""The records that an instance's item is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gureum.resources import Instance, NetworkInterface, Record, SecurityGroup, Volume, Vpc
from gureum.services.operation import Context


class Parts(NamedTuple):
    """The records that an item is made of. What is gone already is left out."""

    instance: Instance
    interfaces: tuple[NetworkInterface, ...]
    volumes: tuple[Volume, ...]
    groups: tuple[SecurityGroup, ...]
    vpc: Vpc | None

    def same(self, other: Parts) -> bool:
        return (
            self.instance is other.instance
            and self.vpc is other.vpc
            and _same(self.interfaces, other.interfaces)
            and _same(self.volumes, other.volumes)
            and _same(self.groups, other.groups)
        )


def _same(some: Sequence[Record], others: Sequence[Record]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


async def gather(ctx: Context, instances: Sequence[Instance]) -> list[Parts]:
    """Each instance's parts, with one query per kind of record."""
    tx = ctx.tx
    interfaces = _by_id(
        await tx.get_many(NetworkInterface, {id for instance in instances for id in instance.interfaces})
    )
    volumes = _by_id(
        await tx.get_many(Volume, {d.volume for instance in instances for d in instance.devices})
    )
    groups = _by_id(
        await tx.get_many(SecurityGroup, {id for interface in interfaces.values() for id in interface.groups})
    )
    vpcs = _by_id(await tx.get_many(Vpc, {instance.vpc for instance in instances}))
    parts = []
    for instance in instances:
        own = tuple(interfaces[id] for id in instance.interfaces if id in interfaces)
        ids = dict.fromkeys(id for interface in own for id in interface.groups)
        parts.append(
            Parts(
                instance,
                own,
                tuple(volumes[d.volume] for d in instance.devices if d.volume in volumes),
                tuple(groups[id] for id in ids if id in groups),
                vpcs.get(instance.vpc),
            )
        )
    return parts


def _by_id(records: Iterable[Any]) -> dict[str, Any]:
    return {record.id: record for record in records}
