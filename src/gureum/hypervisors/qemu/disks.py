"""A machine's disks as QEMU sees them: block nodes over open files.

Each layer of a disk has a number that is unique in the machine: fdset ``n`` holds its open files (labelled
with its path), ``<volume>.<n>f`` is its file node, ``<volume>.<n>`` its format node. A RADOS block device is
one layer, whose file node is the image. ``<volume>.<n>c``, above the layer that was on top when
it was attached, decrypts and encrypts. The device is named after that layer. So what a running QEMU has is
found again from itself alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from gureum.errors import HypervisorError
from gureum.hypervisors.base import Disk
from gureum.hypervisors.qemu.node import Node
from gureum.hypervisors.qemu.rbd import OpenRbd, open_rbd, rbd_node
from gureum.san.base import FileDisk, Layer
from gureum.san.luks import passphrase

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


class OpenFile(NamedTuple):
    """A file for fdset ``number``, which says ``label`` of itself."""

    number: int
    fd: int
    label: str


class OpenDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk whose files are open, so that a QEMU can have it. It has ``layers``, or is ``remote``."""

    volume: str
    number: int
    layers: tuple[OpenLayer, ...] = ()
    remote: OpenRbd | None = None
    key: bytes = b""

    @property
    def last_number(self) -> int:
        return self.layers[-1].number if self.layers else self.number

    @property
    def numbers(self) -> range:
        return range(self.number, self.last_number + 1)

    @property
    def top(self) -> str:
        """The node that the device is over."""
        name = node_name(self.volume, self.number)
        return name + "c" if self.key else name

    @property
    def files(self) -> list[OpenFile]:
        return [OpenFile(layer.number, fd, layer.layer.path) for layer in self.layers for fd in layer.fds]

    @property
    def secrets(self) -> dict[str, Node]:
        """By id, what the secret objects are made of that the nodes are opened with."""
        secrets: dict[str, Node] = {}
        if self.remote is not None:
            secrets[_cluster_secret(self.volume, self.number)] = {
                "format": "base64",
                "data": self.remote.secret,
            }
        if self.key:
            secrets[_crypt_secret(self.volume, self.number)] = {
                "format": "raw",
                "data": passphrase(self.key),
            }
        return secrets

    def nodes(self, conf: int = -1, sparse: bool = False) -> list[Node]:
        """In the order in which they have to be made. ``conf``: the remote one's, as the QEMU process has
        it. ``sparse``: zeros that are written take no room. (Encrypted, nothing is zeros.)
        """
        nodes = disk_nodes(self.volume, self.layers)
        if self.remote is not None:
            name = node_name(self.volume, self.number)
            secret = _cluster_secret(self.volume, self.number)
            nodes += [rbd_node(name + "f", self.remote.disk, conf, secret), _raw_node(name)]
        if sparse:
            nodes[-1]["detect-zeroes"] = "unmap"
        if self.key:
            nodes.append(_crypt_node(self.volume, self.number))
        return nodes

    def close(self) -> None:
        close_layers(self.layers)
        if self.remote is not None:
            self.remote.close()


def open_disk(disk: Disk, number: int) -> OpenDisk:
    """Open a disk's files, numbered from ``number`` on, the written one first."""
    if isinstance(disk.source, FileDisk):
        layers = tuple(_open_layers(disk.volume, disk.source, number))
        return OpenDisk(volume=disk.volume, number=number, layers=layers, key=disk.key)
    remote = open_rbd(disk.source, number)
    return OpenDisk(volume=disk.volume, number=number, remote=remote, key=disk.key)


def _open_layers(volume: str, source: FileDisk, number: int) -> list[OpenLayer]:
    if not source.layers:
        raise HypervisorError(f"{volume}: has no layers")
    opened: list[OpenLayer] = []
    try:
        for offset, layer in enumerate(source.layers):
            opened.append(open_layer(layer, number + offset, writable=offset == 0))
    except HypervisorError:
        close_layers(opened)
        raise
    return opened


def close_layers(layers: Sequence[OpenLayer]) -> None:
    for layer in layers:
        layer.close()


def node_name(volume: str, number: int) -> str:
    return f"{volume}.{number}"


def parse_name(name: str) -> tuple[str, int] | None:
    """``(volume, number)`` of a format node, one that encrypts, or a device; None for other names."""
    volume, _, number = name.removesuffix("c").rpartition(".")
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


def disk_nodes(volume: str, layers: Sequence[OpenLayer]) -> list[Node]:
    """All nodes of a disk of files, in the order in which they have to be made."""
    nodes: list[Node] = []
    backing: str | None = None
    for opened in reversed(layers):
        nodes += [file_node(volume, opened), format_node(volume, opened, backing)]
        backing = node_name(volume, opened.number)
    return nodes


def _raw_node(name: str) -> Node:
    """Over an image of a cluster."""
    return {
        "driver": "raw",
        "node-name": name,
        "file": name + "f",
        "cache": {"direct": True, "no-flush": False},
        "discard": "unmap",
        "detect-zeroes": "off",
    }


def _crypt_node(volume: str, number: int) -> Node:
    """What is below is a LUKS header, and the encrypted data after it (see ``san.luks``).

    A guest's discard goes through, and shows in the pool which blocks are free.
    """
    name = node_name(volume, number)
    return {
        "driver": "luks",
        "node-name": name + "c",
        "file": name,
        "key-secret": _crypt_secret(volume, number),
        "discard": "unmap",
    }


SECRETS = (".auth", ".luks")
"""How the names of secret objects end."""


def _cluster_secret(volume: str, number: int) -> str:
    return node_name(volume, number) + SECRETS[0]


def _crypt_secret(volume: str, number: int) -> str:
    return node_name(volume, number) + SECRETS[1]


def serial(volume: str) -> str:
    return volume.replace("-", "")[:SERIAL_LENGTH_MAX]


def disk_device(
    opened: OpenDisk, driver: str, bus: Node, pauses: bool, boot_index: int | None = None
) -> Node:
    """The virtio device over a disk.

    A full disk pauses the guest, which can go on when there is space again; other errors of a file are the
    guest's to see. What a cluster answers is nothing that a guest should have to know: where disks may be in
    one (``pauses``), now or later, all errors pause.
    """
    errors = ("stop", "stop") if pauses else ("enospc", "report")
    device: Node = {
        "driver": driver,
        "id": node_name(opened.volume, opened.number),
        "drive": opened.top,
        "serial": serial(opened.volume),
        "werror": errors[0],
        "rerror": errors[1],
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
