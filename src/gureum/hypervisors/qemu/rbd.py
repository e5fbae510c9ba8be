"""RADOS block devices as a QEMU process gets them, whose user may read no file.

The cluster's configuration is handed over as an open file in memory, which librbd opens once more by its
descriptor; the user's key as a secret object, which is deleted once the image is open. So neither is on a
command line, nor in a file that another machine's user could read. What the key may do is for the cluster to
bound: whoever takes over a QEMU process has it.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from gureum.errors import HypervisorError
from gureum.hypervisors.qemu.node import Node
from gureum.san.base import RbdDisk

CONNECT_SECONDS = 15
"""How long librados looks for a monitor that answers. QEMU does nothing else meanwhile."""

CONF_BYTES_MAX = 64 * 1024

_PRIVATE = re.compile(r"^\s*(key|keyring|keyfile|admin[ _]socket|log[ _]file)\s*=.*$", re.M)
_KEY = re.compile(r"^\s*key\s*=\s*(\S+)\s*$", re.M)


class OpenRbd(NamedTuple):
    """``conf`` is the open file in memory, ``secret`` the user's key as the keyring has it."""

    number: int
    disk: RbdDisk
    conf: int
    secret: str

    def close(self) -> None:
        os.close(self.conf)


def open_rbd(disk: RbdDisk, number: int) -> OpenRbd:
    secret = find_key(_read(disk.keyring), disk.user, disk.keyring)
    return OpenRbd(number, disk, memory_file("ceph.conf", confine(_read(disk.conf), disk.user)), secret)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(CONF_BYTES_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise HypervisorError(f"cannot read {Path(path)}: {error}") from error
    if len(text) > CONF_BYTES_MAX:
        raise HypervisorError(f"{path} is longer than {CONF_BYTES_MAX} characters")
    return text


def find_key(keyring: str, user: str, path: str) -> str:
    """The key of ``user`` in the text of a keyring."""
    _, found, section = keyring.partition(f"[client.{user}]")
    key = _KEY.search(section.partition("\n[")[0])
    if not found or key is None:
        raise HypervisorError(f"{path} has no key for client.{user}")
    return key[1]


def confine(conf: str, user: str) -> str:
    """The configuration without what a machine's process may not open, and with a bound on connecting."""
    return f"{_PRIVATE.sub('', conf)}\n[client.{user}]\nclient_mount_timeout = {CONNECT_SECONDS}\n"


def memory_file(name: str, content: str) -> int:
    """An open file in memory that any process which is given it can read, and none can change."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, content.encode())
        os.fchmod(fd, 0o444)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(fd)
        raise
    return fd


def image_below(file: str) -> str:
    """Pool and image of what QEMU says that a node is made of, as "rbd:pool/image"; "" if it is no image."""
    if not file.startswith("json:"):
        return ""
    below: object = msgspec.json.decode(file.removeprefix("json:"))
    while isinstance(below, dict):
        if below.get("driver") == "rbd":
            return f"rbd:{below.get('pool')}/{below.get('image')}"
        below = below.get("file")
    return ""


def rbd_node(name: str, disk: RbdDisk, conf: int, secret: str) -> Node:
    """``conf`` is the descriptor in the QEMU process; ``secret`` the id of the secret object.

    Without librbd's cache (``direct``): the guest has one, and a flush has nothing to write out.
    """
    return {
        "driver": "rbd",
        "node-name": name,
        "pool": disk.pool,
        "image": disk.image,
        "user": disk.user,
        "conf": f"/proc/self/fd/{conf}",
        "key-secret": secret,
        "cache": {"direct": True, "no-flush": False},
        "discard": "unmap",
    }
