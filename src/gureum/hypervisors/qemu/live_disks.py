"""The disks of a running machine: attached, detached, switched and grown through its monitor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.base import Disk
from gureum.hypervisors.qemu.background import Background
from gureum.hypervisors.qemu.command import HOTPLUG_SLOTS, hotplug_place
from gureum.hypervisors.qemu.disks import (
    OpenDisk,
    disk_device,
    file_node,
    format_node,
    node_name,
    open_layer,
    parse_name,
    throttle,
)
from gureum.hypervisors.qemu.hotplug import ask_to_release, plug
from gureum.hypervisors.qemu.live_nodes import GONE, LiveNodes, Medium
from gureum.hypervisors.qemu.monitor import CommandError, Monitor
from gureum.san.base import Layer

log = logging.getLogger(__name__)

INSIST_SECONDS = 5.0


class LiveDisks:
    """``devices`` maps volumes to QEMU's device ids, ``detaching`` are those the guest was asked to give
    up. ``released(volume)`` is awaited before the layers of a disk that is gone are closed.
    """

    def __init__(self, env: Env, monitor: Monitor, changed: Callable[[], None]) -> None:
        self._env = env
        self._monitor = monitor
        self._changed = changed
        self.released: Callable[[str], Awaitable[None]] | None = None
        self.nodes = LiveNodes(monitor)
        self.devices: dict[str, str] = {}
        self.detaching: set[str] = set()
        self._background = Background(f"{monitor.id}: while detaching")

    async def started_with(self, disks: Mapping[str, OpenDisk]) -> None:
        """The machine was just started with these."""
        for volume, opened in disks.items():
            self.devices[volume] = node_name(volume, opened.number)
            self.nodes.next_number = max(self.nodes.next_number, opened.last_number + 1)
            await self.nodes.forget(opened.secrets)

    async def load(self) -> None:
        """Learn the disks of a machine that was found running, and finish what was begun with them."""
        await self.nodes.load()
        devices: dict[str, str] = {}
        for device, medium in (await self.nodes.media()).items():
            parsed = parse_name(device)
            if parsed is not None and medium.layer is not None:
                devices[parsed[0]] = device
        self.devices = devices

    async def limit(self, volume: str, iops: int, throughput: int) -> None:
        """Bound the disk's operations and MiB per second; 0 is no bound."""
        medium = await self.medium(volume)
        await self._monitor.execute("block_set_io_throttle", throttle(medium.backend, iops, throughput))

    async def attach(self, disk: Disk, pauses: bool) -> None:
        """``pauses``: an error of its storage pauses the machine (see ``disk_device``)."""
        if disk.volume in self.devices:
            return
        opened = await self.nodes.add(disk)

        def at(slot: int) -> dict[str, object]:
            return disk_device(opened, "virtio-blk-pci", hotplug_place(slot), pauses)

        try:
            self._env.crashpoint("qemu.attach.opened")
            device = await plug(self._monitor, HOTPLUG_SLOTS, disk.index, at, disk.volume)
        except HypervisorError:
            await self.nodes.drop((disk.volume, number) for number in opened.numbers)
            raise
        self.devices[disk.volume] = device
        self._env.crashpoint("qemu.attach.plugged")
        if disk.iops or disk.throughput:
            await self.limit(disk.volume, disk.iops, disk.throughput)
        self._changed()

    async def detach(self, volume: str, force: bool) -> None:
        device = self.devices.get(volume)
        if device is None:
            return
        if not await ask_to_release(self._monitor, device, force):
            await self._release(volume)
            return
        if force:
            await self._take_away(volume, device)
            await self._release(volume)
            return
        if volume in self.devices and volume not in self.detaching:
            self.detaching.add(volume)
            self._background.start(self._insist(volume, device))
            self._changed()

    async def _insist(self, volume: str, device: str) -> None:
        """A guest that boots just now does not hear the first request."""
        while True:
            await asyncio.sleep(INSIST_SECONDS)
            if volume not in self.detaching or self.devices.get(volume) != device:
                return
            with contextlib.suppress(CommandError):  # "already in the process", or gone this moment
                await self._monitor.execute("device_del", {"id": device})

    async def _take_away(self, volume: str, device: str) -> None:
        """Put an empty disk under the device: every request fails, and none pauses the machine."""
        gone = GONE + device
        await self._monitor.execute(
            "blockdev-add", {"driver": "null-co", "node-name": gone, "size": 0, "read-zeroes": True}
        )
        await self._monitor.execute(
            "qom-set", {"path": f"/machine/peripheral/{device}", "property": "drive", "value": gone}
        )

    def device_deleted(self, device: str) -> None:
        """The guest gave a device up."""
        for volume, present in self.devices.items():
            if present == device:
                self._background.start(self._release(volume))

    async def _release(self, volume: str) -> None:
        """Close the files of a volume that no device has any more, then show it gone."""
        self._env.crashpoint("qemu.detach.unplugged")
        if self.released is not None:
            await self.released(volume)
        await self.nodes.drop([name for name in await self.nodes.names() if name[0] == volume])
        self.devices.pop(volume, None)
        self.detaching.discard(volume)
        self._changed()

    async def active_layer(self, volume: str) -> str:
        """A path, or "rbd:pool/image"."""
        number = await self.number(volume)
        path = (await self.nodes.fdsets()).get(number, "")
        path = path or await self.nodes.image((await self.medium(volume)).backend)
        if not path:
            raise HypervisorError(f"{self._monitor.id}: {volume}: its active file is not known")
        return path

    async def number(self, volume: str) -> int:
        """That of the layer on top."""
        medium = await self.medium(volume)
        if medium.layer is None or medium.layer[0] != volume:
            raise HypervisorError(f"{self._monitor.id}: {volume} has no medium")
        return medium.layer[1]

    async def medium(self, volume: str) -> Medium:
        device = self._device(volume)
        medium = (await self.nodes.media()).get(device)
        if medium is None:
            raise HypervisorError(f"{self._monitor.id}: has no device {device}")
        return medium

    async def switch_layer(self, volume: str, layer: Layer) -> None:
        active = await self.number(volume)
        if (await self.nodes.fdsets()).get(active) == layer.path:
            return
        # An overlay that an interrupted switch left behind.
        await self.nodes.discard_unused(volume)
        number = self.nodes.next_number
        self.nodes.next_number += 1
        opened = open_layer(layer, number, writable=True)
        try:
            for fd in opened.fds:
                await self._monitor.send_file(number, fd, layer.path)
            await self._monitor.execute("blockdev-add", file_node(volume, opened))
            await self._monitor.execute("blockdev-add", format_node(volume, opened, None))
            self._env.crashpoint("qemu.switch.opened")
            await self._monitor.execute(
                "blockdev-snapshot",
                {"node": node_name(volume, active), "overlay": node_name(volume, number)},
                seconds=60.0,
            )
        except HypervisorError:
            await self.nodes.drop([(volume, number)])
            raise
        finally:
            opened.close()
        self._env.crashpoint("qemu.switch.done")

    async def resize(self, volume: str, size_bytes: int) -> None:
        node = (await self.medium(volume)).node
        await self._monitor.execute("block_resize", {"node-name": node, "size": size_bytes}, seconds=60.0)

    def close(self) -> None:
        self._background.cancel()

    def _device(self, volume: str) -> str:
        try:
            return self.devices[volume]
        except KeyError:
            raise HypervisorError(f"{self._monitor.id}: has no volume {volume}") from None
