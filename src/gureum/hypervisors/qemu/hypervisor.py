"""``gureum.hypervisors.base.Hypervisor`` by QEMU."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec.structs import replace

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.files import make_directories
from gureum.hostspec import MachineState
from gureum.hypervisors import messages
from gureum.hypervisors.base import Disk, MachineConfig, MachineStatus, Nic, Outgoing
from gureum.hypervisors.qemu import cpu_models, layout, plugging
from gureum.hypervisors.qemu.cgroup import Cgroups
from gureum.hypervisors.qemu.command import Host
from gureum.hypervisors.qemu.growth import reserves_all, room_of
from gureum.hypervisors.qemu.host_cpu import host_cpu, vendor
from gureum.hypervisors.qemu.installation import Installation, inspect
from gureum.hypervisors.qemu.launch import KvmAccess, kvm_access, launch
from gureum.hypervisors.qemu.machine import Machine
from gureum.hypervisors.qemu.process import kill_identity, marked_processes, wait_identity
from gureum.hypervisors.qemu.record import Identity, MachineFiles, Saved, boot_id, process_identity
from gureum.hypervisors.qemu.tsc import frequency_khz
from gureum.migrationspec import MachineLayout
from gureum.san.base import DiskSource, Layer, RbdDisk

log = logging.getLogger(__name__)

CPU_MODELS = {
    "tcg": "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf-lm,+aes,+pclmulqdq,+rdrand,+rdseed",
    "kvm": "host",
}
"""For TCG: x86-64-v2, which current distributions ask for, of a maker whose CPUs need no page table
isolation.
"""

START_SECONDS = 30.0
START_TRIES = 3
HELD_SECONDS = 0.5
"""Between looks at a machine that was stopped while it started."""
ADOPT_SECONDS = 3.0
HOUSEKEEPING_SECONDS = 15.0

FIRST_UID, LAST_UID = 0x7000_0000, 0x7FFF_FFFE
"""Where machines' users come from: a range that nothing else on a Linux system gives out (systemd,
UIDS-GIDS).
"""


class QemuHypervisor:
    """``run_dir`` is this host's and cloud's; it needs no particular length. ``accelerator`` is "kvm" or
    "tcg": see ``probe``. ``cpu`` is a CPU model for all machines, "" for the accelerator's usual one.

    ``shared_disks``: machines may get disks of a cluster while they run. Their processes are then on the
    host's network, where librbd finds it, as are those that are started with such disks. Others have none.
    """

    def __init__(
        self,
        env: Env,
        run_dir: Path,
        accelerator: str = "tcg",
        cpu: str = "",
        shared_disks: bool = False,
    ) -> None:
        self._env = env
        self._run_dir = run_dir
        self.directory = run_dir / "machines"
        """With one for each machine."""
        self._accelerator = accelerator
        self._cpu = cpu or CPU_MODELS[accelerator]
        self._shared_disks = shared_disks
        self._cgroups = Cgroups()
        self._machines: dict[str, Machine] = {}
        self._subscribers: list[Callable[[str], None]] = []
        self._installation: Installation | None = None
        self._host_cpu = f"kvm {host_cpu()}" if accelerator == "kvm" else accelerator
        self._vendor = vendor() if accelerator == "kvm" else ""
        self._models: dict[str, str] = {}
        """CPU models that are offered here, with what QEMU is told."""
        self._offers_of = ("", "")
        """The QEMU and the CPU that these are of."""
        self._kvm = KvmAccess()
        self._tsc_khz = 0
        self._housekeeping: asyncio.Task[None] | None = None

    @property
    def accelerator(self) -> str:
        return self._accelerator

    @property
    def cpu(self) -> str:
        return self._host_cpu

    @property
    def cpu_models(self) -> tuple[str, ...]:
        return tuple(self._models)

    @property
    def cpu_vendor(self) -> str:
        return self._vendor

    def subscribe(self, changed: Callable[[str], None]) -> None:
        self._subscribers.append(changed)

    def machines(self) -> Mapping[str, MachineStatus]:
        return {id: machine.status() for id, machine in self._machines.items()}

    async def recover(self) -> None:
        make_directories(self.directory, 0o700)
        self._run_dir.chmod(0o700)
        if os.geteuid() != 0:
            raise HypervisorError("machines can be run by root only: each gets a user of its own")
        await self._look_at_qemu()
        if self._accelerator == "kvm":
            self._kvm = kvm_access(self._run_dir)
        found = await asyncio.gather(
            *(self._recover(entry.name) for entry in sorted(self.directory.iterdir())),
            return_exceptions=True,
        )
        for outcome in found:
            if isinstance(outcome, HypervisorError):
                log.error("%s", outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
        await self._end_strays()
        self._housekeeping = asyncio.create_task(self._keep_house())

    async def _look_at_qemu(self) -> None:
        """Learn which QEMU machines get, and with which CPU models: an upgrade of its package, or of the
        processors' microcode, changes both.
        """
        if self._accelerator == "kvm":
            self._host_cpu = f"kvm {host_cpu()}"
        found = await inspect(self._run_dir / "qemu.json")
        if (found.stamp, self._host_cpu) == self._offers_of:
            return
        self._installation = found
        try:
            models = await cpu_models.inspect(
                self._run_dir / "cpus.json", found, self._accelerator, self._host_cpu
            )
        except HypervisorError as error:
            log.warning("which CPU models guests can have is not known: %s", error)
            return
        self._models = {model: cpu_models.argument(model, self._vendor) for model in models}
        self._offers_of = found.stamp, self._host_cpu

    async def _recover(self, id: str) -> None:
        """Take over one machine, as its files and its lock say."""
        files = MachineFiles(self.directory, id)
        saved = files.load()
        identity = await wait_identity(files) if files.locked() else None
        if saved is None:
            if identity is not None:
                log.warning("%s: process %d has no record: ending it", id, identity.pid)
                await kill_identity(identity)
            self._cgroups.remove(id)
            files.remove()
            return
        machine = self._know(files, saved)
        if identity is None or process_identity(identity.pid) != identity:
            self._cgroups.remove(machine.group)
            await self._recover_ended(machine)
        else:
            await self._adopt(machine, identity)

    async def _recover_ended(self, machine: Machine) -> None:
        """Say how a machine without a process came to its end, while nobody looked."""
        saved = machine.saved
        if saved.ended is not None:
            state, message = saved.ended, saved.message
        elif saved.boot_id != boot_id():
            state, message = MachineState.off, messages.HOST_RESTARTED
        elif machine.files.holder() is None:
            state, message = MachineState.off, messages.NOT_STARTED
        else:
            state, message = MachineState.crashed, machine.describe_exit(None)
        if saved.ended is None:
            await machine.save(ended=state, message=message)
        machine.migrating.process_ended(message)
        machine.show(state, message)

    async def _adopt(self, machine: Machine, identity: Identity) -> None:
        machine.show(MachineState.running)
        machine.watch(identity)
        if machine.saved.ended in (MachineState.off, MachineState.crashed):
            await machine.end(machine.saved.ended, machine.saved.message)
            return
        try:
            await machine.connect(seconds=ADOPT_SECONDS)
            if machine.lives:
                await machine.load_devices()
        except HypervisorError as error:
            if machine.lives:
                log.warning("%s; it goes on, and connecting is tried again", error)
                machine.reconnect_later()

    async def _end_strays(self) -> None:
        """End processes of ours that no known machine stands for, e.g. one whose directory was deleted."""
        for identity, id in (await asyncio.to_thread(marked_processes, self.directory)).items():
            machine = self._machines.get(id)
            if machine is None or machine.identity != identity:
                log.warning("%s: process %d belongs to no known machine: ending it", id, identity.pid)
                await kill_identity(identity)

    async def start(self, config: MachineConfig) -> None:
        try:
            if self._must_start(config):
                await self._start(config)
        finally:
            for nic in config.nics:
                os.close(nic.fd)

    def _must_start(self, config: MachineConfig) -> bool:
        machine = self._machines.get(config.id)
        if machine is None:
            return True
        known = machine.saved.generation
        if config.generation < known:
            raise HypervisorError(f"{config.id}: generation {config.generation} is older than {known}")
        if not machine.lives:
            return True
        if config.generation == known:
            return False
        raise HypervisorError(f"{config.id}: generation {known} still runs")

    async def _start(self, config: MachineConfig) -> None:
        if self._installation is None:
            raise HypervisorError("start before recover")
        before, incoming = self._machines.get(config.id), config.incoming
        if incoming is None and reserves_all():
            config = replace(config, memory_max_bytes=0)
        if incoming is not None:
            layout.require_fit(config, incoming.layout, self._installation, self.cpu, self._models)
            machine_type = incoming.layout.type
        else:
            last = before.saved.machine_type if before else ""
            machine_type = self._installation.resolve(config.machine, last)
        saved = Saved(
            generation=config.generation,
            machine_type=machine_type,
            boot_id=boot_id(),
            uid=self._free_uid(),
            vmgenid=incoming.layout.vmgenid if incoming else self._env.uuid(),
            reboots=config.reboots,
            volumes=tuple(sorted(disk.volume for disk in config.disks)),
            nics=tuple(sorted(nic.interface for nic in config.nics)),
            cpu=incoming.layout.cpu if incoming else self._cpu_of(config),
            model=incoming.layout.model if incoming else config.cpu,
            migration=incoming.migration if incoming else "",
            incoming=incoming is not None,
            group=f"{config.id}.{config.generation}" if incoming else "",
            room=room_of(config, machine_type.startswith("microvm"), self._accelerator),
            watchdog=incoming.layout.watchdog if incoming else not machine_type.startswith("microvm"),
        )
        files = MachineFiles(self.directory, config.id)
        files.create()
        lock = files.take_lock()
        if lock is None:
            raise HypervisorError(f"{config.id}: another process of it still runs")
        try:
            if before is not None:
                await before.close()
            files.forget_holder()
            files.save(saved)
            self._env.crashpoint("qemu.start.recorded")
            machine = self._know(files, saved)
            machine.show(MachineState.starting)
            await self._launch(machine, config, lock)
        finally:
            os.close(lock)

    def _cpu_of(self, config: MachineConfig) -> str:
        if not config.cpu:
            return self._cpu
        try:
            return self._models[config.cpu]
        except KeyError:
            raise HypervisorError(f"{config.id}: the CPU model {config.cpu} is not offered here") from None

    async def _launch(self, machine: Machine, config: MachineConfig, lock: int) -> None:
        saved = machine.saved
        if self._installation is None:
            raise HypervisorError("start before recover")
        if saved.machine_type.startswith("microvm") and self._accelerator == "tcg" and not self._tsc_khz:
            self._tsc_khz = await frequency_khz()
        network = self._shared_disks or any(isinstance(disk.source, RbdDisk) for disk in config.disks)
        cpu = saved.cpu or self._cpu
        host = Host(self._installation.binary, self._accelerator, cpu, self._tsc_khz, network)
        try:
            pid, disks = launch(machine.files, saved, config, host, self._kvm, self._cgroups, lock)
        except HypervisorError as error:
            self._cgroups.remove(machine.group)
            await machine.end_unstarted(messages.start_failed(str(error)))
            raise
        self._env.crashpoint("qemu.start.spawned")
        identity = process_identity(pid)
        if identity is None:
            raise HypervisorError(f"{machine.id}: its process {pid} vanished")
        machine.watch(identity)
        try:
            await self._answered(machine)
        except HypervisorError as error:
            await machine.end(MachineState.crashed, messages.start_failed(str(error)))
            raise
        self._env.crashpoint("qemu.start.connected")
        live = machine.take_disks()
        await live.started_with(disks)
        machine.take_mirrors(live)
        machine.take_nics().started_with(nic.interface for nic in config.nics)
        await machine.resizing.take()
        for disk in config.disks:
            if disk.iops or disk.throughput:
                await live.limit(disk.volume, disk.iops, disk.throughput)
        if config.incoming is not None:
            try:
                await machine.migrating.receive(config.incoming)
            except HypervisorError as error:
                await machine.end(MachineState.crashed, messages.start_failed(str(error)))
                raise

    async def _answered(self, machine: Machine) -> None:
        """Connect to a machine that has just been started. The time that it is held does not count."""
        tries = START_TRIES
        while tries:
            try:
                await machine.connect(seconds=START_SECONDS / START_TRIES)
                return
            except HypervisorError:
                if not machine.held:
                    tries -= 1
                if not tries or machine.identity is None:
                    raise
                while machine.held:  # noqa: ASYNC110  (another process lets it go on)
                    await asyncio.sleep(HELD_SECONDS)

    def _free_uid(self) -> int:
        used = {machine.saved.uid for machine in self._machines.values()}
        while True:
            uid = self._env.random.randint(FIRST_UID, LAST_UID)
            if uid not in used:
                return uid

    async def press_power_button(self, id: str) -> None:
        machine = self._get(id)
        if machine.lives and machine.state is not MachineState.shutdown and not machine.migrating.away:
            await machine.monitor().execute("system_powerdown")

    async def power_off(self, id: str, hurried: bool = False) -> None:
        machine = self._get(id)
        if machine.state is not MachineState.off:
            await machine.end(MachineState.off, messages.STOPPED, hurried)

    async def reset(self, id: str, reboots: int) -> None:
        await self._get(id).reset(reboots)

    async def resume(self, id: str) -> None:
        machine = self._get(id)
        # Also where what became of its migration is not read yet: who has sent everything may run elsewhere.
        sent = machine.run_state in ("finish-migrate", "postmigrate")
        stays = sent or machine.hung or machine.migrating.holds_still
        if machine.state is MachineState.paused and not stays:
            await machine.monitor().execute("cont")

    async def layout(self, id: str) -> MachineLayout:
        if self._installation is None:
            raise HypervisorError("layout before recover")
        return await layout.ask(self._get(id), self._installation, self.cpu)

    async def migrate(self, id: str, outgoing: Outgoing) -> None:
        await self._get(id).migrating.migrate(outgoing)

    async def cancel_migration(self, id: str) -> None:
        machine = self._machines.get(id)
        if machine is not None and machine.lives:
            await machine.migrating.cancel()

    async def go_on(self, id: str) -> None:
        await self._get(id).migrating.go_on()

    async def remove(self, id: str) -> None:
        machine = self._machines.get(id)
        if machine is None:
            return
        await machine.end(MachineState.off, messages.STOPPED)
        self._env.crashpoint("qemu.remove.ended")
        await machine.close()
        await asyncio.to_thread(machine.files.remove)
        del self._machines[id]
        self._notify(id)

    async def attach_disk(self, id: str, disk: Disk) -> None:
        await plugging.attach_disk(self._get(id), disk)

    async def detach_disk(self, id: str, volume: str, force: bool = False) -> None:
        machine = self._get(id)
        if machine.lives:
            machine.migrating.require_settled()
            await machine.disks().detach(volume, force)

    async def attach_nic(self, id: str, nic: Nic) -> None:
        try:
            await plugging.attach_nic(self._get(id), nic)
        finally:
            os.close(nic.fd)

    async def detach_nic(self, id: str, interface: str, force: bool = False) -> None:
        machine = self._get(id)
        if machine.lives:
            machine.migrating.require_settled()
            await machine.nics().detach(interface, force)

    async def resize(self, id: str, vcpus: int, memory_bytes: int) -> None:
        await self._get(id).resizing.resize(vcpus, memory_bytes)

    async def active_layer(self, id: str, volume: str) -> str:
        return await self._get(id).disks().active_layer(volume)

    async def switch_layer(self, id: str, volume: str, layer: Layer) -> None:
        machine = self._get(id)
        machine.migrating.require_settled()
        await machine.disks().switch_layer(volume, layer)

    async def resize_disk(self, id: str, volume: str, size_bytes: int) -> None:
        machine = self._get(id)
        machine.migrating.require_settled()
        await machine.disks().resize(volume, size_bytes)

    async def mirror_disk(
        self, id: str, volume: str, target: DiskSource, key: bytes = b"", bytes_per_second: int = 0
    ) -> None:
        await plugging.mirror_disk(
            self._get(id), Disk(volume=volume, index=0, source=target, key=key), bytes_per_second
        )

    async def finish_mirror(self, id: str, volume: str) -> None:
        await self._get(id).mirrors().finish(volume)

    async def cancel_mirror(self, id: str, volume: str) -> None:
        machine = self._get(id)
        if machine.lives:
            await machine.mirrors().cancel(volume)

    async def freeze(self, id: str) -> bool:
        machine = self._get(id)
        if machine.migrating.under_way:
            return False  # it could arrive frozen
        return await machine.freezer.freeze()

    async def thaw(self, id: str) -> None:
        await self._get(id).freezer.thaw()

    async def limit_disk(self, id: str, volume: str, iops: int, throughput: int) -> None:
        await self._get(id).disks().limit(volume, iops, throughput)

    async def console(self, id: str, max_bytes: int) -> bytes:
        return await asyncio.to_thread(self._get(id).files.console_tail, max_bytes)

    async def prepend_console(self, id: str, text: bytes) -> None:
        await asyncio.to_thread(self._get(id).files.prepend_console, text)

    def process_id(self, id: str) -> int | None:
        """The machine's process, None if it has none."""
        machine = self._machines.get(id)
        identity = machine.identity if machine is not None else None
        return identity.pid if identity is not None else None

    def processes(self) -> dict[str, int]:
        """Those of all machines that have one."""
        found = ((id, machine.identity) for id, machine in self._machines.items())
        return {id: identity.pid for id, identity in found if identity is not None}

    async def used_memory(self) -> dict[str, int]:
        """By machine, how many bytes its guest says that it uses; without those that don't say it."""
        machines = [machine for machine in self._machines.values() if not machine.held]
        used = await asyncio.gather(*(machine.used_bytes() for machine in machines))
        found = zip(machines, used, strict=True)
        return {machine.id: count for machine, count in found if count >= 0}

    def console_socket(self, id: str) -> Path | None:
        machine = self._machines.get(id)
        return machine.files.console if machine is not None and machine.lives else None

    async def close(self) -> None:
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            await asyncio.gather(self._housekeeping, return_exceptions=True)
        await asyncio.gather(*(machine.close() for machine in self._machines.values()))
        self._machines.clear()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            for machine in list(self._machines.values()):
                try:
                    machine.files.trim_logs()
                except OSError as error:
                    log.warning("%s: cannot trim its logs: %s", machine.id, error)
            await asyncio.gather(*(self._look_at_storage(machine) for machine in self._machines.values()))
            try:
                await self._look_at_qemu()
            except HypervisorError as error:
                log.warning("%s", error)

    async def _look_at_storage(self, machine: Machine) -> None:
        try:
            await machine.look_at_storage()
        except HypervisorError as error:
            log.warning("%s", error)

    def _know(self, files: MachineFiles, saved: Saved) -> Machine:
        id = files.id
        machine = Machine(self._env, files, saved, self._cgroups, self._accelerator, lambda: self._notify(id))
        self._machines[id] = machine
        return machine

    def _get(self, id: str) -> Machine:
        try:
            return self._machines[id]
        except KeyError:
            raise HypervisorError(f"{id}: no such machine here") from None

    def _notify(self, id: str) -> None:
        for changed in self._subscribers:
            changed(id)
