"""One machine: its process, its monitor, and what is known of its state."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import signal
from collections.abc import Callable, Coroutine

import msgspec

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hostspec import MachineState
from gureum.hypervisors import messages
from gureum.hypervisors.base import MachineStatus
from gureum.hypervisors.qemu.background import Background
from gureum.hypervisors.qemu.cgroup import Cgroups
from gureum.hypervisors.qemu.command import AGENT
from gureum.hypervisors.qemu.disks import parse_name
from gureum.hypervisors.qemu.guest_agent import Freezer
from gureum.hypervisors.qemu.guest_memory import GuestMemory
from gureum.hypervisors.qemu.live_disks import LiveDisks
from gureum.hypervisors.qemu.live_mirrors import LiveMirrors
from gureum.hypervisors.qemu.live_nics import LiveNics
from gureum.hypervisors.qemu.migrating import Migrating
from gureum.hypervisors.qemu.monitor import Answer, Monitor
from gureum.hypervisors.qemu.process import Process
from gureum.hypervisors.qemu.record import Identity, MachineFiles, Saved
from gureum.hypervisors.qemu.resizing import Resizing
from gureum.hypervisors.qemu.stalls import Stalls

log = logging.getLogger(__name__)

QUIT_SECONDS = 3.0
QUIT_SECONDS_HURRIED = 0.5
QUIT_SECONDS_GONE = 15.0
"""Of a machine that has gone to another host: killed, it would leave its disks' locks with the cluster for
half a minute, and its guest waiting there. librbd gives up after 10 s to tell who does not answer.
"""
ARRIVED_SECONDS = 60.0
"""How long a guest that came from another host is asked to thaw its file systems, until its agent answers."""
RECONNECT_SECONDS_MIN = 0.5
RECONNECT_SECONDS_MAX = 15.0

HELD_SECONDS = 60.0
"""For how long a guest whose process was stopped may owe its watchdog an answer: looks are 15 s apart."""
UNFED = "watchdog"
"""QEMU's run state of a machine whose watchdog ran out."""

LIVE = frozenset({MachineState.starting, MachineState.running, MachineState.paused, MachineState.shutdown})
"""States in which there is a process. A guest that shut itself down is held, so that a reboot can go on with
it.
"""


class Machine:
    """A machine that is known here, running or not. ``changed()`` is called when its status may differ."""

    def __init__(
        self,
        env: Env,
        files: MachineFiles,
        saved: Saved,
        cgroups: Cgroups,
        accelerator: str,
        changed: Callable[[], None],
    ) -> None:
        self.env = env
        self.files = files
        self.saved = saved
        self.cgroups = cgroups
        self.accelerator = accelerator
        self.changed = changed
        self.state = saved.ended or MachineState.off
        self.message = saved.message
        self._held_at = -math.inf
        """When its process was last seen to be stopped, on the event loop's clock."""
        self.run_state = ""
        """QEMU's, as it said last when it was asked."""
        self._process: Process | None = None
        self._monitor: Monitor | None = None
        self._disks: LiveDisks | None = None
        self._nics: LiveNics | None = None
        self._mirrors: LiveMirrors | None = None
        self._stalls: Stalls | None = None
        self.migrating = Migrating(self)
        self.freezer = Freezer(env, files.id, files.agent, self.agent_listens, self._note_frozen)
        self.resizing = Resizing(self)
        self._memory: GuestMemory | None = None
        self._ending = asyncio.Lock()
        self._saving = asyncio.Lock()
        self._background = Background(files.id)
        self._writes: set[asyncio.Task[None]] = set()
        """Being written to the record: not cancelled, as a thread does it that would go on."""

    @property
    def id(self) -> str:
        return self.files.id

    @property
    def group(self) -> str:
        return self.saved.group or self.id

    @property
    def lives(self) -> bool:
        return self.state in LIVE

    @property
    def volumes(self) -> tuple[str, ...]:
        """Those it has; until its QEMU has said so, those it had last."""
        return self._present(self._disks, self.saved.volumes)

    @property
    def interfaces(self) -> tuple[str, ...]:
        """As ``volumes``."""
        return self._present(self._nics, self.saved.nics)

    def _present(self, live: LiveDisks | LiveNics | None, last: tuple[str, ...]) -> tuple[str, ...]:
        if live is not None:
            return tuple(sorted(live.devices))
        return last if self.lives and self._process is not None else ()

    def status(self) -> MachineStatus:
        detaching = [id for live in (self._disks, self._nics) if live is not None for id in live.detaching]
        return MachineStatus(
            id=self.id,
            generation=self.saved.generation,
            state=self.state,
            message=self.message,
            reboots=self.saved.reboots,
            disks=self.volumes,
            nics=self.interfaces,
            detaching=tuple(sorted(detaching)),
            mirrors=dict(self._mirrors.status) if self._mirrors is not None else {},
            migration=self.migrating.status,
            size=self.resizing.status if not self.migrating.away else None,
            hung=self.hung,
        )

    def show(self, state: MachineState, message: str = "") -> None:
        if (state, message) != (self.state, self.message):
            log.info("%s: %s%s", self.id, state, f": {message}" if message else "")
            self.state, self.message = state, message
            self.changed()

    @property
    def hung(self) -> bool:
        """Whether it is paused because its guest let its watchdog run out."""
        return self.state is MachineState.paused and self.run_state == UNFED

    @property
    def held(self) -> bool:
        """Whether its process is stopped, and so cannot answer."""
        return self._process is not None and self._process.held

    @property
    def identity(self) -> Identity | None:
        return self._process.identity if self._process is not None else None

    @property
    def connected(self) -> bool:
        return self._monitor is not None and self.lives

    def monitor(self) -> Monitor:
        if self._monitor is None or not self.lives:
            raise HypervisorError(f"{self.id}: is {self.state}, or its QEMU does not answer")
        return self._monitor

    def disks(self) -> LiveDisks:
        self.monitor()
        if self._disks is None:
            raise HypervisorError(f"{self.id}: its disks are not known yet")
        return self._disks

    def nics(self) -> LiveNics:
        self.monitor()
        if self._nics is None:
            raise HypervisorError(f"{self.id}: its network interfaces are not known yet")
        return self._nics

    def mirrors(self) -> LiveMirrors:
        self.monitor()
        if self._mirrors is None:
            raise HypervisorError(f"{self.id}: its disks are not known yet")
        return self._mirrors

    async def used_bytes(self) -> int:
        """Of the memory, what the guest says that it uses; -1 if it doesn't."""
        asked = self._memory if self.state is MachineState.running else None
        return await asked.used_bytes() if asked is not None else -1

    def watch(self, identity: Identity) -> None:
        """From now on this process is the machine's. Raises HypervisorError if it has ended already."""
        self._process = Process.open(identity, self._process_ended)
        if self._process is None:
            raise HypervisorError(f"{self.id}: its process has ended")

    async def connect(self, seconds: float = 10.0) -> None:
        """Connect to the process and learn its state, but not yet its disks and interfaces."""
        self._let_go_of_monitor()
        monitor = Monitor(self.id, self.files.qmp, self._event, self._monitor_lost)
        self._monitor, self._stalls = monitor, Stalls(monitor)
        self._memory = GuestMemory(self.env, monitor)
        await self._while_alive(monitor.connect(seconds))
        await self._while_alive(self.refresh())

    async def load_devices(self) -> None:
        if self._disks is not None or self._nics is not None:
            self.remember_devices()
        self._let_go_of_devices()
        disks = LiveDisks(self.env, self.monitor(), self._devices_changed)
        await disks.load()
        nics = LiveNics(self.env, self.monitor(), self._devices_changed)
        await nics.load(self.interfaces)
        self._disks, self._nics = disks, nics
        await self.take_mirrors(disks).load()
        await self.resizing.take()
        await self.migrating.load()
        self._devices_changed()
        if self.saved.frozen:
            self.freezer.thaw_later()

    async def agent_listens(self) -> bool:
        """Whether the guest has opened the port of its agent. Of one that is held nobody knows it."""
        if self.state is MachineState.paused:
            raise HypervisorError(f"{self.id}: is held: {self.message}")
        if self.state is not MachineState.running:
            return False
        answer = await self.monitor().execute("query-chardev", seconds=1.0)
        devices = answer if isinstance(answer, list) else []
        return any(each.get("label") == AGENT and each.get("frontend-open") for each in devices)

    async def _note_frozen(self, frozen: bool) -> None:
        await self.save(frozen=frozen)

    def take_disks(self) -> LiveDisks:
        self._disks = LiveDisks(self.env, self.monitor(), self._devices_changed)
        return self._disks

    def take_mirrors(self, disks: LiveDisks) -> LiveMirrors:
        self._mirrors = LiveMirrors(self.env, self.monitor(), disks, self.changed)
        return self._mirrors

    def take_nics(self) -> LiveNics:
        self._nics = LiveNics(self.env, self.monitor(), self._devices_changed)
        return self._nics

    async def look_at_storage(self) -> None:
        """Say so while disks wait for their storage."""
        if self.held:
            self._held_at = asyncio.get_running_loop().time()
        if self.state is not MachineState.running or self._disks is None or self._stalls is None:
            return
        if not self.shares_storage() or self.held:
            return
        stalled = await self._stalls.look()
        volumes = sorted(
            volume
            for volume, device in self._disks.devices.items()
            if any(device in each for each in stalled)
        )
        message = messages.storage_waits(", ".join(volumes)) if volumes else ""
        if self.state is MachineState.running:
            self.show(MachineState.running, message)

    def _is_gone(self) -> bool:
        return self.migrating.away and not self.saved.incoming

    def migration_changed(self) -> None:
        """See ``Migrating.status``."""
        if self._is_gone():
            self.show(MachineState.paused, messages.MIGRATED)
        self.changed()

    def shares_storage(self) -> bool:
        """Whether its process reaches what the host reaches, and so a cluster."""
        try:
            return self._process is not None and self._process.has_network
        except OSError as error:
            raise HypervisorError(f"{self.id}: its process cannot be looked at: {error}") from error

    def _devices_changed(self) -> None:
        self.remember_devices()
        self.changed()

    def remember_devices(self) -> None:
        changes: dict[str, object] = {}
        if self._disks is not None and self.saved.volumes != self.volumes:
            changes["volumes"] = self.volumes
        if self._nics is not None and self.saved.nics != self.interfaces:
            changes["nics"] = self.interfaces
        if changes:
            self.remember(**changes)

    async def _while_alive(self, work: Coroutine[None, None, None]) -> None:
        """Await ``work``, but not longer than the process lives."""
        if self._process is not None and await self._process.outlives(work):
            return
        work.close()
        raise HypervisorError(f"{self.id}: {self.message or 'its process has ended'}")

    async def refresh(self) -> None:
        """Ask QEMU what the machine does."""
        answer = await self.monitor_execute("query-status")
        status = str(answer.get("status")) if isinstance(answer, dict) else ""
        self.run_state = status
        self._show_run_state(status)

    async def monitor_execute(self, command: str) -> object:
        if self._monitor is None:
            raise HypervisorError(f"{self.id}: its QEMU does not answer")
        return await self._monitor.execute(command)

    def _show_run_state(self, status: str) -> None:
        """Map QEMU's run states (qapi/run-state.json)."""
        if self._process is None or self.saved.ended in (MachineState.off, MachineState.crashed):
            return
        if self.saved.incoming:
            if status == "running":
                self.came_and_went_on()
            else:
                self.show(MachineState.starting)
                return
        match status:
            case "running":
                if self.saved.ended is not None:  # noted before a reset that was cut short
                    self._note(None, "")
                self.migrating.runs()
                self.show(MachineState.running)
            case "shutdown":
                self._guest_shut_down()
            case "guest-panicked":
                self._conclude(MachineState.crashed, messages.GUEST_PANICKED)
            case "internal-error":
                self._conclude(MachineState.crashed, messages.EMULATION_FAILED)
            case "io-error":
                self.show(MachineState.paused, self.saved.paused or messages.STORAGE_FAILED)
            case "watchdog":
                self._unfed()
            case "prelaunch":
                self.show(MachineState.starting)
            case _:
                gone = status == "postmigrate" or self._is_gone()
                self.show(MachineState.paused, messages.MIGRATED if gone else messages.PAUSED)

    def came_and_went_on(self) -> None:
        # A snapshot may have frozen it where it left, in the moment of its leaving.
        self.remember(incoming=False, migration="", exports="", frozen=True)
        self.freezer.thaw_later(ARRIVED_SECONDS)
        self.migrating.went_on()
        self.resizing.look_soon()
        self.changed()

    def _event(self, name: str, data: Answer) -> None:
        match name:
            case "SHUTDOWN" if data.get("guest"):
                self._guest_shut_down()
            case "SHUTDOWN" if data.get("reason") == "host-signal" and self.saved.ended is None:
                # QEMU goes because all processes are told to: what ran is to run again when the host does.
                self._note(MachineState.off, messages.HOST_STOPS)
            case "GUEST_PANICKED":
                self._conclude(MachineState.crashed, messages.GUEST_PANICKED)
            case "BLOCK_IO_ERROR" if data.get("action") == "stop":
                self._storage_failed(data)
            case "MIGRATION":
                self.migrating.event(str(data.get("status")))
            case "MEMORY_DEVICE_SIZE_CHANGE" | "ACPI_DEVICE_OST":
                self.resizing.look_soon()
            case "STOP" | "RESUME":
                if name == "RESUME" and self.saved.paused:
                    self.remember(paused="")
                self._background.start(self.refresh())
            case "DEVICE_DELETED" if "device" in data:
                for live in (self._disks, self._nics):
                    if live is not None:
                        live.device_deleted(str(data["device"]))
            case _:
                log.debug("%s: %s %s", self.id, name, data)

    def _storage_failed(self, data: Answer) -> None:
        """QEMU stops for an error of a disk, and says so next."""
        reason = str(data.get("reason"))
        if reason == os.strerror(errno.ESHUTDOWN):
            # librbd's client is on the cluster's blocklist, for good.
            self._conclude(MachineState.crashed, messages.STORAGE_SHUT_OUT)
            return
        layer = parse_name(str(data.get("node-name")))
        full = data.get("nospace") or reason == os.strerror(errno.EDQUOT)
        volume = layer[0] if layer is not None else "a disk"
        message = messages.STORAGE_FULL if full else messages.storage_failed(volume, reason)
        if message != self.saved.paused:
            self.remember(paused=message)

    def _unfed(self) -> None:
        """Its watchdog ran out, on a clock that goes on while the process is stopped: the guest is only to
        blame if it could run.
        """
        stopped = asyncio.get_running_loop().time() < self._held_at + HELD_SECONDS
        is_excused = stopped or (self.state is MachineState.running and self.message)
        # What is on its way may be on the other host already: it does not go on here without being told to.
        if is_excused and not self.migrating.holds_still:
            why = "it was stopped not long ago" if stopped else self.message
            log.warning("%s: its watchdog ran out, and is off from now on, but %s: it goes on", self.id, why)
            self._background.start(self._go_on_unwatched())
        else:
            self.show(MachineState.paused, messages.GUEST_HUNG)

    async def _go_on_unwatched(self) -> None:
        await self.monitor_execute("cont")

    def _guest_shut_down(self) -> None:
        """Its process is held. That the guest did this is kept, should the process get lost."""
        if self.saved.ended is None:
            self._note(MachineState.shutdown, messages.GUEST_SHUT_DOWN)
        self.show(MachineState.shutdown, messages.GUEST_SHUT_DOWN)

    def _note(self, ended: MachineState | None, message: str) -> None:
        self.remember(ended=ended, message=message)

    def remember(self, **changes: object) -> None:
        """Change the record now, so that whoever acts on it next sees it, and write it in the background."""
        self.saved = msgspec.structs.replace(self.saved, **changes)
        self._write_soon().add_done_callback(self._written)

    def _written(self, write: asyncio.Task[None]) -> None:
        if not write.cancelled() and (error := write.exception()) is not None:
            log.warning("%s: its record could not be written: %s", self.id, error)

    async def reset(self, reboots: int) -> None:
        if self.migrating.away:
            raise HypervisorError(f"{self.id}: its guest is on another host")
        if self.state is MachineState.shutdown and self._process is None:
            await self.end(MachineState.off, messages.STOPPED)
            return
        monitor = self.monitor()
        if self.saved.ended is not None:
            await self.save(ended=None, message="")
        self.env.crashpoint("qemu.reset.recorded")
        await monitor.execute("system_reset")
        if self.state is not MachineState.running:
            await monitor.execute("cont")
        self.env.crashpoint("qemu.reset.done")
        await self.save(reboots=reboots)
        await self.refresh()
        self.changed()

    def _conclude(self, state: MachineState, message: str) -> None:
        """The guest has come to an end while its process is held for us to see it: keep why, and end the
        process.
        """
        self._background.start(self.end(state, message))

    async def end(self, state: MachineState, message: str, hurried: bool = False) -> None:
        """End the machine for the given reason. Once it has ended, it can only become off. ``hurried``: see
        ``Hypervisor.power_off``.
        """
        async with self._ending:
            live = self._process is not None
            if not live and state is not MachineState.off:
                return
            if self.saved.ended is not state:
                try:
                    await self.save(ended=state, message=message)
                except OSError as error:
                    # A full disk above all: ending machines is what makes room on it.
                    log.warning("%s: why it ends could not be kept: %s", self.id, error)
            self.env.crashpoint("qemu.end.recorded")
            if live:
                await self._end_process(hurried)
                self.env.crashpoint("qemu.end.ended")
            self.show(self.saved.ended or state, self.saved.message)

    async def end_unstarted(self, message: str) -> None:
        """There was no process to be had."""
        await self.save(ended=MachineState.crashed, message=message)
        self.show(MachineState.crashed, message)

    async def save(self, **changes: object) -> None:
        """Change the record, for good when this returns."""
        self.saved = msgspec.structs.replace(self.saved, **changes)
        await asyncio.shield(self._write_soon())

    def _write_soon(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self._write())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    async def _write(self) -> None:
        async with self._saving:
            await asyncio.to_thread(self.files.save, self.saved, True)

    async def _end_process(self, hurried: bool = False) -> None:
        """By ``quit``, which completes what is being written; by SIGKILL if that does not work at once."""
        process = self._process
        if process is None:
            return
        if self._monitor is not None:
            seconds = QUIT_SECONDS_HURRIED if hurried else QUIT_SECONDS
            if self._is_gone():
                seconds = QUIT_SECONDS_GONE
            with contextlib.suppress(HypervisorError, TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._monitor.execute("quit", seconds=seconds)
                    await process.finished.wait()
        if not process.finished.is_set():
            log.warning("%s: its QEMU does not quit: killing process %d", self.id, process.pid)
            await process.kill_and_wait()
        self._let_go_of_monitor()

    def _process_ended(self, status: int | None) -> None:
        """Called as soon as the process is gone, for whatever reason."""
        self._process = None
        self.freezer.close()
        self.resizing.close()
        self._let_go_of_devices()
        self.cgroups.remove(self.group)
        self._let_go_of_monitor()
        if self.saved.ended is not None:
            self.migrating.process_ended(self.saved.message)
            self.show(self.saved.ended, self.saved.message)
            return
        message = self.describe_exit(status)
        self.migrating.process_ended(message)
        self._note(MachineState.crashed, message)
        self.show(MachineState.crashed, message)

    def describe_exit(self, status: int | None) -> str:
        if status is not None and status < 0:
            return messages.killed_by(signal.Signals(-status).name)
        output = self.files.last_output()
        if self.saved.incoming:
            return messages.migration_failed(output or messages.PROCESS_ENDED)
        starting = self.state is MachineState.starting
        if starting and output:
            return messages.start_failed(output)
        return f"{messages.PROCESS_ENDED}: {output}" if output else messages.PROCESS_ENDED

    def _let_go_of_devices(self) -> None:
        for live in (self._disks, self._nics, self._mirrors):
            if live is not None:
                live.close()
        self._disks = self._nics = self._mirrors = None
        self.resizing.let_go()

    def _let_go_of_monitor(self) -> None:
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.close()

    def _monitor_lost(self) -> None:
        self._background.start(self._reconnect())

    async def _reconnect(self) -> None:
        """Its monitor connection ended. If the process lives on, try again, ever slower."""
        self._let_go_of_monitor()
        delay = RECONNECT_SECONDS_MIN
        while True:
            await asyncio.sleep(delay)
            if self._process is None or self._monitor is not None:
                return
            try:
                await self.connect()
                await self.load_devices()
            except HypervisorError as error:
                log.warning("%s", error)
                self._let_go_of_monitor()
                delay = min(2 * delay, RECONNECT_SECONDS_MAX)

    def reconnect_later(self) -> None:
        self._background.start(self._reconnect())

    async def close(self) -> None:
        """Let go: the process goes on."""
        self._background.cancel()
        self.migrating.close()
        await asyncio.gather(self._background.ended(), *self._writes, return_exceptions=True)
        self.freezer.close()
        self.resizing.close()
        self._let_go_of_devices()
        self._let_go_of_monitor()
        if self._process is not None:
            self._process.close()
            self._process = None
