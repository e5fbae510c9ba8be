"""Running instances that are to have a larger type as soon as a host is there that is woken for it.

Asked for by ResizeInstance, where no host that is on has room (``Instance.growth``). Nothing is reserved:
each look asks anew which host would help, has it woken, and lets the instance grow when there is room. What
nothing would help any more stays as it is, and that is told.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from msgspec.structs import replace

from gureum.control import events, resizes, resting
from gureum.control.attempts import attempt
from gureum.control.emptying import Sizes
from gureum.control.placement import NoCapacity
from gureum.control.resizes import CannotResize
from gureum.env import Env
from gureum.errors import ApiError
from gureum.resources import Growth, Instance, InstanceState, Severity
from gureum.store.base import Change, Reader, Store, Transaction

log = logging.getLogger(__name__)

LATER = "what is to grow is looked at later"
IN_VAIN_SECONDS = 60.0
"""For so long it is tried on when no host would help: something else may have to end first."""
LOOKS_MAX = 4
"""Instances that are looked at in one step: among many hosts each may take a while."""
GONE = (InstanceState.shutting_down, InstanceState.terminated)


class Growths:
    """``step`` is to be called now and then, while there are ``any``."""

    def __init__(self, env: Env, store: Store, sizes: Sizes) -> None:
        self._env = env
        self._store = store
        self._sizes = sizes
        self._waiting: dict[str, None] = {}
        """Those that were looked at last come last."""
        self._in_vain: dict[str, float] = {}
        """Since when no host would help, on the event loop's clock."""

    @property
    def any(self) -> bool:
        return bool(self._waiting)

    async def load(self, reader: Reader) -> None:
        self._waiting = {instance.id: None for instance in await reader.find(Instance, growing="yes")}

    def changed(self, change: Change) -> None:
        """A record is as this says now."""
        if isinstance(change.record, Instance) and change.record.growth is not None:
            self._waiting.setdefault(change.id)
        elif change.kind == Instance.kind:
            self._waiting.pop(change.id, None)
            self._in_vain.pop(change.id, None)

    async def step(self) -> None:
        """For ``resizes.SEARCH_SECONDS`` or a look longer: the others have their turn in the next one."""
        clock = asyncio.get_running_loop().time
        until = clock() + resizes.SEARCH_SECONDS
        for id in list(self._waiting)[:LOOKS_MAX]:
            if clock() > until:
                return
            if id in self._waiting:
                self._waiting[id] = self._waiting.pop(id)
            await attempt(log, LATER, self._look(id))

    async def _look(self, id: str) -> None:
        """Raises StoreError."""
        async with self._store.read() as reader:
            instance = await reader.get(Instance, id)
            if instance is None or (growth := instance.growth) is None:
                return
            runs = instance.state is InstanceState.running
            moves = bool(instance.migration or instance.capturing)
            if instance.state is InstanceState.pending or (runs and moves):
                self._in_vain.pop(id, None)
                return  # first that ends
            growing = await resizes.growing(reader, instance, growth.type) if runs else None
        host = await growing.wanting() if growing is not None else None
        if host is not None:
            self._in_vain.pop(id, None)
            if host:
                wake = partial(self._wake, id=id, growth=growth, host=host)
                await self._store.transact(wake, frees=True)
            return
        try:
            await self._store.transact(partial(self._grow, id=id, growth=growth))
        except (NoCapacity, CannotResize, ApiError) as error:
            if isinstance(error, NoCapacity) and await self._held_up(id, growth):
                self._in_vain.pop(id, None)
                return
            now = asyncio.get_running_loop().time()
            if not runs or now >= self._in_vain.setdefault(id, now) + IN_VAIN_SECONDS:
                give_up = partial(self._give_up, id=id, growth=growth, why=str(error))
                await self._store.transact(give_up, frees=True)

    async def _held_up(self, id: str, growth: Growth) -> bool:
        """Whether it is only to wait until other migrations have ended."""
        async with self._store.read() as reader:
            instance = await reader.get(Instance, id)
            return instance is not None and await resizes.held_up(reader, instance, growth.type)

    async def _wake(self, tx: Transaction, id: str, growth: Growth, host: str) -> None:
        """Let the host be woken that was found, if all is as it was."""
        instance = await tx.get(Instance, id)
        if instance is None or instance.growth != growth:
            return
        await wake(tx, self._env, instance, growth.type, host)

    async def _grow(self, tx: Transaction, id: str, growth: Growth) -> None:
        """Begin it. Raises CannotResize, NoCapacity, ApiError."""
        instance = await tx.get(Instance, id)
        if instance is None or instance.growth != growth:
            return
        self._env.crashpoint("growth.begin")
        await resizes.require_interfaces(tx, instance, growth.type)
        size = self._sizes(str(instance.host), id, instance.generation)
        instance = await tx.put(replace(instance, growth=None))  # also if it has that type already
        await resizes.begin(tx, self._env, instance, growth.type, size, moves=True)

    async def _give_up(self, tx: Transaction, id: str, growth: Growth, why: str) -> None:
        instance = await tx.get(Instance, id)
        if instance is None or instance.growth != growth:
            return
        await tx.put(replace(instance, growth=None))
        if instance.state not in GONE:
            text = f"{id} stays a {instance.type}, and does not become a {growth.type}: {why}"
            host = str(instance.host)
            await events.record(
                tx, self._env, "InstanceNotResized", text, Severity.warning, host=host, instance=id
            )


async def wake(tx: Transaction, env: Env, instance: Instance, type: str, host: str) -> bool:
    """Let the host be woken that was found, if it would help still."""
    growing = await resizes.growing(tx, instance, type)
    if growing is None or not await growing.helps(host):
        return False
    await resting.wake(tx, env, host, f"{instance.id} is to become a {type}, and finds no room")
    return True
