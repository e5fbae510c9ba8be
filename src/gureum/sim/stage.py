"""Where a scenario plays: a simulated cloud, its guests, and what its client was promised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

from gureum.resources import (
    Address,
    Host,
    Image,
    Instance,
    Snapshot,
    Volume,
)
from gureum.resources.record import Record
from gureum.sim import invariants
from gureum.sim.guests import Guests
from gureum.sim.ledger import Ledger
from gureum.sim.process import Process
from gureum.sim.timeline import Timeline
from gureum.sim.violation import Violation
from gureum.sim.words import DEVICE
from gureum.sim.world import SimHost, World

POLL_SECONDS = 0.1
RECORDS: tuple[type[Record], ...] = (Instance, Volume, Snapshot, Address, Host)


class Setting(Protocol):
    """The cloud."""

    @property
    def seed(self) -> int: ...

    @property
    def hosts(self) -> int: ...

    @property
    def shared(self) -> bool: ...

    @property
    def ha(self) -> bool: ...

    @property
    def pools(self) -> int: ...


class Stage:
    """``pass_time`` lets time pass, and checks what must always hold."""

    def __init__(
        self,
        setting: Setting,
        timeline: Timeline,
        pass_time: Callable[[float], Awaitable[None]],
    ) -> None:
        self.world = World(setting.seed, setting.hosts, setting.shared, setting.ha, pools=setting.pools)
        for san in self.world.sans.values():
            san.slow_chance = 0.0  # what is slow is said
        self.guests = Guests(self.world)
        self.ledger = Ledger()
        self.pass_time = pass_time
        self.ids: dict[str, str] = {}
        self.hosts: dict[str, str] = {}
        """Hosts that the scenario has a name of its own for."""
        self._timeline = timeline

    def learn(self, name: str, id: str) -> None:
        self.ids[name] = id
        self._timeline.names[id] = name

    # Calls

    async def call(self, operation: str, service: str = "ec2", **input: Any) -> Mapping[str, Any] | None:
        """None: no answer. Raises ApiError."""
        answer = await self.world.call(operation, input, service)
        self.ledger.called(operation, input, answer)
        return answer

    async def image(self) -> Image:
        async with self.world.store.read() as reader:
            return (await reader.find(Image))[0]

    # What there is

    async def id(self, name: str) -> str:
        """Of what a scenario calls so. Raises Violation if it was never made."""
        device = DEVICE.fullmatch(name)
        if device is None:
            if name not in self.ids:
                raise Violation(f"{name} was never made")
            return self.ids[name]
        instance = await self.instance(device["instance"])
        found = [each.volume for each in instance.devices if each.device.endswith(f"/{device[2]}")]
        if not found:
            raise Violation(f"{device['instance']} has no {device[2]}")
        return found[0]

    async def instance(self, name: str) -> Instance:
        id = await self.id(name)
        async with self.world.store.read() as reader:
            found = await reader.get(Instance, id)
        if found is None:
            raise Violation(f"{name} is forgotten")
        return found

    async def state(self, name: str) -> str:
        """Of an instance, volume, snapshot or host; "gone" if its record is."""
        id = name if name in [host.name for host in self.world.hosts] else await self.id(name)
        async with self.world.store.read() as reader:
            for kind in RECORDS:
                record = await reader.get(kind, id)
                if record is not None:
                    return _state(record)
        return "gone"

    def host(self, name: str) -> SimHost:
        return next(host for host in self.world.hosts if host.name == name)

    def agent(self, name: str) -> Process:
        """Raises Violation if it is dead."""
        process = self.host(name).process
        if process is None:
            raise Violation(f"the agent of {name} is dead now")
        return process

    def manager(self) -> Process:
        process = self.world.manager_process
        if process is None:
            raise Violation("the manager is dead now")
        return process

    async def runs_on(self, name: str) -> SimHost:
        """The host where the machine of an instance really runs. Raises Violation if that is nowhere."""
        id = await self.id(name)
        for host, machine in self.machines():
            if machine == id:
                return host
        raise Violation(f"no machine of {name} runs")

    def machines(self) -> Iterator[tuple[SimHost, str]]:
        """All that run, but for those that are held or shut out of all they have."""
        for host in self.world.hosts:
            for id in sorted(host.machines.running()):
                if not host.harmless(host.machines.machines[id]):
                    yield host, id

    # Waiting

    async def until(self, what: Callable[[], Awaitable[str]], seconds: float) -> None:
        """Until it says "", or a Violation with what it says."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while left := await what():
            if loop.time() >= until:
                raise Violation(f"after {seconds:g} s: {left}")
            await self.pass_time(POLL_SECONDS)

    async def unrest(self) -> str:
        return "; ".join(await invariants.at_rest(self.world))


def _state(record: Record) -> str:
    if isinstance(record, Volume) and record.state == "in-use" and record.attachments:
        # An attachment that is complete is what people mean.
        return str(record.attachments[0].state)
    if isinstance(record, Host) and record.park is not None:
        return str(record.park.state)
    if isinstance(record, Host) and record.draining and record.state == "up":
        return "draining"
    if isinstance(record, Address):
        return "associated" if record.association else "free"
    return str(getattr(record, "state", ""))
