"""Hosts that are being drained: what runs there migrates elsewhere, a few at a time."""

from __future__ import annotations

import logging
from functools import partial

from gureum.control import migrations
from gureum.control.move import CannotMove
from gureum.env import Env
from gureum.resources import Host, HostState, Instance, InstanceMigration, InstanceState, MigrationState
from gureum.store.base import Change, Reader, Store, Transaction

log = logging.getLogger(__name__)

AGAIN_SECONDS = 120.0
"""When an instance whose migration failed is tried again."""


class Evacuations:
    def __init__(self, env: Env, store: Store) -> None:
        self._env = env
        self._store = store
        self._draining: set[str] = set()

    async def load(self, reader: Reader) -> None:
        self._draining = {host.id for host in await reader.find(Host) if host.draining}

    def changed(self, change: Change) -> None:
        """A host is as this says now."""
        draining = isinstance(change.record, Host) and change.record.draining
        (self._draining.add if draining else self._draining.discard)(change.id)

    async def step(self) -> None:
        """Let some of what runs on hosts that are being drained leave. Raises StoreError."""
        for host in sorted(self._draining):
            async with self._store.read() as reader:
                waiting = await self._movable(reader, host)
            if waiting:
                await self._store.transact(partial(self._begin, host=host), frees=True)

    async def _begin(self, tx: Transaction, host: str) -> None:
        for instance in await self._movable(tx, host):
            try:
                await migrations.begin(tx, self._env, instance, drains=True)
            except CannotMove as error:
                log.debug("%s stays on host %s: %s", instance.id, host, error)
            else:
                return

    async def _movable(self, reader: Reader, host: str) -> list[Instance]:
        """What could leave the host now, if another one has room for it."""
        record = await reader.get(Host, host)
        if record is None or not record.draining or record.state is not HostState.up:
            return []
        if await migrations.busy(reader, source=host):
            return []
        found = []
        for instance in await reader.find(Instance, host=host, state=str(InstanceState.running)):
            try:
                await migrations.require_movable(reader, instance)
                await migrations.require_destination(reader, instance)
            except CannotMove:
                continue
            if not await self._failed_lately(reader, instance):
                found.append(instance)
        return found

    async def _failed_lately(self, reader: Reader, instance: Instance) -> bool:
        since = self._env.now() - AGAIN_SECONDS
        return any(
            each.state is not MigrationState.completed
            and each.ended is not None
            and each.ended.timestamp() > since
            for each in await reader.find(InstanceMigration, instance=instance.id)
        )
