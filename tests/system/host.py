"""What runs on this machine, as the kernel shows it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network
from pathlib import Path


def difference(kind: str, wanted: Iterable[str], there: Iterable[str]) -> list[str]:
    wanted, there = set(wanted), set(there)
    return [f"{kind} {name} is missing" for name in sorted(wanted - there)] + [
        f"{kind} {name} should not be there" for name in sorted(there - wanted)
    ]


@contextlib.contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """For the block; an empty value is none."""
    before = {name: os.environ.get(name, "") for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        os.environ.pop(name, None)
        if value:
            os.environ[name] = value


def command_lines() -> Iterator[tuple[int, bytes]]:
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield int(path.name), (path / "cmdline").read_bytes()


def nft_tables() -> list[str]:
    return subprocess.run(
        ["nft", "list", "tables"], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def routes() -> list[str]:
    return subprocess.run(
        ["ip", "route", "show", "table", "all"], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def is_within(route: str, network: str) -> bool:
    """Whether a line of `ip route` is about addresses of the network."""
    found = re.search(r"\d+\.\d+\.\d+\.\d+(/\d+)?", route)
    return found is not None and IPv4Network(found[0], strict=False).subnet_of(IPv4Network(network))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
