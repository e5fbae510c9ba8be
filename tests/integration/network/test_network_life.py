"""Restarts, crashes, leftovers and neighbours."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from gureum.env import CRASH_VARIABLE
from gureum.errors import NetworkError
from gureum.hostspec import GroupSpec, NetworkSpec, RuleSpec, SubnetSpec
from gureum.network import namespaces
from gureum.network.namespaces import visit

from .conftest import ALL_OUT, INDEX, INTERNET, PREFIX, SERVER, Rig, metadata, port, run, spec, vpc

pytestmark = pytest.mark.root

CRASHPOINTS = (
    "network.host.prepared",
    "network.vpc.built",
    "network.port.created",
    "network.rules.applied",
    "network.port.routed",
    "network.resolver.started",
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

async def main():
    index, run_dir, *specs = sys.argv[1:]
    network = KernelNetwork(Env(), f"cloud-{index}", int(index), Path(run_dir), metadata=lambda id: None)
    for path in specs:
        await network.apply(msgspec.json.decode(Path(path).read_bytes(), type=NetworkSpec))
    await network.close()

asyncio.run(main())
"""


def leftovers(index: int = INDEX) -> dict[str, object]:
    """What of a cloud is in the kernel, apart from the counts in it."""
    spaces = [name for name in namespaces.names() if name.startswith(f"gm{index}-")]
    found: dict[str, object] = {"namespaces": spaces}
    for name in spaces:
        inside = visit(name, _inside)
        found[name] = inside
    found["links"] = sorted(
        link["ifname"] for link in json.loads(run("ip", "-j", "link").stdout) if link["ifname"][:2] == "gu"
    )
    found["routes"] = sorted(line for line in run("ip", "route").stdout.splitlines() if "198.1" in line)
    found["tables"] = sorted(
        line for line in run("nft", "list", "tables").stdout.splitlines() if "gureum" in line
    )
    found["resolvers"] = len(run("ip", "netns", "pids", spaces[0]).stdout.split()) if spaces else 0
    return found


def _inside() -> list[str]:
    links = json.loads(run("ip", "-j", "address").stdout)
    rules = run("nft", "-s", "list", "ruleset").stdout
    # What packets put into sets, to count with.
    rules = re.sub(r"(flags dynamic[^{}]*?)\s*elements = \{[^}]*\}", r"\1", rules)
    return [
        *sorted(f"{link['ifname']} {sorted(a['local'] for a in link['addr_info'])}" for link in links),
        *sorted(run("ip", "route").stdout.splitlines()),
        *sorted(run("ip", "neighbour").stdout.splitlines()),
        *sorted(line for line in rules.splitlines()),
    ]


async def test_resolver(rig: Rig) -> None:
    await rig.network.apply(spec(port(5), port(6)))
    a = await rig.guest(port(5))
    upstream = visit(
        INTERNET,
        lambda: subprocess.Popen(
            [
                "dnsmasq",
                "-k",
                "--conf-file=/dev/null",
                "--pid-file=",
                f"--listen-address={SERVER}",
                "--bind-interfaces",
                "--no-resolv",
                "--no-hosts",
                "--address=/example.com/203.0.113.80",
            ],
        ),
    )
    try:
        for server in ("172.31.0.2", "169.254.169.253"):
            assert await rig.call(_lookup, a, "ip-172-31-0-6.ec2.internal", server) == "172.31.0.6"
            assert await rig.call(_lookup, a, "172.31.0.6", server) == "ip-172-31-0-6.ec2.internal"
            assert await rig.call(_lookup, a, "www.example.com", server) == "203.0.113.80"
        assert await rig.call(_lookup, a, "nothing.ec2.internal", "172.31.0.2") == ""
        await rig.network.apply(spec(port(5), vpcs=(vpc(1, dns_support=False),)))
        assert await rig.call(_lookup, a, "ip-172-31-0-6.ec2.internal", "172.31.0.2") == ""
        await rig.network.apply(spec(port(5)))
        assert await rig.call(_lookup, a, "ip-172-31-0-6.ec2.internal", "172.31.0.2") == "172.31.0.6"
    finally:
        upstream.terminate()
        upstream.wait(60)


def _lookup(guest, name: str, server: str) -> str:
    text = guest.run("busybox", "nslookup", name, server, check=False, timeout=20).stdout
    answer = text.partition("\n\n")[2]
    for line in answer.splitlines():
        if line.startswith("Address:"):
            return line.split()[1]
        if "name = " in line:
            return line.partition("name = ")[2].strip()
    return ""


async def test_a_restarted_agent_changes_nothing_and_cuts_no_flow(rig: Rig) -> None:
    ports = port(5, public=True), port(6)
    for each in ports:
        rig.metadata[each.instance] = metadata(each, tokens_required=False)
    await rig.network.apply(spec(*ports))
    a, b = await rig.guest(ports[0]), await rig.guest(ports[1])
    with a.listen(80) as server:
        connection = await rig.call(b.connect, a.ip, 80)
        accepted, _ = server.accept()
    assert connection is not None
    with connection, accepted:
        before = leftovers()
        await rig.network.close()
        connection.sendall(b"without an agent")
        assert accepted.recv(100) == b"without an agent"
        rig.network = rig.make_network()
        await rig.network.apply(spec(*ports))
        assert leftovers() == before
        connection.sendall(b"with a new one")
        assert accepted.recv(100) == b"with a new one"
        url = "http://169.254.169.254/latest/meta-data/local-ipv4"
        assert (await rig.call(a.run, "curl", "-sfm5", url)).stdout == a.ip


async def test_what_is_not_in_the_spec_goes(rig: Rig) -> None:
    await rig.network.apply(spec(port(5)))
    small = leftovers()
    await rig.network.apply(spec(port(5), port(6, public=True, groups=("sg-2",)), port(7, vpc="vpc-2")))
    await rig.network.apply(spec(port(5)))
    assert leftovers() == small
    await rig.network.apply(spec(port(5), port(6, public=True), port(7, vpc="vpc-2", public=True)))
    await rig.network.close()
    rig.network = rig.make_network()
    await rig.network.apply(spec(port(5)))
    assert leftovers() == small
    await rig.network.apply(NetworkSpec())
    assert leftovers()["namespaces"] == []


async def test_teardown_leaves_nothing_of_this_cloud_and_all_of_others(rig: Rig) -> None:
    clean = leftovers()
    await rig.network.apply(spec(port(5, public=True), port(5, vpc="vpc-2")))
    guest = await rig.guest(port(5, public=True))
    other = rig.make_network(INDEX + 1)
    try:
        theirs = msgspec.structs.replace(port(5), public_ip=f"198.18.{4 * INDEX + 4}.5")
        await other.apply(spec(theirs))
        kept = leftovers(INDEX + 1)["namespaces"]
        await rig.network.teardown()
        assert leftovers()["namespaces"] == []
        assert leftovers(INDEX + 1)["namespaces"] == kept
        assert run("ip", "route", "get", theirs.public_ip).stdout.split()[4] == f"gu{INDEX + 1}-1"
    finally:
        await other.teardown()
        await other.close()
    assert leftovers() == clean
    # It can be used again, and the guest that still held its tap gets a new one.
    guest.unplug()
    await rig.network.apply(spec(port(5, public=True)))
    await guest.plug()
    with guest.listen(22):
        assert await rig.call(guest.reaches, guest.ip, 22)


async def test_clouds_do_not_reach_each_other(rig: Rig) -> None:
    other = rig.make_network(INDEX + 1)
    try:
        theirs = msgspec.structs.replace(port(6), public_ip=f"198.18.{4 * INDEX + 4}.5")
        await rig.network.apply(spec(port(5, public=True)))
        await other.apply(spec(theirs))
        a = await rig.guest(port(5, public=True))
        ours, rig.network = rig.network, other
        b = await rig.guest(theirs)
        rig.network = ours
        with a.listen(80), b.listen(80):
            assert not await rig.call(a.reaches, theirs.public_ip, 80)
            assert not await rig.call(b.reaches, a.port.public_ip, 80)
    finally:
        await other.teardown()
        await other.close()


async def test_an_index_belongs_to_one_cloud(rig: Rig) -> None:
    await rig.network.apply(spec(port(5)))
    impostor = rig.make_network(cloud="another")
    try:
        with pytest.raises(NetworkError, match="belongs to another cloud"):
            await impostor.apply(NetworkSpec())
        with pytest.raises(NetworkError, match="belongs to another cloud"):
            await impostor.teardown()
    finally:
        await impostor.close()
    assert leftovers()["namespaces"] == [f"gm{INDEX}-1"]


@pytest.mark.parametrize("crashpoint", CRASHPOINTS)
async def test_killed_anywhere(rig: Rig, tmp_path: Path, crashpoint: str) -> None:
    """A process that is killed at a crash point leaves nothing that the next one cannot put right."""
    before = spec(port(4), port(5, public=True), port(9, vpc="vpc-2"))
    after = spec(port(5), port(6, public=True, groups=("sg-2",)), port(7, vpc="vpc-3"))
    if crashpoint != "network.vpc.removed":
        before = spec(port(4), port(5, public=True))
    await rig.network.apply(after)
    wanted = leftovers()
    await rig.network.teardown()
    paths = []
    for number, each in enumerate((before, after)):
        paths.append(tmp_path / f"spec{number}")
        paths[-1].write_bytes(msgspec.json.encode(each))
    for specs in (paths[:1], paths[1:], paths):
        done = await rig.call(_agent, tmp_path, specs, crashpoint)
        assert done in (0, -signal.SIGKILL)
    await rig.network.apply(after)
    assert leftovers() == wanted


def _agent(run_dir: Path, specs: list[Path], crashpoint: str) -> int:
    return subprocess.run(
        [sys.executable, "-c", AGENT, str(INDEX), str(run_dir), *map(str, specs)],
        env={**os.environ, CRASH_VARIABLE: crashpoint},
        timeout=60,
        check=False,
    ).returncode


async def test_one_bad_vpc_does_not_hinder_the_others(rig: Rig) -> None:
    run("ip", "netns", "add", f"{PREFIX}-blocker")
    run("ip", "link", "add", f"gu{INDEX}-2", "type", "bridge")
    with pytest.raises(NetworkError, match="VPC vpc-2"):
        await rig.network.apply(spec(port(5), port(5, vpc="vpc-2"), port(5, vpc="vpc-3")))
    for number in (1, 3):
        os.close(await rig.network.open_port(f"eni-{number}5"))
    run("ip", "link", "delete", f"gu{INDEX}-2")
    await rig.network.apply(spec(port(5), port(5, vpc="vpc-2"), port(5, vpc="vpc-3")))
    os.close(await rig.network.open_port("eni-25"))


async def test_a_filter_that_was_tampered_with_is_replaced(rig: Rig) -> None:
    await rig.network.apply(spec(port(5), port(6)))
    wanted = leftovers()
    visit(f"gm{INDEX}-1", lambda: run("nft", "flush", "ruleset"))
    with pytest.raises(NetworkError):
        await rig.network.apply(spec(port(5)))
    await rig.network.apply(spec(port(5), port(6)))
    assert leftovers() == wanted


async def test_a_host_filter_that_was_flushed_comes_back(rig: Rig) -> None:
    await rig.network.apply(spec(port(5)))
    wanted = leftovers()
    run("nft", "flush", "ruleset")
    rig.network._check_at = 0.0
    await rig.network.apply(spec(port(5)))
    assert leftovers() == wanted


async def test_a_resolver_that_died_comes_back(rig: Rig) -> None:
    await rig.network.apply(spec(port(5)))
    a = await rig.guest(port(5))
    (pid,) = run("ip", "netns", "pids", f"gm{INDEX}-1").stdout.split()
    watch = os.pidfd_open(int(pid))
    os.kill(int(pid), signal.SIGKILL)
    assert select.select([watch], [], [], 5)[0]
    os.close(watch)
    rig.network._check_at = 0.0
    await rig.network.apply(spec(port(5)))
    assert await rig.call(_lookup, a, "172.31.0.5", "172.31.0.2") == "ip-172-31-0-5.ec2.internal"


async def test_applies_at_the_same_time_take_turns(rig: Rig) -> None:
    specs = [
        spec(port(5)),
        spec(port(5), port(6, public=True)),
        spec(port(7, vpc="vpc-2")),
        spec(port(6), port(8)),
    ]
    await asyncio.gather(*(rig.network.apply(each) for each in specs))
    raced = leftovers()
    await rig.network.teardown()
    await rig.network.apply(specs[-1])
    assert leftovers() == raced


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_many_small_changes_are_one_big_one(rig: Rig, seed: int) -> None:
    """However a state was reached, the kernel holds the same."""
    rng = random.Random(seed)
    for _ in range(12):
        current = random_network(rng)
        await rig.network.apply(current)
    walked = leftovers()
    await rig.network.teardown()
    await rig.network.apply(current)
    assert leftovers() == walked


def random_network(rng: random.Random) -> NetworkSpec:
    ports = []
    for number in range(4, 10):
        if rng.random() < 0.6:
            groups = tuple(rng.sample(("sg-1", "sg-2", "sg-3"), rng.randrange(3)))
            chosen = port(
                number, public=rng.random() < 0.5, groups=groups, vpc=rng.choice(("vpc-1", "vpc-1", "vpc-2"))
            )
            ports.append(msgspec.structs.replace(chosen, source_dest_check=rng.random() < 0.8))
    groups = tuple(GroupSpec(id=id, rules=random_rules(rng)) for id in ("sg-1", "sg-2", "sg-3"))
    members = {id: tuple(each.private_ip for each in ports if id in each.groups) for id in ("sg-1", "sg-2")}
    vpcs = []
    for number in (1, 2):
        extra = SubnetSpec(id="subnet-x", cidr=f"172.31.{16 * rng.randint(1, 3)}.0/20")
        subnets = (
            *vpc(number).subnets,
            *([extra] if rng.random() < 0.5 else ()),
        )
        if rng.random() < 0.7 or any(each.vpc == f"vpc-{number}" for each in ports):
            vpcs.append(msgspec.structs.replace(vpc(number, internet=rng.random() < 0.7), subnets=subnets))
    return NetworkSpec(vpcs=tuple(vpcs), ports=tuple(ports), groups=groups, members=members)


def random_rules(rng: random.Random) -> tuple[RuleSpec, ...]:
    choices = (
        ALL_OUT,
        RuleSpec(
            protocol="tcp", from_port=rng.randrange(100), to_port=rng.randrange(100, 200), cidr="10.0.0.0/8"
        ),
        RuleSpec(protocol="icmp", from_port=8, cidr="0.0.0.0/0"),
        RuleSpec(group=rng.choice(("sg-1", "sg-2"))),
    )
    return tuple(rng.sample(choices, rng.randrange(len(choices))))
