"""A host that is kept silent answers for nothing of its cloud, whatever its kernel still has of it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gureum.hostspec import PortKind, PortSpec, RouteKind, RouteSpec, RouteTableSpec, SubnetSpec
from gureum.network.namespaces import visit, write_sysctl
from gureum.network.silence import Silence

from .conftest import Guest, _connect, _listen, port, run, vpc
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
        assert old.here(lambda: silence(old).keep(False)) is False
        assert not reached(site, one)
        assert run("ip", "netns", "exec", LAN, "ping", "-c1", "-W2", old.address)
        # Its agent, that knows no better yet, builds its network anew.
        await old.network.close()
        old.start()
        await old.network.apply(site.spec(1))
        assert not reached(site, one)
        old.here(lambda: silence(old).end(False))
        assert reached(site, one)
    old.here(lambda: silence(old).keep(False))
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
        host.here(lambda: silence(host).lift(False, 60))
        assert not host.here(lambda: silence(host).kept())
        assert reached(site, one)
        host.here(lambda: silence(host).lift(False, 0.5))
        async with asyncio.timeout(30):
            while not host.here(lambda: silence(host).kept()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not reached(site, one)
        host.here(lambda: silence(host).lift(False, 60))
        assert reached(site, one)


async def test_filters_are_of_the_place_that_is_asked_for(site: Site) -> None:
    host = site.hosts[0]
    site.place(port(5, public=True), 1)
    await site.apply()

    def work() -> None:
        place = host.network._names.place("uplink")
        Silence(place._replace(uplink="before", public="10.9.0.0/16")).keep(False)
        Silence(place).keep(False)
        rules = run("nft", "list", "ruleset").stdout
        assert '"before"' not in rules
        assert "10.9." not in rules
        Silence(place).leave(False)  # there are devices of the cloud
        assert Silence(place).kept()
        Silence(place._replace(devices="none-")).leave(False)
        assert not Silence(place).kept()
        Silence(place).keep(False)
        Silence(place._replace(uplink="")).lift(False, 60)  # an only host, now
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
        old.here(lambda: silence(old).keep(False))
        assert not gets_out(guest)
        old.here(lambda: silence(old).end(False))
        assert gets_out(guest)


async def test_what_it_was_is_remembered_and_what_is_missing_made_again(site: Site) -> None:
    host = site.hosts[0]
    await site.apply()
    proxy = "ipv6/conf/uplink/proxy_ndp"

    def work() -> None:
        kept = silence(host)
        assert not kept.kept()
        kept.end(False)  # nothing to do
        write_sysctl(proxy, "1")
        assert kept.keep(False) is True
        assert kept.keep(True) is True
        assert run("sysctl", "-n", f"net.{proxy.replace('/', '.')}").stdout.strip() == "0"
        assert kept.kept()
        run("nft", "flush", "ruleset")
        assert not kept.kept()
        kept.keep(True)
        assert kept.kept()
        assert run("nft", "list", "ruleset").stdout.count(" drop") == 3
        kept.lift(False, 60)
        assert not kept.kept()
        kept.keep(True)
        assert kept.kept()
        kept.end(True)
        assert run("sysctl", "-n", f"net.{proxy.replace('/', '.')}").stdout.strip() == "1"
        assert not kept.kept()

    host.here(work)
