"""A hypervisor in memory, for the simulation and for tests: same contract and statuses as QEMU's.

``FakeMachines`` is the host: it keeps the machines while agents come and go, and takes orders about what goes
wrong. ``FakeHypervisor`` is what one agent process holds. Waiting is asyncio's: it works on virtual time.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path

from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import HypervisorError, PoolError
from gureum.hostspec import MachineState
from gureum.hypervisors import fake_migration, fake_size, messages
from gureum.hypervisors.base import Disk, MachineConfig, MachineStatus, Mirror, Nic, Outgoing, describe
from gureum.hypervisors.fake_machine import FakeDisk, FakeMachine, Statuses
from gureum.hypervisors.fake_migration import FakeRoads
from gureum.migrationspec import MachineLayout, MigrationPhase
from gureum.san.base import DiskSource, Layer

START_SECONDS = (0.05, 0.3)
COMMAND_SECONDS = (0.001, 0.02)
GUEST_SHUTDOWN_SECONDS = (0.5, 3.0)
GUEST_DETACH_SECONDS = (0.05, 0.5)
GUEST_RESIZE_SECONDS = (0.05, 2.0)
MIRROR_SECONDS = (0.5, 5.0)
MIRROR_BYTES = 1 << 20


class FakeMachines:
    """The machines of one fake host. They outlive every ``FakeHypervisor``; guests act by tasks kept here.

    They move to hosts with the same ``roads``.
    """

    def __init__(self, env: Env, roads: FakeRoads | None = None) -> None:
        self.env = env
        self.roads = roads or FakeRoads()
        self.machines: dict[str, FakeMachine] = {}
        self.powered = True
        self.full = False
        self.away: set[str] = set()
        """Shared pools that are not reached; "" for all."""
        self.cpu = "fake"
        self.cpu_models: tuple[str, ...] = ()
        self.start_errors: dict[str, str] = {}
        self.mirror_errors: dict[str, str] = {}
        self.copy: Callable[[FakeDisk, Disk], None] = lambda disk, target: None
        """What copies a disk's data to where it moves; raises PoolError if that has no room."""
        self.carry: Callable[[FakeDisk, FakeMachines, FakeDisk], None] = lambda disk, host, target: None
        """The same for a disk that goes to another host with its machine."""
        self._changed: Callable[[str], None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = contextvars.copy_context()
        """Guests are no part of the process that started them."""

    # What can be told to happen.

    def ignore_power_button(self, id: str, ignore: bool = True) -> None:
        self._get(id).ignores_power_button = ignore

    def ignore_detach(self, id: str, ignore: bool = True) -> None:
        self._get(id).ignores_detach = ignore

    def fail_start(self, id: str, error: str = "told to fail") -> None:
        """Every start of this machine fails, until told "" as the error."""
        self.start_errors[id] = error

    def fail_mirror(self, volume: str, error: str = "told to fail") -> None:
        """Every move of this volume fails, until told "" as the error."""
        self.mirror_errors[volume] = error

    def crash(self, id: str, message: str = messages.PROCESS_ENDED) -> None:
        machine = self._get(id)
        if machine.runs:
            self.end(machine, MachineState.crashed, message)
        elif machine.held:
            self.end(machine, MachineState.shutdown, messages.GUEST_SHUT_DOWN)

    def panic(self, id: str) -> None:
        self.crash(id, messages.GUEST_PANICKED)

    def hang(self, id: str) -> None:
        """The guest does nothing more, and its watchdog runs out."""
        machine = self._get(id)
        if machine.state is MachineState.running:
            machine.state, machine.message, machine.hung = MachineState.paused, messages.GUEST_HUNG, True
            self.changed(machine)

    def guest_shutdown(self, id: str) -> None:
        machine = self._get(id)
        if machine.state is MachineState.running:
            machine.state, machine.message = MachineState.shutdown, messages.GUEST_SHUT_DOWN
            machine.held = True
            self.changed(machine)

    def fill_storage(self, full: bool = True) -> None:
        """While full, every running machine pauses, and again when it is resumed."""
        self.full = full
        if full:
            for machine in self.machines.values():
                self.hold_if_stuck(machine)

    def lose_shared_storage(self, away: bool = True, pool: str = "") -> None:
        """While away, every running machine with a disk in this pool, "" for any, pauses, and again when it
        is resumed.
        """
        (self.away.add if away else self.away.discard)(pool)
        if away:
            for machine in self.machines.values():
                self.hold_if_stuck(machine)

    def lose_power(self) -> None:
        """All machines are gone, and none can be started until ``reboot_host``."""
        self.powered = False
        for machine in self.machines.values():
            if machine.runs:
                self.end(machine, MachineState.off, messages.HOST_RESTARTED)
            elif machine.held:
                self.end(machine, MachineState.shutdown, messages.GUEST_SHUT_DOWN)

    def reboot_host(self) -> None:
        self.lose_power()
        self.powered = True

    def freeze(self) -> None:
        """Stop the processes of all machines, as by SIGSTOP."""
        for machine in self.machines.values():
            if machine.runs or machine.held:
                machine.thawed.clear()

    def thaw(self) -> None:
        for machine in self.machines.values():
            machine.thawed.set()

    def kill(self) -> None:
        """End the processes of all machines, as by SIGKILL."""
        for id, machine in self.machines.items():
            machine.thawed.set()
            self.crash(id)

    def running(self) -> dict[str, int]:
        """Machine id to generation, of all that really run here: for invariants. Not of those whose guest is
        on its way here, or held because it is on another host.
        """
        return {
            id: machine.config.generation
            for id, machine in self.machines.items()
            if machine.runs and not machine.away
        }

    async def close(self) -> None:
        """End the guests' tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # For FakeHypervisor.

    def listen(self, changed: Callable[[str], None] | None) -> None:
        self._changed = changed

    def changed(self, machine: FakeMachine) -> None:
        if self._changed is not None:
            self._changed(machine.config.id)

    def end(self, machine: FakeMachine, state: MachineState, message: str) -> None:
        machine.state, machine.message = state, message
        if machine.migration is not None and (machine.config.incoming is not None or not machine.away):
            error = machine.migration.error or message
            machine.migration = replace(machine.migration, phase=MigrationPhase.failed, error=error)
        machine.held = machine.hung = False
        machine.disks = {}
        machine.nics = {}
        machine.settled.set()
        self.changed(machine)

    def hold_if_stuck(self, machine: FakeMachine) -> None:
        if machine.state is not MachineState.running:
            return
        if self.full:
            machine.state, machine.message = MachineState.paused, messages.STORAGE_FULL
            self.changed(machine)
        elif any(disk.shared and self.away & {"", disk.pool} for disk in machine.disks.values()):
            machine.state, machine.message = MachineState.paused, messages.STORAGE_AWAY
            self.changed(machine)

    def later(
        self,
        machine: FakeMachine,
        seconds: tuple[float, float],
        act: Callable[[], None],
        held: bool = False,
    ) -> None:
        """Let the guest of the present run do ``act`` after some time; ``held``: also one that is off."""
        run = machine.run

        async def guest() -> None:
            await asyncio.sleep(self.env.random.uniform(*seconds))
            await machine.thawed.wait()
            if machine.run == run and (machine.runs or (held and machine.held)) and not machine.away:
                act()

        self.spawn(guest())

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, context=self._context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _get(self, id: str) -> FakeMachine:
        return self.machines[id]


class FakeHypervisor:
    """``gureum.hypervisors.base.Hypervisor`` over a ``FakeMachines``."""

    def __init__(self, env: Env, machines: FakeMachines | None = None) -> None:
        self.env = env
        self.host = machines or FakeMachines(env)
        self._subscribers: list[Callable[[str], None]] = []
        self._known: dict[str, FakeMachine] = {}
        self.host.listen(self._notify)

    @property
    def accelerator(self) -> str:
        return "fake"

    @property
    def cpu(self) -> str:
        return self.host.cpu

    @property
    def cpu_models(self) -> tuple[str, ...]:
        return self.host.cpu_models

    @property
    def cpu_vendor(self) -> str:
        return ""

    def subscribe(self, changed: Callable[[str], None]) -> None:
        self._subscribers.append(changed)

    async def recover(self) -> None:
        await self._work()
        self._known = fake_migration.recovered(self.host)

    def machines(self) -> Mapping[str, MachineStatus]:
        return Statuses(self._known)

    async def start(self, config: MachineConfig) -> None:
        for nic in config.nics:
            if nic.fd >= 0:
                os.close(nic.fd)
        self._known = self.host.machines
        fake_migration.require_fit(self.host, config)
        machine = self.host.machines.get(config.id)
        if machine is not None and not self._may_start(machine, config):
            return
        if machine is None:
            machine = self.host.machines[config.id] = FakeMachine(config)
        machine.config, machine.migration = config, None
        machine.reboots = config.reboots
        machine.run += 1
        machine.thawed.set()
        machine.state, machine.message = MachineState.off, messages.NOT_STARTED
        self.env.crashpoint("fake.start.recorded")
        await self._boot(machine)

    def _may_start(self, machine: FakeMachine, config: MachineConfig) -> bool:
        if config.generation < machine.config.generation:
            raise HypervisorError(
                f"{config.id}: generation {config.generation} is older than {machine.config.generation}"
            )
        if not machine.runs and not machine.held:
            return True
        if config.generation == machine.config.generation:
            return False
        raise HypervisorError(f"{config.id}: generation {machine.config.generation} still runs")

    async def _boot(self, machine: FakeMachine) -> None:
        id = machine.config.id
        machine.state, machine.message = MachineState.starting, ""
        machine.settled.clear()
        self.host.changed(machine)
        error = "the host has no power" if not self.host.powered else self.host.start_errors.get(id, "")
        if error:
            # Also if the agent dies over it: there is no guest that would leave ``starting`` by itself.
            self.host.end(machine, MachineState.crashed, messages.start_failed(error))
            await self._work()
            raise HypervisorError(f"{id}: {error}")
        machine.disks = {disk.volume: FakeDisk(disk) for disk in machine.config.disks}
        machine.nics = dict.fromkeys((nic.interface for nic in machine.config.nics), False)
        machine.size = machine.target = fake_size.at_start(machine.config)
        if machine.config.incoming is not None:
            await self._work()
            self.host.roads.wait(self.host, machine)
            return
        self.host.later(machine, START_SECONDS, lambda: self._booted(machine))
        self.env.crashpoint("fake.start.spawned")
        await machine.settled.wait()
        if not machine.runs:
            raise HypervisorError(f"{id}: {machine.message}")

    def _booted(self, machine: FakeMachine) -> None:
        machine.state, machine.message = MachineState.running, ""
        machine.print(f"{machine.config.id} started, generation {machine.config.generation}\r\n")
        machine.settled.set()
        self.host.changed(machine)
        self.host.hold_if_stuck(machine)

    async def press_power_button(self, id: str) -> None:
        machine = self._get(id)
        await self._work()
        if machine.state is MachineState.running and not machine.ignores_power_button:
            self.host.later(machine, GUEST_SHUTDOWN_SECONDS, lambda: self.host.guest_shutdown(id))

    async def power_off(self, id: str, hurried: bool = False) -> None:
        machine = self._get(id)
        await self._work()
        if machine.state is not MachineState.off:
            self.host.end(machine, MachineState.off, messages.STOPPED)

    async def reset(self, id: str, reboots: int) -> None:
        machine = self._get(id)
        if machine.away:
            raise HypervisorError(f"{id}: its guest is on another host")
        if machine.state is MachineState.shutdown and not machine.held:
            self.host.end(machine, MachineState.off, messages.STOPPED)
            return
        if not machine.held:
            self._running(id)
        await self._work()
        self.env.crashpoint("fake.reset.done")
        if machine.held or machine.hung:
            machine.held = machine.hung = False
            machine.state, machine.message = MachineState.running, ""
        machine.reboots = reboots
        machine.print(f"{id} reset\r\n")
        self.host.changed(machine)
        self.host.hold_if_stuck(machine)

    async def resume(self, id: str) -> None:
        machine = self._get(id)
        await self._work()
        if machine.state is MachineState.paused and not machine.away and not machine.hung:
            machine.state, machine.message = MachineState.running, ""
            self.host.changed(machine)
            self.host.hold_if_stuck(machine)

    async def layout(self, id: str) -> MachineLayout:
        await self._work()
        return fake_migration.layout(self.host, self._running(id))

    async def migrate(self, id: str, outgoing: Outgoing) -> None:
        machine = self._running(id)
        await self._work()
        if machine.migration is not None and machine.migration.migration == outgoing.migration:
            return
        machine.require_settled()
        if machine.state is not MachineState.running:
            raise HypervisorError(f"{id}: is {machine.message or machine.state}: it cannot move now")
        self.host.roads.begin(self.host, machine, outgoing, self.env)
        self.env.crashpoint("fake.migrate.begun")

    async def cancel_migration(self, id: str) -> None:
        await self._work()
        machine = self.host.machines.get(id)
        if machine is not None:
            self.host.roads.cancel(self.host, machine)

    async def go_on(self, id: str) -> None:
        await self._work()
        machine = self._running(id)
        phase = machine.migration.phase if machine.migration is not None else None
        if phase is MigrationPhase.completed:
            if machine.migration is not None and machine.config.incoming is None:
                error = messages.STAYED
                machine.migration = replace(machine.migration, phase=MigrationPhase.failed, error=error)
            else:
                machine.migration = None
                machine.config = replace(machine.config, incoming=None)
            machine.state, machine.message = MachineState.running, ""
            machine.settled.set()
            self.host.changed(machine)
            self.host.hold_if_stuck(machine)
            self.env.crashpoint("fake.migrate.went_on")
        elif machine.config.incoming is not None:
            raise HypervisorError(f"{id}: not all of it has come here yet")
        elif phase is MigrationPhase.copying:
            raise HypervisorError(f"{id}: is still being copied to another host")

    async def prepend_console(self, id: str, text: bytes) -> None:
        await self._work()
        self._get(id).console_before = text

    async def remove(self, id: str) -> None:
        await self._work()
        machine = self.host.machines.pop(id, None)
        if machine is not None:
            self.host.end(machine, MachineState.off, messages.STOPPED)

    async def attach_disk(self, id: str, disk: Disk) -> None:
        machine = self._running(id)
        machine.require_settled()
        await self._work()
        if machine.runs and disk.volume not in machine.disks:
            machine.disks[disk.volume] = FakeDisk(disk)
            self.host.changed(machine)
            self.host.hold_if_stuck(machine)

    async def detach_disk(self, id: str, volume: str, force: bool = False) -> None:
        machine = self._get(id)
        await self._work()
        disk = machine.disks.get(volume)
        if disk is None:
            return
        machine.require_settled()
        if force:
            self._detached(machine, disk)
            return
        disk.detaching = True
        if not machine.ignores_detach:
            self.host.later(machine, GUEST_DETACH_SECONDS, lambda: self._detached(machine, disk))
        self.host.changed(machine)

    def _detached(self, machine: FakeMachine, disk: FakeDisk) -> None:
        if machine.disks.get(disk.disk.volume) is disk:
            del machine.disks[disk.disk.volume]
            self.host.changed(machine)

    async def attach_nic(self, id: str, nic: Nic) -> None:
        if nic.fd >= 0:
            os.close(nic.fd)
        machine = self._running(id)
        machine.require_settled()
        await self._work()
        self.env.crashpoint("fake.nic.attach")
        if machine.runs and nic.interface not in machine.nics:
            machine.nics[nic.interface] = False
            self.host.changed(machine)

    async def detach_nic(self, id: str, interface: str, force: bool = False) -> None:
        machine = self._get(id)
        await self._work()
        if interface not in machine.nics:
            return
        machine.require_settled()
        if force:
            self._unplugged(machine, interface)
            return
        machine.nics[interface] = True
        if not machine.ignores_detach:
            self.host.later(machine, GUEST_DETACH_SECONDS, lambda: self._unplugged(machine, interface))
        self.host.changed(machine)

    def _unplugged(self, machine: FakeMachine, interface: str) -> None:
        if machine.nics.pop(interface, None) is not None:
            self.host.changed(machine)

    async def resize(self, id: str, vcpus: int, memory_bytes: int) -> None:
        machine = self._running(id)
        if machine.size is None:
            raise HypervisorError(f"{id}: was started without room to grow")
        machine.require_settled()
        await self._work()
        self.env.crashpoint("fake.resize.asked")
        machine.target = fake_size.towards(machine.size, vcpus, memory_bytes)
        if machine.target != machine.size:
            self.host.later(machine, GUEST_RESIZE_SECONDS, lambda: self._resized(machine))

    def _resized(self, machine: FakeMachine) -> None:
        settled = machine.size == machine.target or machine.ignores_detach
        if not settled and not machine.under_way:
            machine.size = machine.target
            self.host.changed(machine)

    async def active_layer(self, id: str, volume: str) -> str:
        await self._work()
        return self._disk(id, volume).layers[0]

    async def switch_layer(self, id: str, volume: str, layer: Layer) -> None:
        await self._work()
        self._get(id).require_settled()
        disk = self._disk(id, volume)
        if disk.layers[0] != layer.path:
            disk.layers.insert(0, layer.path)
        self.env.crashpoint("fake.switch.done")

    async def resize_disk(self, id: str, volume: str, size_bytes: int) -> None:
        await self._work()
        self._get(id).require_settled()
        self._disk(id, volume).size_bytes = size_bytes

    async def mirror_disk(
        self, id: str, volume: str, target: DiskSource, key: bytes = b"", bytes_per_second: int = 0
    ) -> None:
        self._running(id).require_settled()
        await self._work()
        machine, disk = self._get(id), self._disk(id, volume)
        if disk.mirror is not None:
            return
        disk.target = replace(disk.disk, source=target, key=key)
        mirror = disk.mirror = Mirror(target=describe(target), total_bytes=MIRROR_BYTES)

        def copied() -> None:
            present = machine.disks.get(volume) is disk
            if present and disk.mirror is mirror and disk.target is not None:
                error = self.host.mirror_errors.get(volume, "")
                try:
                    self.host.copy(disk, disk.target)
                except PoolError as failure:
                    error = str(failure)
                done = 0 if error else MIRROR_BYTES
                disk.mirror = replace(mirror, done_bytes=done, ready=not error, error=error)
                self.host.changed(machine)

        self.host.later(machine, MIRROR_SECONDS, copied, held=True)
        self.env.crashpoint("fake.mirror.started")
        self.host.changed(machine)

    async def finish_mirror(self, id: str, volume: str) -> None:
        self._running(id)
        await self._work()
        disk = self._disk(id, volume)
        if disk.mirror is None or disk.target is None:
            raise HypervisorError(f"{id}: {volume} is not being moved")
        if not disk.mirror.ready:
            error = disk.mirror.error
            raise HypervisorError(
                f"{id}: the move of {volume} failed: {error}"
                if error
                else f"{id}: the copy of {volume} is not ready"
            )
        disk.use(disk.target)
        disk.mirror = disk.target = None
        self.env.crashpoint("fake.mirror.finished")
        self.host.hold_if_stuck(self._get(id))
        self.host.changed(self._get(id))

    async def cancel_mirror(self, id: str, volume: str) -> None:
        await self._work()
        disk = self._get(id).disks.get(volume)
        if disk is not None and disk.mirror is not None:
            disk.mirror = disk.target = None
            self.host.changed(self._get(id))

    async def freeze(self, id: str) -> bool:
        await self._work()
        machine = self._get(id)
        return machine.state is MachineState.running and not machine.under_way

    async def thaw(self, id: str) -> None:
        await self._work()

    async def limit_disk(self, id: str, volume: str, iops: int, throughput: int) -> None:
        disk = self._disk(id, volume)
        disk.disk = replace(disk.disk, iops=iops, throughput=throughput)

    async def console(self, id: str, max_bytes: int) -> bytes:
        machine = self._get(id)
        return (machine.console_before + machine.console)[-max_bytes:] if max_bytes > 0 else b""

    def console_socket(self, id: str) -> Path | None:
        return None

    async def close(self) -> None:
        self._subscribers.clear()
        self._known = {}

    async def _work(self) -> None:
        await asyncio.sleep(self.env.random.uniform(*COMMAND_SECONDS))

    def _notify(self, id: str) -> None:
        for changed in self._subscribers:
            changed(id)

    def _get(self, id: str) -> FakeMachine:
        try:
            return self.host.machines[id]
        except KeyError:
            raise HypervisorError(f"{id}: no such machine here") from None

    def _running(self, id: str) -> FakeMachine:
        machine = self._get(id)
        if not machine.runs:
            raise HypervisorError(f"{id}: is {machine.state}, not running")
        return machine

    def _disk(self, id: str, volume: str) -> FakeDisk:
        try:
            return self._get(id).disks[volume]
        except KeyError:
            raise HypervisorError(f"{id}: has no volume {volume}") from None
