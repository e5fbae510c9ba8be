"""Ports that move between hosts while connections are open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time

import msgspec
import pytest

from gureum.errors import NetworkError
from gureum.hostspec import (
    GroupSpec,
    PortSpec,
    RouteKind,
    RouteSpec,
    RuleSpec,
    VpcSpec,
)
from gureum.network import flows, namespaces
from gureum.network.namespaces import visit

from .conftest import ALL_OUT, SERVER, TO_INTERNET, _connect, _listen, port, run, vpc
from .hosts import Host, Site, configure6, connect, pings6

pytestmark = pytest.mark.root


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


def tracked(host: Host, port: PortSpec) -> int:
    """How many flows a host still tracks of a port."""
    if not namespaces.exists(host.vpc_namespace(1)):
        return 0
    addresses = (port.private_ip, *port.ipv6)
    data = visit(host.vpc_namespace(1), lambda: flows.export(addresses))
    return len(msgspec.msgpack.decode(data)["flows"])


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


def taps(host: Host) -> str:
    if not namespaces.exists(host.vpc_namespace(1)):
        return ""
    return run("ip", "-n", host.vpc_namespace(1), "-br", "link", "show", "type", "tun").stdout


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("alone", [True, False])
async def test_a_port_that_stands_by_is_opened_before_it_moves(
    site: Site, alone: bool, restart: bool
) -> None:
    """And until it moves, all hosts find it where it is, that one included."""
    one, two = site.place(port(5), 1), site.place(port(6), 2)
    site.groups = (GroupSpec(id="sg-1", rules=(ALL_OUT, RuleSpec(cidr="0.0.0.0/0"))),)
    if not alone:
        site.place(port(7), 3)
    await site.apply()
    a, b = await site.guest(one), await site.guest(two)
    third = None if alone else await site.guest(site.ports[port(7).id][0])
    there = site.hosts[2]
    with pytest.raises(NetworkError, match="not applied"):
        await there.network.open_port(one.id)
    connection, accepted = connect(b, a, 80)
    stream = Stream(connection, accepted)
    try:
        for target in (3, 1):
            site.standby[one.id] = target
            await site.apply()
            fd = await site.hosts[target - 1].network.open_port(one.id)
            with pytest.raises(NetworkError, match="not applied"):
                await site.hosts[target - 1].network.import_flows(one.id, b"")
            if restart:
                await site.restart()
            assert await stream.goes_on()
            if third is not None:
                with a.listen(81):
                    assert third.reaches(a.ip, 81)
            await site.move(a, target, fd=fd)
            assert await stream.goes_on()
        # Of what a guest there sent it, there is something left.
        assert not alone or tracked(there, one) == 0
    finally:
        stream.close()


async def test_a_port_that_stood_by_goes_with_all_that_was_made_for_it(site: Site) -> None:
    one = site.place(port(5), 1)
    site.standby[one.id] = 3
    await site.apply()
    assert taps(site.hosts[2])
    os.close(await site.hosts[2].network.open_port(one.id))
    site.standby.clear()
    await site.apply()
    assert not namespaces.exists(site.hosts[2].vpc_namespace(1))
    site.place(port(6), 3)
    site.standby[one.id] = 3
    await site.apply()
    before = len(taps(site.hosts[2]).splitlines())
    site.standby.clear()
    await site.apply()
    assert len(taps(site.hosts[2]).splitlines()) == before - 1 == 1


async def test_a_vpc_that_is_back_at_once_does_not_wait_for_the_kernel(site: Site) -> None:
    """Which takes a namespace apart when nobody uses it any more, and a moment after that."""
    here, there = site.place(port(5), 1), site.place(port(6), 3)
    await site.apply()
    used = os.open(namespaces.DIRECTORY / site.hosts[2].vpc_namespace(1), os.O_RDONLY)
    try:
        site.place(there, 2)
        await site.apply()
        assert not namespaces.exists(site.hosts[2].vpc_namespace(1))
        site.place(there, 3)
        await site.apply()
    finally:
        os.close(used)
    a, b = await site.guest(here), await site.guest(there)
    with b.listen(80):
        found = a.connect(there.private_ip, 80, 4)
        assert found is not None
        found.close()


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


def uplink_mac(host: Host) -> str:
    return host.here(lambda: run("ip", "-br", "link", "show", "uplink").stdout).split()[2]


async def test_public_addresses_move_along(site: Site) -> None:
    one, two = site.place(port(5, public=True), 1), site.place(port(6, public=True), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(two)
    with a.listen(80), b.listen(80), site.lan(lambda: _listen(81, socket.SOCK_STREAM)) as world:
        for _ in range(2):
            # A link that came up a moment ago may lose the first packet, which comes again after a second.
            for guest, address in ((a, two.public_ip), (b, one.public_ip)):
                found = guest.connect(address, 80, 4)
                assert found is not None
                found.close()
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


def six_vpc(*routes: RouteSpec) -> VpcSpec:
    found = vpc(1)
    subnet = msgspec.structs.replace(found.subnets[0], cidr6="fd00:1::/64")
    table = msgspec.structs.replace(found.route_tables[0], routes=(TO_INTERNET, *routes))
    return msgspec.structs.replace(found, cidrs=("fd00:1::/56",), subnets=(subnet,), route_tables=(table,))


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
    assert pings6(a, "fd00:1::6")
    assert not pings6(b, "fd00:1::5")
    b.run("ip", "address", "add", "fd00:9::1/128", "dev", "lo")
    assert pings6(a, "fd00:9::1")
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
