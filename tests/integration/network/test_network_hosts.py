"""A VPC on several hosts: real packets between namespaces that are hosts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gureum.errors import NetworkError
from gureum.hostspec import (
    AddressSpec,
    GroupSpec,
    PeeringSpec,
    PortKind,
    PortSpec,
    RouteKind,
    RouteSpec,
    RouteTableSpec,
    RuleSpec,
    SubnetSpec,
    VpcSpec,
)
from gureum.network import flows, namespaces, wireguard
from gureum.network.namespaces import visit

from .conftest import ALL_OUT, INDEX, SERVER, TO_INTERNET, Guest, _connect, _listen, port, run, vpc
from .hosts import Host, Site

pytestmark = pytest.mark.root


@pytest.fixture
async def site(host: None, tmp_path: Path) -> AsyncIterator[Site]:
    found = Site(tmp_path, 3)
    try:
        yield found
    finally:
        await found.close()


class Stream:
    """Numbers that one end of a connection sends every few milliseconds, and the other counts."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self.count = 0
        self.gap_seconds = 0.0
        self.error = ""
        self._sender, self._receiver = sender, receiver
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        number = 0
        with contextlib.suppress(OSError):
            while not self._stop.wait(0.005):
                self._sender.sendall(number.to_bytes(4, "big"))
                number += 1

    def _receive(self) -> None:
        self._receiver.settimeout(10)
        last = time.monotonic()
        with contextlib.suppress(OSError):
            while data := self._receiver.recv(4, socket.MSG_WAITALL):
                now = time.monotonic()
                self.gap_seconds, last = max(self.gap_seconds, now - last), now
                if int.from_bytes(data, "big") != self.count:
                    self.error = f"{data!r} after {self.count}"
                self.count += 1

    async def goes_on(self) -> bool:
        """Whether more arrives within some seconds."""
        before = self.count
        for _ in range(100):
            await asyncio.sleep(0.05)
            if self.count > before + 5:
                return not self.error
        return False

    def close(self) -> None:
        self._stop.set()
        self._threads[0].join(5)
        self._sender.close()
        self._receiver.shutdown(socket.SHUT_RDWR)
        self._threads[1].join(5)
        self._receiver.close()


def connect(client: Guest, server: Guest, number: int) -> tuple[socket.socket, socket.socket]:
    with server.listen(number) as listener:
        connection = client.connect(server.ip, number, 3)
        assert connection is not None
        accepted, _ = listener.accept()
    return connection, accepted


def tracked(host: Host, port: PortSpec) -> int:
    """How many flows a host still tracks of a port."""
    if not namespaces.exists(host.vpc_namespace(1)):
        return 0
    addresses = (port.private_ip, *port.ipv6)
    data = visit(host.vpc_namespace(1), lambda: flows.export(addresses))
    return len(msgspec.msgpack.decode(data)["flows"])


async def test_neighbours_on_two_hosts(site: Site) -> None:
    one, two = site.place(port(5), 1), site.place(port(6), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(two)
    with b.listen(80):
        assert a.reaches(b.ip, 80)
    assert b.pings(a.ip)


ONLY_WEB = GroupSpec(
    id="sg-1", rules=(ALL_OUT, RuleSpec(protocol="tcp", from_port=80, to_port=81, group="sg-2"))
)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("mover", ["client", "server"])
async def test_a_connection_survives_a_move_under_restrictive_rules(
    site: Site, mover: str, restart: bool
) -> None:
    server, client = site.place(port(5), 1), site.place(port(6, groups=("sg-2",)), 2)
    site.groups = (ONLY_WEB, GroupSpec(id="sg-2", rules=(ALL_OUT,)))
    site.members = {"sg-2": (client.private_ip,)}
    await site.apply()
    a, b = await site.guest(server), await site.guest(client)
    connection, accepted = connect(b, a, 80)
    # Both ways: what the other sends must be let in by what is established, and by nothing else.
    back, forth = connect(b, a, 81)
    streams = Stream(connection, accepted), Stream(forth, back)
    try:
        guest = a if mover == "server" else b
        for target in (3, 2, 1):
            source = site.ports[guest.port.id][1]
            await site.move(guest, target, restart)
            for stream in streams:
                assert await stream.goes_on()
            if {site.ports[each.id][1] for each in (server, client)}.isdisjoint({source}):
                old = site.hosts[source - 1]
                assert tracked(old, guest.port) == 0
        print("largest gap", [round(stream.gap_seconds, 3) for stream in streams])
    finally:
        for stream in streams:
            stream.close()


async def test_without_its_flows_a_connection_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules are such that only what is established passes."""
    server, client = site.place(port(5), 1), site.place(port(6, groups=("sg-2",)), 2)
    site.groups = (ONLY_WEB, GroupSpec(id="sg-2", rules=(ALL_OUT,)))
    site.members = {"sg-2": (client.private_ip,)}
    await site.apply()
    a, b = await site.guest(server), await site.guest(client)
    back, forth = connect(b, a, 81)
    with back, forth:
        monkeypatch.setattr(flows, "restore", lambda addresses, data: 0)
        site.groups = (GroupSpec(id="sg-1", rules=()), GroupSpec(id="sg-2", rules=(ALL_OUT,)))
        await site.move(a, 3)
        back.settimeout(1.5)
        forth.sendall(b"lost")
        with pytest.raises(TimeoutError):
            back.recv(4)


async def test_flows_of_others_are_refused(site: Site) -> None:
    one, two = site.place(port(5), 1), site.place(port(6), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(two)
    with b.listen(80):
        assert a.reaches(b.ip, 80)
    data = await site.hosts[0].network.export_flows(one.id)
    third = site.place(port(7), 3)
    await site.apply()
    for wrong in (data, b"", b"no flows"):
        with pytest.raises(NetworkError, match="flows"):
            await site.hosts[2].network.import_flows(third.id, wrong)
    with pytest.raises(NetworkError, match="not applied"):
        await site.hosts[2].network.import_flows(one.id, data)


async def test_public_addresses_move_along(site: Site) -> None:
    one, two = site.place(port(5, public=True), 1), site.place(port(6, public=True), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(two)
    with a.listen(80), b.listen(80), site.lan(lambda: _listen(81, socket.SOCK_STREAM)) as world:
        for _ in range(2):
            assert a.reaches(two.public_ip, 80)
            assert b.reaches(one.public_ip, 80)
            found = site.lan(lambda: _connect(one.public_ip, 80, 2))
            assert found is not None
            found.close()
            connection = a.connect(SERVER, 81, 2)
            assert connection is not None
            with connection, world.accept()[0] as accepted:
                assert accepted.getpeername()[0] == one.public_ip
                await site.move(a, 3)
                # Told at once, not when its entry grows old.
                assert uplink_mac(site.hosts[2]) in site.lan(
                    lambda: run("ip", "neigh", "show", one.public_ip).stdout
                )
                connection.sendall(b"from there")
                assert accepted.recv(100) == b"from there"
                await site.move(a, 1)
                accepted.sendall(b"and back")
                assert connection.recv(100) == b"and back"
            await site.move(a, 3)
    proxies = [host.here(lambda: run("ip", "neigh", "show", "proxy").stdout.split()) for host in site.hosts]
    assert [each[:1] for each in proxies] == [[], [two.public_ip], [one.public_ip]]


def uplink_mac(host: Host) -> str:
    return host.here(lambda: run("ip", "-br", "link", "show", "uplink").stdout).split()[2]


def nat_port(public: bool = True) -> PortSpec:
    values = {"kind": PortKind.nat, "instance": "", "groups": (), "source_dest_check": False}
    return msgspec.structs.replace(port(40, public=public), **values)


def private_subnet(target: RouteSpec) -> VpcSpec:
    """subnet-1 with a way out, subnet-p (172.31.16.0/20) with this route."""
    public = vpc(1)
    private = SubnetSpec(id="subnet-p", cidr="172.31.16.0/20", route_table="rtb-p")
    return msgspec.structs.replace(
        public,
        subnets=(*public.subnets, private),
        route_tables=(*public.route_tables, RouteTableSpec(id="rtb-p", number=7, routes=(target,))),
    )


def private_port(number: int) -> PortSpec:
    return msgspec.structs.replace(port(number), subnet="subnet-p", private_ip=f"172.31.16.{number}")


@pytest.mark.parametrize("where", [1, 2], ids=["same host", "other host"])
async def test_nat_gateway(site: Site, where: int) -> None:
    gateway, client = nat_port(), private_port(5)
    site.vpcs = (private_subnet(RouteSpec(destination="0.0.0.0/0", kind=RouteKind.port, target=gateway.id)),)
    site.place(gateway, where)
    site.place(client, 1)
    await site.apply()
    a = await site.guest(client, "172.31.16.1")
    with site.lan(lambda: _listen(81, socket.SOCK_STREAM)) as world:
        connection = a.connect(SERVER, 81, 2)
        assert connection is not None
        with connection, world.accept()[0] as accepted:
            assert accepted.getpeername()[0] == gateway.public_ip
            await site.restart()
            connection.sendall(b"still")
            assert accepted.recv(100) == b"still"
        assert not site.lan(lambda: _connect(gateway.public_ip, 80, 0.5))
        assert a.pings(SERVER)
        # The gateway goes: its way leads nowhere, and nothing of it is left.
        del site.ports[gateway.id]
        await site.apply()
        assert not a.reaches(SERVER, 81)
    assert not [name for name in namespaces.names() if name.startswith("gn")]


async def test_private_nat_gateway(site: Site) -> None:
    gateway, client = nat_port(public=False), private_port(5)
    site.vpcs = (
        private_subnet(RouteSpec(destination="172.31.0.6/32", kind=RouteKind.port, target=gateway.id)),
    )
    site.place(gateway, 2)
    site.place(client, 1)
    server = site.place(port(6), 3)
    await site.apply()
    a, b = await site.guest(client, "172.31.16.1"), await site.guest(server)
    with b.listen(80) as listener:
        connection = a.connect(b.ip, 80, 2)
        assert connection is not None
        with connection, listener.accept()[0] as accepted:
            assert accepted.getpeername()[0] == gateway.private_ip


async def test_longest_prefix_decides_and_changes_are_atomic(site: Site) -> None:
    """A middlebox port takes what is routed to it, on whatever host, and only without its check."""
    box = msgspec.structs.replace(port(9), source_dest_check=False)
    client = private_port(5)
    to_box = RouteSpec(destination="0.0.0.0/0", kind=RouteKind.port, target=box.id)
    site.vpcs = (private_subnet(to_box),)
    site.place(client, 1)
    site.place(box, 2)
    await site.apply()
    a, b = await site.guest(client, "172.31.16.1"), await site.guest(box)
    with b.sniff() as wire:
        assert await seen(a, wire, "10.9.9.9")
        table = site.vpcs[0].route_tables[1]
        hole = RouteSpec(destination="10.9.9.0/24", kind=RouteKind.blackhole)
        both = msgspec.structs.replace(table, routes=(to_box, hole))
        tables = (site.vpcs[0].route_tables[0], both)
        site.vpcs = (msgspec.structs.replace(site.vpcs[0], route_tables=tables),)
        await site.apply()
        assert not await seen(a, wire, "10.9.9.9")
        assert await seen(a, wire, "10.9.8.9")
        site.place(msgspec.structs.replace(box, source_dest_check=True), 2)
        await site.apply()
        assert not await seen(a, wire, "10.9.8.9")
    assert a.pings(b.ip)


async def test_no_packet_is_lost_while_routes_change(site: Site) -> None:
    """Tables get other routes, a subnet gets another table, all with the same way for what flows."""
    site.place(port(5, public=True), 1)
    await site.apply()
    a = await site.guest(port(5, public=True))
    assert a.pings(SERVER)
    more = RouteSpec(destination="10.9.0.0/16", kind=RouteKind.blackhole)
    half = RouteSpec(destination="203.0.0.0/8", kind=RouteKind.internet)
    flood = asyncio.create_task(
        asyncio.to_thread(a.run, "ping", "-q", "-i", "0.002", "-c", "1000", SERVER, check=False)
    )
    for number in range(2, 1000):
        if flood.done():
            break
        routes = (TO_INTERNET, more) if number % 2 else (half,)
        tables = (RouteTableSpec(id="rtb-1", number=1 + number // 2 % 2, routes=routes),)
        site.vpcs = (vpc(1, route_tables=tables),)
        await site.apply(1)
    assert number > 20
    assert " 0% packet loss" in (await flood).stdout


async def seen(guest: Guest, wire: socket.socket, target: str) -> bool:
    """Whether a packet to an address comes out there."""
    wire.settimeout(0.1)
    with contextlib.suppress(TimeoutError):
        while True:
            wire.recv(2000)
    wire.settimeout(0.5)
    guest.run("busybox", "ping", "-c1", "-W1", target, check=False)
    packed = socket.inet_aton(target)
    try:
        while True:
            frame = wire.recv(2000)
            if frame[12:14] == b"\x08\x00" and frame[30:34] == packed:
                return True
    except TimeoutError:
        return False


def peer_vpc(number: int, peerings: dict[int, str]) -> VpcSpec:
    """10.NUMBER.0.0/16, with routes to the peers by their numbers."""
    routes = tuple(
        RouteSpec(destination=f"10.{other}.0.0/16", kind=RouteKind.peering, target=id)
        for other, id in peerings.items()
    )
    return VpcSpec(
        id=f"vpc-{number}",
        network_id=number,
        cidr=f"10.{number}.0.0/16",
        subnets=(SubnetSpec(id=f"subnet-{number}", cidr=f"10.{number}.0.0/24", route_table="rtb-1"),),
        route_tables=(RouteTableSpec(id="rtb-1", number=1, routes=(*routes, TO_INTERNET)),),
    )


def peer_port(vpc: int, number: int) -> PortSpec:
    return msgspec.structs.replace(port(number, vpc=f"vpc-{vpc}"), private_ip=f"10.{vpc}.0.{number}")


@pytest.mark.parametrize("hosts", [(1, 1, 1), (1, 2, 3)], ids=["one host", "three hosts"])
async def test_peering_is_not_transitive(site: Site, hosts: tuple[int, int, int]) -> None:
    site.vpcs = (
        peer_vpc(1, {2: "pcx-12", 3: "pcx-12"}),
        peer_vpc(2, {1: "pcx-12", 3: "pcx-23"}),
        peer_vpc(3, {2: "pcx-23", 1: "pcx-23"}),
    )
    site.peerings = (
        PeeringSpec(id="pcx-12", number=12, vpcs=("vpc-1", "vpc-2")),
        PeeringSpec(id="pcx-23", number=23, vpcs=("vpc-2", "vpc-3")),
    )
    ports = [peer_port(number, 5) for number in (1, 2, 3)]
    for each, host in zip(ports, hosts, strict=True):
        site.place(each, host)
    await site.apply()
    a, b, c = [await site.guest(each, f"10.{number}.0.1", 24) for number, each in enumerate(ports, start=1)]
    with a.listen(80), b.listen(80), c.listen(80):
        assert a.reaches(b.ip, 80)
        assert b.reaches(a.ip, 80)
        assert c.reaches(b.ip, 80)
        assert not a.reaches(c.ip, 80)
        assert not c.reaches(a.ip, 80)
        connection, accepted = connect(a, b, 81)
        with connection, accepted:
            await site.restart()
            connection.sendall(b"still")
            assert accepted.recv(100) == b"still"
        site.peerings = site.peerings[1:]
        await site.apply()
        assert not a.reaches(b.ip, 80)
        assert b.reaches(c.ip, 80)


async def test_vxlan_comes_from_known_hosts_only(site: Site) -> None:
    one, two = site.place(port(5), 1), site.place(port(6), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(two)
    with a.listen(80):
        assert b.reaches(a.ip, 80)
        only = msgspec.structs.replace(site.spec(1), hosts=site.spec(1).hosts[2:])
        # The host is not told of the sender any more, but still has its port.
        await site.hosts[0].network.apply(only)
        assert not b.reaches(a.ip, 80)
        await site.apply()
        assert b.reaches(a.ip, 80)


async def test_secondary_addresses_have_their_own_public_ones(site: Site) -> None:
    second = AddressSpec(private_ip="172.31.0.77", public_ip=f"198.18.{4 * INDEX}.77")
    one = msgspec.structs.replace(port(5, public=True), secondary=(second,))
    site.place(one, 1)
    site.place(port(6), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(port(6))
    a.run("ip", "address", "add", "172.31.0.77/20", "dev", "eth0")
    with a.listen(80) as listener:
        assert b.reaches("172.31.0.77", 80)
        listener.accept()[0].close()
        found = site.lan(lambda: _connect(second.public_ip, 80, 2))
        assert found is not None
        with found, listener.accept()[0] as accepted:
            assert accepted.getsockname()[0] == second.private_ip
    with site.lan(lambda: _listen(81, socket.SOCK_STREAM)) as world:

        def from_second() -> socket.socket:
            return socket.create_connection((SERVER, 81), 2, source_address=(second.private_ip, 0))

        with visit(a.namespace, from_second), world.accept()[0] as accepted:
            assert accepted.getpeername()[0] == second.public_ip


def six_vpc(*routes: RouteSpec) -> VpcSpec:
    found = vpc(1)
    subnet = msgspec.structs.replace(found.subnets[0], cidr6="fd00:1::/64")
    table = msgspec.structs.replace(found.route_tables[0], routes=(TO_INTERNET, *routes))
    return msgspec.structs.replace(found, cidrs=("fd00:1::/56",), subnets=(subnet,), route_tables=(table,))


def configure6(guest: Guest) -> None:
    def enable() -> None:
        Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").write_text("0")
        Path("/proc/sys/net/ipv6/conf/eth0/accept_dad").write_text("0")
        run("ip", "link", "set", "eth0", "down")
        run("ip", "link", "set", "eth0", "up")

    visit(guest.namespace, enable)
    for address in guest.port.ipv6:
        guest.run("ip", "address", "add", f"{address}/128", "dev", "eth0")
    guest.run("ip", "route", "replace", "::/0", "via", "fe80::1", "dev", "eth0")


async def test_ipv6_between_hosts_by_routes_and_moving(site: Site) -> None:
    open6 = GroupSpec(id="sg-1", rules=(RuleSpec(egress=True, cidr="::/0"), RuleSpec(cidr="::/0")))
    out6 = GroupSpec(id="sg-2", rules=(RuleSpec(egress=True, cidr="::/0"),))
    site.groups = (open6, out6)
    one = msgspec.structs.replace(port(5, groups=("sg-2",)), ipv6=("fd00:1::5",))
    two = msgspec.structs.replace(port(6), ipv6=("fd00:1::6",), source_dest_check=False)
    to_two = RouteSpec(destination="fd00:9::/64", kind=RouteKind.port, target=two.id)
    nowhere = RouteSpec(destination="::/0", kind=RouteKind.internet)
    site.vpcs = (six_vpc(to_two, nowhere),)
    site.place(one, 1)
    site.place(two, 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(two)
    for guest in (a, b):
        await asyncio.to_thread(configure6, guest)
    assert a.run("ping", "-c1", "-W2", "fd00:1::6", check=False).returncode == 0
    assert b.run("ping", "-c1", "-W1", "fd00:1::5", check=False).returncode != 0
    b.run("ip", "address", "add", "fd00:9::1/128", "dev", "lo")
    assert a.run("ping", "-c1", "-W2", "fd00:9::1", check=False).returncode == 0
    assert "unreachable" in a.run("ping", "-c1", "-W2", "2001:db8::1", check=False).stdout.lower()

    def listen() -> socket.socket:
        sock = socket.create_server(("::", 80), family=socket.AF_INET6)
        sock.settimeout(3)
        return sock

    with visit(b.namespace, listen) as listener:
        back = visit(a.namespace, lambda: socket.create_connection(("fd00:1::6", 80), 3))
        forth, _ = listener.accept()
    stream = Stream(forth, back)
    try:
        assert await stream.goes_on()
        await site.move(a, 3)
        assert await stream.goes_on()
        assert tracked(site.hosts[0], one) == 0
    finally:
        stream.close()


async def test_ipv6_between_peers_on_two_hosts(site: Site) -> None:
    vpcs = []
    for number, other in ((1, 2), (2, 1)):
        four = peer_vpc(number, {other: "pcx-1"})
        to_peer = RouteSpec(destination=f"fd00:{other}::/56", kind=RouteKind.peering, target="pcx-1")
        table = msgspec.structs.replace(four.route_tables[0], routes=(*four.route_tables[0].routes, to_peer))
        subnet = msgspec.structs.replace(four.subnets[0], cidr6=f"fd00:{number}::/64")
        vpcs.append(
            msgspec.structs.replace(
                four, cidrs=(f"fd00:{number}::/56",), subnets=(subnet,), route_tables=(table,)
            )
        )
    site.vpcs = tuple(vpcs)
    site.peerings = (PeeringSpec(id="pcx-1", number=1, vpcs=("vpc-1", "vpc-2")),)
    rules = (RuleSpec(egress=True, cidr="::/0"), RuleSpec(cidr="::/0"))
    site.groups = (GroupSpec(id="sg-1", rules=rules),)
    ports = [msgspec.structs.replace(peer_port(n, 5), ipv6=(f"fd00:{n}::5",)) for n in (1, 2)]
    for number, each in enumerate(ports, start=1):
        site.place(each, number)
    await site.apply()
    guests = [await site.guest(each, f"10.{n}.0.1", 24) for n, each in enumerate(ports, start=1)]
    for guest in guests:
        await asyncio.to_thread(configure6, guest)
    a, b = guests
    assert a.run("ping", "-c1", "-W2", "fd00:2::5", check=False).returncode == 0
    assert b.run("ping", "-c1", "-W2", "fd00:1::5", check=False).returncode == 0
    site.peerings = ()
    await site.apply()
    assert a.run("ping", "-c1", "-W1", "fd00:2::5", check=False).returncode != 0


async def test_a_vpc_has_several_nat_gateways(site: Site) -> None:
    """One more while the first is used, on another host, for another subnet."""
    first, second = nat_port(), msgspec.structs.replace(nat_port(), id="eni-other", private_ip="172.31.0.41")
    second = msgspec.structs.replace(second, mac="06:00:00:00:01:41", public_ip=f"198.18.{4 * INDEX}.41")
    one, two = private_port(5), msgspec.structs.replace(private_port(6), subnet="subnet-q")
    two = msgspec.structs.replace(two, private_ip="172.31.32.6")
    spec = private_subnet(RouteSpec(destination="0.0.0.0/0", kind=RouteKind.port, target=first.id))
    site.vpcs = (spec,)
    site.place(first, 1)
    site.place(one, 2)
    await site.apply()
    a = await site.guest(one, "172.31.16.1")
    with site.lan(lambda: _listen(81, socket.SOCK_STREAM)) as world:
        connection = a.connect(SERVER, 81, 2)
        assert connection is not None
        with connection, world.accept()[0] as accepted:
            route = RouteSpec(destination="0.0.0.0/0", kind=RouteKind.port, target=second.id)
            more = SubnetSpec(id="subnet-q", cidr="172.31.32.0/20", route_table="rtb-q")
            tables = (*spec.route_tables, RouteTableSpec(id="rtb-q", number=8, routes=(route,)))
            site.vpcs = (msgspec.structs.replace(spec, subnets=(*spec.subnets, more), route_tables=tables),)
            site.place(second, 2)
            site.place(two, 2)
            await site.apply()
            b = await site.guest(two, "172.31.32.1")
            other = b.connect(SERVER, 81, 2)
            assert other is not None
            with other, world.accept()[0] as theirs:
                found = [each.getpeername()[0] for each in (accepted, theirs)]
                assert found == [first.public_ip, second.public_ip]
            connection.sendall(b"still")
            assert accepted.recv(100) == b"still"


async def test_where_encryption_cannot_be_nothing_is_sent_in_the_clear(site: Site) -> None:
    if wireguard.public_key(site.run_dir / "key"):
        pytest.skip("this kernel has WireGuard")
    one, two = site.place(port(5), 1), site.place(port(6), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(two)
    with b.listen(80):
        assert a.reaches(b.ip, 80)
        encrypted = msgspec.structs.replace(site.spec(1), encrypted=True)
        for _ in range(2):
            with pytest.raises(NetworkError, match="kernel has no WireGuard"):
                await site.hosts[0].network.apply(encrypted)
            assert not a.reaches(b.ip, 80)
        await site.apply()
        assert a.reaches(b.ip, 80)
