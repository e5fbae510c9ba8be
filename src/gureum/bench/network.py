"""Rules: how long a host needs for many ports with security groups of their own, and for one change beside
them.

All is in a network namespace of its own. The time is that of ``KernelNetwork.apply``: taps, addresses, routes
and rules, until they are in force.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec

from gureum.bench.figures import Figure, Promise, Say, compare
from gureum.env import Env
from gureum.errors import GureumError
from gureum.hostspec import GroupSpec, NetworkSpec, PortSpec, RuleSpec, SubnetSpec, VpcSpec
from gureum.network import namespaces
from gureum.network.kernel import KernelNetwork
from gureum.network.names import Names
from gureum.network.namespaces import command, visit

INDEX = 60
"""The number of a cloud that nobody has: clouds are numbered from 0."""
HOST = "gbench-rules"
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
    """By what is changed, from ``spec``; each as an agent reads it: nothing is the same object."""
    more = cloud(len(spec.ports) + 1)
    rule = RuleSpec(protocol="tcp", from_port=22, to_port=22, cidr="192.0.2.0/24")
    first = msgspec.structs.replace(spec.groups[0], rules=(*spec.groups[0].rules, rule))
    decode = msgspec.json.Decoder(NetworkSpec).decode
    found = {
        "one port more": more,
        "one rule more": msgspec.structs.replace(spec, groups=(first, *spec.groups[1:])),
        "one port less": msgspec.structs.replace(spec, ports=spec.ports[:-1], groups=spec.groups[:-1]),
    }
    return {name: decode(msgspec.json.encode(each)) for name, each in found.items()}


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
    found: dict[str, float] = {}
    try:
        spec = cloud(PORTS)
        found[NEW] = await _timed(partial(network.apply, spec))
        for name, changed in changes(spec).items():
            found[name] = await _timed(partial(network.apply, changed))
            await network.apply(spec)
        await network.close()
        network = _network(directory)
        found["an agent that begins anew"] = await _timed(partial(network.apply, spec))
    finally:
        await network.teardown()
        await network.close()
    return found


def _network(directory: Path) -> KernelNetwork:
    return KernelNetwork(Env(), "gbench-rules", INDEX, directory, lambda id: None)


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await work()
    return 1000 * (time.perf_counter() - began)
