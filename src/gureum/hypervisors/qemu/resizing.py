"""One machine's vCPUs and memory: what it has of them, and what it is let to have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.launch import limits_of
from gureum.hypervisors.qemu.live_size import LiveSize
from gureum.hypervisors.qemu.onlining import Onliner
from gureum.sizespec import MachineSize

if TYPE_CHECKING:
    from gureum.hypervisors.qemu.machine import Machine


class Resizing:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._live: LiveSize | None = None
        self._onliner = Onliner(machine.env, machine.id, machine.files.agent, machine.agent_listens)

    @property
    def status(self) -> MachineSize | None:
        return self._live.status if self._live is not None else None

    def live(self) -> LiveSize:
        """HypervisorError of a machine that keeps its size."""
        self._machine.monitor()
        if self._live is None:
            raise HypervisorError(
                f"{self._machine.id}: was started without room to grow: it gets another size when it is "
                "stopped"
            )
        return self._live

    async def take(self) -> None:
        """Learn what a machine has that was just started, or found."""
        machine, room = self._machine, self._machine.saved.room
        if room is not None:
            emulated = machine.accelerator == "tcg"
            self._live = LiveSize(machine.monitor(), room, emulated, machine.changed, self._onliner.soon)
            await self._live.look()

    def look_soon(self) -> None:
        if self._live is not None:
            self._live.look_soon()

    async def resize(self, vcpus: int, memory_bytes: int) -> None:
        machine, live = self._machine, self.live()
        machine.migrating.require_settled()
        await live.look()
        before = live.status
        if before is None:
            return
        if vcpus < before.vcpus and machine.saved.leaving != vcpus:
            await machine.save(leaving=vcpus)
        # What it gets it may use at once; what it is to give up it has until it did.
        self._limit(vcpus, max(memory_bytes, before.memory_bytes))
        machine.env.crashpoint("qemu.resize.limited")
        await live.resize(vcpus, memory_bytes)
        machine.env.crashpoint("qemu.resize.asked")
        after = live.status
        if machine.saved.leaving and not live.leaving:
            machine.remember(leaving=0)
        if after is not None and after.memory_bytes <= memory_bytes < before.memory_bytes:
            self._limit(vcpus, memory_bytes)

    def _limit(self, vcpus: int, memory_bytes: int) -> None:
        machine = self._machine
        room = machine.saved.room
        limits = limits_of(vcpus, memory_bytes, machine.accelerator, machine.shares_storage(), room)
        machine.cgroups.limit(machine.group, limits)

    def let_go(self) -> None:
        """Of its process."""
        if self._live is not None:
            self._live.close()
        self._live = None

    def close(self) -> None:
        self._onliner.close()
