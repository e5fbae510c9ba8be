"""The block nodes of a running machine, and the files and secrets that they are made of.

Nothing here asks QEMU what it would have to read from an image: it waits for a cluster that is away, and
answers nobody meanwhile (query-named-block-nodes does; query-block when the image was changed elsewhere).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from gureum.errors import HypervisorError
from gureum.hypervisors.base import Disk
from gureum.hypervisors.qemu.disks import FIRST_LAYER, SECRETS, OpenDisk, node_name, open_disk, parse_name
from gureum.hypervisors.qemu.monitor import CommandError, Monitor
from gureum.hypervisors.qemu.node import Node
from gureum.hypervisors.qemu.rbd import image_below

OPEN_SECONDS = 30.0
"""For a node: librbd looks for a monitor, and reads the image's header."""

RELEASE_TRIES = 40
RELEASE_SECONDS = 0.05
_QDEV = re.compile(r"/machine/peripheral/([^/]+)(/|$)")

_CONF = "ceph.conf"
"""Label of a cluster's configuration among the open files, while an image is opened."""

GONE = "gone."
"""Prefix of the node that stands in for a disk that was taken away by force."""

Name = tuple[str, int]
"""Volume and number of a layer."""


class Medium(NamedTuple):
    """``backend`` is QEMU's path of the device's block backend, ``node`` what it is over; ``layer`` the one
    that is written, None for none of ours.
    """

    backend: str
    node: str
    layer: Name | None


class LiveNodes:
    """``next_number`` is free in the machine, as are those above it."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self.next_number = FIRST_LAYER

    async def load(self) -> None:
        """Learn what numbers are used, and drop what no device has: left by a crash between two steps."""
        await self.discard(await self.names())
        used = {number for _, number in await self.names()}
        for number in await self.fdsets():
            if number >= FIRST_LAYER and number not in used:
                await self._monitor.execute("remove-fd", {"fdset-id": number})
        objects = items(await self._monitor.execute("qom-list", {"path": "/objects"}))
        await self.forget(name for each in objects if (name := str(each.get("name"))).endswith(SECRETS))
        devices = (parse_name(device) for device in await self.media())
        used |= {name[1] for name in devices if name is not None}
        self.next_number = max([FIRST_LAYER, *(number + 1 for number in used)])

    async def add(self, disk: Disk, sparse: bool = False) -> OpenDisk:
        """Make the nodes of a disk (``OpenDisk.nodes``). QEMU has its files open only when this returns."""
        opened = open_disk(disk, self.next_number)
        self.next_number = opened.last_number + 1
        try:
            await self._add(opened, sparse)
        except HypervisorError:
            await self.drop((disk.volume, number) for number in opened.numbers)
            raise
        finally:
            opened.close()
        return opened

    async def _add(self, opened: OpenDisk, sparse: bool) -> None:
        for file in opened.files:
            await self._monitor.send_file(file.number, file.fd, file.label)
        conf = -1
        try:
            if opened.remote is not None:
                conf = await self._monitor.send_file(opened.number, opened.remote.conf, _CONF)
            for id, secret in opened.secrets.items():
                await self._monitor.execute("object-add", {"qom-type": "secret", "id": id, **secret})
            for node in opened.nodes(conf, sparse):
                await self._monitor.execute("blockdev-add", node, seconds=OPEN_SECONDS)
        finally:
            await self.forget(opened.secrets)
            if conf >= 0:
                await self._monitor.execute("remove-fd", {"fdset-id": opened.number})

    async def forget(self, secrets: Iterable[str]) -> None:
        """What a node was opened with it needs no more."""
        for id in secrets:
            with contextlib.suppress(CommandError):  # there is none
                await self._monitor.execute("object-del", {"id": id})

    async def drop(self, names: Iterable[Name]) -> None:
        """Delete layers and their files. A device's last use of one may end a little late."""
        left = set(names)
        for _ in range(RELEASE_TRIES):
            left = await self.discard(left)
            if not left:
                return
            await asyncio.sleep(RELEASE_SECONDS)
        nodes = ", ".join(sorted(node_name(*name) for name in left))
        raise HypervisorError(f"{self._monitor.id}: still in use: {nodes}")

    async def discard(self, names: Iterable[Name]) -> set[Name]:
        """Delete those layers that nothing uses, and their files, from the top down. Returns those in use."""
        left = set(names)
        while True:
            deleted = {name for name in left if await self._delete(*name)}
            left -= deleted
            if not deleted or not left:
                return left

    async def discard_unused(self, volume: str) -> None:
        """All layers of a volume that nothing uses."""
        await self.discard(name for name in await self.names() if name[0] == volume)

    async def _delete(self, volume: str, number: int) -> bool:
        name = node_name(volume, number)
        for node in (name + "c", name, name + "f"):
            try:
                await self._monitor.execute("blockdev-del", {"node-name": node})
            except CommandError as error:
                if "in use" in str(error):
                    return False  # else there is none
        if number in await self.fdsets():
            await self._monitor.execute("remove-fd", {"fdset-id": number})
        return True

    async def names(self) -> set[Name]:
        """(volume, number) of all layers that have nodes."""
        graph = item(await self._monitor.execute("x-debug-query-block-graph"))
        nodes = items(graph.get("nodes"))
        names = (_layer(str(node["name"])) for node in nodes if node.get("type") == "block-driver")
        return {name for name in names if name is not None}

    async def fdsets(self) -> dict[int, str]:
        """The path behind each fdset."""
        paths: dict[int, str] = {}
        for fdset in items(await self._monitor.execute("query-fdsets")):
            for file in items(fdset.get("fds")):
                paths[int(str(fdset["fdset-id"]))] = str(file.get("opaque", ""))
        return paths

    async def media(self) -> dict[str, Medium]:
        """What is under each device."""
        media: dict[str, Medium] = {}
        for block in items(await self._monitor.execute("query-blockstats")):
            path = _QDEV.match(str(block.get("qdev", "")))
            if path is not None:
                top = str(block.get("node-name", ""))
                below = item(block.get("parent")) if top.endswith("c") else block
                media[path[1]] = Medium(str(block["qdev"]), top, _layer(str(below.get("node-name", ""))))
        return media

    async def image(self, backend: str) -> str:
        """The cluster's image that a device is in, "" for none. QEMU may have to ask the cluster."""
        for block in items(await self._monitor.execute("query-block")):
            if block.get("qdev") == backend:
                return image_below(str(item(block.get("inserted")).get("file", "")))
        return ""


def _layer(node: str) -> Name | None:
    name = parse_name(node)
    return None if name is None or name[0].startswith(GONE) else name


def items(value: object) -> list[Node]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def item(value: object) -> Node:
    return value if isinstance(value, dict) else {}
