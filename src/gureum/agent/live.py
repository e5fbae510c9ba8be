"""Volumes as the machines that have them open know them."""

from __future__ import annotations

from collections.abc import Iterator

from gureum.agent.pool_volumes import header_bytes
from gureum.agent.settled import Settled
from gureum.errors import HypervisorError, PoolError
from gureum.hostspec import MachineState, VolumeSpec
from gureum.hypervisors.base import Hypervisor
from gureum.san.base import Layer

HOLDS = (MachineState.starting, MachineState.running, MachineState.paused, MachineState.shutdown)
"""A machine in one of these states has its volumes open."""


class MachineDisk:
    """A ``san.base.LiveDisk`` of the running ``machine``."""

    def __init__(self, hypervisor: Hypervisor, machine: str, volume: str, header_bytes: int = 0) -> None:
        """``header_bytes``: what the volume has in the pool before the machine's data."""
        self._hypervisor = hypervisor
        self._header_bytes = header_bytes
        self.machine = machine
        self._volume = volume

    async def active_layer(self) -> str:
        return await self._hypervisor.active_layer(self.machine, self._volume)

    async def switch_layer(self, layer: Layer) -> None:
        await self._hypervisor.switch_layer(self.machine, self._volume, layer)

    async def resize(self, size_bytes: int) -> None:
        visible = size_bytes - self._header_bytes
        await self._hypervisor.resize_disk(self.machine, self._volume, visible)

    async def freeze(self) -> bool:
        return await self._hypervisor.freeze(self.machine)

    async def thaw(self) -> None:
        await self._hypervisor.thaw(self.machine)

    async def limit(self, iops: int, throughput: int) -> None:
        """Raises PoolError: the volume is not as its spec says."""
        try:
            await self._hypervisor.limit_disk(self.machine, self._volume, iops, throughput)
        except HypervisorError as error:
            raise PoolError(f"{self._volume}: its performance is not changed: {error}") from error


class MachineDisks:
    """Those of all machines of this host."""

    def __init__(self, hypervisor: Hypervisor, specs: Settled[VolumeSpec]) -> None:
        self._hypervisor = hypervisor
        self._specs = specs

    def of(self, volume: str) -> MachineDisk | None:
        """As one machine has it."""
        return next(self.all_of(volume), None)

    def all_of(self, volume: str) -> Iterator[MachineDisk]:
        """As each machine has it: several may only of one that is to be shared."""
        for machine in self._hypervisor.machines().values():
            if volume in machine.disks and machine.state in HOLDS:
                spec = self._specs.specs.get(volume)
                header = header_bytes(spec) if spec is not None else 0
                yield MachineDisk(self._hypervisor, machine.id, volume, header)
