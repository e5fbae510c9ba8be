"""Machines on their way between hosts, as one host carries it out. Whether one goes is the manager's to say.

A machine that came here goes on only under a spec that wants it to run and says nothing of its coming. One
that has gone goes on here only under a spec that wants this very run of it, and says nothing of its going.
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hostspec import MachineSpec, MachineState
from gureum.hypervisors.base import Hypervisor, Incoming, MachineStatus, Migration, Outgoing
from gureum.migrationspec import IncomingSpec, MachineLayout, MigrationPhase, MigrationReport, OutgoingSpec

log = logging.getLogger(__name__)


class Passages:
    """``address``: where other hosts reach this one, "" if there are none."""

    def __init__(self, env: Env, hypervisor: Hypervisor, address: str) -> None:
        self._env = env
        self._hypervisor = hypervisor
        self._address = address
        self._layouts: dict[str, tuple[str, MachineLayout]] = {}
        """By machine, that of a migration."""
        self._errors: dict[str, tuple[str, str]] = {}
        """By machine, why a migration could not begin."""

    def forget(self, id: str) -> None:
        self._layouts.pop(id, None)
        self._errors.pop(id, None)

    # To here

    def incoming(self, spec: IncomingSpec | None) -> Incoming | None:
        """What a machine is started with."""
        if spec is None:
            return None
        return Incoming(
            migration=spec.migration,
            secret=spec.secret,
            listen=self._address,
            layout=spec.layout,
            copies=spec.copies,
        )

    async def arrive(self, status: MachineStatus) -> bool:
        """Let a machine go on that came here and is to run now; False if it is none."""
        migration = status.migration
        if migration is None or not migration.incoming or status.state is not MachineState.starting:
            return False
        if migration.phase is MigrationPhase.completed:
            await self._hypervisor.go_on(status.id)
            self._env.crashpoint("agent.migration.arrived")
        else:
            # It has ended and was made anew since: what it had is lost with the host's power.
            await self._hypervisor.power_off(status.id)
        return True

    # From here

    async def leave(self, id: str, spec: OutgoingSpec, status: MachineStatus) -> None:
        """Say what is to be known of the machine, then let it go. What fails is reported."""
        try:
            if not spec.address:
                if self._layouts.get(id, ("",))[0] != spec.migration:
                    self._layouts[id] = spec.migration, await self._hypervisor.layout(id)
            elif status.migration is None or status.migration.phase is not MigrationPhase.completed:
                self._env.crashpoint("agent.migration.leave")
                await self._hypervisor.migrate(
                    id,
                    Outgoing(
                        migration=spec.migration,
                        secret=spec.secret,
                        address=spec.address,
                        bytes_per_second=spec.bytes_per_second,
                        copies=spec.copies,
                        disks_address=spec.disks_address,
                    ),
                )
                self._env.crashpoint("agent.migration.left")
        except HypervisorError as error:
            log.warning("%s can't leave: %s", id, error)
            self._errors[id] = spec.migration, str(error)

    async def stay(self, status: MachineStatus, spec: OutgoingSpec | None = None) -> bool:
        """Let a machine go on that was to leave, and is not to any more; False if it does.

        ``spec``: it is to leave now, perhaps for the second time.
        """
        migration = status.migration
        if migration is None or migration.incoming:
            return False
        if spec is not None and spec.migration == migration.migration:
            return False
        if migration.phase is MigrationPhase.copying:
            await self._hypervisor.cancel_migration(status.id)
            self._env.crashpoint("agent.migration.cancelled")
        elif migration.phase is MigrationPhase.completed and status.state is MachineState.paused:
            await self._hypervisor.go_on(status.id)
            self._env.crashpoint("agent.migration.stayed")
        else:
            return False
        return True

    def report(self, spec: MachineSpec, status: MachineStatus | None) -> MigrationReport | None:
        """What is said of the migration that the spec is about."""
        about = spec.incoming or spec.outgoing
        if about is None:
            return _left(spec, status)
        id = about.migration
        layout = self._layouts.get(spec.id)
        error = self._errors.get(spec.id)
        told = MigrationReport(
            migration=id,
            layout=layout[1] if layout is not None and layout[0] == id else None,
            error=error[1] if error is not None and error[0] == id else "",
        )
        same = status is not None and status.generation == spec.generation
        if spec.outgoing is not None and spec.outgoing.address and not (same and status and _there(status)):
            return MigrationReport(migration=id, error="the machine has ended")
        if status is None or not same or status.migration is None or status.migration.migration != id:
            return told
        seen = _told(status.migration)
        return replace(seen, layout=told.layout, error=seen.error or told.error)


def _told(seen: Migration) -> MigrationReport:
    return MigrationReport(
        migration=seen.migration,
        address=seen.address,
        phase=seen.phase,
        error=seen.error,
        copied_bytes=seen.copied_bytes,
        remaining_bytes=seen.remaining_bytes,
        total_bytes=seen.total_bytes,
        bytes_per_second=seen.bytes_per_second,
        passed_bytes_per_second=seen.passed_bytes_per_second,
        dirty_bytes_per_second=seen.dirty_bytes_per_second,
        downtime_ms=seen.downtime_ms,
        copy_ms=seen.total_ms,
        disks_address=seen.disks_address,
        copied=seen.copied,
        disk_done_bytes=seen.disk_done_bytes,
        disk_total_bytes=seen.disk_total_bytes,
    )


def _left(spec: MachineSpec, status: MachineStatus | None) -> MigrationReport | None:
    """What was counted of a machine that has gone elsewhere, and is to end here."""
    seen = status.migration if status is not None and status.generation == spec.generation else None
    if spec.run or seen is None or seen.incoming or seen.phase is not MigrationPhase.completed:
        return None
    return _told(seen)


def gone(status: MachineStatus) -> bool:
    """Whether its guest is held because it may be at another host now."""
    migration = status.migration
    held = status.state is MachineState.paused and migration is not None
    return held and migration is not None and migration.phase is MigrationPhase.completed


def _there(status: MachineStatus) -> bool:
    return status.state not in (MachineState.off, MachineState.crashed)
