"""The network between several hosts of one machine, as the kernel has it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gureum.errors import NetworkError
from gureum.network import namespaces
from gureum.network.fabric import HOSTS_MAX, UPLINK, Fabric
from gureum.network.links import read_json

from .conftest import INDEX

pytestmark = pytest.mark.root


@pytest.fixture
def fabric(host: None, tmp_path: Path) -> Iterator[Fabric]:
    made = Fabric(INDEX, f"198.18.{4 * INDEX}.0/22", tmp_path / "lock")
    assert leftovers() == []
    yield made
    made.remove()
    assert leftovers() == []


def leftovers() -> list[str]:
    """What is there of this index, in the kernel's own words."""
    links = [link["ifname"] for link in read_json("link", "show")]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    routes = [route["dst"] for route in read_json("route", "show")]
    return [
        *(name for name in links if name.startswith((f"gb{INDEX}", f"gv{INDEX}-"))),
        *(line for line in tables.splitlines() if line.endswith(f"gureum_fabric_{INDEX}")),
        *(name for name in namespaces.names() if name.startswith(f"gh{INDEX}-")),
        *(route for route in routes if route.startswith((f"198.18.{4 * INDEX}.", f"198.19.{64 + INDEX}."))),
    ]


def inside(fabric: Fabric, host: int, *command: str) -> str:
    argv = ["ip", "netns", "exec", fabric.namespace(host), *command]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def reaches(fabric: Fabric, host: int, *ping: str) -> bool:
    argv = ["ip", "netns", "exec", fabric.namespace(host), "ping", "-c", "1", "-W", "1", *ping]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def uplink(fabric: Fabric, host: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(inside(fabric, host, "ip", "-j", "address", "show", UPLINK))[0]
    return found


def test_hosts_reach_each_other_with_whole_large_packets(fabric: Fabric) -> None:
    for host in range(3):
        assert fabric.ensure(host) == fabric.namespace(host)
    for host in range(3):
        for other in range(3):
            assert reaches(fabric, host, "-M", "do", "-s", "8900", fabric.address(other))
    assert uplink(fabric, 2)["mtu"] == 9000


def test_addresses_are_hosts_own_and_stay(fabric: Fabric) -> None:
    before = []
    for host in range(3):
        fabric.ensure(host)
        before.append(uplink(fabric, host))
    for host in range(3):
        fabric.ensure(host)
    assert [uplink(fabric, host) for host in range(3)] == before
    assert len({device["address"] for device in before}) == 3
    addresses = [[each["local"] for each in d["addr_info"] if each["family"] == "inet"] for d in before]
    assert addresses == [[f"198.19.{64 + INDEX}.{10 + host}"] for host in range(3)]


def test_all_hosts_may_come_at_once(fabric: Fabric) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(fabric.ensure, [*range(4), *range(4)]))
    assert len(fabric.namespaces()) == 4
    assert reaches(fabric, 0, fabric.address(3))


@pytest.mark.parametrize("part", ["cable", "bridge", "namespace", "table"])
def test_what_is_missing_is_made_again(fabric: Fabric, part: str) -> None:
    for host in range(2):
        fabric.ensure(host)
    command = {
        "cable": ["ip", "link", "delete", f"gv{INDEX}-1"],
        "bridge": ["ip", "link", "delete", f"gb{INDEX}"],
        "namespace": ["ip", "netns", "delete", f"gh{INDEX}-1"],
        "table": ["nft", "delete", "table", "inet", f"gureum_fabric_{INDEX}"],
    }[part]
    subprocess.run(command, check=True)
    for host in range(2):
        fabric.ensure(host)
    assert reaches(fabric, 1, fabric.address(0))
    assert (
        f"table inet gureum_fabric_{INDEX}"
        in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    )


def test_a_namespace_that_went_and_lives_on(fabric: Fabric) -> None:
    """As the kernel takes it down later, or a process is still in it: its cable is there."""
    fabric.ensure(0)
    with open(f"/run/netns/{fabric.namespace(0)}"):
        subprocess.run(["ip", "netns", "delete", fabric.namespace(0)], check=True)
        fabric.ensure(0)
        assert reaches(fabric, 0, fabric.gateway)


def test_the_machine_is_a_router_that_has_nothing_to_offer(fabric: Fabric) -> None:
    """Guests reach the world through it, hidden behind it; services of the machine they do not reach."""
    fabric.ensure(0)
    assert inside(fabric, 0, "ip", "route", "show", "default").startswith(f"default via {fabric.gateway}")
    assert reaches(fabric, 0, fabric.gateway)
    with subprocess.Popen(
        ["python3", "-m", "http.server", "--bind", fabric.gateway, "0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={"PYTHONUNBUFFERED": "1"},
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            port = server.stdout.readline().split("port ")[1].split()[0]
            connect = f"import socket; socket.create_connection(('{fabric.gateway}', {port}), 1)"
            outside = subprocess.run(["python3", "-c", connect], capture_output=True, check=False)
            assert outside.returncode == 0
            with pytest.raises(subprocess.CalledProcessError):
                inside(fabric, 0, "python3", "-c", connect)
        finally:
            server.kill()


def test_public_addresses_lead_to_the_hosts(fabric: Fabric) -> None:
    fabric.ensure(1)
    address = f"198.18.{4 * INDEX}.77"
    inside(fabric, 1, "ip", "address", "add", f"{address}/32", "dev", "lo")
    done = subprocess.run(["ping", "-c", "1", "-W", "2", address], capture_output=True, check=False)
    assert done.returncode == 0


def test_ipv6_networks_lead_to_the_hosts(host: None, tmp_path: Path) -> None:
    """As public addresses do, and not past them."""
    networks = ("fd99:1::/32", "2001:db8:7::/48")
    found = Fabric(INDEX, f"198.18.{4 * INDEX}.0/22", tmp_path / "lock", networks, networks[1])
    try:
        for host in range(2):
            found.ensure(host)
        route = inside(found, 0, "ip", "-6", "route", "show", "default")
        assert route.startswith(f"default via {found.gateway6}")
        assert reaches(found, 0, "-6", found.gateway6)
        assert reaches(found, 0, "-6", str(found.network6.network_address + 11))
        inside(found, 1, "ip", "address", "add", "2001:db8:7::7/128", "dev", UPLINK, "nodad")
        done = subprocess.run(
            ["ping", "-6", "-c", "1", "-W", "2", "2001:db8:7::7"], capture_output=True, check=False
        )
        assert done.returncode == 0
        inside(found, 1, "ip", "address", "add", "2001:db8:8::8/128", "dev", UPLINK, "nodad")
        assert not reaches(found, 1, "-6", "-I", "2001:db8:8::8", found.gateway6)
        led = [route["dst"] for route in read_json("-6", "route", "show", "dev", found.bridge)]
        assert {*networks} <= {*led}
        # Another prefix takes the place of the one that was.
        other = Fabric(INDEX, f"198.18.{4 * INDEX}.0/22", tmp_path / "lock", networks[:1])
        other.ensure(0)
        led = [route["dst"] for route in read_json("-6", "route", "show", "dev", found.bridge)]
        assert networks[0] in led
        assert networks[1] not in led
    finally:
        found.remove()
    assert leftovers() == []


def test_what_does_not_belong_to_the_hosts_is_not_routed(fabric: Fabric) -> None:
    fabric.ensure(0)
    inside(fabric, 0, "ip", "address", "add", "203.0.113.9/32", "dev", "lo")
    assert not reaches(fabric, 0, "-I", "203.0.113.9", fabric.gateway)


@pytest.mark.parametrize("host", [-1, HOSTS_MAX])
def test_hosts_that_there_are_not(fabric: Fabric, host: int) -> None:
    with pytest.raises(NetworkError, match="hosts 0 to 63"):
        fabric.ensure(host)


def test_clouds_that_there_are_not(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="index of a cloud"):
        Fabric(64, "198.18.0.0/22", tmp_path / "lock")
