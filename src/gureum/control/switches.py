"""The moment at which a migrating instance becomes the destination's.

The guest is held meanwhile, so this is no step of the reconciler, which many things share: it begins with the
report that makes it possible. Open connections are asked of the source before that, since there they end
with its port: when it has sent everything, while the destination takes that in. The switch does not wait for
the answer. An agent does what it is asked in order, so what tells the source to remove the port comes after
the question. What is lost if this process ends in the midst is open connections at most: the switch itself is
one transaction, and begun anew by the next report.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import NamedTuple

from gureum.control import migrations
from gureum.control.calls import Calls
from gureum.control.observed import Observed
from gureum.env import Env
from gureum.errors import StoreError, TransportError
from gureum.hostspec import HostReport
from gureum.migrationspec import MigrationPhase
from gureum.resources import Instance, InstanceMigration, MigrationState, NetworkInterface
from gureum.store.base import Reader, Store

log = logging.getLogger(__name__)

FLOWS_SECONDS_MAX = 1.0
"""For so long open connections are waited for, while the guest is held."""
CONSOLE_BYTES_MAX = 64 * 1024


class _Way(NamedTuple):
    instance: Instance
    migration: InstanceMigration
    interfaces: list[str]


_Flows = dict[str, asyncio.Task[bytes]]
"""By interface, its open connections: asked for, and perhaps known already."""


class Switches:
    def __init__(self, env: Env, store: Store, observed: Observed, calls: Calls) -> None:
        self._env = env
        self._store = store
        self._observed = observed
        self._calls = calls
        self._group: asyncio.TaskGroup
        self._due: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._under_way: dict[str, bool] = {}
        """By instance, whether there was news of it since."""
        self._flows: dict[str, _Flows] = {}
        """By migration, the open connections of an instance that is held."""
        self._held: set[str] = set()
        """Migrations of which the source has sent all, and the destination does not say that it has it."""
        self._overdue: set[str] = set()
        """Those that were so for too long."""

    def reported(self, report: HostReport) -> None:
        """Look at instances of which one end says that all of it is there."""
        for machine in report.machines:
            if machine.migration is not None and machine.migration.phase is MigrationPhase.completed:
                self.kick(machine.id)

    def kick(self, instance: str) -> None:
        self._due[instance] = None
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            while True:
                await self._wake.wait()
                self._wake.clear()
                due, self._due = self._due, {}
                for instance in due:
                    if instance not in self._under_way:
                        group.create_task(self._switch(instance))
                    self._under_way[instance] = True

    async def _switch(self, instance: str) -> None:
        try:
            while self._under_way[instance]:
                self._under_way[instance] = False
                await self._try(instance)
        finally:
            del self._under_way[instance]

    async def _try(self, instance: str) -> None:
        try:
            async with self._store.read() as reader:
                way = await self._sent(reader, instance)
            if way is None or not migrations.ready(self._observed, way.migration):
                await self._give_up()
                return
            flows = self._flows.pop(way.migration.id)
            self._env.crashpoint("manager.switch")
            switch = partial(migrations.switch, env=self._env, observed=self._observed, id=instance)
            moved = await self._store.transact(switch, frees=True)
            self._env.crashpoint("manager.switched")
        except StoreError as error:
            log.error("%s stays held until its migration can be decided: %s", instance, error)
            return
        except Exception:
            log.exception("%s: unexpected", instance)
            return
        self._held.discard(way.migration.id)
        if moved is None:
            return
        log.info("%s is on host %s now", instance, moved.host)
        # The console is at the source until that has let go of the machine; the flows have no time to lose.
        await asyncio.gather(self._carry_console(way), self._carry_flows(way, flows, moved.version))

    async def _sent(self, reader: Reader, id: str) -> _Way | None:
        """Of an instance that is held, since all of it was sent."""
        instance = await reader.get(Instance, id)
        migration = await reader.get(InstanceMigration, instance.migration) if instance is not None else None
        if instance is None or migration is None or migration.state is not MigrationState.copying:
            return None
        if not migrations.sent(self._observed, migration):
            return None
        interfaces = [each.id for each in await reader.find(NetworkInterface, instance=id)]
        way = _Way(instance, migration, interfaces)
        if migration.id not in self._flows:
            self._flows[migration.id] = {
                each: self._group.create_task(self._export_flows(way, each)) for each in interfaces
            }
            await asyncio.sleep(0)  # they are asked for from here on, before anything is decided
        self._hold(migration)
        return way

    def _hold(self, migration: InstanceMigration) -> None:
        """The guest is held for the destination, but not for ever."""

        def overdue() -> None:
            if migration.id not in self._held:
                return
            self._held.discard(migration.id)
            self._overdue.add(migration.id)
            self.kick(migration.instance)

        if migration.id not in self._held | self._overdue:
            self._held.add(migration.id)
            asyncio.get_running_loop().call_later(migrations.HELD_SECONDS_MAX, overdue)

    async def _give_up(self) -> None:
        for id in sorted(self._overdue):
            await self._store.transact(partial(migrations.give_up, observed=self._observed, id=id))
            self._flows.pop(id, None)
            self._overdue.discard(id)

    async def _export_flows(self, way: _Way, interface: str) -> bytes:
        """Empty if the source does not say in time."""
        try:
            async with asyncio.timeout(FLOWS_SECONDS_MAX):
                return await self._calls.call(way.migration.source, "export-flows", interface=interface)
        except (TimeoutError, TransportError) as error:
            log.warning("open connections of %s may end: %s", way.instance.id, error)
        except Exception:
            log.exception("open connections of %s may end", way.instance.id)
        return b""

    async def _carry_flows(self, way: _Way, flows: _Flows, revision: int) -> None:
        destination = way.migration.destination
        try:
            *found, _ = await asyncio.gather(*flows.values(), self._calls.in_effect(destination, revision))
            for interface, data in zip(flows, found, strict=True):
                if data:
                    await self._calls.call(destination, "import-flows", interface=interface, data=data)
        except TransportError as error:
            log.warning("open connections of %s may end: %s", way.instance.id, error)

    async def _carry_console(self, way: _Way) -> None:
        id, migration = way.instance.id, way.migration
        try:
            said = await self._calls.call(
                migration.source, "console", machine=id, max_bytes=CONSOLE_BYTES_MAX
            )
            await self._calls.call(migration.destination, "prepend-console", machine=id, data=said)
        except TransportError as error:
            log.warning("what %s wrote to its console so far is lost: %s", id, error)
