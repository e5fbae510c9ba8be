"""What can't be done to an instance while it may go on at one host or the other."""

from __future__ import annotations

from gureum.resources import Instance, InstanceMigration, Volume
from gureum.resources.migration import UNDECIDED
from gureum.services.ec2.faults import incorrect_state
from gureum.store.base import Reader


async def require_settled(reader: Reader, instance: Instance) -> None:
    """Raises IncorrectState while devices have to stay as they are."""
    migration = await reader.get(InstanceMigration, instance.migration) if instance.migration else None
    if migration is not None and migration.state in UNDECIDED:
        raise incorrect_state(
            f"Instance '{instance.id}' is being migrated to host {migration.destination}: wait until it is "
            "there, or cancel that (CancelInstanceMigration)."
        )


async def require_volume_settled(reader: Reader, volume: Volume) -> None:
    """The same for a volume of an instance."""
    for instance in await reader.get_many(Instance, volume.instances):
        await require_settled(reader, instance)
