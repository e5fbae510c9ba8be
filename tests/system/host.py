"""What runs on this machine, as the kernel shows it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping

from gureum.bench.leftovers import command_lines, difference

__all__ = ["command_lines", "difference", "environment", "free_port"]


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
