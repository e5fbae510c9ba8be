"""Route tables, NAT gateways and peering, on one host and across hosts."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import msgspec
import pytest

from gureum.hostspec import (
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
from gureum.network import namespaces

from .conftest import INDEX, SERVER, TO_INTERNET, Guest, _connect, _listen, port, vpc
from .hosts import Site, configure6, connect, pings6

pytestmark = pytest.mark.root


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
    assert not [name for name in namespaces.names() if name.startswith(f"gn{INDEX}.")]


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
    assert pings6(a, "fd00:2::5")
    assert pings6(b, "fd00:1::5")
    site.peerings = ()
    await site.apply()
    assert not pings6(a, "fd00:2::5")
