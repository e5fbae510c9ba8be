"""A host's network in memory, for simulation and tests: it keeps books and moves no packets."""

from __future__ import annotations

import asyncio
import os
from ipaddress import IPv4Network

from gureum.env import Env
from gureum.errors import NetworkError
from gureum.hostspec import NetworkSpec, PortSpec
from gureum.network.base import PortsMade, ignore
from gureum.network.plan import make_plan
from gureum.network.reach import allows

_ANY = IPv4Network("0.0.0.0/0")


class FakeWires:
    """What the kernels of all fake hosts hold: it outlives their agents, as kernels do.

    ``ports``: by host, the ports that exist, and ``standby``, the ids of those that are still another host's.
    ``rules``: by host, the spec whose rules hold. ``failing``:
    hosts whose networks raise NetworkError.
    """

    def __init__(self) -> None:
        self.ports: dict[str, dict[str, PortSpec]] = {}
        self.standby: dict[str, frozenset[str]] = {}
        self.rules: dict[str, NetworkSpec] = {}
        self.failing: set[str] = set()
        self.carried: list[tuple[str, str]] = []
        """Hosts, and interfaces whose flows they took over."""

    def may_talk(self, host: str, source: str, target: str, protocol: str, port: int = -1) -> bool:
        """Whether a flow between two interfaces on this host passes under the rules that hold there now."""
        present = self.ports.get(host, {})
        if source not in present or target not in present or host not in self.rules:
            return False
        return allows(self.rules[host], source, target, protocol, port)


class FakeNetwork:
    """Implements HostNetwork."""

    def __init__(self, env: Env, host: str, wires: FakeWires) -> None:
        self._env = env
        self._host = host
        self._wires = wires
        self._lock = asyncio.Lock()
        self._planned: NetworkSpec | None = None

    async def apply(self, spec: NetworkSpec, made: PortsMade = ignore) -> None:
        async with self._lock:
            await self._step()
            if spec is not self._planned:
                make_plan(spec, _ANY)
                self._planned = spec
            wanted = {port.id: port for port in spec.ports}
            self._wires.standby[self._host] = frozenset(port.id for port in spec.standby)
            if spec.standby:
                made(self._wires.standby[self._host])
                await self._step()
            ports = self._wires.ports.setdefault(self._host, {})
            for id in [id for id in wanted if id not in ports]:
                ports[id] = wanted[id]
                self._env.crashpoint("network.port.created")
            self._wires.rules[self._host] = spec
            self._env.crashpoint("network.rules.applied")
            for id in [id for id in ports if id not in wanted]:
                del ports[id]
                self._env.crashpoint("network.port.removed")
            ports.update(wanted)

    async def open_port(self, interface: str) -> int:
        """A descriptor that takes everything and gives nothing (/dev/null); the caller closes it."""
        await self._step()
        self.mtu(interface)
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    async def export_flows(self, interface: str) -> bytes:
        await self._step()
        self.mtu(interface)
        return interface.encode()

    async def import_flows(self, interface: str, data: bytes) -> None:
        await self._step()
        if interface not in self._wires.ports.get(self._host, {}):
            raise NetworkError(f"port {interface} was not applied")
        if data != interface.encode():
            raise NetworkError("there are flows of other ports among these")
        self._wires.carried.append((self._host, interface))

    def mtu(self, interface: str) -> int:
        wires = self._wires
        if interface not in {*wires.ports.get(self._host, ()), *wires.standby.get(self._host, ())}:
            raise NetworkError(f"port {interface} was not applied")
        spec = self._planned if self._planned is not None else wires.rules[self._host]
        return spec.mtu

    async def close(self) -> None:
        """Nothing is served, so nothing stops."""

    async def teardown(self) -> None:
        async with self._lock:
            await self._step()
            self._wires.ports.pop(self._host, None)
            self._wires.rules.pop(self._host, None)

    async def _step(self) -> None:
        await asyncio.sleep(0)
        if self._host in self._wires.failing:
            raise NetworkError(f"the network of {self._host} does not answer")
