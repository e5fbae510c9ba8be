"""IPv6 between guests and the outside on several hosts: each answers for what it has."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess

import msgspec
import pytest

from gureum.hostspec import GroupSpec, NetworkSpec, PortSpec, RouteTableSpec, RuleSpec, SubnetSpec
from gureum.network.namespaces import visit
from gureum.network.silence import Silence

from .conftest import ALL_IN, ALL_OUT, TO_INTERNET, Guest, _connect, _listen, port, run, vpc
from .hosts import LAN, Site, configure6
from .test_network_outside6 import CLOUD6, IN6, OUT, OUT6, ROUTER6, SERVER6, whom

pytestmark = pytest.mark.root

TRIES = 5


class Six(Site):
    """``hidden``: nobody leads the cloud's networks to the hosts."""

    hidden = False

    def spec(self, host: int) -> NetworkSpec:
        return msgspec.structs.replace(
            super().spec(host), networks6=(CLOUD6,), hidden6=(CLOUD6,) if self.hidden else ()
        )


@pytest.fixture
async def lan(site: Site) -> Six:
    """The hosts' network has IPv6, with a router."""
    site.__class__ = Six
    assert isinstance(site, Six)
    for command in (f"address add {ROUTER6}/64 dev lan nodad", f"address add {SERVER6}/128 dev lo"):
        run("ip", "-n", LAN, "-6", *command.split())
    for host in site.hosts:
        own = f"2001:db8:0:1::{host.number}"
        run("ip", "-n", host.namespace, "-6", "address", "add", f"{own}/64", "dev", "uplink", "nodad")
        run("ip", "-n", host.namespace, "-6", "route", "add", "default", "via", ROUTER6)
    subnet = SubnetSpec(id="subnet-1", cidr="172.31.0.0/20", cidr6="fd00:1:0:1::/64", route_table="rtb-1")
    table = RouteTableSpec(id="rtb-1", number=1, routes=(TO_INTERNET, OUT))
    site.vpcs = (vpc(1, cidrs=("fd00:1::/56",), subnets=(subnet,), route_tables=(table,)),)
    site.groups = (GroupSpec(id="sg-1", rules=(ALL_OUT, ALL_IN, OUT6, IN6)),)
    return site


def six(number: int) -> PortSpec:
    return msgspec.structs.replace(port(number), ipv6=(f"fd00:1:0:1::{number:x}",))


def reaches(guest: Guest, address: str, number: int, tries: int = 1) -> bool:
    """``tries``: a guest's address that was added a moment ago is not in use at once."""
    for _ in range(tries):
        found = visit(guest.namespace, lambda: _connect(address, number, 1))
        if found is not None:
            found.close()
            return True
    return False


async def test_addresses_are_found_on_their_hosts_and_move_with_their_flows(lan: Six) -> None:
    run("ip", "-n", LAN, "-6", "route", "add", CLOUD6, "dev", "lan")
    one, two = lan.place(six(5), 1), lan.place(six(6), 2)
    await lan.apply()
    guests = [await lan.guest(each) for each in (one, two)]
    for each in guests:
        configure6(each)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(lan.lan(lambda: _listen(80, address=SERVER6)))
        assert reaches(guests[0], SERVER6, 80, TRIES)
        assert whom(server) == one.ipv6[0]
        outwards = visit(guests[0].namespace, lambda: _connect(SERVER6, 80, 2))
        assert outwards is not None
        stack.enter_context(outwards)
        accepted, address = server.accept()
        stack.enter_context(accepted)
        assert address[0] == one.ipv6[0]
        listeners = [
            stack.enter_context(visit(each.namespace, lambda: _listen(81, address="::"))) for each in guests
        ]
        inwards = lan.lan(lambda: _connect(one.ipv6[0], 81, 2))
        assert inwards is not None
        stack.enter_context(inwards)
        served_there = stack.enter_context(listeners[0].accept()[0])
        await lan.move(guests[0], 3)
        configure6(guests[0])
        for sender, receiver in ((accepted, outwards), (inwards, served_there)):
            sender.settimeout(5)
            receiver.settimeout(5)
            sender.sendall(b"x")
            assert receiver.recv(1) == b"x"
            receiver.sendall(b"y")
            assert sender.recv(1) == b"y"
        again = lan.lan(lambda: _connect(two.ipv6[0], 81, 2))
        assert again is not None
        again.close()


async def test_a_host_of_which_only_the_kernel_lives_answers_no_neighbour_discovery(lan: Six) -> None:
    """But for its own addresses."""
    run("ip", "-n", LAN, "-6", "route", "add", CLOUD6, "dev", "lan")
    host, one = lan.hosts[0], lan.place(six(5), 1)
    await lan.apply()
    inside = await lan.guest(one)
    configure6(inside)

    def found(address: str) -> bool:
        run("ip", "-n", LAN, "neighbour", "flush", "dev", "lan")
        return lan.lan(lambda: _ping(address))

    with visit(inside.namespace, lambda: _listen(81, address="::")):
        silence = Silence(host.network._names.place("uplink"))
        host.here(lambda: silence.lift(60))
        assert any(found(one.ipv6[0]) for _ in range(TRIES))
        host.here(lambda: silence.lift(0.5))
        async with asyncio.timeout(60):
            while not host.here(silence.kept):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        run("ip", "-n", LAN, "neighbour", "flush", "dev", "lan")
        lan.lan(lambda: _ping(one.ipv6[0]))
        assert "lladdr" not in neighbour(one.ipv6[0])
        assert found("2001:db8:0:1::1")
        assert "lladdr" in neighbour("2001:db8:0:1::1")
        host.here(lambda: silence.lift(60))
        assert any(found(one.ipv6[0]) for _ in range(TRIES))


def _ping(address: str) -> bool:
    return not subprocess.run(
        ["ping", "-6", "-c1", "-W2", address], capture_output=True, check=False
    ).returncode


def neighbour(address: str) -> str:
    """What the router has learned of it."""
    return run("ip", "-n", LAN, "neighbour", "show", address, "dev", "lan").stdout


async def test_hosts_are_safe_from_guests_of_others(lan: Six) -> None:
    """Whether their packets come with addresses of their own, or with their host's."""
    run("ip", "-n", LAN, "-6", "route", "add", CLOUD6, "dev", "lan")
    lan.place(six(5), 1)
    for hidden in (False, True):
        lan.hidden = hidden
        await lan.apply()
        if not lan.guests:
            configure6(await lan.guest(lan.ports["eni-15"][0]))
        inside = lan.guests[0]
        with lan.lan(lambda: _listen(80, address=SERVER6)):
            assert reaches(inside, SERVER6, 80, TRIES)
        with (
            lan.hosts[1].here(lambda: _listen(8080, address="::")),
            lan.hosts[0].here(lambda: _listen(8080, address="::")),
        ):
            there = lan.lan(lambda: _connect("2001:db8:0:1::2", 8080, 2))
            assert there is not None
            there.close()
            for number in (1, 2):
                assert not reaches(inside, f"2001:db8:0:1::{number}", 8080)


async def test_hidden_guests_have_the_address_of_their_host(lan: Six) -> None:
    lan.hidden = True
    ports = [lan.place(six(4 + number), number) for number in (1, 2)]
    await lan.apply()
    for number, each in enumerate(ports, 1):
        inside = await lan.guest(each)
        configure6(inside)
        with lan.lan(lambda: _listen(80, address=SERVER6)) as server:
            assert reaches(inside, SERVER6, 80, TRIES)
            assert whom(server) == f"2001:db8:0:1::{number}"


async def test_between_hosts_groups_decide_as_ever(lan: Six) -> None:
    one, two = lan.place(six(5), 1), lan.place(six(6), 2)
    web = RuleSpec(protocol="tcp", from_port=80, to_port=80, cidr="fd00:1:0:1::5/128")
    lan.groups = (GroupSpec(id="sg-1", rules=(OUT6, web)),)
    await lan.apply()
    a, b = await lan.guest(one), await lan.guest(two)
    for each in (a, b):
        configure6(each)
    with (
        visit(b.namespace, lambda: _listen(80, address="::")),
        visit(a.namespace, lambda: _listen(80, address="::")),
    ):
        assert reaches(a, two.ipv6[0], 80, TRIES)
        assert not reaches(b, one.ipv6[0], 80)
