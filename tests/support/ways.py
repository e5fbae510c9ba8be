"""An instance i-1 that goes from a host to another."""

from __future__ import annotations

from functools import partial
from typing import Any

from gureum.control.migrations import begin, switch
from gureum.control.specs import host_spec
from gureum.hostspec import HostSpec
from gureum.resources import Instance, InstanceMigration
from gureum.services.operation import Cloud


class Way:
    """Its steps, on the bench of the reconcilers' tests."""

    def __init__(self, bench: Any, cloud: Cloud) -> None:
        self.bench = bench
        self._cloud = cloud

    async def begin(self, **values: Any) -> InstanceMigration:
        instance = await self.bench.get(Instance, "i-1")
        return await self.bench.store.transact(  # type: ignore[no-any-return]
            lambda tx: begin(tx, self.bench.env, instance, **values)
        )

    @property
    async def record(self) -> InstanceMigration:
        async with self.bench.store.read() as reader:
            [found] = await reader.find(InstanceMigration)
        return found  # type: ignore[no-any-return]

    async def step(self) -> InstanceMigration:
        await self.bench.step_instance()
        return await self.record

    async def switch(self) -> Instance | None:
        work = partial(switch, env=self.bench.env, observed=self.bench.observed, id="i-1")
        return await self.bench.store.transact(work)  # type: ignore[no-any-return]

    async def spec(self, host: str) -> HostSpec:
        async with self.bench.store.read() as reader:
            return await host_spec(reader, self._cloud, host)
