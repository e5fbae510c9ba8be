"""The network of one host, as the agent sees it. Implementations: ``kernel``, and ``fake`` in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gureum.hostspec import Metadata, NetworkSpec

PortsMade = Callable[[frozenset[str]], None]
"""Ports that can be opened from now on."""
MetadataLookup = Callable[[str], "Metadata | None"]
"""An instance id to what its metadata service may say."""


def ignore(_made: frozenset[str]) -> None:
    """For who opens ports only once all of the network is there."""


class HostNetwork(Protocol):
    """Methods are idempotent and raise NetworkError."""

    async def apply(self, spec: NetworkSpec, made: PortsMade = ignore) -> None:
        """Make the host's network what ``spec`` says, whole, and remove what it does not mention.

        Packet filter changes take effect in one atomic step; traffic that stays allowed is not interrupted.
        ``made``: called for ports that stand by, as soon as they can be opened.
        """

    async def open_port(self, interface: str) -> int:
        """A new file descriptor of the tap of a port that was applied, or stands by. The caller closes it."""

    async def export_flows(self, interface: str) -> bytes:
        """All flows of a port that was applied, for the host that it moves to.

        To be asked for when the guest sends no more, and before a spec without the port is applied.
        """

    async def import_flows(self, interface: str, data: bytes) -> None:
        """Take over the flows of a port that was applied, before its guest sends. Repeats harmlessly."""

    def mtu(self, interface: str) -> int: ...

    async def close(self) -> None:
        """Stop serving (DHCP, metadata); ports, rules and traffic stay."""

    async def teardown(self) -> None:
        """Remove everything of this cloud from the host."""
