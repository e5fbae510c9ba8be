"""Rules: how long a host needs for many ports with security groups of their own, and for one change beside
them.

All is in a network namespace of its own. The time is that of ``KernelNetwork.apply``: taps, addresses, routes
and rules, until they are in force; and of reading the spec, as it comes from the manager.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import msgspec

from gureum.bench.figures import Figure, Promise, Say, compare
from gureum.env import Env
from gureum.errors import GureumError
from gureum.hostspec import GroupSpec, HostSpec, NetworkSpec, PortSpec, RuleSpec, SubnetSpec, VpcSpec
from gureum.network import namespaces
from gureum.network.kernel import KernelNetwork
from gureum.network.names import Names
from gureum.network.namespaces import command, visit
from gureum.transport.messages import Spec, SpecChange, decode, encode
from gureum.transport.specs import Receiver, Sender

INDEX = 60
"""The number of a cloud that nobody has: clouds are numbered from 0."""
HOST = CLOUD = "gbench-rules"
LENGTH_BYTES = 4
"""Before each message on a link."""
PORTS, RULES = 1000, 50
ROUNDS = 3
ALL_SECONDS_MAX = 1.0
NEW = "on a new host"


def group(number: int, rules: int = RULES) -> GroupSpec:
    """Rules that are no other group's: networks, protocols and ranges of ports."""
    own = tuple(
        RuleSpec(
            protocol=("tcp", "udp")[k % 2],
            from_port=1000 + 10 * k,
            to_port=1000 + 10 * k + k % 5,
            cidr=f"10.{number % 256}.{k}.{64 * (number // 256)}/26",
        )
        for k in range(rules - 1)
    )
    return GroupSpec(id=f"sg-{number:017x}", rules=(RuleSpec(egress=True, cidr="0.0.0.0/0"), *own))


def port(number: int) -> PortSpec:
    return PortSpec(
        id=f"eni-{number:017x}",
        instance=f"i-{number:017x}",
        vpc="vpc-1",
        subnet="subnet-1",
        mac=f"06:00:00:00:{number // 256:02x}:{number % 256:02x}",
        private_ip=f"172.31.{4 + number // 250}.{4 + number % 250}",
        groups=(f"sg-{number:017x}",),
    )


def cloud(ports: int, rules: int = RULES) -> NetworkSpec:
    subnet = SubnetSpec(id="subnet-1", cidr="172.31.0.0/16")
    return NetworkSpec(
        vpcs=(VpcSpec(id="vpc-1", network_id=1, cidr="172.31.0.0/16", subnets=(subnet,), dns_support=False),),
        ports=tuple(port(number) for number in range(ports)),
        groups=tuple(group(number, rules) for number in range(ports)),
    )


def changes(spec: NetworkSpec) -> dict[str, NetworkSpec]:
    """By what is changed, from ``spec``."""
    more = cloud(len(spec.ports) + 1)
    rule = RuleSpec(protocol="tcp", from_port=22, to_port=22, cidr="192.0.2.0/24")
    first = msgspec.structs.replace(spec.groups[0], rules=(*spec.groups[0].rules, rule))
    return {
        "one port more": msgspec.structs.replace(
            spec, ports=(*spec.ports, more.ports[-1]), groups=(*spec.groups, more.groups[-1])
        ),
        "one rule more": msgspec.structs.replace(spec, groups=(first, *spec.groups[1:])),
        "one port less": msgspec.structs.replace(spec, ports=spec.ports[:-1], groups=spec.groups[:-1]),
    }


class Link:
    """From a manager to an agent: a spec arrives as it does on a real link."""

    def __init__(self) -> None:
        self._revision = 0
        self._sender, self._receiver = Sender(), Receiver()

    def send(self, network: NetworkSpec) -> bytes:
        self._revision += 1
        spec = HostSpec(cloud=CLOUD, host=HOST, revision=self._revision, network=network)
        return encode(self._sender.message(spec))[LENGTH_BYTES:]

    def receive(self, data: bytes) -> NetworkSpec:
        message = decode(data)
        assert isinstance(message, Spec | SpecChange)
        spec = self._receiver.take(message)
        assert spec is not None
        return spec.network


def measure(directory: Path, say: Say, *, quick: bool = False) -> list[Figure]:
    """Needs root. Blocks for about twenty seconds, ``quick`` for five."""
    if os.geteuid() != 0:
        raise GureumError("network namespaces need root")
    samples: dict[str, list[float]] = {}
    for number in range(1 if quick else ROUNDS):
        run_dir = directory / str(number)
        run_dir.mkdir()
        for name, milliseconds in _round(run_dir).items():
            say(f"{PORTS} ports, {name}: {milliseconds:.0f} ms")
            samples.setdefault(name, []).append(milliseconds)
    promise = Promise(limit=1000 * ALL_SECONDS_MAX)
    return [
        compare(
            f"{PORTS} ports with {RULES} rules each, {name}",
            "ms",
            found,
            promise=promise if name == NEW else None,
        )
        for name, found in samples.items()
    ]


def _round(run_dir: Path) -> dict[str, float]:
    command(["ip", "netns", "add", HOST])
    try:
        return visit(HOST, lambda: asyncio.run(_applied(run_dir)))
    finally:
        for name in (HOST, Names(INDEX).namespace(1)):
            if namespaces.exists(name):
                namespaces.remove(name)


async def _applied(directory: Path) -> dict[str, float]:
    """Milliseconds."""
    network = _network(directory)
    link = Link()
    found: dict[str, float] = {}
    try:
        spec = cloud(PORTS)
        found[NEW] = await _timed(network, link, spec)
        for name, changed in changes(spec).items():
            found[name] = await _timed(network, link, changed)
            await _timed(network, link, spec)
        await network.close()
        network = _network(directory)
        found["an agent that begins anew"] = await _timed(network, Link(), spec)
    finally:
        await network.teardown()
        await network.close()
    return found


def _network(directory: Path) -> KernelNetwork:
    return KernelNetwork(Env(), CLOUD, INDEX, directory, lambda id: None)


async def _timed(network: KernelNetwork, link: Link, spec: NetworkSpec) -> float:
    data = link.send(spec)
    began = time.perf_counter()
    await network.apply(link.receive(data))
    return 1000 * (time.perf_counter() - began)
