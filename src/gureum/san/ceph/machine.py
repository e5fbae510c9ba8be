"""What the machine of a cluster has for its daemons: ports, memory, a user."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path

from gureum.errors import PoolError
from gureum.network.names import storage_ports
from gureum.san.ceph.cluster import CEPH_USER, MON_PORTS


def choose_port(index: int, address: str) -> int:
    """A free port for the monitor, which keeps it for ever. Raises PoolError."""
    candidates = storage_ports(index)[:MON_PORTS]
    for port in candidates:
        if is_free(address, port):
            return port
    raise PoolError(f"ports {candidates[0]} to {candidates[-1]} of {address} are all in use")


def is_free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def daemon_user(directory: Path) -> pwd.struct_passwd | None:
    """Who the daemons run as: Ceph's own user; None, which is root, where that cannot reach the directory."""
    try:
        user = pwd.getpwnam(CEPH_USER)
    except KeyError:
        return None
    return user if all(path.stat().st_mode & 0o001 for path in _above(directory)) else None


def _above(directory: Path) -> Iterator[Path]:
    yield from (path for path in (directory, *directory.resolve().parents) if path.exists())
