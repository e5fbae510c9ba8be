"""The vCPUs and the memory of a running machine: plugged and unplugged through its monitor."""

from __future__ import annotations

from collections.abc import Callable

from gureum.errors import HypervisorError
from gureum.hypervisors import messages
from gureum.hypervisors.qemu.background import Background
from gureum.hypervisors.qemu.growth import BLOCK_BYTES, DEVICE
from gureum.hypervisors.qemu.live_nodes import items
from gureum.hypervisors.qemu.monitor import CommandError, Monitor
from gureum.hypervisors.qemu.node import Node
from gureum.migrationspec import Room
from gureum.sizespec import MachineSize

MEMORY_PATH = f"/machine/peripheral/{DEVICE}"


class LiveSize:
    """``status`` is what the machine has; ``grown()`` is called when that is more. ``keeps_cpus``: none can
    be taken from it. (No QEMU's TCG lives long with that. 7.2 frees something twice, and dies of it at the
    next CPU that comes. 10.0 counts all that ever came, and aborts once they are more than the machine may
    have: tcg_register_thread in its tcg/tcg.c.)
    """

    def __init__(
        self,
        monitor: Monitor,
        room: Room,
        keeps_cpus: bool,
        changed: Callable[[], None],
        grown: Callable[[], None],
    ) -> None:
        self._monitor = monitor
        self._room = room
        self._keeps_cpus = keeps_cpus
        self._changed = changed
        self._grown = grown
        self._leaving: set[str] = set()
        """CPUs, by QEMU's paths, that the guest was asked to give up."""
        self._wanted_vcpus = 0
        self.status: MachineSize | None = None
        self._news = self._looking = False
        self._background = Background(monitor.id)

    def look_soon(self) -> None:
        """Something may have changed. What happens while it is looked is looked at in one go after that."""
        self._news = True
        if not self._looking:
            self._looking = True
            self._background.start(self._look_again())

    async def _look_again(self) -> None:
        try:
            while self._news:
                self._news = False
                await self.look()
        finally:
            self._looking = False

    def close(self) -> None:
        self._background.cancel()

    @property
    def leaving(self) -> bool:
        """Whether a CPU may go at any moment."""
        return bool(self._leaving)

    async def look(self) -> None:
        """Ask QEMU what the machine has now."""
        present = [each for each in await self._cpus() if "qom-path" in each]
        plugged = await self._memory("size") if self._grows else 0
        self._leaving &= {str(each["qom-path"]) for each in present}
        room, vcpus = self._room, len(present)
        stays = self._keeps_cpus and 0 < self._wanted_vcpus < vcpus
        status = MachineSize(
            vcpus=vcpus,
            memory_bytes=room.memory_bytes + plugged,
            vcpus_min=vcpus if self._keeps_cpus else 1,
            vcpus_max=room.vcpus_max,
            memory_min_bytes=room.memory_bytes,
            memory_max_bytes=room.memory_max_bytes,
            stuck=messages.VCPUS_STAY if stays else "",
        )
        before, self.status = self.status, status
        if before is not None and (status.vcpus > before.vcpus or status.memory_bytes > before.memory_bytes):
            self._grown()
        if status != before:
            self._changed()

    @property
    def _grows(self) -> bool:
        return self._room.memory_max_bytes > self._room.memory_bytes

    async def _cpus(self) -> list[Node]:
        """In the order in which they are plugged; those that are there have a ``qom-path``."""
        found = items(await self._monitor.execute("query-hotpluggable-cpus"))
        return sorted(found, key=_place)

    async def _memory(self, property: str) -> int:
        answer = await self._monitor.execute("qom-get", {"path": MEMORY_PATH, "property": property})
        return answer if isinstance(answer, int) else 0

    async def resize(self, vcpus: int, memory_bytes: int) -> None:
        await self.resize_memory(memory_bytes)
        await self.resize_cpus(vcpus)
        await self.look()

    async def resize_memory(self, memory_bytes: int) -> None:
        room = self._room
        more = min(memory_bytes, room.memory_max_bytes) - room.memory_bytes
        more = max(0, more) // BLOCK_BYTES * BLOCK_BYTES
        if self._grows and await self._memory("requested-size") != more:
            wanted = {"path": MEMORY_PATH, "property": "requested-size", "value": more}
            await self._monitor.execute("qom-set", wanted)

    async def resize_cpus(self, vcpus: int) -> None:
        """The first are always there and in one piece: the last goes first, and the next when it is gone."""
        self._wanted_vcpus = vcpus = max(1, min(vcpus, self._room.vcpus_max))
        cpus = await self._cpus()
        present = [each for each in cpus if "qom-path" in each]
        if len(present) < vcpus:
            for cpu in [each for each in cpus if "qom-path" not in each][: vcpus - len(present)]:
                await self._plug(cpu)
        elif len(present) > vcpus and not self._keeps_cpus:
            path = str(present[-1]["qom-path"])
            self._leaving.add(path)
            try:
                await self._monitor.execute("device_del", {"id": path})
            except CommandError as error:
                if "already in the process" not in str(error):
                    raise

    async def _plug(self, cpu: Node) -> None:
        place = cpu["props"]
        if not isinstance(place, dict):
            raise HypervisorError(f"{self._monitor.id}: QEMU does not say where a CPU would be")
        name = "cpu-" + "-".join(str(place.get(each, 0)) for each in _LEVELS)
        await self._monitor.execute("device_add", {"driver": cpu["type"], "id": name, **place})


_LEVELS = ("socket-id", "core-id", "thread-id")


def _place(cpu: Node) -> tuple[int, ...]:
    place = cpu.get("props")
    return tuple(int(place.get(each, 0)) for each in _LEVELS) if isinstance(place, dict) else ()
