"""Several hosts: what is left over, what is missing, and agents that are killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gureum.env import CRASH_VARIABLE
from gureum.hostspec import (
    NetworkSpec,
    PeeringSpec,
    PortKind,
    RouteKind,
    RouteSpec,
    RouteTableSpec,
    SubnetSpec,
    VpcSpec,
)
from gureum.network import namespaces
from gureum.network.namespaces import visit

from .conftest import INDEX, TO_INTERNET, port, run, vpc
from .hosts import Host, Site

pytestmark = pytest.mark.root

CRASHPOINTS = (
    "network.host.prepared",
    "network.vpc.built",
    "network.peering.joined",
    "network.nat.built",
    "network.port.created",
    "network.rules.applied",
    "network.port.routed",
    "network.peering.parted",
    "network.public.routed",
    "network.vpc.removed",
)

AGENT = """
import asyncio, sys
from pathlib import Path
import msgspec
from gureum.env import Env
from gureum.hostspec import NetworkSpec
from gureum.network.kernel import KernelNetwork
from gureum.network.namespaces import enter

async def main():
    namespace, index, host, run_dir, *specs = sys.argv[1:]
    enter(namespace)
    network = KernelNetwork(
        Env(), f"cloud-{index}", int(index), Path(run_dir), lambda id: None, host=int(host), uplink="uplink"
    )
    for path in specs:
        await network.apply(msgspec.json.decode(Path(path).read_bytes(), type=NetworkSpec))
    await network.close()

asyncio.run(main())
"""


@pytest.fixture
async def site(host: None, tmp_path: Path) -> AsyncIterator[Site]:
    found = Site(tmp_path, 2)
    try:
        yield found
    finally:
        await found.close()


def state(host: Host) -> dict[str, list[str]]:
    """What of the cloud is in a host's kernel, but for counts and what packets leave behind."""
    spaces = [name for name in namespaces.names() if name.startswith((f"gm{INDEX}.", f"gn{INDEX}."))]
    mine = [name for name in spaces if name[2:].startswith(f"{INDEX}.{host.number}-")]
    return {name: visit(name, _inside) for name in (*mine, host.namespace)}


def _inside() -> list[str]:
    rules = run("nft", "-s", "list", "ruleset").stdout
    rules = re.sub(r"(flags dynamic[^{}]*?)\s*elements = \{[^}]*\}", r"\1", rules)
    lines = [
        *(re.sub(r"^\d+: |@if\d+", "", line) for line in run("ip", "-o", "link").stdout.splitlines()),
        *run("ip", "-4", "route", "show", "table", "all").stdout.splitlines(),
        *run("ip", "rule").stdout.splitlines(),
        *run("ip", "-6", "rule").stdout.splitlines(),
        *run("ip", "neighbour", "show", "nud", "permanent").stdout.splitlines(),
        *run("ip", "neighbour", "show", "proxy").stdout.splitlines(),
        *run("bridge", "fdb").stdout.splitlines(),
        *rules.splitlines(),
    ]
    # Addresses of devices of which nobody cares, and indices.
    return sorted(re.sub(r"link-netns(id)? \S+|(?<=ether )\S+", "", line).rstrip() for line in lines)


def differences(one: dict[str, list[str]], other: dict[str, list[str]]) -> list[str]:
    """Line by line, with the namespaces that they are in."""
    lines = [Counter((name, line) for name, lines in each.items() for line in lines) for each in (one, other)]
    return [
        f"{sign} {name}: {line}"
        for sign, some in (("-", lines[0] - lines[1]), ("+", lines[1] - lines[0]))
        for name, line in some
    ]


def everything(site: Site) -> None:
    """On host 1 a bit of all: two VPCs that are peers, one with a NAT gateway; ports on both hosts."""
    gateway = msgspec.structs.replace(
        port(40, public=True), kind=PortKind.nat, instance="", groups=(), source_dest_check=False
    )
    away = RouteSpec(destination="0.0.0.0/0", kind=RouteKind.port, target=gateway.id)
    peer = RouteSpec(destination="10.2.0.0/16", kind=RouteKind.peering, target="pcx-1")
    first = vpc(1)
    first = msgspec.structs.replace(
        first,
        subnets=(*first.subnets, SubnetSpec(id="subnet-p", cidr="172.31.16.0/20", route_table="rtb-2")),
        route_tables=(*first.route_tables, RouteTableSpec(id="rtb-2", number=2, routes=(away, peer))),
    )
    second = VpcSpec(
        id="vpc-2",
        network_id=2,
        cidr="10.2.0.0/16",
        subnets=(SubnetSpec(id="subnet-2", cidr="10.2.0.0/24", route_table="rtb-1"),),
        route_tables=(RouteTableSpec(id="rtb-1", number=1, routes=(TO_INTERNET,)),),
    )
    site.vpcs = (first, second)
    site.peerings = (PeeringSpec(id="pcx-1", number=1, vpcs=("vpc-1", "vpc-2")),)
    site.place(port(5, public=True), 1)
    site.place(port(6), 2)
    site.place(gateway, 1)
    site.place(msgspec.structs.replace(port(7, vpc="vpc-2"), private_ip="10.2.0.7"), 2)


def plain(site: Site) -> NetworkSpec:
    """Less than everything, and some of it different."""
    spec = site.spec(1)
    kept = tuple(each for each in spec.ports if each.kind is PortKind.machine)
    third = vpc(3)
    return msgspec.structs.replace(
        spec,
        vpcs=(msgspec.structs.replace(spec.vpcs[0], route_tables=spec.vpcs[0].route_tables), third),
        ports=(*kept, port(9), port(5, vpc="vpc-3", public=True)),
        remotes=tuple(each for each in spec.remotes if each.vpc == "vpc-1"),
        peerings=(),
    )


@pytest.mark.parametrize("crashpoint", CRASHPOINTS)
async def test_killed_anywhere(site: Site, tmp_path: Path, crashpoint: str) -> None:
    everything(site)
    one = site.hosts[0]
    specs = [plain(site), site.spec(1), plain(site)]
    await one.network.apply(specs[1])
    full = state(one)
    await one.network.teardown()
    await one.network.apply(specs[0])
    less = state(one)
    paths = []
    for number, each in enumerate(specs):
        paths.append(tmp_path / f"spec{number}")
        paths[-1].write_bytes(msgspec.json.encode(each))
    await one.network.close()
    done = [
        await asyncio.to_thread(_agent, one, tmp_path, each, crashpoint) for each in (paths[:2], paths[1:])
    ]
    assert set(done) <= {0, -signal.SIGKILL}
    assert -signal.SIGKILL in done
    one.start()
    await one.network.apply(specs[1])
    assert differences(full, state(one)) == []
    await one.network.close()
    await asyncio.to_thread(_agent, one, tmp_path, paths[2:], crashpoint)
    one.start()
    await one.network.apply(specs[0])
    assert differences(less, state(one)) == []


def _agent(host: Host, run_dir: Path, specs: list[Path], crashpoint: str) -> int:
    arguments = (host.namespace, str(INDEX), str(host.number), str(run_dir), *map(str, specs))
    return subprocess.run(
        [sys.executable, "-c", AGENT, *arguments],
        env={**os.environ, CRASH_VARIABLE: crashpoint},
        timeout=60,
        check=False,
    ).returncode


async def test_what_is_not_in_the_spec_goes_at_start(site: Site) -> None:
    everything(site)
    one = site.hosts[0]
    await one.network.apply(site.spec(1))
    wanted = state(one)
    await one.network.close()
    inside = one.vpc_namespace(1)
    for command in (
        "route add 10.77.0.0/16 via 169.254.64.2 dev vx onlink",
        "route add blackhole 10.78.0.0/16 table 1002",
        "route add 10.79.0.0/16 via 169.254.64.2 dev vx onlink table 1055",
        "rule add fwmark 55 lookup 1055 priority 100",
        "neighbour add 169.254.64.77 lladdr 02:67:76:00:00:4d dev vx nud permanent",
        "link add pr77 type veth peer name pr78",
    ):
        run("ip", "-n", inside, *command.split())
    run(
        "ip",
        "netns",
        "exec",
        inside,
        *["bridge", "fdb", "add", "02:67:76:00:00:4d", "dev", "vx", "dst", "192.0.2.77", "self"],
    )
    run("ip", "netns", "add", f"gm{INDEX}.1-77")
    run("ip", "netns", "add", f"gn{INDEX}.1-x0123456789abcd")
    run("ip", "netns", "add", f"gn{INDEX}.2-x0123456789abcd")
    for command in (
        f"link add gu{INDEX}-n12345678 type veth peer name other",
        f"neighbour add proxy 198.18.{4 * INDEX}.200 dev uplink",
    ):
        run("ip", "-n", one.namespace, *command.split())
    one.start()
    await one.network.apply(site.spec(1))
    assert differences(wanted, state(one)) == []
    assert f"gn{INDEX}.2-x0123456789abcd" in namespaces.names()


async def test_a_rebooted_host_has_everything_again(site: Site) -> None:
    everything(site)
    await site.apply()
    one = site.hosts[0]
    wanted = state(one)
    await one.network.close()
    for name in namespaces.names():
        if name.startswith((f"gm{INDEX}.1-", f"gn{INDEX}.1-")):
            for pid in run("ip", "netns", "pids", name).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "delete", name)
    run("ip", "netns", "exec", one.namespace, "nft", "flush", "ruleset")
    one.start()
    await one.network.apply(site.spec(1))
    assert differences(wanted, state(one)) == []


async def test_hosts_of_one_machine_leave_each_other_alone(site: Site) -> None:
    everything(site)
    await site.apply()
    two = state(site.hosts[1])
    await site.hosts[0].network.teardown()
    assert differences(two, state(site.hosts[1])) == []
    left = [name for name in namespaces.names() if name.startswith((f"gm{INDEX}.", f"gn{INDEX}."))]
    assert left
    assert all(name[2:].startswith(f"{INDEX}.2-") for name in left)
    await site.apply()
