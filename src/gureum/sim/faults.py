"""What goes wrong in a simulated cloud on its own."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

from msgspec.structs import replace

from gureum.resources import Host
from gureum.san.fake_parts import BLOCK_BYTES
from gureum.sim.world import POOL_BYTES, SimHost, World
from gureum.store.base import Transaction

log = logging.getLogger(__name__)

POOL_STEPS = (
    "put_record",
    "drop_record",
    "create_layer",
    "remove_layers",
    "verify",
    "layer_size",
    "grow_layer",
    "flatten",
    "in_use",
    "used",
    "space",
    "load",
)
FAULTS = {
    "manager": 3,
    "agent": 4,
    "power": 2,
    "freeze manager": 1,
    "freeze agent": 2,
    "clock": 1,
    "network": 1,
    "input/output": 4,
    "pool full": 2,
    "pool room": 3,
    "guests full": 2,
    "guests room": 2,
    "start": 2,
    "crash": 2,
    "shutdown": 2,
    "deaf": 2,
    "clingy": 2,
}
"""Faults and how often each comes. The last five are of one machine."""
SHARED_FAULTS = {
    "san": 2,
    "san cut": 5,
    "san error": 4,
    "san full": 1,
    "san room": 3,
    "dark": 3,
    "drain": 2,
    "activate": 4,
}
"""Further ones where there is a shared pool."""
POOLS_FAULTS = {"one pool cut": 6, "one pool most": 3, "one pool away": 3}
"""Further ones where there are two shared pools: one of them is not reached by a host, by some, or by any."""
MIGRATION_FAULTS = {"road": 3, "road lost": 3, "road cut": 3}
"""Further ones where instances migrate: one fails, one is there and its source does not hear of it, and a
host is not reached.
"""
HA_FAULTS = {
    "off": 3,
    "hold": 4,
    "cut": 4,
    "cut manager": 4,
    "cut both": 4,
    "no agent": 3,
    "warden": 3,
    "uplink": 2,
}
"""Further ones where hosts are lost: off, held as a whole, cut off, without an agent, its warden dies, or its
uplink is down.
"""
OPERATED_FAULTS = {"hang": 12, "hook": 3}
"""Further ones where there is an operator: a guest hangs, the command for upgrades fails, or works again."""
SAN_STEPS = (
    "find_volume",
    "has_snapshot",
    "create_volume",
    "resize_volume",
    "delete_volume",
    "create_snapshot",
    "delete_snapshot",
    "add_image",
    "open_volume",
    "release_volume",
)
NETWORK_FAULTS = {"network": 12, "input/output": 1, "pool full": 0, "guests full": 0}
"""What is different where networks are what matters."""
SKEW_SECONDS_MAX = 1500.0
"""A jump from one end to the other must not purge what was terminated in this run: that takes an hour."""


class Faults:
    """From ``begin`` to ``end``."""

    def __init__(
        self, world: World, networks: bool = False, migrating: bool = False, operated: bool = False
    ) -> None:
        self.world = world
        self.weights = FAULTS | NETWORK_FAULTS if networks else FAULTS
        if world.san is not None:
            self.weights = self.weights | SHARED_FAULTS
        if len(world.sans) > 1:
            self.weights = self.weights | POOLS_FAULTS
        if migrating:
            self.weights = self.weights | MIGRATION_FAULTS
        if world.leases is not None:
            self.weights = self.weights | HA_FAULTS
        if operated:
            self.weights = self.weights | OPERATED_FAULTS
        self.seen: Counter[str] = Counter()

    def begin(self) -> None:
        rng, weather = self.world.random, self.world.weather
        self.world.points.chance = rng.choice([0.0, 0.005, 0.02])
        weather.loss = rng.choice([0.0, 0.02, 0.1])
        weather.repeat = rng.choice([0.0, 0.05])
        weather.cut = rng.choice([0.0, 0.01, 0.05])
        weather.delay = rng.choice([(0.0005, 0.01), (0.01, 0.5), (0.1, 3.0)])

    async def end(self) -> None:
        await self._end_of_shared()
        self.world.points.chance = 0.0
        self.world.hook_error.text = ""
        self.world.wires.failing.clear()
        self.world.roads.errors.clear()
        self.world.roads.lost_ends.clear()
        self.world.roads.cut_off.clear()
        weather = self.world.weather
        weather.loss = weather.repeat = weather.cut = 0.0
        weather.delay = (0.0005, 0.01)
        for host in self.world.hosts:
            host.disk.size_bytes = POOL_BYTES
            host.disk.fail_nothing()
            host.machines.fill_storage(False)
            host.machines.start_errors.clear()
            for machine in host.machines.machines.values():
                machine.ignores_power_button = machine.ignores_detach = False

    async def step(self) -> None:
        """Perhaps one fault."""
        rng = self.world.random
        if rng.random() > 0.12:
            return
        host = rng.choice(self.world.hosts)
        [fault] = rng.choices(list(self.weights), list(self.weights.values()))
        machines = sorted(host.machines.running())
        log.info("fault: %s", fault)
        if fault in HA_FAULTS:
            self._befalls_host(fault, host)
            self.seen[fault] += 1
        elif fault in POOLS_FAULTS:
            self._happens_to_one_pool(fault, host)
            self.seen[fault] += 1
        elif fault in SHARED_FAULTS:
            await self._happens_to_shared(fault, host)
            self.seen[fault] += 1
        elif self._happens(fault, host) or (machines and self._befalls(fault, host, rng.choice(machines))):
            self.seen[fault] += 1

    def _happens(self, fault: str, host: SimHost) -> bool:
        world, rng = self.world, self.world.random
        match fault:
            case "manager" | "freeze manager" if world.manager_process is not None:
                self._hit(fault, world.manager_process)
            case "agent" | "freeze agent" if host.process is not None:
                self._hit(fault, host.process)
            case "power":
                world.lose_power(host)
            case "clock":
                world.skew_seconds = rng.uniform(-SKEW_SECONDS_MAX, SKEW_SECONDS_MAX)
            case "network":
                world.wires.failing.add(host.name)
                asyncio.get_running_loop().call_later(
                    rng.uniform(3, 30), world.wires.failing.discard, host.name
                )
            case "input/output":
                step = rng.choice(POOL_STEPS)
                for _ in range(rng.choice([1, 1, 2, 6])):
                    host.disk.fail_next(step)
            case "pool full":
                host.disk.size_bytes = host.disk.used_bytes() + rng.randrange(8) * BLOCK_BYTES
            case "pool room":
                host.disk.size_bytes = POOL_BYTES
            case "guests full":
                host.machines.fill_storage()
            case "guests room":
                host.machines.fill_storage(False)
            case "hook":
                world.hook_error.text = "" if world.hook_error.text else "told to fail"
            case "road cut":
                world.roads.cut_off.add(host.machines)
                asyncio.get_running_loop().call_later(
                    rng.uniform(2, 20), world.roads.cut_off.discard, host.machines
                )
            case _:
                return False
        return True

    def _befalls_host(self, fault: str, host: SimHost) -> None:
        world, rng, loop = self.world, self.world.random, asyncio.get_running_loop()
        seconds = rng.choice([rng.uniform(1, 10), rng.uniform(5, 90)])
        match fault:
            case "off":
                world.go_dark(host, seconds)
            case "hold":
                world.pause(host, seconds)
            case "no agent":
                world.unseat(host, seconds)
            case "uplink":
                host.uplink_down = True
                loop.call_later(seconds, setattr, host, "uplink_down", False)
                if rng.random() < 0.75:  # the cable that leads to the storage, too
                    world.cut_san([host], True)
                    loop.call_later(seconds, world.cut_san, [host], False)
            case "warden" if host.warden_process is not None:
                host.warden_process.die()
            case "cut" | "cut manager" | "cut both":
                if fault != "cut manager":
                    world.cut_san([host], True)
                    loop.call_later(seconds, world.cut_san, [host], False)
                seconds = seconds if rng.random() < 0.5 else rng.uniform(1, 60)
                if fault != "cut":
                    deaf, mute = rng.choice([(True, True), (True, True), (True, False), (False, True)])
                    world.cut_manager(host, deaf, mute)
                    loop.call_later(seconds, world.cut_manager, host, False, False)

    async def _happens_to_shared(self, fault: str, host: SimHost) -> None:
        world, rng = self.world, self.world.random
        san = next(iter(world.sans.values())) if len(world.sans) == 1 else rng.choice([*world.sans.values()])
        loop = asyncio.get_running_loop()
        match fault:
            case "san" | "san cut":
                hosts = world.hosts if fault == "san" else [host]
                world.cut_san(hosts, True)
                loop.call_later(rng.uniform(5, 60), world.cut_san, hosts, False)
            case "san error":
                step = rng.choice(SAN_STEPS)
                for _ in range(rng.choice([1, 1, 2, 6])):
                    san.fail_next(step)
            case "san full":
                san.size_bytes = san.used_bytes() + rng.randrange(8) * BLOCK_BYTES
            case "san room":
                san.size_bytes = POOL_BYTES
            case "dark":
                world.go_dark(host, rng.uniform(5, 90))
            case "drain" | "activate":
                await self._set_draining(host.name, fault == "drain")

    def _happens_to_one_pool(self, fault: str, host: SimHost) -> None:
        world, rng = self.world, self.world.random
        hosts, pool = [host], rng.choice(list(world.sans))
        if fault != "one pool cut":
            count = len(world.hosts) if fault == "one pool away" else rng.randint(2, len(world.hosts))
            hosts = rng.sample(world.hosts, count)
        world.cut_san(hosts, True, pool)
        # Longer than what is cut off waits before it is given up, now and then.
        seconds = rng.choice([rng.uniform(2, 20), rng.uniform(20, 150)])
        asyncio.get_running_loop().call_later(seconds, world.cut_san, hosts, False, pool)

    async def _set_draining(self, host: str, draining: bool) -> None:
        async def work(tx: Transaction) -> None:
            record = await tx.get(Host, host)
            if record is not None and record.draining != draining:
                await tx.put(replace(record, draining=draining))

        await self.world.store.transact(work)

    async def _end_of_shared(self) -> None:
        world = self.world
        if not world.sans:
            return
        for san in world.sans.values():
            san.size_bytes = POOL_BYTES
            san.fail_nothing()
        world.cut_san(world.hosts, False)
        for host in world.hosts:
            host.power.set()
            host.seated.set()
            host.uplink_down = False
            world.cut_manager(host, False, False)
            await self._set_draining(host.name, False)

    def _hit(self, fault: str, process: Any) -> None:
        if fault.startswith("freeze"):
            process.freeze(self.world.random.uniform(2, 60))
        else:
            process.die()

    def _befalls(self, fault: str, host: SimHost, id: str) -> bool:
        match fault:
            case "start":
                host.machines.fail_start(id)
            case "crash":
                host.machines.crash(id)
            case "shutdown":
                host.machines.guest_shutdown(id)
            case "road":
                world = self.world
                world.roads.fail(id)
                asyncio.get_running_loop().call_later(
                    world.random.uniform(2, 20), world.roads.errors.pop, id, None
                )
            case "road lost":
                self.world.roads.lose_end(id)
            case "hang":
                host.machines.hang(id)
            case "deaf":
                host.machines.ignore_power_button(id)
            case "clingy":
                host.machines.ignore_detach(id)
            case _:
                return False
        return True
