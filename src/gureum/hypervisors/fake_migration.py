"""Machines that move from one fake host to another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import HypervisorError, PoolError
from gureum.hostspec import MachineState
from gureum.hypervisors import fake_size, messages
from gureum.hypervisors.base import MachineConfig, Migration, Outgoing
from gureum.hypervisors.fake_machine import FakeMachine
from gureum.migrationspec import MachineLayout, MigrationPhase

if TYPE_CHECKING:
    from gureum.hypervisors.fake import FakeMachines

COPY_SECONDS = (0.5, 5.0)
DOWNTIME_MS = 5
MEMORY_BYTES = 1 << 20
DISK_BYTES = 1 << 20
BUS = "fake"


class FakeRoads:
    """What is between the fake hosts of a cloud: a machine's state passes where all have the same roads."""

    def __init__(self) -> None:
        self.cut_off: set[FakeMachines] = set()
        """Hosts that nothing reaches, and that reach nothing."""
        self.errors: dict[str, str] = {}
        self.lost_ends: set[str] = set()
        self._waiting: dict[str, tuple[FakeMachines, FakeMachine]] = {}
        self._ports = 0

    # What can be told to happen.

    def fail(self, id: str, error: str = "told to fail") -> None:
        """Every migration of this machine fails, until told "" as the error."""
        self.errors[id] = error

    def lose_end(self, id: str) -> None:
        """The next migration of this machine is complete at its destination, and the source does not hear
        of it: it fails there, and the guest goes on.
        """
        self.lost_ends.add(id)

    # For FakeHypervisor.

    def wait(self, host: FakeMachines, machine: FakeMachine) -> None:
        """For the guest of a machine that was started for that."""
        incoming = machine.config.incoming
        if incoming is None:
            raise HypervisorError(f"{machine.config.id}: is not to come from another host")
        self._ports += 1
        address = f"{incoming.listen}:{self._ports}"
        self._waiting[address] = host, machine
        machine.migration = Migration(
            migration=incoming.migration,
            incoming=True,
            phase=MigrationPhase.waiting,
            address=address,
            disks_address=f"{address}0" if incoming.copies else "",
        )
        host.changed(machine)

    def begin(self, source: FakeMachines, machine: FakeMachine, outgoing: Outgoing, env: Env) -> None:
        id = machine.config.id
        target, copy = self._waiting.get(outgoing.address, (None, None))
        if target is None or copy is None or not self._waits(copy) or {source, target} & self.cut_off:
            raise HypervisorError(f"{id}: no connection to {outgoing.address}")
        incoming = copy.config.incoming
        if incoming is None or (incoming.secret, incoming.migration) != (outgoing.secret, outgoing.migration):
            raise HypervisorError(f"{id}: who listens at {outgoing.address} does not know the secret")
        waiting = copy.migration
        if outgoing.copies and (waiting is None or outgoing.disks_address != waiting.disks_address):
            raise HypervisorError(f"{id}: no connection to {outgoing.disks_address}")
        del self._waiting[outgoing.address]
        for host, end, to_here in ((target, copy, True), (source, machine, False)):
            end.migration = Migration(
                migration=outgoing.migration,
                incoming=to_here,
                phase=MigrationPhase.copying,
                total_bytes=0 if to_here else MEMORY_BYTES,
                remaining_bytes=0 if to_here else MEMORY_BYTES,
                disk_total_bytes=0 if to_here else DISK_BYTES * len(outgoing.copies),
            )
            host.changed(end)
        runs = machine.run, copy.run

        async def copying() -> None:
            error = ""
            if outgoing.copies:
                await asyncio.sleep(env.random.uniform(*COPY_SECONDS))
                if runs == (machine.run, copy.run) and copy.runs and _copies(machine, outgoing):
                    error = self._copy_disks(source, machine, target, copy, outgoing)
            if not error:
                await asyncio.sleep(env.random.uniform(*COPY_SECONDS))
            self._end(source, machine, target, copy, runs, outgoing, error)

        source.spawn(copying())

    def _copy_disks(
        self,
        source: FakeMachines,
        machine: FakeMachine,
        target: FakeMachines,
        copy: FakeMachine,
        outgoing: Outgoing,
    ) -> str:
        """What the guest wrote so far; why that is not possible, "" if it is."""
        if {source, target} & self.cut_off:
            return "the connection is gone"
        try:
            for volume in outgoing.copies:
                source.carry(machine.disks[volume], target, copy.disks[volume])
        except (PoolError, KeyError) as error:
            return f"a disk could not be copied: {error}"
        if machine.migration is not None:
            done = DISK_BYTES * len(outgoing.copies)
            machine.migration = replace(machine.migration, disk_done_bytes=done)
            source.changed(machine)
        return ""

    @staticmethod
    def _waits(copy: FakeMachine) -> bool:
        phase = copy.migration.phase if copy.migration is not None else None
        return copy.runs and phase is MigrationPhase.waiting

    def _end(
        self,
        source: FakeMachines,
        machine: FakeMachine,
        target: FakeMachines,
        copy: FakeMachine,
        runs: tuple[int, int],
        outgoing: Outgoing,
        failed: str,
    ) -> None:
        sends = machine.runs and _copies(machine, outgoing) and machine.run == runs[0]
        receives = copy.runs and _copies(copy, outgoing) and copy.run == runs[1]
        error = self.errors.get(machine.config.id, "") or failed
        if {source, target} & self.cut_off or not (sends and receives):
            error = error or "the connection is gone"
        if not error and machine.state is not MachineState.running:
            error = machine.message or "its guest does not run"
        if outgoing.copies and not error:
            error = self._copy_disks(source, machine, target, copy, outgoing)
        if receives and not error:
            self._show(target, copy, MigrationPhase.completed)
            copy.reboots = machine.reboots
        elif receives:
            target.end(copy, MachineState.crashed, messages.migration_failed(error))
        if sends and machine.config.id in self.lost_ends:
            self.lost_ends.discard(machine.config.id)
            error = error or "the end was not heard of"
        if sends and error:
            self._show(source, machine, MigrationPhase.failed, error)
        elif sends:
            machine.state, machine.message = MachineState.paused, messages.MIGRATED
            self._show(
                source, machine, MigrationPhase.completed, copied=outgoing.copies, downtime_ms=DOWNTIME_MS
            )

    @staticmethod
    def _show(
        host: FakeMachines,
        machine: FakeMachine,
        phase: MigrationPhase,
        error: str = "",
        copied: Sequence[str] = (),
        downtime_ms: int = 0,
    ) -> None:
        if machine.migration is not None:
            machine.migration = replace(
                machine.migration,
                phase=phase,
                error=error,
                remaining_bytes=0,
                copied=tuple(copied),
                downtime_ms=downtime_ms,
            )
            host.changed(machine)

    def cancel(self, host: FakeMachines, machine: FakeMachine) -> None:
        copies = machine.migration is not None and machine.migration.phase is MigrationPhase.copying
        if machine.config.incoming is None and copies:
            self._show(host, machine, MigrationPhase.failed, messages.CANCELLED)


def _copies(machine: FakeMachine, outgoing: Outgoing) -> bool:
    """Whether it is on this way."""
    status = machine.migration
    copying = status is not None and status.phase is MigrationPhase.copying
    return copying and status is not None and status.migration == outgoing.migration


def layout(host: FakeMachines, machine: FakeMachine) -> MachineLayout:
    status = machine.status()
    machine.require_settled()
    if status.detaching or status.mirrors:
        busy = ", ".join((*status.detaching, *status.mirrors))
        raise HypervisorError(f"{status.id}: its guest has not let go of {busy} yet")
    if status.hung:
        raise HypervisorError(f"{status.id}: {status.message}")
    return MachineLayout(
        type=machine.config.machine,
        version="1",
        cpu=machine.config.cpu or host.cpu,
        host_cpu=host.cpu,
        model=machine.config.cpu,
        disks={volume: (BUS, disk.disk.index) for volume, disk in machine.disks.items()},
        nics={interface: (BUS, number) for number, interface in enumerate(sorted(machine.nics))},
        vcpus=machine.size.vcpus if machine.size is not None else 0,
        memory_bytes=machine.size.memory_bytes if machine.size is not None else 0,
        room=fake_size.room(machine.size),
    )


def recovered(host: FakeMachines) -> dict[str, FakeMachine]:
    """The machines that are there. One that is to get its guest, and does not listen for it, has ended."""
    for machine in list(host.machines.values()):
        waits = machine.config.incoming is not None and machine.state is MachineState.starting
        if waits and machine.migration is None:
            host.end(machine, MachineState.crashed, messages.migration_failed(messages.NOT_TOLD))
    return host.machines


def require_fit(host: FakeMachines, config: MachineConfig) -> None:
    """HypervisorError if the host cannot have the machine, or it isn't the machine of the layout."""
    if config.incoming is None:
        if config.cpu and config.cpu not in host.cpu_models:
            raise HypervisorError(f"{config.id}: the CPU model {config.cpu} is not offered here")
        return
    known = config.incoming.layout
    if known.model and known.model not in host.cpu_models:
        raise HypervisorError(f"{config.id}: has the CPU model {known.model}, which is not offered here")
    if not known.model and known.host_cpu != host.cpu:
        raise HypervisorError(f"{config.id}: runs on a CPU ({known.host_cpu}) that is not this host's")
    differing = {disk.volume for disk in config.disks} ^ known.disks.keys()
    differing |= {nic.interface for nic in config.nics} ^ known.nics.keys()
    if differing:
        raise HypervisorError(
            f"{config.id}: only one of the two hosts knows of {', '.join(sorted(differing))}"
        )
