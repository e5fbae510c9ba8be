"""A machine's disks as QEMU sees them: block nodes over open files.

Each layer of a disk has a number that is unique in the machine: fdset ``n`` holds its open files (labelled
with its path), ``<volume>.<n>f`` is its file node, ``<volume>.<n>`` its format node. The device is named
after the layer that was on top when it was attached. So what a running QEMU has is found again from itself
alone.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from gureum.errors import HypervisorError
from gureum.hypervisors.base import Disk
from gureum.san.base import Layer

Node = dict[str, object]

FIRST_LAYER = 10
"""Lower fdset numbers are for other files."""

SERIAL_LENGTH_MAX = 20


class OpenLayer(NamedTuple):
    """``fds`` are the open files for the fdset. ``direct``: they bypass the page cache."""

    number: int
    layer: Layer
    fds: tuple[int, ...]
    writable: bool
    direct: bool

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def open_layer(layer: Layer, number: int, writable: bool) -> OpenLayer:
    """Open a layer's file.

    The written layer bypasses the page cache where the file system can (a guest's flush then is one
    fdatasync, and the guest's own cache is not doubled). Read-only layers stay in the page cache, which
    machines of one image share. QEMU reopens a file with other rights when a node's role changes: it needs
    one descriptor for each.
    """
    try:
        if not writable:
            return OpenLayer(number, layer, (os.open(layer.path, os.O_RDONLY),), False, False)
        direct = True
        try:
            fd = os.open(layer.path, os.O_RDWR | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            direct = False
            fd = os.open(layer.path, os.O_RDWR)
        try:
            return OpenLayer(number, layer, (fd, os.open(layer.path, os.O_RDONLY)), True, direct)
        except OSError:
            os.close(fd)
            raise
    except OSError as error:
        raise HypervisorError(f"cannot open disk file {layer.path}: {error.strerror}") from error


def open_layers(disk: Disk, number: int) -> list[OpenLayer]:
    """Open all layers of a disk, numbered from ``number`` on, the written one first."""
    if not disk.source.layers:
        raise HypervisorError(f"{disk.volume}: has no layers")
    opened: list[OpenLayer] = []
    try:
        for offset, layer in enumerate(disk.source.layers):
            opened.append(open_layer(layer, number + offset, writable=offset == 0))
    except HypervisorError:
        close_layers(opened)
        raise
    return opened


def close_layers(layers: list[OpenLayer]) -> None:
    for layer in layers:
        layer.close()


def node_name(volume: str, number: int) -> str:
    return f"{volume}.{number}"


def parse_name(name: str) -> tuple[str, int] | None:
    """``(volume, number)`` of a format node or device, None for other names."""
    volume, _, number = name.rpartition(".")
    return (volume, int(number)) if volume and number.isdigit() else None


def file_node(volume: str, opened: OpenLayer) -> Node:
    return {
        "driver": "file",
        "node-name": node_name(volume, opened.number) + "f",
        "filename": f"/dev/fdset/{opened.number}",
        "read-only": not opened.writable,
        "auto-read-only": False,
        "cache": {"direct": opened.direct, "no-flush": False},
        "aio": "threads",
        "discard": "unmap",
    }


def format_node(volume: str, opened: OpenLayer, backing: str | None) -> Node:
    """The node over ``file_node``. Backing is always explicit: what a qcow2 header names is never opened."""
    node: Node = {
        "driver": opened.layer.format,
        "node-name": node_name(volume, opened.number),
        "file": node_name(volume, opened.number) + "f",
        "read-only": not opened.writable,
        "cache": {"direct": opened.direct, "no-flush": False},
        "discard": "unmap",
        "detect-zeroes": "off",
    }
    if opened.layer.format == "qcow2":
        node["backing"] = backing
    elif opened.layer.format != "raw" or backing is not None:
        raise HypervisorError(f"{opened.layer.path}: format {opened.layer.format} cannot be used here")
    return node


def disk_nodes(volume: str, layers: list[OpenLayer]) -> list[Node]:
    """All nodes of a disk, in the order in which they have to be made."""
    nodes: list[Node] = []
    backing: str | None = None
    for opened in reversed(layers):
        nodes += [file_node(volume, opened), format_node(volume, opened, backing)]
        backing = node_name(volume, opened.number)
    return nodes


def serial(volume: str) -> str:
    return volume.replace("-", "")[:SERIAL_LENGTH_MAX]


def disk_device(volume: str, number: int, driver: str, bus: Node, boot_index: int | None = None) -> Node:
    """The virtio device over format node ``number``.

    A full disk pauses the guest, which can go on when there is space again. Other errors are the guest's to
    see.
    """
    device: Node = {
        "driver": driver,
        "id": node_name(volume, number),
        "drive": node_name(volume, number),
        "serial": serial(volume),
        "werror": "enospc",
        "rerror": "report",
        **bus,
    }
    if boot_index is not None:
        device["bootindex"] = boot_index
    return device


def throttle(device: str, iops: int, throughput: int) -> Node:
    """Arguments of block_set_io_throttle; 0 is no limit. ``throughput`` is in MiB a second, as EBS counts."""
    return {
        "id": device,
        "iops": iops,
        "iops_rd": 0,
        "iops_wr": 0,
        "bps": throughput * 1024 * 1024,
        "bps_rd": 0,
        "bps_wr": 0,
    }
