"""What root in a guest can try: other addresses than its own, and everything that is not for guests."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest

from gureum.network.namespaces import visit

from .guests import Guest
from .outside import ROUTER_ADDRESS
from .world import HOSTS, World

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(600)]

PORTS = (21, 22, 23, 25, 53, 67, 80, 111, 179, 443, 445, 2049, 3260, 3300, 4566, 4567, 4789, 5432, 6789, 8080)
METADATA, RESOLVER = "169.254.169.254", "169.254.169.253"
STRANGER = "10.0.1.77"
"""An address of the attacker's subnet that nobody has."""


def asked(world: World, guest: Guest) -> int:
    """How many echo requests the guest has had."""
    names, values = world.shells.run(guest, "grep ^Icmp: /proc/net/snmp").splitlines()
    return int(dict(zip(names.split(), values.split(), strict=True))["InEchos"])


def spoofed(world: World, guest: Guest) -> int:
    """How many packets the guest's VPC has dropped on its host for whom they said they are from."""
    for path in world.cloud.namespaces():
        argv = ["ip", "netns", "exec", path.name, "nft", "list", "table", "netdev", "gureum"]
        table = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        if guest.interface[-14:] in table:
            found = re.search(r"counter spoofed {\s*packets (\d+)", table)
            assert found
            return int(found[1])
    pytest.fail(f"{guest.name} is in no namespace")


def in_background(world: World, guest: Guest, script: str) -> None:
    """Run a script that cuts off its guest for some time, to its end."""
    sh = world.shells
    sh.run(guest, f"rm -f /tmp/over; (sleep 0.3; {script}; touch /tmp/over) >/dev/null 2>&1 </dev/null &")
    world.cloud.wait("the script to be over", lambda: sh.run(guest, "ls /tmp/over 2>/dev/null; true"))


def test_other_ip_address(world: World) -> None:
    attacker, victim = world.guests["red-1"], world.guests["red-2"]
    for source in (STRANGER, "10.0.2.77", "10.1.1.10", "10.0.1.1", "192.0.2.77", "198.19.0.1"):
        heard, dropped = asked(world, victim), spoofed(world, attacker)
        world.shells.run(
            attacker,
            f"ip addr add {source}/32 dev eth0; ping -c 2 -i 0.2 -W 1 -I {source} {victim.private}; "
            f"ip addr del {source}/32 dev eth0",
        )
        assert asked(world, victim) == heard
        assert spoofed(world, attacker) >= dropped + 2
    assert world.shells.pings(attacker, victim.private)
    assert asked(world, victim) > heard


def test_other_ethernet_address(world: World) -> None:
    """Its own IP address, but from one that nobody has, and from that of a guest on the same host."""
    attacker, victim, other = (world.guests[name] for name in ("red-1", "red-2", "blue-1"))
    own, others = (world.shells.run(guest, "cat /sys/class/net/eth0/address") for guest in (attacker, other))
    for mac in ("02:00:00:00:00:77", others):
        heard, dropped = asked(world, victim), spoofed(world, attacker)
        in_background(
            world,
            attacker,
            f"ip link set eth0 address {mac}; ping -c 3 -i 0.2 -W 1 {victim.private}; "
            f"ip link set eth0 address {own}",
        )
        assert asked(world, victim) == heard
        # The guest asks for its neighbours anew, and gets no answer.
        assert spoofed(world, attacker) > dropped
    assert world.shells.pings(attacker, victim.private)
    assert world.shells.finds(other, world.guests["blue-2"].private)


def test_other_address_in_arp(world: World) -> None:
    attacker, victim = world.guests["red-1"], world.guests["red-2"]
    for claimed in (STRANGER, "10.0.1.1", victim.private):
        dropped = spoofed(world, attacker)
        claims = "; ".join(f"arping {how} -c 2 -w 3 -I eth0 -s {claimed} {claimed}" for how in ("-U", "-A"))
        world.shells.run(
            attacker,
            f"ip addr add {claimed}/32 dev eth0; {claims}; ip addr del {claimed}/32 dev eth0",
        )
        assert spoofed(world, attacker) >= dropped + 4
    for path in world.cloud.namespaces():
        shown = subprocess.run(["ip", "-n", path.name, "neigh"], capture_output=True, text=True, check=True)
        assert not {STRANGER, "10.0.1.1"} & set(shown.stdout.split())
    assert world.shells.finds(attacker, victim.private) == ("red-2", attacker.private)


def test_metadata_is_of_who_asks(world: World) -> None:
    """Also where two have the same address, and where the asker says that it is another."""
    for guest in world.guests.values():
        assert world.shells.run(guest, "imds latest/meta-data/instance-id") == guest.id
    attacker, victim = world.guests["red-1"], world.guests["red-2"]
    route = f"ip route replace {METADATA}/32 via 10.0.1.1 dev eth0"
    got = world.shells.run(
        attacker,
        f"ip addr add {victim.private}/32 dev eth0; {route} src {victim.private}; "
        "rm -f /run/gureum/imds-token; "
        f"imds latest/meta-data/instance-id; {route}; ip addr del {victim.private}/32 dev eth0",
    )
    assert got == ""
    assert world.shells.run(attacker, "imds latest/meta-data/instance-id") == attacker.id


# ---- a scan


@pytest.fixture
def listeners(world: World) -> Iterator[int]:
    """Services of the machine and of each host, on all their addresses. Yields their port."""
    with socket.create_server(("0.0.0.0", 0)) as first:
        port: int = first.getsockname()[1]
        opened = [
            visit(f"gh{world.cloud.config.index}-{host}", lambda: socket.create_server(("0.0.0.0", port)))
            for host in range(HOSTS)
        ]
        yield port
        for server in opened:
            server.close()


def addresses(namespace: str = "") -> list[str]:
    """All IPv4 addresses of devices there, but loopback's."""
    where = ["-n", namespace] if namespace else []
    argv = ["ip", *where, "-4", "-j", "address"]
    shown = subprocess.run(argv, capture_output=True, check=True).stdout
    found = [info["local"] for link in json.loads(shown) for info in link.get("addr_info", ())]
    return [address for address in found if not address.startswith("127.")]


def connects(address: str, port: int) -> Callable[[], bool]:
    def connect() -> bool:
        with socket.socket() as probe:
            probe.settimeout(3)
            return probe.connect_ex((address, port)) == 0

    return connect


def test_scan_finds_names_and_metadata_only(world: World, listeners: int) -> None:
    """Of everything that could answer a guest and is no guest."""
    index, attacker = world.cloud.config.index, world.guests["red-1"]
    hosts = {host: addresses(f"gh{index}-{host}") for host in range(HOSTS)}
    for host, found in hosts.items():
        for address in found:
            # There is something to be found, for whoever may.
            assert visit(f"gh{index}-{host}", connects(address, listeners))
    # Networks of other VPCs, too, are the Internet to this one: what answers there is no concern of ours.
    own = ip_network(world.vpcs["red"].cidr)
    routers = {"10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.2.1", "10.0.255.255", "169.254.1.1", "169.254.64.1"}
    inside = {address for path in world.cloud.namespaces() for address in addresses(path.name)}
    targets = {METADATA, RESOLVER, ROUTER_ADDRESS, *routers, *inside, *addresses()}
    targets |= {address for found in hosts.values() for address in found}
    private = ip_network("10.0.0.0/8")
    targets = {to for to in targets if ip_address(to) in own or ip_address(to) not in private}
    ports = {*PORTS, listeners, world.cloud.config.port}
    # With -e, busybox's nc says whether it was connected.
    script = (
        f"for to in {' '.join(sorted(targets))}; do for port in {' '.join(map(str, sorted(ports)))}; do "
        "(nc -w 2 $to $port -e /bin/true </dev/null >/dev/null 2>&1 && echo $to $port) & done; done; wait"
    )
    found_open = set(world.shells.run(attacker, script, seconds=200).splitlines())
    assert found_open == {"10.0.0.2 53", f"{RESOLVER} 53", f"{METADATA} 80"}
    pinged = (
        f"for to in {' '.join(sorted(targets))}; do "
        "(ping -c 1 -W 2 $to 2>/dev/null | grep -q ' 1 packets received' && echo $to) & done; wait"
    )
    assert world.shells.run(attacker, pinged) == ""
    assert attacker.private in world.shells.run(attacker, f"nslookup ip-10-0-1-10.ec2.internal {RESOLVER}")
