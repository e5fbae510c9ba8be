"""What the spec of a host says of instances that come to it, or leave it, by live migration."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from gureum.control.fleet import COMES
from gureum.hostspec import MachineSpec
from gureum.migrationspec import IncomingSpec, OutgoingSpec
from gureum.resources import Instance, InstanceMigration, InstanceState, MigrationState, Volume
from gureum.resources.migration import UNDECIDED, UNDER_WAY
from gureum.store.base import Reader


class Passages(NamedTuple):
    """``migrations``: by instance, those under way from or to the host. ``guests``: instances that are not
    the host's, or not yet or no more, and have a machine on it. ``strays``: volumes of which it was lost with
    a copy.
    """

    host: str
    migrations: dict[str, InstanceMigration]
    guests: tuple[Instance, ...]
    strays: tuple[str, ...]

    @classmethod
    async def load(cls, reader: Reader, host: str) -> Passages:
        states = [str(state) for state in UNDER_WAY]
        leaving = await reader.find(InstanceMigration, source=host, state=states)
        coming = await reader.find(InstanceMigration, destination=host, state=states)
        found = {each.instance: each for each in (*leaving, *coming)}
        wanted = {
            *(
                each.instance
                for each in leaving
                if each.state is MigrationState.switching and not each.released
            ),
            *(each.instance for each in coming if each.state in COMES),
        }
        guests = [each for each in await reader.get_many(Instance, wanted) if each.host != host]
        strays = tuple(each.id for each in await reader.find(Volume, strays=host))
        return cls(host, found, tuple(sorted(guests, key=lambda each: each.id)), strays)

    def machine(self, instance: Instance, spec: MachineSpec) -> MachineSpec | None:
        """The machine as it is to be here; None for none."""
        migration = self.migrations.get(instance.id)
        if migration is None:
            return spec
        if instance.host == self.host:
            return replace(spec, outgoing=_outgoing(instance, migration, self.host) if spec.run else None)
        if self.host == migration.source:
            return _ended(spec, migration.source_generation)
        if migration.state not in UNDECIDED or not _goes(instance, migration) or not spec.run:
            return _ended(spec, migration.generation)
        if migration.layout is None:
            return None
        incoming = IncomingSpec(
            migration=migration.id,
            secret=migration.secret,
            layout=migration.layout,
            copies=migration.copies,
        )
        return replace(spec, generation=migration.generation, incoming=incoming)

    @property
    def volumes(self) -> dict[str, str]:
        """Volumes that the machines of guests may have open here, and whose."""
        return {id: guest.id for guest in self.guests for id in self.migrations[guest.id].volumes}

    @property
    def copies(self) -> dict[str, bool]:
        """Volumes of which there is a copy in the host's own pool, besides the volume itself on another host;
        and whether it is to be there.
        """
        found = dict.fromkeys(self.strays, False)
        for each in self.migrations.values():
            if each.destination == self.host and each.state in COMES:
                found |= dict.fromkeys(each.copies, each.state in UNDECIDED)
            elif each.source == self.host and each.state is MigrationState.switching:
                found |= dict.fromkeys(each.copies, not each.taken)
        return found

    def receives(self, volume: Volume) -> bool:
        """Whether a machine of another host has the volume, and may come here."""
        migration = self.migrations.get(self.volumes.get(volume.id, ""))
        return migration is not None and migration.destination == self.host

    def takes(self, volume: Volume) -> bool:
        """Whether its machine came here, and the host that it came from has let go of the volume."""
        came = (self.migrations.get(id) for id in volume.instances)
        return volume.host == self.host and any(
            each is not None and each.destination == self.host and each.released and volume.id in each.volumes
            for each in came
        )


async def standby(reader: Reader, host: str) -> list[str]:
    """Instances of other hosts that may come to this one."""
    states = [str(state) for state in UNDECIDED]
    return [each.instance for each in await reader.find(InstanceMigration, destination=host, state=states)]


def _goes(instance: Instance, migration: InstanceMigration) -> bool:
    """Whether the machine is still the one that migrates, and is to."""
    runs = instance.state is InstanceState.running and not instance.capturing
    same = instance.generation == migration.source_generation and instance.reboots == migration.reboots
    return runs and same


def _outgoing(instance: Instance, migration: InstanceMigration, host: str) -> OutgoingSpec | None:
    if host != migration.source or migration.state not in UNDECIDED or not _goes(instance, migration):
        return None
    return OutgoingSpec(
        migration=migration.id,
        secret=migration.secret,
        address=migration.address,
        bytes_per_second=migration.bytes_per_second,
        copies=migration.copies,
        disks_address=migration.disks_address,
    )


def _ended(spec: MachineSpec, generation: int) -> MachineSpec:
    """Of this generation there is to be none any more; it is told when other hosts can have its volumes."""
    return replace(spec, generation=generation, run=False, shutdown_seconds=0.0)
