"""Hosts that are drained, or emptied to be parked: what runs there migrates elsewhere, a few at a time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
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
                waiting = await _movable(reader, self._env, host)
            if waiting:
                await self._store.transact(partial(leave, env=self._env, host=host), frees=True)


async def leave(
    tx: Transaction, env: Env, host: str, to: Mapping[str, str] | None = None, reason: str = ""
) -> None:
    """Let one of those that can leave the host do so. ``to``: only one of these instances, to the host that
    is said, since the host is emptied for that ``reason``; without, it is drained.
    """
    for instance in await _movable(tx, env, host, to):
        target = to[instance.id] if to is not None else ""
        try:
            await migrations.begin(tx, env, instance, to=target, drains=to is None, reason=reason)
        except CannotMove as error:
            log.debug("%s stays on host %s: %s", instance.id, host, error)
        else:
            return


async def _movable(
    reader: Reader, env: Env, host: str, to: Mapping[str, str] | None = None
) -> list[Instance]:
    """What could leave the host now, if another one has room for it."""
    record = await reader.get(Host, host)
    if record is None or record.state is not HostState.up:
        return []
    if not (record.draining if to is None else record.emptying) or await migrations.busy(reader, source=host):
        return []
    found = []
    for instance in await reader.find(Instance, host=host, state=str(InstanceState.running)):
        if to is not None and instance.id not in to:
            continue
        try:
            await migrations.require_movable(reader, instance)
            await migrations.require_destination(reader, instance, to[instance.id] if to is not None else "")
        except CannotMove:
            continue
        if not await _failed_lately(reader, env, instance):
            found.append(instance)
    return found


async def _failed_lately(reader: Reader, env: Env, instance: Instance) -> bool:
    since = env.now() - AGAIN_SECONDS
    return any(
        each.state is not MigrationState.completed
        and each.ended is not None
        and each.ended.timestamp() > since
        for each in await reader.find(InstanceMigration, instance=instance.id)
    )
