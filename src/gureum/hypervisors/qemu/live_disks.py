"""The disks of a running machine: attached, detached, switched and grown through its monitor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

from gureum.env import Env
from gureum.errors import HypervisorError
from gureum.hypervisors.base import Disk
from gureum.hypervisors.qemu.command import HOTPLUG_SLOTS, hotplug_place
from gureum.hypervisors.qemu.disks import (
    FIRST_LAYER,
    Node,
    OpenLayer,
    close_layers,
    disk_device,
    disk_nodes,
    file_node,
    format_node,
    node_name,
    open_layer,
    open_layers,
    parse_name,
    throttle,
)
from gureum.hypervisors.qemu.hotplug import ask_to_release, plug
from gureum.hypervisors.qemu.monitor import CommandError, Monitor
from gureum.san.base import Layer

log = logging.getLogger(__name__)

INSIST_SECONDS = 5.0
RELEASE_TRIES = 40
RELEASE_SECONDS = 0.05
_QDEV = re.compile(r"/machine/peripheral/([^/]+)(/|$)")
Name = tuple[str, int]
"""Volume and number of a layer."""

_GONE = "gone."
"""Prefix of the node that stands in for a disk that was taken away by force."""


class LiveDisks:
    """``devices`` maps volumes to QEMU's device ids, ``detaching`` are those the guest was asked to give
    up.
    """

    def __init__(self, env: Env, monitor: Monitor, changed: Callable[[], None]) -> None:
        self._env = env
        self._monitor = monitor
        self._changed = changed
        self.devices: dict[str, str] = {}
        self.detaching: set[str] = set()
        self._next = FIRST_LAYER
        self._tasks: set[asyncio.Task[None]] = set()

    def started_with(self, disks: Mapping[str, list[OpenLayer]]) -> None:
        """The machine was just started with these."""
        for volume, layers in disks.items():
            self.devices[volume] = node_name(volume, layers[0].number)
            self._next = max(self._next, layers[-1].number + 1)

    async def load(self) -> None:
        """Learn the disks of a machine that was found running, and finish what was begun with them."""
        devices: dict[str, str] = {}
        for block in _items(await self._monitor.execute("query-block")):
            path = _QDEV.match(str(block.get("qdev", "")))
            parsed = parse_name(path[1]) if path else None
            if path is None or parsed is None:
                continue
            self._next = max(self._next, parsed[1] + 1)
            active = parse_name(str(_item(block.get("inserted")).get("node-name", "")))
            if active is not None and not active[0].startswith(_GONE):
                devices[parsed[0]] = path[1]
        self.devices = devices
        self._next = max(self._next, *(number + 1 for number in await self._fdsets()), FIRST_LAYER)
        await self._sweep()

    async def _sweep(self) -> None:
        """Drop nodes and files that no device has: left by a crash between two steps."""
        await self._discard(await self._format_nodes())
        used = {number for _, number in await self._format_nodes()}
        for number in await self._fdsets():
            if number >= FIRST_LAYER and number not in used:
                await self._monitor.execute("remove-fd", {"fdset-id": number})

    async def limit(self, volume: str, iops: int, throughput: int) -> None:
        """Bound the disk's operations and MiB per second; 0 is no bound."""
        backend, _ = await self._medium(self._device(volume))
        await self._monitor.execute("block_set_io_throttle", throttle(backend, iops, throughput))

    async def attach(self, disk: Disk) -> None:
        if disk.volume in self.devices:
            return
        layers = open_layers(disk, self._next)
        self._next += len(layers)
        names = [(disk.volume, opened.number) for opened in layers]
        try:
            await self._add_nodes(disk.volume, layers)
            self._env.crashpoint("qemu.attach.opened")
            device = await self._plug(disk, layers[0].number)
        except HypervisorError:
            await self._drop(names)
            raise
        finally:
            close_layers(layers)
        self.devices[disk.volume] = device
        self._env.crashpoint("qemu.attach.plugged")
        if disk.iops or disk.throughput:
            await self.limit(disk.volume, disk.iops, disk.throughput)
        self._changed()

    async def _add_nodes(self, volume: str, layers: Sequence[OpenLayer]) -> None:
        for opened in layers:
            for fd in opened.fds:
                await self._monitor.send_file(opened.number, fd, opened.layer.path)
        for node in disk_nodes(volume, list(layers)):
            await self._monitor.execute("blockdev-add", node)

    async def _plug(self, disk: Disk, number: int) -> str:
        def at(slot: int) -> dict[str, object]:
            return disk_device(disk.volume, number, "virtio-blk-pci", hotplug_place(slot))

        return await plug(self._monitor, HOTPLUG_SLOTS, disk.index, at, disk.volume)

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
            self._spawn(self._insist(volume, device))
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
        """Put a node under the device that fails every request."""
        size = 0
        for node in await self._nodes():
            if parse_name(str(node.get("node-name"))) == parse_name(device):
                size = int(str(_item(node.get("image")).get("virtual-size", 0)))
        gone = _GONE + device
        await self._monitor.execute(
            "blockdev-add",
            {
                "driver": "blkdebug",
                "node-name": gone,
                "image": {"driver": "null-co", "size": size, "read-zeroes": True},
                "inject-error": [{"event": "none", "errno": 5, "once": False}],
            },
        )
        await self._monitor.execute(
            "qom-set", {"path": f"/machine/peripheral/{device}", "property": "drive", "value": gone}
        )

    def device_deleted(self, device: str) -> None:
        """The guest gave a device up."""
        for volume, present in self.devices.items():
            if present == device:
                self._spawn(self._release(volume))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        async def logged() -> None:
            try:
                await work
            except HypervisorError as error:
                log.warning("%s: while detaching: %s", self._monitor.id, error)

        task = asyncio.create_task(logged())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # it may have been cancelled before it began

    async def _release(self, volume: str) -> None:
        """Close the files of a volume that no device has any more, then show it gone."""
        self._env.crashpoint("qemu.detach.unplugged")
        await self._drop([name for name in await self._format_nodes() if name[0] == volume])
        self.devices.pop(volume, None)
        self.detaching.discard(volume)
        self._changed()

    async def _drop(self, names: Iterable[Name]) -> None:
        """Delete layers and their files. A device's last use of one may end a little late."""
        left = set(names)
        for _ in range(RELEASE_TRIES):
            left = await self._discard(left)
            if not left:
                return
            await asyncio.sleep(RELEASE_SECONDS)
        nodes = ", ".join(sorted(node_name(*name) for name in left))
        raise HypervisorError(f"{self._monitor.id}: still in use: {nodes}")

    async def _discard(self, names: Iterable[Name]) -> set[Name]:
        """Delete those layers that nothing uses, and their files, from the top down. Returns those in use."""
        left = set(names)
        while True:
            deleted = {name for name in left if await self._delete(*name)}
            left -= deleted
            if not deleted or not left:
                return left

    async def _delete(self, volume: str, number: int) -> bool:
        name = node_name(volume, number)
        for node in (name, name + "f"):
            try:
                await self._monitor.execute("blockdev-del", {"node-name": node})
            except CommandError as error:
                if "in use" in str(error):
                    return False  # else there is none
        if number in await self._fdsets():
            await self._monitor.execute("remove-fd", {"fdset-id": number})
        return True

    async def active_layer(self, volume: str) -> str:
        number = await self._active(volume)
        fdsets = await self._fdsets()
        if number not in fdsets:
            raise HypervisorError(f"{self._monitor.id}: {volume}: its active file is not known")
        return fdsets[number]

    async def _active(self, volume: str) -> int:
        """The number of the layer on top."""
        _, node = await self._medium(self._device(volume))
        name = parse_name(node)
        if name is None or name[0] != volume:
            raise HypervisorError(f"{self._monitor.id}: {volume} has no medium")
        return name[1]

    async def _medium(self, device: str) -> tuple[str, str]:
        """QEMU's path of a device's block backend, and the node on it."""
        for block in _items(await self._monitor.execute("query-block")):
            path = _QDEV.match(str(block.get("qdev", "")))
            if path is not None and path[1] == device:
                return str(block["qdev"]), str(_item(block.get("inserted")).get("node-name", ""))
        raise HypervisorError(f"{self._monitor.id}: has no device {device}")

    async def switch_layer(self, volume: str, layer: Layer) -> None:
        active = await self._active(volume)
        if (await self._fdsets()).get(active) == layer.path:
            return
        # An overlay that an interrupted switch left behind.
        await self._discard(name for name in await self._format_nodes() if name[0] == volume)
        number, self._next = self._next, self._next + 1
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
            await self._drop([(volume, number)])
            raise
        finally:
            opened.close()
        self._env.crashpoint("qemu.switch.done")

    async def resize(self, volume: str, size_bytes: int) -> None:
        node = node_name(volume, await self._active(volume))
        await self._monitor.execute("block_resize", {"node-name": node, "size": size_bytes}, seconds=60.0)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _device(self, volume: str) -> str:
        try:
            return self.devices[volume]
        except KeyError:
            raise HypervisorError(f"{self._monitor.id}: has no volume {volume}") from None

    async def _nodes(self) -> list[Node]:
        return _items(await self._monitor.execute("query-named-block-nodes", {"flat": False}))

    async def _format_nodes(self) -> set[Name]:
        """(volume, number) of all layers that have nodes."""
        names = (parse_name(str(node.get("node-name"))) for node in await self._nodes())
        return {name for name in names if name is not None and not name[0].startswith(_GONE)}

    async def _fdsets(self) -> dict[int, str]:
        """The path behind each fdset."""
        paths: dict[int, str] = {}
        for fdset in _items(await self._monitor.execute("query-fdsets")):
            for file in _items(fdset.get("fds")):
                paths[int(str(fdset["fdset-id"]))] = str(file.get("opaque", ""))
        return paths


def _items(value: object) -> list[Node]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _item(value: object) -> Node:
    return value if isinstance(value, dict) else {}
