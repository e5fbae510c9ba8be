"""A volume as the machine that has it open knows it."""

from __future__ import annotations

from gureum.errors import HypervisorError, PoolError
from gureum.hypervisors.base import Hypervisor
from gureum.san.base import Layer


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
