"""A simulated cloud: real manager, real services, real agents; hosts, disks, network and time are not.

Processes can be killed at any moment and at named crash points, links lose and repeat messages, guests crash
and shut themselves down, hosts lose power, pools fill up; all decided by one seeded random source.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from gureum.agent.agent import Agent, Identity
from gureum.control.images import register
from gureum.control.manager import Manager
from gureum.env import Env
from gureum.errors import ApiError, PoolError, TransportError
from gureum.gateway.call import Call
from gureum.hostspec import LOCAL
from gureum.hypervisors.base import RBD_PREFIX, Disk, describe
from gureum.hypervisors.fake import FakeHypervisor, FakeMachines
from gureum.hypervisors.fake_machine import FakeDisk, FakeMachine
from gureum.hypervisors.fake_migration import FakeRoads
from gureum.images.manifest import ImageManifest
from gureum.network.fake import FakeNetwork, FakeWires
from gureum.san.base import FileDisk, Pool
from gureum.san.fake import FakePool, FakePoolDisk
from gureum.san.fake_leases import FakeLeaseStore
from gureum.san.fake_shared import FakeSan, FakeSharedPool
from gureum.services import ec2, fleet, sts  # noqa: F401  (registers their operations)
from gureum.services.dispatch import Dispatcher
from gureum.services.ec2.defaults import ensure_defaults
from gureum.services.operation import Caller, Cloud
from gureum.sim.demands import Demands, SimGauge
from gureum.sim.hooks import HookError, SimHook
from gureum.sim.link import Weather, pair
from gureum.sim.powers import SimSwitch
from gureum.sim.process import Crash, CrashPoints, Process
from gureum.sim.size_invariants import Sizes
from gureum.sim.store import open_store
from gureum.sim.wardens import Notes, SimWarden, SimWatched, leases
from gureum.transport.link import Link

log = logging.getLogger(__name__)
machines_log = logging.getLogger("gureum.sim.machines")
calls_log = logging.getLogger("gureum.sim.calls")
process_log = logging.getLogger("gureum.sim.process")

EPOCH = 1_750_000_000.0
GIB = 2**30
CALL_SECONDS_MAX = 60.0
POOL_BYTES = 1 << 40
CHAIN_MAX = 3
"""Layers of a volume before they are merged: few, so that it happens."""
FOREIGN = "vol-000000000000f0e16"
"""A volume in each pool that the manager knows nothing of: it must be kept."""
SAN = "san"
"""The shared pool, in worlds that have one: that with the leases, if there is another one."""
BULK = "bulk"
"""The second shared pool, in worlds that have two: volumes of type gp2 are in it."""
RESUMED_SECONDS = 0.5
"""A warden that was held with its host has looked after so long."""
IMAGE_BLOCKS = {0: b"boot", 3: b"system"}

CLOUD = Cloud(
    name="sim",
    account="123456789012",
    region="us-east-1",
    zones=("us-east-1a", "us-east-1b"),
    public_cidr="198.18.0.0/24",
)
CALLER = Caller(
    account=CLOUD.account,
    arn=f"arn:aws:iam::{CLOUD.account}:root",
    user_id=CLOUD.account,
    access_key="GUSIM",
)
IMAGE = ImageManifest(
    name="sim",
    description="An image of nothing",
    architecture="x86_64",
    machines=("q35",),
    disk="/images/sim/disk",
    disk_format="raw",
    disk_bytes=GIB,
    input_hash="0" * 64,
)


class SimMachines(FakeMachines):
    """Tells of each change of a machine's state."""

    def __init__(self, env: Env, host: str, roads: FakeRoads) -> None:
        super().__init__(env, roads)
        self._host = host
        self._told: dict[str, str] = {}

    def changed(self, machine: FakeMachine) -> None:
        id, text = machine.config.id, f"{machine.state}{': ' * bool(machine.message)}{machine.message}"
        if machines_log.isEnabledFor(logging.INFO) and self._told.get(id) != text:
            self._told[id] = text
            machines_log.info("%s on %s, generation %s: %s", id, self._host, machine.config.generation, text)
        super().changed(machine)

    def freeze(self) -> None:
        thawed = [id for id in self.running() if not self.machines[id].frozen]
        super().freeze()
        for id in thawed:
            machines_log.info("%s on %s: held by the warden", id, self._host)

    def thaw(self) -> None:
        frozen = [id for id in self.running() if self.machines[id].frozen]
        super().thaw()
        for id in frozen:
            machines_log.info("%s on %s: let go on by the warden", id, self._host)


class SimHypervisor(FakeHypervisor):
    """What guests do reaches its agent as an event, not in the middle of what the agent does."""

    def __init__(self, env: Env, machines: FakeMachines, host: SimHost) -> None:
        super().__init__(env, machines)
        self._sim_host = host

    def subscribe(self, changed: Callable[[str], None]) -> None:
        process = self._sim_host.process
        assert process is not None
        super().subscribe(lambda id: process.call_soon(changed, id))


class SimHost:
    """A host: its machines, disk and wires outlive its agent."""

    def __init__(self, world: World, name: str, zone: str, address: str = "") -> None:
        self.world = world
        self.name = name
        self.zone = zone
        self.address = address
        self.cpus = 16
        env = Env(world.now, random.Random(world.random.getrandbits(64)), lambda _: None)
        self.machines = SimMachines(env, name, world.roads)
        self.disk = FakePoolDisk(POOL_BYTES)
        self.disk.images[IMAGE.disk] = dict(IMAGE_BLOCKS)
        self.machines.copy = self._copy
        self.machines.carry = self._carry
        self.boot = 1
        self.power = asyncio.Event()
        """Without it its agent does not start."""
        self.power.set()
        self.process: Process | None = None
        self.warden_process: Process | None = None
        self.notes = Notes()
        self.seated = asyncio.Event()
        """Without it its agent does not start, though the host is on."""
        self.seated.set()
        self.paused = False
        """Nothing of it runs, as while it is suspended."""
        self.resumed = -RESUMED_SECONDS
        """When it went on, on the event loop's clock."""
        self.uplink_down = False
        self.booting: asyncio.TimerHandle | None = None
        """While it was switched on and its agent does not start yet."""
        self.switch_broken = self.switch_late = self.hangs_at_boot = False
        self.off_later: asyncio.TimerHandle | None = None
        """While its fence agent has failed, and what it asked for is yet to come."""
        self.deaf = self.mute = False
        """Nothing from the manager arrives here, or nothing from here there."""
        self.lacks: frozenset[str] = frozenset()
        """Shared pools that it was never told of."""

    def still(self, machine: FakeMachine) -> bool:
        """Whether the machine's guest neither runs nor writes nor sends."""
        return self.paused or machine.frozen

    def surprised(self) -> bool:
        """Whether its warden may not have looked yet since all of it went on."""
        return asyncio.get_running_loop().time() < self.resumed + RESUMED_SECONDS

    def shut_out(self, machine: FakeMachine) -> bool:
        """Whether others have all that it could write to."""
        sans = self.world.sans.values()
        images = [san.rbd.get(volume) for san in sans for volume in machine.disks]
        return all(image is None or image.holder != self.name for image in images)

    def harmless(self, machine: FakeMachine) -> bool:
        """Whether it cannot do anything; or, for the moment until its host's warden looks, not to disks."""
        return self.still(machine) or (self.surprised() and self.shut_out(machine))

    async def warden(self, env: Env) -> None:
        """The warden's process."""
        await self.power.wait()
        assert self.world.leases is not None
        await SimWarden(env, self, self.world.leases).run()

    async def agent(self, env: Env) -> None:
        """The agent's process."""
        await self.power.wait()
        await self.seated.wait()
        process_log.info("%s starts", self.name)
        pools: dict[str, Pool] = {LOCAL: FakePool(env, self.disk, chain_max=CHAIN_MAX)}
        for name, san in self.world.sans.items():
            if name not in self.lacks:
                pools[name] = FakeSharedPool(env, san, self.name)
        identity = Identity(
            cloud=CLOUD.name,
            host=self.name,
            zone=self.zone,
            boot_id=str(self.boot),
            cpus=self.cpus,
            memory_bytes=64 * GIB,
            address=self.address,
        )
        await Agent(
            env,
            identity,
            SimHypervisor(env, self.machines, self),
            pools,
            FakeNetwork(env, self.name, self.world.wires),
            self._connect,
            leases=leases(self, self.world.leases) if self.world.leases is not None else None,
            warden=SimWatched(self) if self.world.leases is not None else None,
            uplink_down=lambda: self.uplink_down,
            gauge=SimGauge(self.machines, self.cpus, self.world.demands),
        ).run()

    async def _connect(self) -> Link:
        return await self.world.connect(self)

    def reaches(self, disk: Disk) -> bool:
        return isinstance(disk.source, FileDisk) or self.world.sans[disk.source.pool].reaches(self.name)

    def write(self, path: str, block: int, data: bytes) -> None:
        """What a machine here does, in any pool. Raises PoolFull."""
        if not path.startswith(RBD_PREFIX):
            self.disk.write(path, block, data)
        else:
            self.world.san_at(path).write(path, block, data, self.name)

    def _carry(self, disk: FakeDisk, machines: FakeMachines, target: FakeDisk) -> None:
        """All of a disk of its own pool, to that of another host."""
        host = next(host for host in self.world.hosts if host.machines is machines)
        path = target.layers[0]
        host.disk.layers[host.disk.name(path)].blocks.clear()
        for block, data in self.disk.contents(disk.layers[0]).items():
            host.write(path, block, data)

    def _copy(self, disk: FakeDisk, target: Disk) -> None:
        """All of a disk, to where it moves: what an earlier copy left there goes."""
        path, source = describe(target.source), disk.layers[0]
        if not self.reaches(target):
            raise PoolError(f"{path} can't be reached")
        blocks = (self.world.san_of(disk) if disk.shared else self.disk).contents(source)
        if path.startswith(RBD_PREFIX):
            self.world.san_at(path).image_of(path).blocks.clear()
        else:
            self.disk.layers[self.disk.name(path)].blocks.clear()
        for block, data in blocks.items():
            self.write(path, block, data)


def _shown(value: object) -> str:
    """What a line about a call has room for: no structures."""
    if isinstance(value, list):
        return ",".join(filter(None, map(_shown, value)))
    return "" if isinstance(value, dict) else str(value)


class World:
    """One simulated cloud with one random source. Make it inside the virtual loop."""

    def __init__(
        self,
        seed: int,
        hosts: int = 1,
        shared: bool = False,
        ha: bool = False,
        own_disks: bool = False,
        pools: int = 0,
    ) -> None:
        """``shared``: new volumes are in a shared pool but for those of type standard, and all hosts but the
        last stand for every zone. ``own_disks``: only those of type standard are. ``ha``: what ran on a host
        that is lost runs elsewhere. ``pools``: there is a second shared pool, for volumes of type gp2, and so
        many hosts have it; 0: there is none.
        """
        self.random = random.Random(seed)
        self.weather = Weather(self.random)
        self.wires = FakeWires()
        self.roads = FakeRoads()
        self.points = CrashPoints(self.random)
        self.demands = Demands()
        """How busy guests are."""
        self.sizes = Sizes()
        self.skew_seconds = 0.0
        """How far the wall clock is from where it should be."""
        self.hook_error = HookError()
        self.store = open_store(self.sizes.committed)
        self.hosts = [SimHost(self, "host-0", "")]
        if hosts > 1:
            zones = [CLOUD.zones[n % len(CLOUD.zones)] for n in range(hosts)]
            self.hosts = [
                SimHost(self, f"host-{n}", zone, f"192.0.2.{n + 1}") for n, zone in enumerate(zones)
            ]
        self.cloud = CLOUD
        self.sans: dict[str, FakeSan] = {}
        """The shared pools, by name."""
        if shared:
            pool, other = (LOCAL, SAN) if own_disks else (SAN, LOCAL)
            types = (("standard", other), *([("gp2", BULK)] if pools else []))
            self.cloud = replace(CLOUD, pool=pool, type_pools=types)
            for name in (SAN, BULK) if pools else (SAN,):
                self.sans[name] = san = FakeSan(name, POOL_BYTES)
                san.disks[IMAGE.disk] = dict(IMAGE_BLOCKS)
                san.slow_chance = 0.02
            for host in self.hosts[:-1]:
                host.zone = ""
            for host in self.hosts[pools:] if pools else ():
                host.lacks = frozenset({BULK})
        self.san = self.sans.get(SAN)
        """The first of them, which has the leases."""
        self.leases: FakeLeaseStore | None = None
        if ha:
            assert shared
            self.cloud = replace(self.cloud, recovers=True)
            self.leases = FakeLeaseStore(asyncio.get_running_loop().time)
            for host in self.hosts:
                host.zone = ""
        self.manager: Manager | None = None
        self.manager_power = asyncio.Event()
        """Without it the manager does not start."""
        self.manager_power.set()
        self.manager_process: Process | None = None
        self._calls: dict[asyncio.Task[Any], None] = {}
        self._services: dict[asyncio.Task[None], None] = {}
        self._seats: list[asyncio.Task[None]] = []
        self.dispatcher: Dispatcher | None = None
        self.judged = 0
        """The store's revision at which its records alone were found right."""
        self.failure: BaseException | None = None
        """What ended a process that should not have ended."""

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time() + self.skew_seconds

    async def start(self) -> None:
        """Start everything; processes that die are started again a little later, as by a supervisor."""
        env = Env(self.now, random.Random(0), lambda _: None)
        await self.store.transact(lambda tx: ensure_defaults(tx, env, self.cloud))
        await register(self.store, env, self.cloud, IMAGE)
        for host in self.hosts:
            await FakePool(env, host.disk).create_volume(FOREIGN, GIB)
        for san in self.sans.values():
            await FakeSharedPool(env, san, "").create_volume(FOREIGN, GIB)
        self._seats = [asyncio.create_task(self._keep("manager", self._run_manager, self._seat_manager))]
        for host in self.hosts:
            self._seats.append(asyncio.create_task(self._keep(host.name, host.agent, self._seat(host))))
        for host in self.hosts if self.leases is not None else ():
            keep = self._keep(f"{host.name}/warden", host.warden, self._seat_warden(host), (0.05, 0.5))
            self._seats.append(asyncio.create_task(keep))

    async def _keep(
        self,
        name: str,
        main: Callable[[Env], Awaitable[None]],
        seat: Callable[[Process | None], None],
        pause: tuple[float, float] = (0.2, 5.0),
    ) -> None:
        while True:
            process = Process(name, main, self.now, self.points)
            seat(process)
            try:
                await process.wait()
            except Exception as error:
                self.failure = self.failure or error
            process_log.info("%s is dead", name)
            seat(None)
            await asyncio.sleep(self.random.uniform(*pause))

    def _seat_manager(self, process: Process | None) -> None:
        self.manager_process = process
        if process is None:
            self.manager = self.dispatcher = None
            for task in [*self._calls, *self._services]:
                task.cancel()

    def _seat(self, host: SimHost) -> Callable[[Process | None], None]:
        def seat(process: Process | None) -> None:
            host.process = process

        return seat

    def _seat_warden(self, host: SimHost) -> Callable[[Process | None], None]:
        def seat(process: Process | None) -> None:
            host.warden_process = process

        return seat

    async def _run_manager(self, env: Env) -> None:
        await self.manager_power.wait()
        process_log.info("manager starts")
        self.manager = Manager(env, self.cloud, self.store)
        self.manager.power.switch = SimSwitch(self)
        self.manager.upgrades.hook = SimHook(self.hook_error, self._power_cycle)
        self.dispatcher = Dispatcher(env, self.cloud, self.store, self.manager)
        await self.manager.run()

    def _power_cycle(self, name: str) -> None:
        self.lose_power(next(host for host in self.hosts if host.name == name))

    def lose_power(self, host: SimHost) -> None:
        """The host is off and on again: its machines and its agent are gone, its disk is not."""
        host.machines.reboot_host()
        host.boot += 1
        host.notes = Notes()
        host.paused = False
        boot = host.boot

        def forget_network() -> None:
            if host.boot == boot:
                self.wires.ports.pop(host.name, None)
                self.wires.rules.pop(host.name, None)

        forget_network()
        for process in (host.process, host.warden_process):
            if process is not None:
                process.die()
                # A task of it may have one step left, in which it has a port.
                process.when_gone(forget_network)

    def go_dark(self, host: SimHost, seconds: float) -> None:
        """The host is off for so long."""
        host.power.clear()
        self.lose_power(host)
        asyncio.get_running_loop().call_later(seconds, host.power.set)

    def pause(self, host: SimHost, seconds: float) -> None:
        """Nothing of the host runs for so long."""
        boot, processes = host.boot, [host.process, host.warden_process]
        host.paused = True
        for process in filter(None, processes):
            process.freezer.freeze()

        def resume() -> None:
            if host.boot != boot:
                return
            host.paused, host.resumed = False, asyncio.get_running_loop().time()
            for process in filter(None, processes):
                process.freezer.thaw()

        asyncio.get_running_loop().call_later(seconds, resume)

    def cut_manager(self, host: SimHost, deaf: bool, mute: bool) -> None:
        """Let the host not hear the manager, or not be heard."""
        host.deaf, host.mute = deaf, mute

    def unseat(self, host: SimHost, seconds: float) -> None:
        """Its agent is dead for so long, and all else of it lives."""
        host.seated.clear()
        if host.process is not None:
            host.process.die()
        asyncio.get_running_loop().call_later(seconds, host.seated.set)

    def san_at(self, path: str) -> FakeSan:
        """The shared pool that a disk with this path is in."""
        return self.sans[path.removeprefix(RBD_PREFIX).partition("/")[0]]

    def san_of(self, disk: FakeDisk) -> FakeSan:
        return self.sans[disk.pool]

    def cut_san(self, hosts: Sequence[SimHost], away: bool, pool: str = "") -> None:
        """Let these hosts not reach this shared pool, or any for "", or reach it again."""
        assert self.sans
        for host in hosts:
            for san in [self.sans[pool]] if pool else self.sans.values():
                (san.cut_off.add if away else san.cut_off.discard)(host.name)
                host.machines.lose_shared_storage(away, san.name)

    async def connect(self, host: SimHost) -> Link:
        manager, process = self.manager, self.manager_process
        if manager is None or process is None:
            raise TransportError("no manager")
        if host.deaf or host.mute:
            raise TransportError("the manager is not reached")
        ours, theirs = pair(self.weather)
        ours.cut, theirs.cut = lambda: host.mute, lambda: host.deaf

        async def serve() -> None:
            try:
                await manager.serve(theirs)
            except TransportError as error:
                log.debug("link of %s: %s", host.name, error)
            except BaseExceptionGroup as group:
                _, other = group.split(Crash)
                if other is not None:
                    self.failure = self.failure or other
            finally:
                await theirs.close()

        task = process.spawn(serve())
        self._services[task] = None
        task.add_done_callback(lambda done: self._services.pop(done, None))
        return ours

    async def call(
        self, operation: str, input: Mapping[str, Any], service: str = "ec2"
    ) -> Mapping[str, Any] | None:
        """Call an operation; None if the manager was dead, died over it or did not answer in time.

        Raises ApiError.
        """
        if not calls_log.isEnabledFor(logging.INFO):
            return await self._call(operation, input, service)
        words = " ".join(f"{key}={_shown(value)}" for key, value in input.items() if _shown(value))
        try:
            answer = await self._call(operation, input, service)
        except ApiError as error:
            calls_log.info("%s %s: %s", operation, words, error)
            raise
        calls_log.info("%s %s: %s", operation, words, "no answer" if answer is None else "done")
        return answer

    async def _call(self, operation: str, input: Mapping[str, Any], service: str) -> Mapping[str, Any] | None:
        dispatcher, process = self.dispatcher, self.manager_process
        if dispatcher is None or process is None:
            return None
        call = Call(
            service=service,
            operation=operation,
            input=dict(input),
            region=CLOUD.region,
            request_id="sim",
            caller=CALLER,
            source_ip="127.0.0.1",
        )
        task = process.spawn(dispatcher(call))
        self._calls[task] = None
        task.add_done_callback(lambda done: self._calls.pop(done, None))
        await asyncio.wait([task], timeout=CALL_SECONDS_MAX)
        if not task.done() or task.cancelled():
            return None
        try:
            return task.result()
        except Crash:
            return None

    async def stop(self) -> None:
        for task in self._seats:
            task.cancel()
        await asyncio.gather(*self._seats, return_exceptions=True)
        wardens = [host.warden_process for host in self.hosts]
        for process in [self.manager_process, *(host.process for host in self.hosts), *wardens]:
            if process is not None:
                process.die()
                with contextlib.suppress(Exception):
                    await process.wait()
        for task in [*self._calls, *self._services]:
            task.cancel()
        await asyncio.gather(*self._calls, *self._services, return_exceptions=True)
        for host in self.hosts:
            await host.machines.close()
        await self.store.close()
