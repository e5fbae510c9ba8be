"""What guests are told: DHCP options and their renewal, names, routers and addresses of IPv6."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gureum.hostspec import (
    AddressSpec,
    DhcpSpec,
    GroupSpec,
    NetworkSpec,
    RemoteSpec,
    RuleSpec,
    SubnetSpec,
)
from gureum.network import dns
from gureum.network.namespaces import visit

from .conftest import ALL_IN, ALL_OUT, CLOSED, INDEX, Guest, Rig, port, run, spec, until, vpc

pytestmark = pytest.mark.root

CIDR6, SUBNET6 = "fd00:7::/56", "fd00:7::/64"
SIX = vpc(
    cidrs=(CIDR6,),
    subnets=(SubnetSpec(id="subnet-1", cidr="172.31.0.0/20", cidr6=SUBNET6, route_table="rtb-1"),),
)
OPEN = GroupSpec(
    id="sg-1", rules=(ALL_OUT, ALL_IN, RuleSpec(egress=True, cidr="::/0"), RuleSpec(cidr="::/0"))
)
GROUPS = (OPEN, CLOSED)
NAMESPACE = f"gm{INDEX}-1"


def told(options: DhcpSpec, mtu: int) -> NetworkSpec:
    return spec(port(5), mtu=mtu, vpcs=(vpc(dhcp=options),))


class Client:
    """A udhcpc that keeps running and writes each lease to a file."""

    def __init__(self, guest: Guest, directory: Path) -> None:
        self._lease = directory / "lease"
        script = directory / "script"
        script.write_text(
            '#!/bin/sh\ncase $1 in bound|renew) ;; *) exit 0 ;; esac\n[ "$1" = renew ] || '
            f"ip address add $ip/$mask dev $interface\nenv > {self._lease}.new\n"
            f"mv {self._lease}.new {self._lease}\n"
        )
        script.chmod(0o755)
        asked = [word for name in ("mtu", "ntpsrv", "wins", "46", "staticroutes") for word in ("-O", name)]
        argv = ["busybox", "udhcpc", "-f", "-i", "eth0", "-t", "9", "-T", "1", "-s", str(script), *asked]
        self.process = visit(
            guest.namespace,
            lambda: subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
        )

    def lease(self) -> dict[str, str]:
        """The next one."""
        assert until(self._lease.exists), "udhcpc got no lease"
        lines = self._lease.read_text().splitlines()
        self._lease.unlink()
        return dict(line.split("=", 1) for line in lines)

    def renew(self) -> dict[str, str]:
        self.process.send_signal(10)
        return self.lease()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


async def test_dhcp_options_reach_guests_that_renew(rig: Rig, tmp_path: Path) -> None:
    options = DhcpSpec(
        domain="example.org",
        servers=("", "172.31.9.9"),
        ntp=("172.31.9.1", "172.31.9.2"),
        netbios=("172.31.9.3",),
        netbios_type=2,
    )
    await rig.network.apply(told(options, 1400))
    guest = await rig.guest(port(5), configure=False)
    client = Client(guest, tmp_path)
    try:
        first = await rig.call(client.lease)
        assert (first["ip"], first["mtu"], first["domain"]) == ("172.31.0.5", "1400", "example.org")
        assert first["dns"] == "172.31.0.2 172.31.9.9"
        assert first["ntpsrv"] == "172.31.9.1 172.31.9.2"
        assert (first["wins"], first["opt46"]) == ("172.31.9.3", "02")
        assert "172.31.0.1" in first["staticroutes"]

        await rig.network.apply(told(DhcpSpec(domain="new.example.org"), 1300))
        second = await rig.call(client.renew)
        assert (second["mtu"], second["domain"], second["dns"]) == ("1300", "new.example.org", "172.31.0.2")
        assert not second.keys() & {"ntpsrv", "wins", "opt46"}

        await rig.network.apply(told(DhcpSpec(servers=()), 1300))
        third = await rig.call(client.renew)
        assert not third.keys() & {"dns", "domain"}
    finally:
        client.close()


def lookup(guest: Guest, name: str, server: str = "172.31.0.2") -> str:
    """An address or a name; "" where there is none, which is known at once."""
    text = guest.run("busybox", "nslookup", name, server, check=False).stdout
    for line in text.partition("\n\n")[2].splitlines():
        if line.startswith("Address:"):
            return line.split()[1]
        if "name = " in line:
            return line.partition("name = ")[2].strip()
    return ""


def public(number: int) -> str:
    return f"198.18.{4 * INDEX}.{number}"


def public_name(number: int) -> str:
    return f"ec2-{public(number).replace('.', '-')}.compute-1.amazonaws.com"


def resolvers() -> list[str]:
    return run("ip", "netns", "pids", NAMESPACE).stdout.split()


async def test_names(rig: Rig) -> None:
    """Both ways in all networks; a public name is a private address inside, wherever its port is."""
    remote = RemoteSpec(
        id="eni-19",
        vpc="vpc-1",
        host="host-2",
        addresses=(AddressSpec(private_ip="172.31.0.9", public_ip=public(9)),),
    )
    wanted = spec(
        port(5),
        msgspec.structs.replace(
            port(6, public=True),
            secondary=(AddressSpec(private_ip="172.31.0.7", public_ip=public(7)),),
        ),
        vpcs=(vpc(cidrs=("100.64.0.0/16",)),),
        remotes=(remote,),
    )
    await rig.network.apply(wanted)
    guest = await rig.guest(port(5))
    pids = resolvers()

    async def says(name: str, answer: str) -> None:
        assert await rig.call(lookup, guest, name) == answer, name

    await says("ip-172-31-0-6.ec2.internal", "172.31.0.6")
    await says("ip-100-64-7-7.ec2.internal", "100.64.7.7")
    await says("100.64.7.7", "ip-100-64-7-7.ec2.internal")
    await says("ip-10-0-0-1.ec2.internal", "")
    await says(public_name(6), "172.31.0.6")
    await says(public_name(7), "172.31.0.7")
    await says(public_name(9), "172.31.0.9")
    await says(public_name(10), public(10))
    await says("172.31.0.6", "ip-172-31-0-6.ec2.internal")
    await says(public(10), public_name(10))
    await says("nobody.compute-1.amazonaws.com", "")

    # A public address that changes hands is another private one at once, with the same resolver.
    await rig.network.apply(
        msgspec.structs.replace(
            wanted,
            ports=(port(5), port(6)),
            remotes=(
                msgspec.structs.replace(
                    remote, addresses=(AddressSpec(private_ip="172.31.0.9", public_ip=public(6)),)
                ),
            ),
        )
    )
    await says_soon(rig, guest, public_name(6), "172.31.0.9")
    await says(public_name(9), public(9))
    await says(public_name(7), public(7))

    await rig.network.apply(
        msgspec.structs.replace(wanted, vpcs=(vpc(cidrs=("100.64.0.0/16",), dns_hostnames=False),))
    )
    await says_soon(rig, guest, public_name(6), public(6))
    assert resolvers() == pids


async def says_soon(rig: Rig, guest: Guest, name: str, answer: str) -> None:
    """The resolver reads its file when it comes to it."""
    assert await rig.call(until, lambda: lookup(guest, name) == answer), lookup(guest, name)


async def test_restarted_agent_keeps_the_resolver_and_its_names(rig: Rig) -> None:
    await rig.network.apply(spec(port(5), port(6, public=True)))
    guest = await rig.guest(port(5))
    pids = resolvers()
    await rig.network.close()
    rig.network = rig.make_network()
    await rig.network.apply(spec(port(5), port(6)))
    await says_soon(rig, guest, public_name(6), public(6))
    assert resolvers() == pids


async def test_resolver_of_a_lost_namespace_is_ended(rig: Rig) -> None:
    """Somebody deleted the namespace: its processes live on in it, without a name."""
    await rig.network.apply(spec(port(5)))
    file = dns.DIRECTORY / NAMESPACE
    orphans = [Path(f"/proc/{pid}/cmdline") for pid in resolvers()]
    assert orphans
    await rig.network.close()
    run("ip", "netns", "delete", NAMESPACE)
    rig.network = rig.make_network()
    await rig.network.apply(NetworkSpec())
    # One that has ended may wait for its parent: it has no arguments any more.
    assert not [each for each in orphans if each.exists() and each.read_bytes()]
    assert not list(file.parent.glob(f"{NAMESPACE}*"))


def enable_ipv6(guest: Guest) -> None:
    """The kernel gives it its address of the link a moment later, also without asking whose it is."""

    def enable() -> bool:
        for name in ("accept_dad", "disable_ipv6"):
            Path(f"/proc/sys/net/ipv6/conf/eth0/{name}").write_text("0")
        return until(lambda: bool(usable6()))

    assert visit(guest.namespace, enable)


def usable6() -> list[str]:
    """The addresses of eth0 that are not tentative."""
    lines = [line.split() for line in Path("/proc/thread-self/net/if_inet6").read_text().splitlines()]
    return [line[0] for line in lines if line[5] == "eth0" and not int(line[4], 16) & 0x40]


def routers(guest: Guest) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(guest.run("ip", "-j", "-6", "route", "show", "default").stdout)
    return found


def mtu6(guest: Guest) -> str:
    return guest.run("cat", "/proc/sys/net/ipv6/conf/eth0/mtu").stdout.strip()


def dhcp6(guest: Guest, kind: int, *options: tuple[int, bytes]) -> tuple[int, dict[int, bytes]] | None:
    """One exchange with a client of our own: the answer's type and options."""
    client = (1, b"\0\3\0\1" + bytes.fromhex(guest.port.mac.replace(":", "")))
    message = bytes([kind]) + b"abc"
    for code, value in (client, *options):
        message += struct.pack("!HH", code, len(value)) + value

    def exchange() -> bytes:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::", 546))
            sock.settimeout(2)
            sock.sendto(message, ("ff02::1:2", 547, 0, socket.if_nametoindex("eth0")))
            return sock.recv(1500)

    try:
        data = visit(guest.namespace, exchange)
    except TimeoutError:
        return None
    assert data[1:4] == b"abc"
    found = {}
    at = 4
    while at < len(data):
        code, length = struct.unpack_from("!HH", data, at)
        found[code] = data[at + 4 : at + 4 + length]
        at += 4 + length
    return data[0], found


SOLICIT, ADVERTISE, REQUEST, RENEW, REPLY = 1, 2, 3, 5, 7
ASSOCIATION = (3, b"\0\0\0\1" + bytes(8))
WANTS_NAMES = (6, struct.pack("!HH", 23, 24))


async def test_ipv6_by_advertisement_and_dhcp(rig: Rig) -> None:
    address = "fd00:7::5"
    one = msgspec.structs.replace(port(5), ipv6=(address,))
    await rig.network.apply(spec(one, port(6), vpcs=(SIX,), groups=GROUPS, mtu=1400))
    guest = await rig.guest(one)
    enable_ipv6(guest)
    assert await rig.call(until, lambda: bool(routers(guest))), "no router was advertised"
    [router] = routers(guest)
    assert (router["gateway"], router["protocol"]) == ("fe80::1", "ra")
    seen = json.loads(guest.run("ip", "-j", "-6", "address", "show", "dev", "eth0").stdout)[0]["addr_info"]
    assert {each["scope"] for each in seen} == {"link"}, "no network is advertised, so there is no address"
    assert mtu6(guest) == "1400"

    advertised = await rig.call(dhcp6, guest, SOLICIT, ASSOCIATION, WANTS_NAMES)
    assert advertised
    kind, options = advertised
    assert kind == ADVERTISE
    assert options[23] == IPv6Address("fd00:ec2::253").packed
    replied = await rig.call(dhcp6, guest, REQUEST, (2, options[2]), ASSOCIATION)
    assert replied
    assert replied[0] == REPLY
    assert IPv6Address(replied[1][3][16:32]) == IPv6Address(address)

    guest.run("ip", "-6", "address", "add", f"{address}/128", "dev", "eth0", "nodad")
    assert await rig.call(lookup, guest, "ip-172-31-0-6.ec2.internal", "fd00:ec2::253") == "172.31.0.6"

    # What changes is told at the next renewal.
    two = msgspec.structs.replace(one, ipv6=("fd00:7::6",))
    await rig.network.apply(spec(two, port(6), vpcs=(SIX,), groups=GROUPS, mtu=1300))
    # The MTU is told at once, by the router.
    assert await rig.call(until, lambda: mtu6(guest) == "1300"), mtu6(guest)
    has = struct.pack("!HH16sII", 5, 24, IPv6Address(address).packed, 0, 0)
    renewed = await rig.call(dhcp6, guest, RENEW, (2, options[2]), (3, ASSOCIATION[1] + has))
    assert renewed
    inside = renewed[1][3][12:]
    given = {
        str(IPv6Address(inside[at + 4 : at + 20])): int.from_bytes(inside[at + 20 : at + 24])
        for at in range(0, len(inside), 28)
    }
    assert given == {"fd00:7::6": 3600, address: 0}


NETWORKD = Path("/lib/systemd/systemd-networkd")
RUN_NETWORKD = f"""
mount --make-rprivate / && mount -t sysfs -o ro sysfs /sys && mount -t tmpfs tmpfs /run || exit
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases
chown -R systemd-network /run/systemd/netif
printf '[Match]\\nName=eth*\\n[Network]\\nDHCP=yes\\n[DHCPv4]\\nUseMTU=yes\\n' >/run/systemd/network/1.network
exec {NETWORKD}
"""
"""In a world of its own, without udev."""


@pytest.mark.skipif(not NETWORKD.exists(), reason="systemd-networkd is not installed")
async def test_somebody_elses_client(rig: Rig) -> None:
    """What most guests use, for both protocols at once."""
    wanted = {"172.31.0.5", "fd00:7::5", "fd00:7::6"}
    one = msgspec.structs.replace(port(5), ipv6=("fd00:7::5", "fd00:7::6"))
    await rig.network.apply(spec(one, vpcs=(SIX,), groups=GROUPS, mtu=1400))
    guest = await rig.guest(one, configure=False)
    enable_ipv6(guest)
    client = visit(
        guest.namespace,
        lambda: subprocess.Popen(
            ["unshare", "-m", "sh", "-c", RUN_NETWORKD], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ),
    )

    def link() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(guest.run("ip", "-j", "address", "show", "dev", "eth0").stdout)[0]
        return found

    def has_all() -> bool:
        return wanted <= {each["local"] for each in link()["addr_info"]}

    try:
        assert await rig.call(until, has_all, 20), link()
        assert link()["mtu"] == 1400
        assert [router["gateway"] for router in routers(guest)] == ["fe80::1"]
    finally:
        client.terminate()
        client.wait(60)


async def test_subnet_that_is_given_ipv6_later(rig: Rig) -> None:
    await rig.network.apply(spec(port(5), groups=GROUPS))
    guest = await rig.guest(port(5))
    enable_ipv6(guest)
    assert await rig.call(dhcp6, guest, SOLICIT, ASSOCIATION) is None
    one = msgspec.structs.replace(port(5), ipv6=("fd00:7::5",))
    await rig.network.apply(spec(one, vpcs=(SIX,), groups=GROUPS))
    assert await rig.call(until, lambda: bool(routers(guest))), "the router did not advertise itself"
    assert await rig.call(dhcp6, guest, SOLICIT, ASSOCIATION)
    await rig.network.apply(spec(port(5), groups=GROUPS))
    assert await rig.call(dhcp6, guest, SOLICIT, ASSOCIATION) is None
