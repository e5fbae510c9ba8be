"""The machines of the host, stepped towards their specs.

A step looks at one machine as it is and does the one next thing; between steps it waits for news of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Iterator

from msgspec.structs import replace

from gureum.agent.disks import Disks
from gureum.agent.passages import Passages, gone
from gureum.agent.settled import Settled
from gureum.agent.workers import Workers
from gureum.bell import Bell
from gureum.env import Env
from gureum.errors import HostError, HypervisorError, PoolUnavailable
from gureum.hostspec import HostSpec, MachineReport, MachineSpec, MachineState, NicSpec
from gureum.hypervisors.base import Disk, Hypervisor, MachineConfig, MachineStatus, Nic
from gureum.migrationspec import MigrationReport
from gureum.network.base import HostNetwork
from gureum.san.base import DiskSource

log = logging.getLogger(__name__)

CONCURRENT_MAX = 256
LOOK_AGAIN_SECONDS = 5.0
REBOOT_SECONDS = 30.0
"""How long a guest has to shut down for a reboot before it is reset."""
START_SECONDS = 15.0
"""For how long a start is tried whose disks or ports can't be opened, before it has failed."""
PORTS_SECONDS = 2.0
"""For how long a machine that comes has its disks opened and waits for its ports."""
POWER_BUTTON = "power button"
"""The purpose under which is kept until when it is not pressed again."""

LET_GO_SECONDS = 0.5
"""How long a host without an uplink tries to let go of what a machine had, before it says that that ended."""

LIVE = (MachineState.starting, MachineState.running, MachineState.paused, MachineState.shutdown)


class Machines:
    """``changed(machine id)`` is called when what is reported of a machine may have changed. ``address``:
    where other hosts reach this one. ``uplink_down()``: whether they do not, now.
    """

    def __init__(
        self,
        env: Env,
        hypervisor: Hypervisor,
        network: HostNetwork,
        disks: Disks,
        changed: Callable[[str], None],
        may_start: Callable[[], bool] = lambda: True,
        address: str = "",
        uplink_down: Callable[[], bool] = lambda: False,
    ) -> None:
        self.env = env
        self.hypervisor = hypervisor
        self.network = network
        self.disks = disks
        self._changed = changed
        self._passages = Passages(env, hypervisor, address)
        self._may_start = may_start
        self._uplink_down = uplink_down
        self._specs = Settled[MachineSpec]()
        self._ports: set[str] = set()
        self._openable: frozenset[str] = frozenset()
        """Ports that stand by and can be opened, though not all of the network is there yet."""
        self._port_news = Bell()
        self._failed: dict[str, tuple[int, str]] = {}
        """Generation and message of machines that could not be started."""
        self._deadlines: dict[tuple[str, str], float] = {}
        """By machine and purpose, until when the guest may take to do as asked, on the event loop's clock."""
        self._sizes: dict[str, tuple[int, int]] = {}
        """By machine, the vCPUs and memory that it was last told to have."""
        self._letting_go: dict[str, float] = {}
        """Machines whose volumes, or some, are being let go of, and since when, on the event loop's clock."""
        self._ended: dict[str, int] = {}
        """Of those that have ended, by which revision of the spec."""
        self._workers = Workers[str](self._work, CONCURRENT_MAX)

    def take(self, spec: HostSpec) -> None:
        machines = {machine.id: machine for machine in spec.machines}
        unknown = self.hypervisor.machines().keys() - machines.keys()
        for id in [*self._specs.take(machines, spec.revision), *sorted(unknown)]:
            self._workers.kick(id)
        self._port_news.set()

    def permitted(self) -> None:
        """Machines may be started again."""
        for id in self._specs.specs:
            self._workers.kick(id)

    def kick(self, id: str) -> None:
        """Something happened to the machine."""
        if self._specs.revision:
            self._specs.unsettle(id)
            self._workers.kick(id)
        self._changed(id)

    def network_changes(self) -> None:
        """No port is sure to be there until the network was applied."""
        self._ports, self._openable = set(), frozenset()

    def ports_made(self, ports: frozenset[str]) -> None:
        """These ports stand by, and can be opened: a machine that comes starts while the rest is made."""
        self._openable |= ports
        self._port_news.set()
        for spec in self._specs.specs.values():
            if spec.incoming is not None and any(nic.interface in ports for nic in spec.nics):
                self._workers.kick(spec.id)

    def network_applied(self, ports: set[str]) -> None:
        """These ports, and no others, are there now."""
        new = ports - self._ports
        self._ports = ports
        self._port_news.set()
        for spec in self._specs.specs.values():
            if any(nic.interface in new for nic in spec.nics):
                self._workers.kick(spec.id)

    def volume_changed(self, volume: str) -> None:
        for spec in self._specs.specs.values():
            if any(disk.volume == volume for disk in spec.disks):
                self._workers.kick(spec.id)

    def volume_released(self, id: str) -> None:
        """Other hosts can have a volume that was held for the machine."""
        if id in self._letting_go:
            self._workers.kick(id)

    async def resume_paused(self) -> None:
        """Let machines go on that were held for lack of space, or of a pool that answers, if there is now."""
        for status in list(self.hypervisor.machines().values()):
            spec = self._specs.specs.get(status.id)
            wanted = status.state is MachineState.paused and spec is not None and spec.run
            if wanted and not gone(status) and self.disks.usable(status.disks):
                try:
                    await self.hypervisor.resume(status.id)
                except HostError as error:
                    log.warning("%s stays held: %s", status.id, error)

    async def close(self) -> None:
        await self._workers.close()

    # The work

    async def _work(self, id: str) -> None:
        while True:
            spec = self._specs.specs.get(id)
            status = self.hypervisor.machines().get(id)
            if spec is None:
                if status is not None:
                    await self.hypervisor.remove(id)
                    self.env.crashpoint("agent.machine.removed")
                self._forget(id)
                return
            done = await self._on(spec, status) if spec.run else await self._off(spec, status)
            self._changed(id)
            if done and self._specs.settle(id, spec):
                self._changed(id)
                if not self._resizes(spec):
                    return
                # Its guest takes its time, or does nothing: that keeps no other work from being done.
                await self._workers.wait_kick(id, self._pause(id))
            if not done:
                await self._workers.wait_kick(id, self._pause(id))

    def _pause(self, id: str) -> float:
        """Seconds until the machine is looked at again without news of it."""
        now = asyncio.get_running_loop().time()
        waits = [
            until - now for (machine, _), until in self._deadlines.items() if machine == id and until > now
        ]
        if id in self._letting_go and (left := self._letting_go[id] + LET_GO_SECONDS - now) > 0:
            waits.append(left)
        return max(0.05, min([LOOK_AGAIN_SECONDS, *waits]))

    def _forget(self, id: str) -> None:
        self._specs.forget(id)
        self._failed.pop(id, None)
        self._letting_go.pop(id, None)
        self._sizes.pop(id, None)
        self._ended.pop(id, None)
        self._passages.forget(id)
        self._end_deadlines(id)
        self._changed(id)

    def _end_deadlines(self, id: str) -> None:
        for key in [key for key in self._deadlines if key[0] == id]:
            del self._deadlines[key]

    async def _off(self, spec: MachineSpec, status: MachineStatus | None) -> bool:
        """One step towards a machine that is off; True if it is."""
        if status is None or status.state not in LIVE:
            self._end_deadlines(spec.id)
            self._ended[spec.id] = self._specs.revision
            return self._let_go(spec.id, set())
        same = status.generation == spec.generation
        if same and spec.shutdown_seconds > 0 and await self._stays(spec, status):
            return False
        polite = status.state is MachineState.running and spec.shutdown_seconds > 0
        if polite and not await self._asked(spec.id, "stop", spec.shutdown_seconds):
            return False
        # Only others that wait for its volumes are in a hurry: what is on the own disk it is to write.
        hurried = self._uplink_down() and bool(self.disks.holding(spec.id))
        await self.hypervisor.power_off(spec.id, hurried=hurried)
        self.env.crashpoint("agent.machine.off")
        return False

    async def _stays(self, spec: MachineSpec, status: MachineStatus) -> bool:
        """See Passages.stay: before that it can't be asked to shut down. A hypervisor that does not answer is
        waited for no longer than its guest would be.
        """
        now = asyncio.get_running_loop().time()
        asked = self._deadlines.setdefault((spec.id, "stop asked"), now)
        try:
            return await self._passages.stay(status)
        except HypervisorError as error:
            if now < asked + spec.shutdown_seconds:
                raise
            log.warning("%s is ended on its way: %s", spec.id, error)
            return False

    async def _asked(self, id: str, purpose: str, seconds: float) -> bool:
        """Ask the guest to shut down, again and again: it may not listen yet. True when its time is over.

        The time counts from the first request, also if it becomes less: one that is terminated after it did
        not stop has been asked already.
        """
        now = asyncio.get_running_loop().time()
        deadline = self._deadlines.setdefault((id, f"{purpose} asked"), now) + seconds
        self._deadlines[id, purpose] = deadline
        if now < deadline and now >= self._deadlines.get((id, POWER_BUTTON), 0.0):
            self._deadlines[id, POWER_BUTTON] = now + LOOK_AGAIN_SECONDS
            await self.hypervisor.press_power_button(id)
        return now >= deadline

    async def _on(self, spec: MachineSpec, status: MachineStatus | None) -> bool:
        """One step towards a machine that runs as its spec says; True if it does, or can't."""
        self._ended.pop(spec.id, None)
        if self._failed.get(spec.id, (0, ""))[0] == spec.generation:
            return True
        if status is not None and status.generation != spec.generation and status.state in LIVE:
            await self.hypervisor.power_off(spec.id)
            return False
        if status is None or status.generation != spec.generation or status.state is MachineState.off:
            if spec.outgoing is not None and spec.outgoing.address:
                return True  # it may be at the other host already
            await self._start(spec)
            return False
        if spec.incoming is not None:
            return True
        if await self._passages.arrive(status):
            return False
        if await self._passages.stay(status, spec.outgoing):
            return False
        if spec.outgoing is not None and status.state in (MachineState.running, MachineState.paused):
            await self._passages.leave(spec.id, spec.outgoing, status)
            return True
        if spec.reboots > status.reboots and status.state in LIVE:
            await self._reboot(spec, status)
            return False
        if status.state not in (MachineState.running, MachineState.paused):
            return status.state is not MachineState.starting
        disks = await self._disks(spec, status)
        nics = await self._interfaces(spec, status)
        if self._resizes(spec):
            self._sizes[spec.id] = spec.vcpus, spec.memory_bytes
            self.env.crashpoint("agent.machine.resize")
            await self.hypervisor.resize(spec.id, spec.vcpus, spec.memory_bytes)
            self.env.crashpoint("agent.machine.resized")
        if disks and nics:
            self._end_deadlines(spec.id)
        return disks and nics

    def _resizes(self, spec: MachineSpec) -> bool:
        """Whether the machine has not got the size that it is to have, and may get it."""
        status = self.hypervisor.machines().get(spec.id)
        if status is None or status.generation != spec.generation or not spec.run:
            return False
        size, moves = status.size, spec.incoming or spec.outgoing
        if size is None or moves is not None or status.state is not MachineState.running:
            return False
        memory_bytes = max(size.memory_min_bytes, min(spec.memory_bytes, size.memory_max_bytes))
        there = size.vcpus == min(spec.vcpus, size.vcpus_max) or size.stuck
        if not there or size.memory_bytes != memory_bytes:
            return True
        return self._sizes.get(spec.id, (spec.vcpus, spec.memory_bytes)) != (spec.vcpus, spec.memory_bytes)

    async def _start(self, spec: MachineSpec) -> None:
        lost = [disk.volume for disk in spec.disks if self.disks.lost(disk.volume)]
        if lost:
            self._failed[spec.id] = spec.generation, f"the data of {', '.join(lost)} is lost"
            return
        if not all(self.disks.ready(disk.volume) for disk in spec.disks):
            return
        if spec.incoming is None and not self._linked(spec):
            return
        if not self._may_start():
            return
        self.env.crashpoint("agent.machine.start")
        try:
            async with self.disks.opened(spec.id, [disk.volume for disk in spec.disks]) as sources:
                linked = await self._linked_soon(spec)
                if not linked or self._specs.specs.get(spec.id) != spec or not self._may_start():
                    return
                disks = tuple(
                    self._disk(disk.volume, disk.index, sources[disk.volume]) for disk in spec.disks
                )
                nics = await self._nics(spec)
                await self.hypervisor.start(
                    MachineConfig(
                        id=spec.id,
                        generation=spec.generation,
                        vcpus=spec.vcpus,
                        threads=spec.threads,
                        memory_bytes=spec.memory_bytes,
                        vcpus_max=spec.vcpus_max,
                        memory_max_bytes=spec.memory_max_bytes,
                        cpu=spec.cpu,
                        machine=spec.machine,
                        kernel=spec.kernel,
                        initrd=spec.initrd,
                        cmdline=spec.cmdline,
                        disks=disks,
                        nics=nics,
                        reboots=spec.reboots,
                        incoming=self._passages.incoming(spec.incoming),
                    )
                )
        except HostError as error:
            if not isinstance(error, HypervisorError) and self._may_retry_start(spec, error):
                raise
            log.error("%s could not be started: %s", spec.id, error)
            self._failed[spec.id] = spec.generation, str(error)
        self._end_deadlines(spec.id)
        self.env.crashpoint("agent.machine.started")

    def _linked(self, spec: MachineSpec, more: frozenset[str] = frozenset()) -> bool:
        """Whether all ports of the machine are there. ``more``: ports that count as well."""
        return all(nic.interface in self._ports or nic.interface in more for nic in spec.nics)

    async def _linked_soon(self, spec: MachineSpec) -> bool:
        """Whether the ports of a machine that comes can be opened in a moment; its disks are open by then."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PORTS_SECONDS
        while not self._linked(spec, self._openable if spec.incoming is not None else frozenset()):
            left = until - loop.time()
            if left <= 0 or self._specs.specs.get(spec.id) != spec:
                return False
            self._port_news.clear()
            await self._port_news.wait(left)
        return True

    def _may_retry_start(self, spec: MachineSpec, error: HostError) -> bool:
        """Whether disks and ports that could not be opened get another try: pool and network may recover."""
        if isinstance(error, PoolUnavailable):
            return True
        now = asyncio.get_running_loop().time()
        return now < self._deadlines.setdefault((spec.id, f"start {spec.generation}"), now + START_SECONDS)

    def _disk(self, volume: str, index: int, source: DiskSource) -> Disk:
        spec = self.disks.spec(volume)
        return Disk(
            volume=volume,
            index=index,
            source=source,
            key=spec.key,
            iops=spec.iops,
            throughput=spec.throughput,
        )

    async def _nics(self, spec: MachineSpec) -> tuple[Nic, ...]:
        nics: list[Nic] = []
        try:
            for nic in spec.nics:
                nics.append(await self._nic(nic))  # noqa: PERF401  (those opened are closed on failure)
        except HostError:
            for opened in nics:
                os.close(opened.fd)
            raise
        return tuple(nics)

    async def _nic(self, nic: NicSpec) -> Nic:
        mtu = self.network.mtu(nic.interface)
        fd = await self.network.open_port(nic.interface)
        return Nic(interface=nic.interface, mac=nic.mac, index=nic.index, fd=fd, mtu=mtu)

    async def _reboot(self, spec: MachineSpec, status: MachineStatus) -> None:
        """As EC2: the guest is asked to shut down, and reset when it has or does not answer in time."""
        if status.state is MachineState.running and not await self._asked(spec.id, "reboot", REBOOT_SECONDS):
            return
        await self.hypervisor.reset(spec.id, spec.reboots)
        self._end_deadlines(spec.id)

    def _may_ask(self, id: str, device: str, status: MachineStatus) -> bool:
        """Whether to ask the guest for a disk or interface (again): it may not have been listening."""
        now = asyncio.get_running_loop().time()
        if device in status.detaching and now < self._deadlines.get((id, device), 0.0):
            return False
        self._deadlines[id, device] = now + LOOK_AGAIN_SECONDS
        return True

    async def _disks(self, spec: MachineSpec, status: MachineStatus) -> bool:
        """One step towards the right set of disks; True if it is right."""
        wanted = {disk.volume: disk for disk in spec.disks}
        for volume in status.disks:
            force = volume in spec.force_detach
            if volume not in wanted and (force or self._may_ask(spec.id, volume, status)):
                await self.hypervisor.detach_disk(spec.id, volume, force)
                self.env.crashpoint("agent.disk.detached")
        for volume, disk in wanted.items():
            if volume not in status.disks and self.disks.ready(volume):
                self.env.crashpoint("agent.disk.attach")
                async with self.disks.opened(spec.id, [volume]) as sources:
                    if self._specs.specs.get(spec.id) != spec:
                        return False
                    await self.hypervisor.attach_disk(
                        spec.id, self._disk(volume, disk.index, sources[volume])
                    )
                self.env.crashpoint("agent.disk.attached")
        now = self.hypervisor.machines().get(spec.id)
        right = now is not None and set(now.disks) == wanted.keys()
        return right and self._let_go(spec.id, wanted.keys())

    def _let_go(self, id: str, but: Collection[str]) -> bool:
        """Whether other hosts can have the machine's volumes but for these; else its end is not told yet."""
        if self.disks.holding(id).difference(but):
            self._letting_go.setdefault(id, asyncio.get_running_loop().time())
            return False
        self._letting_go.pop(id, None)
        self._ended.pop(id, None)
        return True

    async def _interfaces(self, spec: MachineSpec, status: MachineStatus) -> bool:
        """One step towards the right set of interfaces; True if it is right."""
        wanted = {nic.interface: nic for nic in spec.nics}
        for interface in status.nics:
            force = interface in spec.force_detach_nics
            if interface not in wanted and (force or self._may_ask(spec.id, interface, status)):
                await self.hypervisor.detach_nic(spec.id, interface, force)
                self.env.crashpoint("agent.nic.detached")
        for interface, nic in wanted.items():
            if interface not in status.nics and interface in self._ports:
                self.env.crashpoint("agent.nic.attach")
                opened = await self._nic(nic)
                if self._specs.specs.get(spec.id) != spec:
                    os.close(opened.fd)
                    return False
                await self.hypervisor.attach_nic(spec.id, opened)
                self.env.crashpoint("agent.nic.attached")
        now = self.hypervisor.machines().get(spec.id)
        return now is not None and set(now.nics) == wanted.keys()

    # What is

    def reports(self) -> Iterator[MachineReport]:
        known = self.hypervisor.machines()
        for id in sorted(self._specs.specs):
            yield self._report(self._specs.specs[id], known.get(id))

    def _report(self, spec: MachineSpec, status: MachineStatus | None) -> MachineReport:
        generation, message = self._failed.get(spec.id, (0, ""))
        revision = self._specs.settled(spec.id)
        if generation == spec.generation:
            return MachineReport(
                id=spec.id,
                revision=revision,
                generation=generation,
                state=MachineState.crashed,
                message=message,
                migration=self._passage(spec, status),
            )
        live = status is not None and status.state in LIVE
        if status is None or (status.generation != spec.generation and not live):
            state = MachineState.starting if spec.run else MachineState.off
            return MachineReport(
                id=spec.id,
                revision=revision,
                generation=spec.generation,
                state=state,
                migration=self._passage(spec, None),
                ended=self._ended_with_volumes(spec.id),
            )
        state = status.state
        if spec.run and state is MachineState.off:
            state = MachineState.starting
        if spec.run and state is MachineState.shutdown and spec.reboots > status.reboots:
            state = MachineState.running
        return MachineReport(
            id=spec.id,
            revision=revision,
            generation=status.generation,
            state=state,
            message=status.message or (self.disks.stuck(status.disks) if live else ""),
            reboots=status.reboots,
            disks=status.disks if live else (),
            nics=status.nics if live else (),
            migration=self._passage(spec, status),
            size=status.size if live else None,
            hung=status.hung,
            ended=0 if live else self._ended_with_volumes(spec.id),
        )

    def _passage(self, spec: MachineSpec, status: MachineStatus | None) -> MigrationReport | None:
        """A machine that comes is not sent before all of its network is there."""
        told = self._passages.report(spec, status)
        if told is None or spec.incoming is None or self._linked(spec):
            return told
        return replace(told, address="", disks_address="")

    def _ended_with_volumes(self, id: str) -> int:
        """By which revision it has ended, if its volumes cannot be let go of now."""
        held = self.disks.holding(id)
        return self._ended.get(id, 0) if held and (self.disks.stuck(held) or self._cannot_let_go(id)) else 0

    def _cannot_let_go(self, id: str) -> bool:
        """Without an uplink the storage is hardly reached, and the pool says so only much later."""
        since = self._letting_go.get(id)
        late = since is not None and asyncio.get_running_loop().time() >= since + LET_GO_SECONDS
        return late and self._uplink_down()
