"""What switches hosts of a simulated cloud on and off."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gureum.control.fence_agents import Action, Answer
from gureum.resources import FencePower, FleetSettings, Host, HostPower, PowerMode
from gureum.resources.placement import FLEET
from gureum.sim.park_invariants import is_parked
from gureum.sim.violation import Violation

if TYPE_CHECKING:
    from gureum.sim.world import SimHost, World
    from gureum.store.base import Transaction

AGENT = "simulated"
SWITCH_SECONDS = 1.0
LATE_SECONDS = 60.0
"""After its agent has failed, a host that is switched late is off."""
BOOT_SECONDS = 20.0
REST_SECONDS, WAKE_SECONDS = 60.0, 90.0
BREAK_CHANCE, MEND_CHANCE = 0.03, 0.2

log = logging.getLogger("gureum.sim.process")


class SimSwitch:
    """``control.fence_agents.Switch`` over simulated hosts."""

    def __init__(self, world: World) -> None:
        self._world = world

    def refusal(self, agent: str, remote: bool) -> str:
        return "" if agent == AGENT else f"there is no fence agent {agent!r}"

    async def __call__(self, power: HostPower, action: Action) -> Answer:
        await asyncio.sleep(SWITCH_SECONDS)
        host = next(host for host in self._world.hosts if host.name == power.id)
        if host.switch_broken:
            return Answer("told to fail")
        match action:
            case Action.off if host.switch_late and host.off_later is None:
                host.off_later = asyncio.get_running_loop().call_later(LATE_SECONDS, self._off, host)
                return Answer("it takes too long")
            case Action.off:
                self._off(host)
            case Action.on:
                self._on(host)
            case Action.status:
                pass
        return Answer(on=host.power.is_set() or host.booting is not None)

    def _off(self, host: SimHost) -> None:
        if host.off_later is not None:
            host.off_later.cancel()
            host.off_later = None
        running = [id for id, machine in host.machines.machines.items() if machine.runs]
        if harmed := [id for id in running if not host.harmless(host.machines.machines[id])]:
            found = Violation(f"host {host.name} is switched off, and {', '.join(harmed)} runs there")
            self._world.failure = self._world.failure or found
        if host.booting is not None:
            host.booting.cancel()
            host.booting = None
        if host.power.is_set():
            log.info("%s is switched off", host.name)
            host.power.clear()
            self._world.lose_power(host)

    def _on(self, host: SimHost) -> None:
        if host.power.is_set() or host.booting is not None:
            return
        log.info("%s is switched on", host.name)

        def booted() -> None:
            host.booting = None
            if host.hangs_at_boot:
                host.booting = asyncio.get_running_loop().call_later(BOOT_SECONDS, booted)
            else:
                host.power.set()

        host.booting = asyncio.get_running_loop().call_later(BOOT_SECONDS, booted)


class Switches:
    """Lets hosts be emptied and parked, and their switches fail now and then, by dice of its own."""

    def __init__(self, seed: int, world: World) -> None:
        self._random = random.Random(seed)
        self._world = world

    async def begin(self) -> None:
        """Before the world starts."""
        fence = self._random.choice(list(FencePower))

        async def work(tx: Transaction) -> None:
            settings = await tx.get(FleetSettings, FLEET) or FleetSettings(id=FLEET)
            parked = replace(settings, power=PowerMode.automatic, rest_seconds=REST_SECONDS, headroom=0.0)
            await tx.put(replace(parked, fence_power=fence, empties=True))
            for host in self._world.hosts:
                await tx.put(HostPower(id=host.name, agent=AGENT, wake_seconds=WAKE_SECONDS))

        await self._world.store.transact(work)

    def step(self) -> None:
        for host in self._world.hosts:
            for trouble in ("switch_broken", "switch_late", "hangs_at_boot"):
                chance = MEND_CHANCE if getattr(host, trouble) else BREAK_CHANCE
                if self._random.random() < chance:
                    setattr(host, trouble, not getattr(host, trouble))

    def end(self) -> None:
        for host in self._world.hosts:
            host.switch_broken = host.switch_late = host.hangs_at_boot = False

    async def wake(self) -> None:
        """Somebody wakes those that were fenced and are off: what is left there waits for that, and nothing
        else wakes them. To be asked again: it may be unanswered.
        """
        async with self._world.store.read() as reader:
            off = [host.id for host in await reader.find(Host) if host.fence is not None and is_parked(host)]
        for id in off:
            await self._world.call("WakeHost", {"HostId": id}, "fleet")
