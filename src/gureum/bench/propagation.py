"""A rule change with 200 ports on four hosts: from the API's answer to the last host's packet filter.

The cloud is a real one, with four hosts on this machine. Its ports are real, taps with rules of 20 groups;
that there is no machine behind them changes nothing for the filter. When a change is in force is told by the
kernels: a rule or a member more is an element of a set, and the VPC's namespace on each host says by netlink
when that is committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec

from gureum.bench.clouds import wait
from gureum.bench.figures import Figure, Promise, Say, compare
from gureum.bench.processes import cpu_seconds
from gureum.bench.requests import Endpoint, client
from gureum.bench.servers import BenchError, free_port
from gureum.cli.cloud import Cloud
from gureum.cli.config import CloudConfig, default_base
from gureum.cli.output import CliError
from gureum.env import Env
from gureum.network.acls import IN
from gureum.network.groups import member_set
from gureum.network.names import Names
from gureum.network.namespaces import visit
from gureum.resources import NetworkInterface, Permission, SecurityGroup, Subnet, Vpc
from gureum.services.ec2.defaults import ensure_defaults
from gureum.store.base import Transaction
from gureum.store.sqlite import SqliteStore

HOSTS = 4
PORTS = 200
GROUPS = 20
RULES = 10
"""Of each group, before the changes; every other one names a group."""
ROUNDS = 20
SECONDS_MAX = 1.0
CHANGE_SECONDS_MAX = 10.0
PAUSE_SECONDS = 0.2
KINDS = "a rule for a network", "a rule for a group", "a member more"
FIRST_PORT = 20_000
"""Of the rules that the rounds add: a number that nothing else in the rules has."""

NETLINK_NETFILTER, NFTABLES_GROUP = 12, 7
SO_RCVBUFFORCE = 33


class Seeded(msgspec.Struct, frozen=True):
    """``interfaces``: id, address and group."""

    groups: list[str]
    interfaces: list[tuple[str, str, str]]


def measure(directory: Path, say: Say, *, quick: bool) -> list[Figure]:
    """Needs root."""
    cloud = Cloud(default_base() / "bench-propagation")
    if cloud.is_running():
        raise CliError(
            f"a measured cloud is still running in {cloud.state_dir}",
            f"gureum down --state-dir {cloud.state_dir}",
        )
    shutil.rmtree(cloud.state_dir, ignore_errors=True)
    config = cloud.configure(port=free_port(), hosts=HOSTS)
    try:
        seeded = asyncio.run(_seed(cloud, config))
        say(f"{PORTS} ports in {GROUPS} groups on {HOSTS} hosts")
        cloud.start(config, lambda text: None)
        return _figures(cloud, config, seeded, 6 if quick else ROUNDS, say)
    finally:
        cloud.stop_processes()
        cloud.evacuate()
        shutil.rmtree(cloud.state_dir, ignore_errors=True)


def _figures(cloud: Cloud, config: CloudConfig, seeded: Seeded, rounds: int, say: Say) -> list[Figure]:
    endpoint = Endpoint(port=config.port, access_key=config.access_key_id, secret=config.secret_access_key)
    ec2 = client(endpoint, "ec2")
    [vpc] = ec2.describe_vpcs()["Vpcs"]
    network_id = asyncio.run(_network_id(cloud, vpc["VpcId"]))
    names = [Names(config.index, host=host).namespace(network_id) for host in range(HOSTS)]
    wait("the ports", lambda: all(_taps(name) == PORTS // HOSTS for name in names))
    pids = {each.name: each.pid for each in cloud.processes() if each.pid is not None}
    agents = [pid for name, pid in pids.items() if name.startswith("agent")]
    effective: dict[str, list[float]] = {what: [] for what in KINDS}
    before: list[float] = []
    with contextlib.ExitStack() as stack:
        monitors = Monitors({name: stack.enter_context(visit(name, listen)) for name in names})
        for number in range(-1, rounds):
            what = KINDS[number % len(KINDS)]
            told = _change(ec2, seeded, number + 1, what)
            began = time.monotonic()
            seconds = monitors.until(told) - began
            if number < 0:
                # What the start brought is over now.
                before = [cpu_seconds(pids["manager"]), sum(map(cpu_seconds, agents))]
                continue
            effective[what].append(1000 * seconds)
            say(f"round {number + 1} of {rounds}, {what}: {1000 * seconds:.0f} ms")
            time.sleep(PAUSE_SECONDS)
    manager = cpu_seconds(pids["manager"]) - before[0]
    agent = (sum(map(cpu_seconds, agents)) - before[1]) / HOSTS
    promise = Promise(limit=1000 * SECONDS_MAX)
    return [
        *(
            compare(f"{what}, in force on {HOSTS} hosts", "ms", samples, promise=promise)
            for what, samples in effective.items()
        ),
        Figure(
            name=f"the slowest of {rounds} changes",
            value=max(max(samples) for samples in effective.values()),
            unit="ms",
            promise=promise,
        ),
        Figure(name="CPU time of the manager for one change", value=1000 * manager / rounds, unit="ms"),
        Figure(name="CPU time of each agent for one change", value=1000 * agent / rounds, unit="ms"),
    ]


def _change(ec2: Any, seeded: Seeded, number: int, what: str) -> tuple[bytes, bytes]:
    """Ask for a change; returns the name of the set that has an element more then, and a part of its key."""
    group, other = (seeded.groups[(number + n) % GROUPS] for n in range(2))
    if what == "a member more":
        interface, address, own = seeded.interfaces[number]
        ec2.modify_network_interface_attribute(NetworkInterfaceId=interface, Groups=[own, other])
        return member_set(other).encode(), socket.inet_aton(address)
    port = FIRST_PORT + number
    permission: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}
    if what == "a rule for a group":
        permission["UserIdGroupPairs"] = [{"GroupId": other}]
        name = f"{IN}_4p_{other}_{group}"
    else:
        permission["IpRanges"] = [{"CidrIp": "192.0.2.0/24"}]
        name = f"{IN}_4pr_{group}"
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission])
    return name.encode(), struct.pack(">B3xH2x", socket.IPPROTO_TCP, port)


# The store


async def _seed(cloud: Cloud, config: CloudConfig) -> Seeded:
    """Put the groups and the interfaces, as if their instances ran."""
    from gureum.control.__main__ import cloud_settings

    settings, env = cloud_settings(config), Env()
    store = SqliteStore.open(cloud.state_dir / "store.db")
    ids = [env.new_id("sg") for _ in range(GROUPS)]
    seeded = Seeded(ids, [])

    async def put(tx: Transaction) -> None:
        await ensure_defaults(tx, env, settings)
        [vpc] = await tx.find(Vpc)
        subnets = {subnet.zone: subnet for subnet in await tx.find(Subnet)}
        for number in range(GROUPS):
            await tx.put(_group(env, settings.account, vpc.id, ids, number))
        for number in range(PORTS):
            host = number % HOSTS
            subnet = subnets[config.zone_of(host)]
            interface = await tx.put(
                NetworkInterface(
                    id=env.new_id("eni"),
                    account=settings.account,
                    vpc=vpc.id,
                    subnet=subnet.id,
                    zone=subnet.zone,
                    mac=f"0a:00:00:00:{number >> 8:02x}:{number & 255:02x}",
                    private_ip=f"{subnet.cidr.rpartition('.')[0]}.{10 + number}",
                    groups=(ids[number // HOSTS % GROUPS],),
                    instance=env.new_id("i"),
                    host=f"host-{host}",
                )
            )
            seeded.interfaces.append((interface.id, interface.private_ip, interface.groups[0]))

    try:
        await store.transact(put)
    finally:
        await store.close()
    return seeded


def _group(env: Env, account: str, vpc: str, ids: list[str], number: int) -> SecurityGroup:
    rules = [
        Permission(
            id=env.new_id("sgr"),
            protocol="tcp",
            from_port=1000 + 10 * rule,
            to_port=1000 + 10 * rule,
            cidr="" if rule % 2 else f"10.{number}.{rule}.0/24",
            group=ids[(number + rule) % GROUPS] if rule % 2 else "",
        )
        for rule in range(RULES)
    ]
    return SecurityGroup(
        id=ids[number],
        account=account,
        name=f"bench-{number}",
        description="bench",
        vpc=vpc,
        rules=tuple(rules),
    )


async def _network_id(cloud: Cloud, id: str) -> int:
    store = SqliteStore.open(cloud.state_dir / "store.db", readonly=True)
    try:
        async with store.read() as reader:
            vpc = await reader.get(Vpc, id)
    finally:
        await store.close()
    if vpc is None:
        raise BenchError(f"{id} is not in the store")
    return vpc.network_id


# The kernels


def _taps(namespace: str) -> int:
    links = subprocess.run(
        ["ip", "-n", namespace, "-brief", "link", "show", "type", "tun"],
        capture_output=True,
        check=False,
        timeout=10,
    )
    return len(links.stdout.splitlines())


def listen() -> socket.socket:
    """What the kernel tells of changes of packet filters in the calling thread's namespace."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    sock.bind((0, 1 << NFTABLES_GROUP - 1))
    return sock


class Monitors:
    """Such sockets, by namespace."""

    def __init__(self, sockets: dict[str, socket.socket]) -> None:
        self._names = set(sockets)
        self._selector = selectors.DefaultSelector()
        for name, each in sockets.items():
            self._selector.register(each, selectors.EVENT_READ, name)

    def until(self, parts: tuple[bytes, ...]) -> float:
        """Wait until each has told something with all these parts; returns when the last one did, on the
        monotonic clock.
        """
        missing = set(self._names)
        deadline = time.monotonic() + CHANGE_SECONDS_MAX
        while missing:
            events = self._selector.select(deadline - time.monotonic())
            if not events:
                raise BenchError(f"nothing of the change in {', '.join(sorted(missing))}")
            for key, _ in events:
                assert isinstance(key.fileobj, socket.socket)
                told = key.fileobj.recv(1 << 20)
                if all(part in told for part in parts):
                    missing.discard(key.data)
        return time.monotonic()
