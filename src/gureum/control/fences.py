"""How a fence begins, and how many may."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from msgspec.structs import replace

from gureum.control.fence_agents import MACHINE_HOST
from gureum.env import Env
from gureum.resources import (
    Fence,
    FencePower,
    FleetSettings,
    Host,
    HostCertificate,
    HostPower,
    HostState,
    ManagerMachine,
)
from gureum.resources.placement import FLEET
from gureum.store.base import Reader
from gureum.transport.tls import Address

BRAKE_SECONDS = 300.0
ALIVE_SHARE = 20
"""Of so many hosts one may be given up within BRAKE_SECONDS while it lives; one of fewer, too."""


class Brake:
    """On giving up hosts that live, one after the other, for what may be wrong with all their agents."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._used: dict[str, float] = {}
        """By host, when this manager gave it up, on the event loop's clock."""

    def used(self, host: str) -> None:
        self._used[host] = asyncio.get_running_loop().time()

    def held(self, hosts: Iterable[Host]) -> list[str]:
        """Those because of which no other may be given up now, of all ``hosts``; none if one may."""
        now, known = asyncio.get_running_loop().time(), list(hosts)
        self._used = {id: at for id, at in self._used.items() if now < at + BRAKE_SECONDS}
        recent = {
            host.id
            for host in known
            if host.fence is not None
            and host.fence.lives
            and abs(self._env.now() - host.fence.began) < BRAKE_SECONDS
        }
        recent |= self._used.keys()
        return sorted(recent) if len(recent) >= max(1, len(known) // ALIVE_SHARE) else []


def begun(host: Host, env: Env, reason: str, by: str = "", lives: bool = False) -> Host:
    """The host, to be fenced. Numbers grow also where the store was put back, or the host removed."""
    now = env.now()
    number = max(host.lifted + 1, int(now * 1000))
    fence = Fence(number=number, reason=reason, began=now, by=by, since=now, lives=lives)
    return replace(host, state=HostState.fencing, fence=fence, watcher="")


async def fence_power(reader: Reader, host: str) -> FencePower:
    """What is done with the host's power when it is fenced."""
    settings = await reader.get(FleetSettings, FLEET)
    if await has_manager(reader, host):
        return FencePower.none
    power = await reader.get(HostPower, host)
    known = settings is not None and power is not None and not power.doubted
    return settings.fence_power if settings is not None and known else FencePower.none


async def has_manager(reader: Reader, host: str) -> bool:
    """Whether the host is on a machine with managers, which might switch itself off."""
    record, power = await reader.get(Host, host), await reader.get(HostPower, host)
    for machine in await reader.find(ManagerMachine):
        if machine.revoked:
            continue
        if machine.id == host:
            return True
        if record is not None and Address.parse(machine.agents).host == record.address:
            return True
    if power is not None and power.agent == MACHINE_HOST:
        return False  # it leaves the machine on
    return any(each.own for each in await reader.find(HostCertificate, host=host))
