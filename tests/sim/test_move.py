"""An address moves between hosts while processes are killed: in one step, and nothing old stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

import pytest
from msgspec.structs import replace

from gureum.control.manager import Manager
from gureum.control.move import CannotMove, move_instance
from gureum.control.specs import host_spec
from gureum.errors import StoreError, TransportError
from gureum.resources import Instance, InstanceState, NetworkInterface, Subnet
from gureum.sim import network_invariants
from gureum.sim.loop import run
from gureum.sim.process import Crash
from gureum.sim.world import CLOUD, EPOCH, World
from gureum.store.base import Transaction

GONE_SECONDS_MAX = 1.0
"""Old entries are gone everywhere within this time, unless a process died meanwhile."""
RECOVERED_SECONDS_MAX = 60
HOSTS = [f"host-{n}" for n in range(4)]
ZONE_A = ("host-0", "host-2")
INSTANCE = "i-0000000000000000a"


class Moves:
    """A cloud of four hosts, and an instance without volumes; two hosts are in its zone. Each host has a
    neighbour of it, so that all have to know where it is.
    """

    def __init__(self, seed: int) -> None:
        self.world = World(seed, len(HOSTS))
        self.interfaces: list[NetworkInterface] = []

    async def begin(self) -> None:
        await self.world.start()
        await asyncio.sleep(3)
        async with self.world.store.read() as reader:
            subnet = next(each for each in await reader.find(Subnet) if each.zone == CLOUD.zones[0])
        for _ in range(2):
            answer = await self.world.call(
                "CreateNetworkInterface", {"SubnetId": subnet.id, "SecondaryPrivateIpAddressCount": 1}
            )
            assert answer is not None
        await self.world.store.transact(lambda tx: self._put(tx, subnet))

    async def _put(self, tx: Transaction, subnet: Subnet) -> None:
        own = await tx.find(NetworkInterface)
        await tx.put(_instance(INSTANCE, HOSTS[0], subnet, tuple(each.id for each in own)))
        for index, each in enumerate(own):
            await tx.put(replace(each, instance=INSTANCE, host=HOSTS[0], device_index=index))
        for number, host in enumerate(HOSTS, 1):
            neighbour = NetworkInterface(
                id=f"eni-{number:017x}",
                account=CLOUD.account,
                vpc=subnet.vpc,
                subnet=subnet.id,
                zone=subnet.zone,
                mac=f"02:00:00:00:00:{number:02x}",
                private_ip=f"{subnet.cidr.rpartition('.')[0]}.{200 + number}",
                instance=f"i-{number:017x}",
                host=host,
            )
            await tx.put(neighbour)
            await tx.put(_instance(str(neighbour.instance), host, subnet, (neighbour.id,)))

    async def where(self) -> str | None:
        async with self.world.store.read() as reader:
            instance = await reader.get(Instance, INSTANCE)
            places = {each.host for each in await reader.find(NetworkInterface, instance=INSTANCE)}
        assert instance is not None
        assert places == {instance.host}
        return instance.host

    async def move(self, to: str) -> bool:
        """False if the manager was not there, or died over it."""
        manager, process = self.world.manager, self.world.manager_process
        if manager is None or process is None:
            return False
        task = process.spawn(self._move(manager, to))
        await asyncio.wait([task, asyncio.create_task(process.wait())], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
        try:
            await task
        except (asyncio.CancelledError, Crash, TransportError, StoreError, CannotMove):
            return False
        return True

    async def _move(self, manager: Manager, to: str) -> None:
        moved = await self.world.store.transact(partial(move_instance, id=INSTANCE, to=to))
        await manager.calls.in_effect(to, moved.version)

    async def settled(self) -> str:
        """What is not yet as the store says; "" if all hosts are."""
        async with self.world.store.read() as reader:
            for host in HOSTS:
                spec = await host_spec(reader, CLOUD, host)
                if self.world.wires.rules.get(host) != spec.network:
                    return f"the network of {host} is not what its spec says"
        where = await self.where()
        async with self.world.store.read() as reader:
            ids = [each.id for each in await reader.find(NetworkInterface, instance=INSTANCE)]
        for id in ids:
            there = [host for host in HOSTS if id in self.world.wires.ports.get(host, {})]
            if there != [where]:
                return f"{id} is on {there} instead of {where}"
            for host in HOSTS:
                rules = self.world.wires.rules[host]
                said = [remote.host for remote in rules.remotes if remote.id == id]
                if said != ([] if host == where else [where]):
                    return f"{host} has {id} at {said} instead of {where}"
        return ""

    async def always(self) -> None:
        """At most one host has it, of those that say to have heard of the last move."""
        async with self.world.store.read() as reader:
            await network_invariants.always(self.world, reader)

    async def settle(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := await self.settled()) and loop.time() < until:
            await self.always()
            await asyncio.sleep(0.02)
        assert not left


def _instance(id: str, host: str, subnet: Subnet, interfaces: tuple[str, ...]) -> Instance:
    return Instance(
        id=id,
        account=CLOUD.account,
        reservation="r-1",
        type="t3.nano",
        image="ami-none",
        state=InstanceState.running,
        host=host,
        zone=subnet.zone,
        vpc=subnet.vpc,
        subnet=subnet.id,
        interfaces=interfaces,
        launched=datetime.fromtimestamp(EPOCH, UTC),
    )


def in_cloud(seed: int, test: Callable[[Moves], Awaitable[None]]) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: None)
        moves = Moves(seed)
        await moves.begin()
        await moves.settle(5)
        await test(moves)
        await moves.world.stop()

    run(main())


def test_old_entries_are_gone_everywhere_within_a_second() -> None:
    async def test(moves: Moves) -> None:
        for to in ("host-2", "host-0", "host-2"):
            assert await moves.move(to)
            assert await moves.where() == to
            await moves.settle(GONE_SECONDS_MAX)

    in_cloud(1, test)


@pytest.mark.parametrize("seed", range(12))
def test_moves_under_crashes(seed: int) -> None:
    async def test(moves: Moves) -> None:
        world, rng = moves.world, moves.world.random
        world.points.chance = 0.02
        world.weather.loss, world.weather.repeat, world.weather.cut = 0.05, 0.05, 0.02
        world.weather.delay = rng.choice([(0.0005, 0.01), (0.01, 0.5)])
        for n in range(10):
            moving = asyncio.create_task(moves.move(ZONE_A[(n + 1) % 2]))
            await asyncio.sleep(rng.uniform(0, 0.3))
            host, dice = rng.choice(world.hosts), rng.random()
            if dice < 0.1:
                world.lose_power(host)
            elif dice < 0.4:
                victim = world.manager_process if dice < 0.25 else host.process
                if victim is not None:
                    victim.die()
            while not moving.done():
                await moves.always()
                await asyncio.sleep(0.1)
        world.points.chance = 0.0
        world.weather.loss = world.weather.repeat = world.weather.cut = 0.0
        await moves.settle(RECOVERED_SECONDS_MAX)
        assert world.failure is None

    in_cloud(seed, test)


def test_what_cannot_be() -> None:
    async def test(moves: Moves) -> None:
        for id, to, why in (
            (INSTANCE, "host-1", "is not in zone"),
            (INSTANCE, "host-9", "is not up"),
            ("i-none", "host-2", "is not running"),
        ):
            with pytest.raises(CannotMove, match=why):
                await moves.world.store.transact(partial(move_instance, id=id, to=to))
        assert await moves.where() == "host-0"

    in_cloud(1, test)
