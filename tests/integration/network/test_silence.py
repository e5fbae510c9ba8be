"""A host that is kept silent answers for nothing of its cloud, whatever its kernel still has of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import msgspec
import pytest

from gureum.hostspec import PortKind, PortSpec, RouteKind, RouteSpec, RouteTableSpec, SubnetSpec
from gureum.network.namespaces import visit
from gureum.network.silence import Silence

from .conftest import INDEX, Guest, _connect, _listen, port, run, vpc
from .hosts import LAN, Host, Site

pytestmark = pytest.mark.root


def silence(host: Host) -> Silence:
    return Silence(host.network._names.place("uplink"))


def reached(site: Site, port: PortSpec) -> bool:
    """Whether the outside reaches it, with nothing remembered of where it was."""
    run("ip", "-n", LAN, "neighbour", "flush", "dev", "lan")
    found = site.lan(lambda: _connect(port.public_ip, 80, 1))
    if found is not None:
        found.close()
    return found is not None


def gets_out(guest: Guest) -> bool:
    found = visit(guest.namespace, lambda: _connect("203.0.113.9", 81, 1))
    if found is not None:
        found.close()
    return found is not None


async def test_a_silent_host_takes_no_address_from_the_one_that_has_it_now(site: Site) -> None:
    one, old = site.place(port(5, public=True), 1), site.hosts[0]
    site.place(port(6), 1)
    await site.apply()
    with (await site.guest(one)).listen(80):
        assert reached(site, one)
        old.here(lambda: silence(old).keep())
        assert not reached(site, one)
        assert run("ip", "netns", "exec", LAN, "ping", "-c1", "-W2", old.address)
        # Its agent, that knows no better yet, builds its network anew.
        await old.network.close()
        old.start()
        await old.network.apply(site.spec(1))
        assert not reached(site, one)
        old.here(lambda: silence(old).end())
        assert reached(site, one)
    old.here(lambda: silence(old).keep())
    site.ports[one.id] = (one, 2)
    site.guests[0].unplug()
    await site.apply(2, 3)
    site.guests[0]._rig = site.hosts[1]  # type: ignore[assignment]
    await site.guests[0].plug()
    with site.guests[0].listen(80):
        assert reached(site, one)
        # The filters alone are what keeps the old one from answering.
        assert "proxy" in old.here(lambda: run("ip", "neigh", "show", "proxy", "dev", "uplink").stdout)


async def test_a_host_of_which_only_the_kernel_lives_is_silent_by_itself(site: Site) -> None:
    one, host = site.place(port(5, public=True), 1), site.hosts[0]
    site.place(port(6), 1)
    await site.apply()
    with (await site.guest(one)).listen(80):
        host.here(lambda: silence(host).lift(60))
        assert not host.here(lambda: silence(host).kept())
        assert reached(site, one)
        host.here(lambda: silence(host).lift(0.5))
        async with asyncio.timeout(30):
            while not host.here(lambda: silence(host).kept()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not reached(site, one)
        host.here(lambda: silence(host).lift(60))
        assert reached(site, one)


async def test_filters_are_of_the_place_that_is_asked_for(site: Site) -> None:
    host = site.hosts[0]
    site.place(port(5, public=True), 1)
    await site.apply()

    def work() -> None:
        place = host.network._names.place("uplink")
        Silence(place._replace(uplink="before", public="10.9.0.0/16")).keep()
        Silence(place).keep()
        rules = run("nft", "list", "ruleset").stdout
        assert '"before"' not in rules
        assert "10.9." not in rules
        Silence(place).leave()  # there are devices of the cloud
        assert Silence(place).kept()
        Silence(place._replace(devices="none-")).leave()
        assert not Silence(place).kept()
        Silence(place).keep()
        Silence(place._replace(uplink="")).lift(60)  # an only host, now
        assert place.table not in run("nft", "list", "ruleset").stdout

    host.here(work)


async def test_a_silent_hosts_gateway_sends_nothing_on(site: Site) -> None:
    gateway = msgspec.structs.replace(
        port(40, public=True), kind=PortKind.nat, instance="", groups=(), source_dest_check=False
    )
    away = RouteSpec(destination="0.0.0.0/0", kind=RouteKind.port, target=gateway.id)
    first = vpc(1)
    site.vpcs = (
        msgspec.structs.replace(
            first,
            subnets=(SubnetSpec(id="subnet-1", cidr="172.31.0.0/20", route_table="rtb-2"),),
            route_tables=(*first.route_tables, RouteTableSpec(id="rtb-2", number=2, routes=(away,))),
        ),
    )
    site.place(msgspec.structs.replace(gateway, subnet="subnet-g", private_ip="172.31.16.40"), 1)
    site.vpcs = (
        msgspec.structs.replace(
            site.vpcs[0],
            subnets=(
                *site.vpcs[0].subnets,
                SubnetSpec(id="subnet-g", cidr="172.31.16.0/20", route_table="rtb-1"),
            ),
        ),
    )
    site.place(port(6), 2)
    await site.apply()
    guest, old = await site.guest(port(6)), site.hosts[0]
    with site.lan(lambda: _listen(81)):
        assert gets_out(guest)
        old.here(lambda: silence(old).keep())
        assert not gets_out(guest)
        old.here(lambda: silence(old).end())
        assert gets_out(guest)


async def test_what_is_missing_is_made_again(site: Site) -> None:
    host = site.hosts[0]
    await site.apply()

    def work() -> None:
        kept = silence(host)
        assert not kept.kept()
        kept.end()  # nothing to do
        kept.keep()
        assert kept.kept()
        run("nft", "flush", "ruleset")
        assert not kept.kept()
        kept.keep()
        assert kept.kept()
        assert run("nft", "list", "ruleset").stdout.count(" drop") == 3
        run("ip", "-6", "route", "add", "fd00:1::/56", "dev", "uplink", "metric", str(26000 + INDEX))
        kept.keep()
        assert run("nft", "list", "ruleset").stdout.count(" drop") == 4
        kept.lift(60)
        assert not kept.kept()
        kept.keep()
        assert kept.kept()
        kept.end()
        assert not kept.kept()

    host.here(work)


async def test_an_address_that_came_while_a_host_was_silent_is_announced_after_that(site: Site) -> None:
    host, one = site.hosts[0], port(5, public=True)
    await site.apply()
    host.here(lambda: silence(host).keep())
    said = site.lan(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)))
    with said:
        said.bind(("lan", 0x0806))
        said.setblocking(False)
        site.place(one, 1)
        await site.apply()
        await asyncio.sleep(1.5)
        assert not announced(said, one.public_ip)
        host.here(lambda: silence(host).lift(60))
        async with asyncio.timeout(60):
            while not announced(said, one.public_ip):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            # It is heard a moment before that is noted.
            while host.network._edge.unsaid:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def announced(said: socket.socket, address: str) -> bool:
    """Whether somebody has told of itself at the address since the last look (by ARP)."""
    found = False
    with contextlib.suppress(BlockingIOError):
        while True:
            found |= said.recv(100)[28:32] == socket.inet_aton(address)
    return found
