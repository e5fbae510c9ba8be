"""The agent: makes its host what the HostSpec says, and reports what is.

Every thing on the host has a key and a worker that steps it towards its spec (``machines``, ``disks``). The
agent keeps nothing that it could not find again: killed at any moment, it re-adopts what runs. Its last spec
is kept in a file, so that addresses, rules and metadata are served also while no manager answers; machines
are started and ended, and data is made and deleted, only on the word of a manager that answered this agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from gureum import __version__
from gureum.agent import audits, blocks
from gureum.agent.disks import Disks
from gureum.agent.fencing import Fencing
from gureum.agent.load import Gauge
from gureum.agent.machines import Machines
from gureum.agent.once import Once
from gureum.agent.pool_volumes import PoolVolumes
from gureum.agent.watched import Watched
from gureum.agent.workers import Workers
from gureum.bell import Bell
from gureum.env import Env
from gureum.errors import HostError, TransportError
from gureum.files import write_atomically
from gureum.hostspec import HostReport, HostSpec, Metadata, NetworkSpec
from gureum.hypervisors.base import Hypervisor
from gureum.loadspec import HostLoad
from gureum.network.base import HostNetwork
from gureum.san.base import Pool
from gureum.san.leases import Leases
from gureum.transport.link import Link
from gureum.transport.messages import Call, Hello, Message, Refused, Reply, Spec, SpecChange, Word
from gureum.transport.reports import ReportSender
from gureum.transport.specs import Receiver

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 2.0
WATCHED_SECONDS = 1.0
"""Between reports of a host that has a warden, and between looks at what that says."""
INVENTORY_SECONDS = 10.0
FIRST_SECONDS = 1.0
"""Between looks at a shared pool that has not answered yet: it may be being made just now."""
RECONNECT_SECONDS_MIN = 0.05
RECONNECT_SECONDS_MAX = 2.0
FLOWS_BYTES_MAX = 16 * 1024 * 1024
"""Of one port, in one message."""

SILENCE_SECONDS_MAX = 6.0
"""Of a manager that answers each report, before another one is looked for."""
SENT_MAX = 1000
"""Reports whose time is kept until the manager has them, or a later one: more than it takes in while any may
still count.
"""

NETWORK = "network"
END_AGENT = "end-agent"


class Superseded(Exception):
    """The agent was asked to end."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which host this is, and what it has; the last three as in HostReport."""

    cloud: str
    host: str
    zone: str
    boot_id: str
    cpus: int
    memory_bytes: int
    address: str = ""
    uplink_mtu: int = 1500
    wireguard_key: str = ""


class Agent:
    """One host's agent. ``run`` works until cancelled. ``pools`` by name, with the host's own.

    ``spec_file``: where the last spec is kept. ``leases``: those of hosts in a shared pool; ``warden``: this
    host's, where it has one. ``uplink_down()``: whether the way to the other hosts is gone. ``gauge``: what
    measures its load.
    """

    def __init__(
        self,
        env: Env,
        identity: Identity,
        hypervisor: Hypervisor,
        pools: Mapping[str, Pool],
        network: HostNetwork,
        connect: Callable[[], Awaitable[Link]],
        spec_file: Path | None = None,
        leases: Leases | None = None,
        warden: Watched | None = None,
        uplink_down: Callable[[], bool] = lambda: False,
        gauge: Gauge | None = None,
    ) -> None:
        self.env = env
        self.identity = identity
        self.hypervisor = hypervisor
        self.network = network
        self._connect = connect
        self._spec_file = spec_file
        self._warden = warden
        self._uplink_down = uplink_down
        self._gauge = gauge
        self._load: HostLoad | None = None
        self._sent: dict[int, float] = {}
        """When reports were sent that the manager has not answered yet, by the warden's clock."""
        self.started = env.now()
        """Tells this agent from those before and after it."""
        self._superseded = asyncio.Event()
        """It is to end, for the next one to start."""
        self._spec: HostSpec | None = None
        self._fresh = False
        self._network_error = ""
        self._network_applied: NetworkSpec | None = None
        self._report_due = Bell()
        self._sequence = 0
        self._heard_count = 0
        self._unreached = Once(log)
        self._metadata: dict[str, Metadata] = {}
        self._networks = Workers[str](self._apply_network, 1)
        self.disks = Disks(env, pools, hypervisor, self._disk_changed, self._disk_released)
        self.machines = Machines(
            env,
            hypervisor,
            network,
            self.disks,
            self._machine_changed,
            self._may_start,
            identity.address,
            uplink_down,
        )
        self._fencing = Fencing(leases, identity.host, self._report_due.set) if leases is not None else None

    @property
    def managers(self) -> tuple[str, ...]:
        """Where managers may lead, as the last spec says; none if that can only be on one machine."""
        return self._spec.managers if self._spec is not None else ()

    @property
    def manager_keys(self) -> tuple[str, ...]:
        """As in HostSpec."""
        return self._spec.manager_keys if self._spec is not None else ()

    def metadata(self, instance: str) -> Metadata | None:
        """What the instance may learn about itself; None if it is not on this host."""
        return self._metadata.get(instance)

    async def run(self) -> None:
        """Until it is cancelled, or was asked to end (``end-agent``)."""
        await self.hypervisor.recover()
        await self.disks.local.open()
        self.hypervisor.subscribe(self.machines.kick)
        self._load_spec()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._speak_forever())
                group.create_task(self._refresh_forever())
                group.create_task(self._give_way())
                if self._warden is not None:
                    group.create_task(self._ask_warden_forever(self._warden))
                for pool in self.disks.shared:
                    group.create_task(self._ask_forever(pool))
        except* Superseded:
            log.info("ends, as it was asked to: the next one goes on")
        finally:
            for part in (self._networks, self.machines, self.disks, self._fencing):
                if part is not None:
                    await part.close()

    async def _give_way(self) -> None:
        await self._superseded.wait()
        raise Superseded

    # The spec

    def _load_spec(self) -> None:
        """Serve what the last spec said until a manager answers."""
        if self._spec_file is None:
            return
        try:
            spec = msgspec.msgpack.decode(self._spec_file.read_bytes(), type=HostSpec)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("the last spec can't be read, waiting for the manager: %s", error)
            return
        if spec.cloud == self.identity.cloud and spec.host == self.identity.host:
            self._spec = spec
            self._metadata = {machine.id: machine.metadata for machine in spec.machines}
            self._networks.kick(NETWORK)

    def take(self, spec: HostSpec) -> None:
        """Take a spec in from the manager; one older than the last is passed over."""
        if spec.cloud != self.identity.cloud or spec.host != self.identity.host:
            raise TransportError(f"a spec for {spec.cloud}/{spec.host}")
        if self._fresh and self._spec is not None and spec.revision < self._spec.revision:
            log.warning("passed over a spec of revision %d: there was %d", spec.revision, self._spec.revision)
            return
        before = self._spec if self._fresh else None
        unchanged = before is not None and before.network == spec.network
        if before is not None and unchanged:
            # A large network is quickly seen to be the same as itself, and not as its copy.
            spec = replace(spec, network=before.network)
        self._fresh = True
        self._spec = spec
        self._metadata = {machine.id: machine.metadata for machine in spec.machines}
        if not unchanged:
            self.machines.network_changes()
            self._networks.kick(NETWORK)
        if before is None or replace(before, revision=spec.revision) != spec:
            self._keep(spec)
        self.env.crashpoint("agent.spec.taken")
        self.disks.take(spec)
        self.machines.take(spec)
        if self._fencing is not None:
            self._fencing.take(spec)
        self._lift()
        self._report_due.set()

    def _lift(self) -> None:
        """Not before the network is without what went elsewhere: from then on the host may be heard."""
        spec = self._spec
        if self._fencing is None or not self._fresh or spec is None:
            return
        if self._network_applied == spec.network:
            self._fencing.lift(spec.lifted)

    def _keep(self, spec: HostSpec) -> None:
        if self._spec_file is None:
            return
        try:
            volumes = tuple(replace(each, key=b"") for each in spec.volumes)
            machines = tuple(replace(each, incoming=None, outgoing=None) for each in spec.machines)
            kept = msgspec.msgpack.encode(replace(spec, volumes=volumes, machines=machines))
            write_atomically(self._spec_file, kept, durable=False)
        except OSError as error:
            log.warning("the spec could not be kept: %s", error)

    async def _apply_network(self, _key: str) -> None:
        spec = self._spec
        assert spec is not None
        if self._network_applied != spec.network:
            # What is there from now on is neither the last one nor this one, until this one is whole.
            self._network_applied = None
        try:
            await self.network.apply(spec.network, self.machines.ports_made)
        except HostError as error:
            self._network_error = str(error)
            self._report_due.set()
            raise
        self._network_error = ""
        if self._network_applied is None:
            self._report_due.set()
        self._network_applied = spec.network
        self.env.crashpoint("agent.network.applied")
        if self._spec is not None and spec.network == self._spec.network:
            there = (*spec.network.ports, *spec.network.standby)
            self.machines.network_applied({port.id for port in there})
        self._lift()

    # What the workers tell

    def _machine_changed(self, id: str) -> None:
        self._report_due.set()
        self.disks.machine_changed(id)

    def _disk_changed(self, volume: str) -> None:
        self._report_due.set()
        self.machines.volume_changed(volume)

    def _disk_released(self, machine: str) -> None:
        self._report_due.set()
        self.machines.volume_released(machine)

    # The link

    async def _speak_forever(self) -> None:
        pause = RECONNECT_SECONDS_MIN
        while True:
            try:
                link = await self._connect()
            except TransportError as error:
                self._unreached.warn(str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, RECONNECT_SECONDS_MAX)
                continue
            heard = self._heard_count
            try:
                await self._speak(link)
            except* TransportError as group:
                log.info("the link to the manager ended: %s", group.exceptions[0])
            finally:
                await link.close()
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # Before Python 3.13 a task group that ends by an error loses a cancellation that comes then.
                raise asyncio.CancelledError
            if self._heard_count > heard:
                self._unreached.done()
                pause = RECONNECT_SECONDS_MIN
            await asyncio.sleep(pause)
            pause = min(pause * 2, RECONNECT_SECONDS_MAX)

    async def _speak(self, link: Link) -> None:
        await link.send(
            Hello(
                cloud=self.identity.cloud,
                host=self.identity.host,
                zone=self.identity.zone,
                instance=self.env.token(16),
            )
        )
        specs, reports = Receiver(), ReportSender()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_reports(link, reports))
            while True:
                message = await self._receive(link)
                if isinstance(message, Word):
                    reports.answered(message)
                await self._heard(link, message, group, specs)

    async def _receive(self, link: Link) -> Message:
        """Raises TransportError, too, if a manager falls silent and there are others to go to."""
        try:
            async with asyncio.timeout(SILENCE_SECONDS_MAX if len(self.managers) > 1 else None):
                return await link.receive()
        except TimeoutError as error:
            raise TransportError(f"the manager has said nothing for {SILENCE_SECONDS_MAX:g} s") from error

    async def _heard(self, link: Link, message: Message, group: asyncio.TaskGroup, specs: Receiver) -> None:
        if isinstance(message, Refused):
            raise TransportError(f"the manager refuses this host: {message.reason}")
        self._heard_count += 1
        if isinstance(message, Spec | SpecChange):
            spec = specs.take(message)
            if spec is not None:
                self.take(spec)
        elif isinstance(message, Word):
            sent = self._sent.pop(message.sequence, None)
            for earlier in [each for each in self._sent if each < message.sequence]:
                del self._sent[earlier]
            if self._warden is not None and sent is not None:
                self._warden.heard(sent)
        elif isinstance(message, Call):
            group.create_task(self._answer(link, message))

    async def _answer(self, link: Link, call: Call) -> None:
        try:
            reply = Reply(id=call.id, data=await self._called(call))
        except (HostError, OSError) as error:
            reply = Reply(id=call.id, error=str(error))
        await link.send(reply)
        if call.method == END_AGENT and not reply.error:
            self._superseded.set()

    async def _called(self, call: Call) -> bytes:
        match call.method:
            case "console":
                if call.machine not in self.hypervisor.machines():
                    return b""
                return await self.hypervisor.console(call.machine, call.max_bytes)
            case "prepend-console":
                await self.hypervisor.prepend_console(call.machine, call.data)
                return b""
            case "export-flows":
                data = await self.network.export_flows(call.interface)
                if len(data) > FLOWS_BYTES_MAX:
                    raise HostError(f"{call.interface} has {len(data)} bytes of flows, over the bound")
                return data
            case "import-flows":
                await self.network.import_flows(call.interface, call.data)
                return b""
            case "end-agent":
                if call.data != repr(self.started).encode():
                    raise HostError("another agent was asked to end")
                return b""
            case "list-pool" | "mend-pool":
                return await audits.called(self.disks.pools.get(call.pool), self.identity.cloud, call)
            case _:
                return await blocks.called(self.disks, call)

    async def _send_reports(self, link: Link, reports: ReportSender) -> None:
        while True:
            self._report_due.clear()
            report = self.report()
            if self._warden is not None:
                while len(self._sent) >= SENT_MAX:
                    del self._sent[next(iter(self._sent))]
                self._sent[report.sequence] = self._warden.now()
            await link.send(reports.message(report))
            await self._report_due.wait(HEARTBEAT_SECONDS if self._warden is None else WATCHED_SECONDS)

    def _network_revision(self) -> int:
        if self._spec is None or not self._fresh or self._spec.network != self._network_applied:
            return 0
        return self._spec.revision

    def report(self) -> HostReport:
        """What is on this host now."""
        self._sequence += 1
        problems = [*self.disks.problems()]
        if self._network_error:
            problems.append(f"network: {self._network_error}")
        return HostReport(
            cloud=self.identity.cloud,
            host=self.identity.host,
            boot_id=self.identity.boot_id,
            revision=self._spec.revision if self._spec is not None and self._fresh else 0,
            sequence=self._sequence,
            version=__version__,
            started=self.started,
            zone=self.identity.zone,
            cpus=self.identity.cpus,
            memory_bytes=self.identity.memory_bytes,
            pool_bytes=self.disks.local.size_bytes,
            pool_free_bytes=self.disks.local.free_bytes,
            pools=tuple(self.disks.pool_reports()),
            accelerator=self.hypervisor.accelerator,
            cpu=self.hypervisor.cpu,
            cpu_vendor=self.hypervisor.cpu_vendor,
            cpu_models=self.hypervisor.cpu_models,
            address=self.identity.address,
            uplink_mtu=self.identity.uplink_mtu,
            wireguard_key=self.identity.wireguard_key,
            network_revision=self._network_revision(),
            machines=tuple(self.machines.reports()),
            volumes=tuple(self.disks.volume_reports()),
            snapshots=tuple(self.disks.snapshot_reports()),
            fences=tuple(self._fencing.reports()) if self._fencing is not None else (),
            warden=self._warden.report() if self._warden is not None else None,
            uplink_down=self._uplink_down(),
            load=self._load,
            problems=tuple(problems),
        )

    async def _refresh_forever(self) -> None:
        """What changes by itself: loads, the room that held machines wait for, a network that was flushed."""
        while True:
            await asyncio.sleep(INVENTORY_SECONDS)
            if self._gauge is not None:
                await self._measure(self._gauge)
            if self._spec is not None:
                self._networks.kick(NETWORK)
            try:
                await self.disks.refresh(self.disks.local)
                await self.machines.resume_paused()
            except HostError as error:
                log.warning("%s", error)

    async def _measure(self, gauge: Gauge) -> None:
        try:
            self._load = await gauge.measure()
        except (OSError, ValueError) as error:
            self._load = None
            log.warning("the host's load can't be measured: %s", error)

    def _may_start(self) -> bool:
        return self._warden is None or self._warden.report().permitted

    async def _ask_warden_forever(self, warden: Watched) -> None:
        """What it says changes by itself, and machines wait for its permission."""
        before = warden.report()
        while True:
            await asyncio.sleep(WATCHED_SECONDS)
            now = warden.report()
            if now != before:
                self._report_due.set()
            if now.permitted and not before.permitted:
                self.machines.permitted()
            before = now

    async def _ask_forever(self, pool: PoolVolumes) -> None:
        """Whether a shared pool answers, and how much room it has; one that is away holds up nothing else."""
        pause = FIRST_SECONDS
        while True:
            before = pool.report()
            try:
                await self.disks.refresh(pool)
                pause = INVENTORY_SECONDS
                await self.machines.resume_paused()
            except HostError as error:
                log.warning("%s", error)
            if pool.report() != before:
                self._report_due.set()
            await asyncio.sleep(pause)
