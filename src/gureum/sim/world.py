"""A simulated cloud: real manager, real services, real agents; hosts, disks, network and time are not.

Processes can be killed at any moment and at named crash points, links lose and repeat messages, guests crash
and shut themselves down, hosts lose power, pools fill up; all decided by one seeded random source.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gureum.agent.agent import Agent, Identity
from gureum.control.images import register
from gureum.control.manager import Manager
from gureum.env import Env
from gureum.errors import ApiError, TransportError
from gureum.gateway.call import Call
from gureum.hypervisors.fake import FakeHypervisor, FakeMachines
from gureum.images.manifest import ImageManifest
from gureum.network.fake import FakeNetwork, FakeWires
from gureum.san.fake import FakePool, FakePoolDisk
from gureum.services import ec2, sts  # noqa: F401  (registers their operations)
from gureum.services.dispatch import Dispatcher
from gureum.services.ec2.defaults import ensure_defaults
from gureum.services.operation import Caller, Cloud
from gureum.sim.link import Weather, pair
from gureum.store.sqlite import SqliteStore
from gureum.transport.link import Link

log = logging.getLogger(__name__)

EPOCH = 1_750_000_000.0
GIB = 2**30
CALL_SECONDS_MAX = 60.0

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


class Crash(BaseException):
    """A simulated process was killed here."""


class Process:
    """A simulated process: tasks that end together, at a kill or a crash point."""

    def __init__(self, world: World, name: str, main: Callable[[Env], Awaitable[None]]) -> None:
        self.world = world
        self.name = name
        self.env = Env(world.now, random.Random(world.random.getrandbits(64)), self._crashpoint)
        self.dead = False
        self._task = asyncio.get_running_loop().create_task(self._run(main), name=name)

    async def _run(self, main: Callable[[Env], Awaitable[None]]) -> None:
        try:
            await main(self.env)
        except (Crash, asyncio.CancelledError):
            pass
        except BaseExceptionGroup as group:
            _, other = group.split((Crash, asyncio.CancelledError))
            if other is not None:
                raise
        finally:
            self.dead = True

    def _crashpoint(self, name: str) -> None:
        world = self.world
        if self.dead:
            raise Crash(name)
        world.crash_points[name] += 1
        chosen = name == world.crash_at and world.crash_points[name] == world.crash_at_count
        if chosen or world.random.random() < world.crash_chance:
            log.info("%s is killed at %s", self.name, name)
            world.crashes[name] += 1
            self.die()
            raise Crash(name)

    def die(self) -> None:
        """Kill it now; ``wait`` for its last task to be gone."""
        self.dead = True
        self._task.cancel()

    async def wait(self) -> None:
        await asyncio.wait([self._task])
        if not self._task.cancelled() and (error := self._task.exception()) is not None:
            raise error


class SimHost:
    """A host's hardware, which outlives its agent."""

    def __init__(self, world: World, name: str, zone: str) -> None:
        self.world = world
        self.name = name
        self.zone = zone
        env = Env(world.now, random.Random(world.random.getrandbits(64)), lambda _: None)
        self.machines = FakeMachines(env)
        self.disk = FakePoolDisk()
        self.boot = 1
        self.process: Process | None = None

    async def agent(self, env: Env) -> None:
        """The agent's process."""
        identity = Identity(
            cloud=CLOUD.name,
            host=self.name,
            zone=self.zone,
            boot_id=str(self.boot),
            cpus=16,
            memory_bytes=64 * GIB,
        )
        await Agent(
            env,
            identity,
            FakeHypervisor(env, self.machines),
            FakePool(env, self.disk),
            FakeNetwork(env, self.name, self.world.wires),
            self._connect,
        ).run()

    async def _connect(self) -> Link:
        return await self.world.connect(self)


class World:
    """One simulated cloud with one random source. Make it inside the virtual loop."""

    def __init__(self, seed: int, hosts: int = 1) -> None:
        self.random = random.Random(seed)
        self.weather = Weather(self.random)
        self.wires = FakeWires()
        self.crash_chance = 0.0
        self.crash_at = ""
        self.crash_at_count = 1
        self.crash_points: Counter[str] = Counter()
        self.crashes: Counter[str] = Counter()
        self.store = SqliteStore.open(":memory:", threaded=False)
        zones = [""] if hosts == 1 else [CLOUD.zones[n % len(CLOUD.zones)] for n in range(hosts)]
        self.hosts = [SimHost(self, f"host-{n}", zone) for n, zone in enumerate(zones)]
        self.manager: Manager | None = None
        self._manager_process: Process | None = None
        self._calls: dict[asyncio.Task[Any], None] = {}
        self._services: dict[asyncio.Task[None], None] = {}
        self._seats: list[asyncio.Task[None]] = []
        self.dispatcher: Dispatcher | None = None
        self.image = ""

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    async def start(self) -> None:
        """Start everything; processes that die are started again a little later, as by a supervisor."""
        env = Env(self.now, random.Random(0), lambda _: None)
        await self.store.transact(lambda tx: ensure_defaults(tx, env, CLOUD))
        await register(self.store, env, CLOUD, IMAGE)
        self._seats = [asyncio.create_task(self._keep("manager", self._run_manager, self._seat_manager))]
        for host in self.hosts:
            self._seats.append(asyncio.create_task(self._keep(host.name, host.agent, self._seat(host))))

    async def _keep(
        self, name: str, main: Callable[[Env], Awaitable[None]], seat: Callable[[Process | None], None]
    ) -> None:
        while True:
            process = Process(self, name, main)
            seat(process)
            await process.wait()
            seat(None)
            await asyncio.sleep(self.random.uniform(0.2, 5.0))

    def _seat_manager(self, process: Process | None) -> None:
        self._manager_process = process
        if process is None:
            self.manager = self.dispatcher = None
            for task in [*self._calls, *self._services]:
                task.cancel()

    def _seat(self, host: SimHost) -> Callable[[Process | None], None]:
        def seat(process: Process | None) -> None:
            host.process = process

        return seat

    async def _run_manager(self, env: Env) -> None:
        self.manager = Manager(env, CLOUD, self.store)
        self.dispatcher = Dispatcher(env, CLOUD, self.store, self.manager)
        await self.manager.run()

    def kill_manager(self) -> None:
        if self._manager_process is not None:
            self._manager_process.die()

    def kill_agent(self, host: SimHost) -> None:
        if host.process is not None:
            host.process.die()

    def lose_power(self, host: SimHost) -> None:
        """The host is off and on again: its machines and its agent are gone, its disk is not."""
        host.machines.reboot_host()
        self.wires.ports.pop(host.name, None)
        self.wires.rules.pop(host.name, None)
        host.boot += 1
        self.kill_agent(host)

    async def connect(self, host: SimHost) -> Link:
        manager = self.manager
        if manager is None:
            raise TransportError("no manager")
        ours, theirs = pair(self.weather)

        async def serve() -> None:
            try:
                await manager.serve(theirs)
            except (TransportError, TimeoutError, Crash) as error:
                log.debug("link of %s: %s", host.name, error)
            finally:
                await theirs.close()

        task = asyncio.create_task(serve())
        self._services[task] = None
        task.add_done_callback(lambda done: self._services.pop(done, None))
        return ours

    async def call(self, operation: str, input: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Call an EC2 operation; None if the manager was dead or died over it. Raises ApiError."""
        dispatcher = self.dispatcher
        if dispatcher is None or not dispatcher.implemented("ec2", operation):
            return None
        call = Call(
            service="ec2",
            operation=operation,
            input=dict(input),
            region=CLOUD.region,
            request_id="sim",
            caller=CALLER,
            source_ip="127.0.0.1",
        )
        task = asyncio.ensure_future(dispatcher(call))
        self._calls[task] = None
        task.add_done_callback(lambda done: self._calls.pop(done, None))
        await asyncio.wait([task], timeout=CALL_SECONDS_MAX)
        if task.cancelled():
            return None
        try:
            result = task.result()
        except Crash:
            return None
        assert isinstance(result, Mapping)
        return result

    async def stop(self) -> None:
        for task in self._seats:
            task.cancel()
        await asyncio.gather(*self._seats, return_exceptions=True)
        for process in [self._manager_process, *(host.process for host in self.hosts)]:
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


__all__ = ["CLOUD", "ApiError", "Crash", "Process", "SimHost", "World"]
