"""Two hosts on this computer, between which machines move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from gureum.hostspec import MachineLayout, MigrationPhase
from gureum.hypervisors.base import Hypervisor, Incoming, MachineConfig, Migration, Outgoing

from .guest import ID

SECRET = bytes(range(32))
SECONDS = 60.0


class Pair:
    """``source`` has the machine, ``destination`` is to get it. Each can be made anew, as after an agent's
    restart.
    """

    def __init__(self, makes: tuple[Callable[[], Hypervisor], Callable[[], Hypervisor]]) -> None:
        self._makes = makes
        self._hosts = [make() for make in makes]
        self._attempts = 0

    @property
    def source(self) -> Hypervisor:
        return self._hosts[0]

    @property
    def destination(self) -> Hypervisor:
        return self._hosts[1]

    async def recover(self) -> None:
        for host in self._hosts:
            await host.recover()

    async def restart(self, *hosts: int) -> None:
        for host in hosts or (0, 1):
            await self._hosts[host].close()
            self._hosts[host] = self._makes[host]()
            await self._hosts[host].recover()

    def turn(self) -> None:
        """The other direction."""
        self._makes = self._makes[1], self._makes[0]
        self._hosts.reverse()

    async def close(self) -> None:
        for host in self._hosts:
            for id in list(host.machines()):
                await host.remove(id)
            await host.close()

    async def prepare(self, config: MachineConfig, layout: MachineLayout | None = None) -> Outgoing:
        """Start the machine of ``config`` at the destination; what to tell the source."""
        self._attempts += 1
        migration = f"mig-{self._attempts}"
        incoming = Incoming(
            migration=migration,
            secret=SECRET,
            listen="127.0.0.1",
            layout=layout or await self.source.layout(ID),
        )
        await self.destination.start(replace(config, incoming=incoming))
        waiting = self.migration(self.destination)
        assert (waiting.incoming, waiting.phase) == (True, MigrationPhase.waiting)
        return Outgoing(migration=migration, secret=SECRET, address=waiting.address)

    @staticmethod
    def migration(host: Hypervisor) -> Migration:
        migration = host.machines()[ID].migration
        assert migration is not None
        return migration

    async def ended(self, host: Hypervisor) -> Migration:
        async with asyncio.timeout(SECONDS):
            while self.migration(host).phase in (MigrationPhase.waiting, MigrationPhase.copying):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return self.migration(host)

    async def move(self, config: MachineConfig, **bounds: int) -> Migration:
        """All of it; the machine is gone at the source."""
        outgoing = await self.prepare(config)
        await self.source.migrate(ID, replace(outgoing, **bounds))
        done = await self.ended(self.source)
        assert (done.phase, done.error) == (MigrationPhase.completed, "")
        assert (await self.ended(self.destination)).phase is MigrationPhase.completed
        await self.destination.go_on(ID)
        await self.destination.prepend_console(ID, await self.source.console(ID, 1 << 16))
        await self.source.remove(ID)
        self.turn()
        return done
