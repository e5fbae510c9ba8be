"""Traffic between two ports, on one host and on two, beside a bare veth pair and a bare VXLAN pair.

Guests are network namespaces: a veth stands in place of the tap that a virtual machine would have open, as it
does at NAT gateways. Through a tap a packet is in the guest's queue; through a veth it would have to be
received once more, which the short way spares it as soon as its flow is established. The
peers are the same kernel's devices with nothing between: two namespaces with a veth pair, and two with a
VXLAN device over the same bridge. Beside them, so that one sees what the difference is due to: as many
devices as ours, with namespaces between that only route, and the same with the least filter that knows
connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from gureum.bench.figures import Figure, Promise, Say, compare
from gureum.env import Env
from gureum.errors import GureumError
from gureum.hostspec import (
    AddressSpec,
    GroupSpec,
    NetworkSpec,
    PeerHostSpec,
    PortSpec,
    RemoteSpec,
    RouteTableSpec,
    RuleSpec,
    SubnetSpec,
    VpcSpec,
)
from gureum.network.kernel import KernelNetwork
from gureum.network.names import Names, tap_name
from gureum.network.namespaces import command, nft, visit, write_sysctl

INDEX = 61
"""The number of a cloud that nobody has: clouds are numbered from 0."""
PREFIX = "gbench"
LAN = f"{PREFIX}-lan"
UPLINK_MTU = 9000
FLOW_PORT = 5201
ROUNDS = 25
SECONDS = 0.3
"""Short ones: what else the machine does is then seldom in one of a pair only."""
SETTLE_SECONDS_MAX = 20.0
LEAST = 0.9
"""What is promised: at least 0.9 times the bare devices."""
TURNS = {"send": 4, "ask": 1, "cost": 1}
"""In each round. A stream's speed differs most from one to the next, by up to four times."""
UNITS = {"send": (8 / 1e9, "Gbit/s"), "ask": (1e6, "us"), "cost": (1e6, "us")}
"""What ``flow`` measures, and what makes the unit of its figures."""
NAMES = {"send": "TCP", "ask": "question and answer", "cost": "question and answer: CPU time"}
PROMISES = {
    "send": Promise(limit=LEAST, of="ratio", at="least"),
    "ask": Promise(limit=round(1 / LEAST, 2), of="ratio", at="most"),
}

EVERYONE = GroupSpec(
    id="sg-bench",
    rules=(
        *(RuleSpec(protocol="tcp", from_port=port, to_port=port, cidr="10.0.0.0/8") for port in range(1, 50)),
        RuleSpec(protocol="tcp", from_port=FLOW_PORT, to_port=FLOW_PORT, cidr="10.0.0.0/16"),
        RuleSpec(egress=True, cidr="0.0.0.0/0"),
    ),
)
"""Fifty rules of which the last one lets the traffic in."""
LEAST_FILTER = f"""
table inet least {{
    chain forward {{
        type filter hook forward priority 0; policy drop;
        ct state established accept
        tcp dport {FLOW_PORT} accept
    }}
}}
"""
"""The least that lets a connection begin one way and go on both ways."""


class Pair:
    """Two namespaces, and the address of the second one."""

    def __init__(self, client: str, server: str, address: str) -> None:
        self.client = client
        self.server = server
        self.address = address


def measure(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    rounds, seconds = (3, 0.3) if quick else (ROUNDS, SECONDS)
    with _namespaces():
        same = {
            "bare veth": _veth_pair(),
            "routed veth": _routed_pair("r"),
            "filtered veth": _routed_pair("f", LEAST_FILTER),
        }
        apart = {
            "bare VXLAN": _vxlan_pair(),
            "routed VXLAN": _routed_vxlan_pair("y", 110),
            "filtered VXLAN": _routed_vxlan_pair("z", 120, LEAST_FILTER),
        }
        return [
            *_compare("same host", _ports(directory, same=True), same, rounds, seconds, say),
            *_compare("two hosts", _ports(directory, same=False), apart, rounds, seconds, say),
        ]


def _compare(
    where: str, ours: Pair, peers: dict[str, Pair], rounds: int, seconds: float, say: Say
) -> list[Figure]:
    """Of the peers only the first one has a promise."""
    pairs = {"gureum": ours, **peers}
    samples: dict[str, dict[str, list[float]]] = {what: {name: [] for name in pairs} for what in UNITS}
    with contextlib.ExitStack() as servers:
        for pair in pairs.values():
            servers.enter_context(_serving(pair))
        for number in range(rounds):
            for what, (scale, unit) in UNITS.items():
                for turn in range(TURNS[what]):
                    # Each of them is first as often as the others.
                    first = (number * TURNS[what] + turn) % len(pairs)
                    for name in (*list(pairs)[first:], *list(pairs)[:first]):
                        samples[what][name].append(_flow(pairs[name], what, seconds) * scale)
                last = ", ".join(f"{name} {found[-1]:.1f}" for name, found in samples[what].items())
                say(f"{where}, round {number + 1}, {NAMES[what]}: {last} {unit}")
    figures: list[Figure] = []
    for name in peers:
        promised = name == next(iter(peers))
        for what, (_, unit) in UNITS.items():
            figures.append(
                compare(
                    f"{NAMES[what]}, {where}",
                    unit,
                    samples[what]["gureum"],
                    samples[what][name],
                    peer_name=name,
                    promise=PROMISES.get(what) if promised else None,
                    paired=True,
                )
            )
    return figures


# What is measured


def _ports(directory: Path, *, same: bool) -> Pair:
    """Two ports of one VPC, with a namespace behind each."""
    network_id = 1 if same else 2
    hosts = (1, 1) if same else (1, 2)
    ports = [_port(f"eni-{network_id:08x}{n:09x}", f"10.0.{n}.9", network_id, n) for n in (1, 2)]
    placed = list(zip(ports, hosts, strict=True))
    for host in sorted(set(hosts)):
        spec = _spec(host, network_id, placed)
        _apply(directory, host, spec)
        for port in spec.ports:
            _plug(host, network_id, port)
        # What is there is taken as it is, with veths for taps.
        _apply(directory, host, spec)
    return Pair(_guest(ports[0]), _guest(ports[1]), ports[1].private_ip)


def _port(id: str, address: str, network_id: int, number: int) -> PortSpec:
    return PortSpec(
        id=id,
        instance=f"i-{number}",
        vpc=f"vpc-{network_id}",
        subnet=f"subnet-{number}",
        mac=f"0a:00:00:00:{network_id:02x}:{number:02x}",
        private_ip=address,
        groups=(EVERYONE.id,),
    )


def _spec(host: int, network_id: int, placed: list[tuple[PortSpec, int]]) -> NetworkSpec:
    return NetworkSpec(
        number=host,
        hosts=tuple(
            PeerHostSpec(id=f"host-{each}", number=each, address=f"192.0.2.{each}")
            for each in (1, 2)
            if each != host
        ),
        vpcs=(
            VpcSpec(
                id=f"vpc-{network_id}",
                network_id=network_id,
                cidr="10.0.0.0/16",
                # As every subnet has one.
                route_tables=(RouteTableSpec(id="rtb-1", number=1),),
                subnets=tuple(
                    SubnetSpec(id=f"subnet-{n}", cidr=f"10.0.{n}.0/24", route_table="rtb-1") for n in (1, 2)
                ),
                dns_support=False,
            ),
        ),
        ports=tuple(port for port, at in placed if at == host),
        remotes=tuple(
            RemoteSpec(
                id=port.id,
                vpc=port.vpc,
                host=f"host-{at}",
                addresses=(AddressSpec(private_ip=port.private_ip),),
            )
            for port, at in placed
            if at != host
        ),
        groups=(EVERYONE,),
    )


def _apply(directory: Path, host: int, spec: NetworkSpec) -> None:
    run_dir = directory / f"host-{host}"
    run_dir.mkdir(exist_ok=True)

    async def apply() -> None:
        network = _network(run_dir, host)
        try:
            await network.apply(_everything(host, spec))
        finally:
            await network.close()

    visit(_host(host), lambda: asyncio.run(apply()))


_applied: dict[int, dict[str, NetworkSpec]] = {}


def _everything(host: int, spec: NetworkSpec) -> NetworkSpec:
    """With what was applied there before: a spec is whole."""
    specs = _applied.setdefault(host, {})
    specs[spec.vpcs[0].id] = spec
    return NetworkSpec(
        number=spec.number,
        hosts=spec.hosts,
        vpcs=tuple(each.vpcs[0] for each in specs.values()),
        ports=tuple(port for each in specs.values() for port in each.ports),
        remotes=tuple(remote for each in specs.values() for remote in each.remotes),
        groups=spec.groups,
    )


def _network(run_dir: Path, host: int) -> KernelNetwork:
    return KernelNetwork(Env(), f"{PREFIX}", INDEX, run_dir, lambda id: None, host=host, uplink="uplink")


def _plug(host: int, network_id: int, port: PortSpec) -> None:
    """A veth into a namespace in place of the port's tap."""
    vpc, guest, tap = Names(INDEX, host=host).namespace(network_id), _guest(port), tap_name(port.id)
    command(["ip", "netns", "add", guest])
    command(["ip", "-n", vpc, "link", "delete", tap])
    command(["ip", "-n", vpc, "link", "add", tap, "type", "veth", "peer", "name", "eth0", "netns", guest])

    def answer_for_all() -> None:
        write_sysctl(f"ipv4/conf/{tap}/proxy_arp", "1")
        write_sysctl(f"ipv4/neigh/{tap}/proxy_delay", "0")

    visit(vpc, answer_for_all)
    gateway = f"{port.private_ip.rpartition('.')[0]}.1"
    for line in (
        f"link set eth0 address {port.mac} up",
        f"address add {port.private_ip}/24 dev eth0",
        f"route add default via {gateway}",
    ):
        command(["ip", "-n", guest, *line.split()])


def _guest(port: PortSpec) -> str:
    return f"{PREFIX}-{port.mac[-5:].replace(':', '')}"


def _host(number: int) -> str:
    return f"{PREFIX}-h{number}"


# Its peers


def _veth_pair() -> Pair:
    one, other = f"{PREFIX}-v1", f"{PREFIX}-v2"
    for name in (one, other):
        command(["ip", "netns", "add", name])
    command(f"ip -n {one} link add eth0 type veth peer name eth0 netns {other}".split())
    for number, name in ((1, one), (2, other)):
        command(f"ip -n {name} address add 10.9.0.{number}/24 dev eth0".split())
        command(f"ip -n {name} link set eth0 up".split())
    return Pair(one, other, "10.9.0.2")


def _routed_pair(kind: str, rules: str = "") -> Pair:
    """As far as two ports of a host are: two veth pairs, and a namespace that routes between them."""
    router = f"{PREFIX}-{kind}"
    ends = {number: f"{router}{number}" for number in (1, 2)}
    _router(router, rules)
    for number, name in ends.items():
        _behind(router, name, number, "10.8")
    return Pair(ends[1], ends[2], "10.8.2.2")


def _router(name: str, rules: str) -> None:
    command(["ip", "netns", "add", name])
    visit(name, lambda: write_sysctl("ipv4/ip_forward", "1"))
    visit(name, lambda: nft(rules))


def _behind(router: str, name: str, number: int, network: str) -> None:
    """A namespace whose only cable leads to the router."""
    command(["ip", "netns", "add", name])
    command(f"ip -n {name} link add eth0 type veth peer name e{number} netns {router}".split())
    command(f"ip -n {router} address add {network}.{number}.1/24 dev e{number}".split())
    command(f"ip -n {router} link set e{number} up".split())
    command(f"ip -n {name} address add {network}.{number}.2/24 dev eth0".split())
    command(f"ip -n {name} link set eth0 up".split())
    command(f"ip -n {name} route add default via {network}.{number}.1".split())


def _vxlan_pair() -> Pair:
    names = [f"{PREFIX}-x{number}" for number in (1, 2)]
    for number, name in enumerate(names, 1):
        command(["ip", "netns", "add", name])
        _tunnel(name, number, 100, "10.9.1")
    return Pair(names[0], names[1], "10.9.1.2")


def _routed_vxlan_pair(kind: str, first: int, rules: str = "") -> Pair:
    """As far as two ports of two hosts are: each end behind a router, and VXLAN between these."""
    routers = [f"{PREFIX}-{kind}{number}" for number in (1, 2)]
    ends = [f"{router}e" for router in routers]
    for number, (router, end) in enumerate(zip(routers, ends, strict=True), 1):
        _router(router, rules)
        _tunnel(router, number, first, "10.6.0")
        _behind(router, end, number, "10.7")
        command(f"ip -n {router} route add 10.7.{3 - number}.0/24 via 10.6.0.{3 - number}".split())
    return Pair(ends[0], ends[1], "10.7.2.2")


def _tunnel(name: str, number: int, first: int, network: str) -> None:
    """A namespace's VXLAN device to the other one: numbers 1 and 2, on the LAN ``first`` and their number."""
    _join_lan(name, first + number)
    ends = f"local 192.0.2.{first + number} remote 192.0.2.{first + 3 - number}"
    line = f"link add vx type vxlan id {first} dstport 4789 {ends} dev uplink"
    command(["ip", "-n", name, *line.split()])
    command(f"ip -n {name} link set vx mtu 1500 up".split())
    command(f"ip -n {name} address add {network}.{number}/24 dev vx".split())


def _join_lan(name: str, number: int) -> None:
    port = f"p{number}"
    command(f"ip -n {name} link add uplink type veth peer name {port} netns {LAN}".split())
    command(f"ip -n {LAN} link set {port} mtu {UPLINK_MTU} master lan up".split())
    command(f"ip -n {name} link set uplink mtu {UPLINK_MTU} up".split())
    command(f"ip -n {name} address add 192.0.2.{number}/24 dev uplink".split())


# Around it


@contextlib.contextmanager
def _namespaces() -> Iterator[None]:
    """A LAN with two hosts; everything of this is gone afterwards, also what an earlier run left."""
    _applied.clear()
    _clear()
    try:
        command(["ip", "netns", "add", LAN])
        command(f"ip -n {LAN} link add lan type bridge".split())
        command(f"ip -n {LAN} link set lan mtu {UPLINK_MTU} up".split())
        for number in (1, 2):
            command(["ip", "netns", "add", _host(number)])
            command(f"ip -n {_host(number)} link set lo up".split())
            _join_lan(_host(number), number)
        yield
    finally:
        _clear()


def _clear() -> None:
    prefixes = (f"{PREFIX}-", *(Names(INDEX, host=number).namespace_prefix for number in (1, 2)))
    listed = command(["ip", "netns", "list"]).splitlines()
    for name in (line.split()[0] for line in listed if line.strip()):
        if name.startswith(prefixes):
            command(["ip", "netns", "delete", name], fails=True)


@contextlib.contextmanager
def _serving(pair: Pair) -> Iterator[None]:
    server = subprocess.Popen(
        _in(pair.server, "serve", pair.address, str(FLOW_PORT)), stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        if server.stdout.readline().strip() != "ready":
            raise GureumError(f"nothing listens in {pair.server}")
        yield
    finally:
        server.kill()
        server.wait()


def _flow(pair: Pair, what: str, seconds: float) -> float:
    argv = _in(pair.client, what, pair.address, str(FLOW_PORT), str(seconds))
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=seconds + SETTLE_SECONDS_MAX, check=False
    )
    if done.returncode:
        raise GureumError(f"no traffic from {pair.client}: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout)


def _in(namespace: str, *arguments: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, sys.executable, "-P", "-m", "gureum.bench.flow", *arguments]
