"""Two hosts on this computer, between which machines move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from gureum.hypervisors.base import Hypervisor, Incoming, MachineConfig, Migration, Outgoing
from gureum.migrationspec import MachineLayout, MigrationPhase

from .guest import ID, shell

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

    async def prepare(
        self, config: MachineConfig, layout: MachineLayout | None = None, copies: tuple[str, ...] = ()
    ) -> Outgoing:
        """Start the machine of ``config`` at the destination; what to tell the source."""
        self._attempts += 1
        migration = f"mig-{self._attempts}"
        incoming = Incoming(
            migration=migration,
            secret=SECRET,
            listen="127.0.0.1",
            layout=layout or await self.source.layout(ID),
            copies=copies,
        )
        await self.destination.start(replace(config, incoming=incoming))
        waiting = self.migration(self.destination)
        assert (waiting.incoming, waiting.phase) == (True, MigrationPhase.waiting)
        return Outgoing(
            migration=migration,
            secret=SECRET,
            address=waiting.address,
            copies=copies,
            disks_address=waiting.disks_address,
        )

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

    async def move(self, config: MachineConfig, copies: tuple[str, ...] = (), **bounds: int) -> Migration:
        """All of it; the machine is gone at the source."""
        outgoing = await self.prepare(config, copies=copies)
        await self.source.migrate(ID, replace(outgoing, **bounds))
        done = await self.ended(self.source)
        assert (done.phase, done.error) == (MigrationPhase.completed, "")
        assert done.copied == tuple(sorted(copies))
        assert (await self.ended(self.destination)).phase is MigrationPhase.completed
        await self.destination.go_on(ID)
        await self.destination.prepend_console(ID, await self.source.console(ID, 1 << 16))
        await self.source.remove(ID)
        self.turn()
        return done


WRITER = """
( n=0; while :; do n=$((n+1)); dd if=/dev/urandom of=/block bs=64k count=1
  dd if=/block of={place} bs=64k seek=$((n % 64)) conv=fsync,notrunc || { echo failed >/failed; exit; }
  md5sum </block >/sum.$((n % 64)); echo $n >/count; done ) 2>/dev/null & echo $! >/writer
"""
"""A block of noise after the other, each in its place when its digest is known."""

FIRST_DISK = "/dev/vda"

CHECK = """
kill $(cat /writer); sleep 1; [ ! -e /failed ] && echo 3 >/proc/sys/vm/drop_caches
for i in $(seq 0 63); do
  [ -e /sum.$i ] && [ $i != $((($(cat /count) + 1) % 64)) ] || continue
  is=$(dd if={place} bs=64k skip=$i count=1 2>/dev/null | md5sum)
  [ "$is" = "$(cat /sum.$i)" ] || { echo block $i; false; break; }
done
"""


async def start_writes(pair: Pair, place: str = FIRST_DISK) -> None:
    async with shell(pair.source, ID) as console:
        await console.run(WRITER.strip().replace("{place}", place))


async def check_writes(pair: Pair, place: str = FIRST_DISK) -> None:
    """The guest still writes, and all that it wrote since it began is there."""
    async with shell(pair.source, ID) as console:
        before = int(await console.run("cat /count"))
        await console.run("sleep 2")
        assert int(await console.run("cat /count")) > before
        await console.run(CHECK.strip().replace("{place}", place))
