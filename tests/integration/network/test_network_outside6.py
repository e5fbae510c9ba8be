"""IPv6 between guests and the outside with real packets: behind the host's address, or led to it."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gureum.hostspec import (
    AclEntrySpec,
    AclSpec,
    FlowLogSpec,
    GroupSpec,
    NetworkSpec,
    PortSpec,
    RouteKind,
    RouteSpec,
    RouteTableSpec,
    RuleSpec,
    SubnetSpec,
)
from gureum.network import namespaces, outside6
from gureum.network.namespaces import visit

from .conftest import (
    ALL_IN,
    ALL_OUT,
    INDEX,
    INTERNET,
    Guest,
    Rig,
    _connect,
    _listen,
    _reaches,
    run,
    spec,
    vpc,
)
from .test_network_ipv6 import IN6, OUT6, ROUTER, ROUTER_MAC, datagram, listen, pings, six
from .test_network_ipv6 import guest as plugged
from .test_network_security import ethernet

pytestmark = pytest.mark.root

SERVER6, HOST6, ROUTER6 = "2001:db8:9::9", "2001:db8:0:1::1", "2001:db8:0:1::fe"
CLOUD6 = "fd00::/16"
ONE, TWO = RouteTableSpec(id="rtb-1", number=1), RouteTableSpec(id="rtb-2", number=2)
OUT = RouteSpec(destination="::/0", kind=RouteKind.internet)
ONLY_OUT = RouteSpec(destination="::/0", kind=RouteKind.egress)


@pytest.fixture
def outside(host: None) -> Iterator[None]:
    """The host and the Internet have IPv6. In the Internet it is known where the cloud is."""
    for command in (
        f"address add {HOST6}/64 dev eth0 nodad",
        f"route add default via {ROUTER6}",
    ):
        run("ip", "-6", *command.split())
    for command in (
        f"address add {ROUTER6}/64 dev eth0 nodad",
        f"address add {SERVER6}/128 dev lo",
        f"route add fd00:1::/48 via {HOST6}",
    ):
        run("ip", "-n", INTERNET, "-6", *command.split())
    # What is new has to be learned first.
    assert run("busybox", "ping", "-6", "-c3", "-W1", SERVER6).returncode == 0
    return


@pytest.fixture
async def world(outside: None, rig: Rig) -> Rig:
    return rig


def cloud(
    *ports: PortSpec,
    first: tuple[RouteSpec, ...] = (OUT,),
    second: tuple[RouteSpec, ...] = (ONLY_OUT,),
    hidden: bool = True,
    rules: tuple[RuleSpec, ...] = (OUT6, IN6),
    acl: tuple[AclEntrySpec, ...] = (),
    **fields: object,
) -> NetworkSpec:
    """``first`` are the routes of subnet-1, ``second`` those of subnet-2."""
    subnets = tuple(
        SubnetSpec(
            id=f"subnet-{number}",
            cidr=f"172.31.{16 * (number - 1)}.0/20",
            cidr6=f"fd00:1:0:{number}::/64",
            route_table=f"rtb-{number}",
            acl="acl-1" if acl else "",
        )
        for number in (1, 2)
    )
    tables = tuple(
        msgspec.structs.replace(table, routes=routes) for table, routes in ((ONE, first), (TWO, second))
    )
    network = vpc(
        1,
        subnets=subnets,
        cidrs=("fd00:1::/56",),
        route_tables=tables,
        acls=(AclSpec(id="acl-1", entries=acl),),
    )
    return spec(
        *ports,
        **{
            "vpcs": (network,),
            "groups": (GroupSpec(id="sg-1", rules=rules), GroupSpec(id="sg-2", rules=(OUT6,))),
            "networks6": (CLOUD6,),
            "hidden6": (CLOUD6,) if hidden else (),
            **fields,
        },
    )


async def guest(rig: Rig, port: PortSpec) -> Guest:
    """Once it knows its router: a link that came up a moment ago may still lose frames."""
    found = await plugged(rig, port)
    for _ in range(20):
        await rig.call(pings, found, "fd00:1::1")
        shown = found.run("ip", "-6", "neighbour", "show", ROUTER, "dev", "eth0").stdout
        if ROUTER_MAC in shown:
            return found
    raise AssertionError(shown)


def serving(rig: Rig, number: int) -> socket.socket:
    """A server in the Internet."""
    return rig.internet(lambda: _listen(number, address=SERVER6))


def whom(server: socket.socket) -> str:
    """Whom it sees."""
    connection, address = server.accept()
    connection.close()
    return str(address[0])


def from_outside(rig: Rig, address: str, number: int) -> bool:
    return rig.internet(lambda: _reaches(address, number))


async def test_guests_go_out_with_the_hosts_address(world: Rig) -> None:
    one, two = six(5), six(105)
    await world.network.apply(cloud(one, two))
    for each in (one, two):
        inside = await guest(world, each)
        with serving(world, 80) as server:
            assert await world.call(inside.reaches, SERVER6, 80)
            assert whom(server) == HOST6
        assert await world.call(pings, inside, SERVER6)


async def test_what_is_led_to_the_host_is_not_hidden(world: Rig) -> None:
    one = six(5)
    await world.network.apply(cloud(one, hidden=False))
    inside = await guest(world, one)
    with serving(world, 80) as server:
        assert await world.call(inside.reaches, SERVER6, 80)
        assert whom(server) == one.ipv6[0]


@pytest.mark.parametrize("hidden", [True, False])
async def test_what_comes_in_is_asked_groups_and_routes(world: Rig, hidden: bool) -> None:
    open_, closed, only_out = six(5), six(6, groups=("sg-2",)), six(105)
    await world.network.apply(cloud(open_, closed, only_out, hidden=hidden))
    guests = [await guest(world, each) for each in (open_, closed, only_out)]
    with contextlib.ExitStack() as stack:
        for each in guests:
            stack.enter_context(listen(each, 80))
        came = [await world.call(from_outside, world, each.port.ipv6[0], 80) for each in guests]
        assert came == [True, False, False]
        # The machine is outside, too.
        came = [await world.call(_reaches, each.port.ipv6[0], 80) for each in guests]
        assert came == [True, False, False]
        # Another route, and it does.
        await world.network.apply(cloud(open_, closed, only_out, second=(OUT,), hidden=hidden))
        assert await world.call(from_outside, world, only_out.ipv6[0], 80)
        # From there answers would go by the other gateway.
        back = RouteSpec(destination="2001:db8:0:1::/64", kind=RouteKind.egress)
        await world.network.apply(cloud(open_, closed, only_out, first=(OUT, back), hidden=hidden))
        assert not await world.call(from_outside, world, open_.ipv6[0], 80)


async def test_acls_and_egress_rules_decide(world: Rig) -> None:
    one = six(5)
    web = RuleSpec(egress=True, protocol="tcp", from_port=80, to_port=81, cidr="2001:db8::/32")
    deny = AclEntrySpec(
        number=10, egress=True, protocol="6", from_port=81, to_port=81, allow=False, cidr="::/0"
    )
    both = tuple(AclEntrySpec(number=20, egress=way, cidr="::/0") for way in (False, True))
    await world.network.apply(cloud(one, rules=(web,), acl=(deny, *both)))
    inside = await guest(world, one)
    with serving(world, 80), serving(world, 81), serving(world, 82):
        assert [await world.call(inside.reaches, SERVER6, n) for n in (80, 81, 82)] == [True, False, False]
        # ACLs are asked of answers, too.
        await world.network.apply(cloud(one, rules=(web,), acl=both[1:]))
        assert not await world.call(inside.reaches, SERVER6, 80)


async def test_hosts_and_other_vpcs_are_safe(world: Rig) -> None:
    one, free = six(5), six(6, source_dest_check=False)
    await world.network.apply(cloud(one, free))
    inside, router = await guest(world, one), await guest(world, free)
    link = f"fd67:75:1:{INDEX:x}::1:1"
    with socket.socket(socket.AF_INET6) as server:
        server.bind(("::", 8080))
        server.listen(8)
        assert _reaches(HOST6, 8080)
        assert _reaches(link, 8080)
        for address in (HOST6, link):
            assert not await world.call(inside.reaches, address, 8080)
            assert not await world.call(pings, inside, address)
    # What forwards for others gets nothing out with addresses that are not the VPC's.
    with world.internet(_datagrams) as sock:
        for source in (free.ipv6[0], "2001:db8:7::7", "fd00:2::7"):
            frame = datagram(source, SERVER6, 4000, source.encode())
            router.send_raw(ethernet(free.mac, 0x86DD, frame, ROUTER_MAC))
        assert sock.recv(100) == free.ipv6[0].encode()
        with pytest.raises(TimeoutError):
            sock.recv(100)


def _datagrams() -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind((SERVER6, 4000))
    sock.settimeout(0.5)
    return sock


async def test_two_vpcs_meet_outside(world: Rig) -> None:
    one = six(5)
    two = six(
        6, id="eni-26", vpc="vpc-2", subnet="subnet-1", private_ip="172.31.0.6", ipv6=("fd00:1:0:200::6",)
    )
    current = cloud(one)
    other = msgspec.structs.replace(
        current.vpcs[0],
        id="vpc-2",
        network_id=2,
        cidrs=("fd00:1:0:200::/56",),
        subnets=(
            SubnetSpec(id="subnet-1", cidr="172.31.0.0/20", cidr6="fd00:1:0:200::/64", route_table="rtb-1"),
        ),
    )
    vpcs = (*current.vpcs, other)
    await world.network.apply(cloud(one, two, vpcs=vpcs))
    a, b = await guest(world, one), await guest(world, two)
    with listen(b, 80) as server:
        assert await world.call(a.reaches, two.ipv6[0], 80)
        assert whom(server) == one.ipv6[0]
    closed = msgspec.structs.replace(other, route_tables=(ONE,))
    await world.network.apply(cloud(one, two, vpcs=(*current.vpcs, closed)))
    assert not await world.call(a.reaches, two.ipv6[0], 80)


async def test_a_host_without_a_way_says_so_at_once(world: Rig, caplog: pytest.LogCaptureFixture) -> None:
    run("ip", "-6", "route", "delete", "default")
    one, two = six(5), six(6)
    with caplog.at_level(logging.WARNING):
        await world.network.apply(cloud(one))
        await world.network.apply(cloud(one, two))
    assert sum("no default route of IPv6" in record.message for record in caplog.records) == 1
    inside = await guest(world, one)

    def error() -> int | None:
        with socket.socket(socket.AF_INET6) as sock:
            sock.settimeout(2)
            try:
                sock.connect((SERVER6, 80))
            except TimeoutError:
                return None
            except OSError as error:
                return error.errno
        return 0

    assert await world.call(visit, inside.namespace, error) in (101, 113)
    # Inside of the cloud, and from the machine, all is well.
    with listen(inside, 80):
        assert await world.call(_reaches, one.ipv6[0], 80)


async def test_a_kernel_without_ipv6_has_the_rest(
    world: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(namespaces, "has_ipv6", lambda: False)
    one, two = six(5), six(6)
    rules = (ALL_IN, ALL_OUT, IN6, OUT6)
    with caplog.at_level(logging.WARNING):
        await world.network.apply(cloud(one, rules=rules))
        await world.network.apply(cloud(one, two, rules=rules))
    assert sum("has no IPv6" in record.message for record in caplog.records) == 1
    a, b = [await world.guest(each) for each in (one, two)]
    assert await world.call(a.pings, b.ip)
    assert "fd00:1" not in run("ip", "-n", f"gm{INDEX}-1", "-6", "route", "show").stdout


async def test_flows_outlive_the_agent(world: Rig) -> None:
    one = six(105)
    await world.network.apply(cloud(one))
    inside = await guest(world, one)
    with serving(world, 80) as server:
        connection = await world.call(visit, inside.namespace, lambda: _connect(SERVER6, 80, 3))
        assert connection is not None
        accepted, _ = server.accept()
        with connection, accepted:
            await world.network.close()
            world.network = world.make_network()
            await world.network.apply(cloud(one))
            accepted.sendall(b"x")
            assert connection.recv(1) == b"x"
            # An address that goes takes its flows along, and its way.
            await world.network.apply(cloud(msgspec.structs.replace(one, ipv6=())))
            found = run("ip", "-6", "route", "show").stdout
            assert one.ipv6[0] not in found
    await world.network.apply(NetworkSpec())
    assert f"gu{INDEX}-1" not in run("ip", "-6", "route", "show").stdout
    await world.network.teardown()
    assert CLOUD6 not in run("ip", "-6", "route", "show").stdout


async def test_a_host_keeps_taking_router_advertisements(world: Rig) -> None:
    settings = Path("/proc/sys/net/ipv6/conf")
    (settings / "eth0/accept_ra").write_text("1")
    one = six(5)
    nowhere = cloud(one, first=(), second=())
    await world.network.apply(nowhere)
    assert (settings / "all/forwarding").read_text() == "0\n"
    assert not outside6.led(world.network._names)
    await world.network.apply(cloud(one))
    assert (settings / "all/forwarding").read_text() == "1\n"
    assert (settings / "eth0/accept_ra").read_text() == "2\n"


async def test_routes_that_come_and_go(world: Rig) -> None:
    one = six(5)
    await world.network.apply(cloud(one, first=(), second=()))
    inside = await guest(world, one)
    with serving(world, 80):
        for routes, there in (((OUT,), True), ((), False), ((ONLY_OUT,), True), ((OUT,), True)):
            await world.network.apply(cloud(one, first=routes, second=()))
            assert await world.call(inside.reaches, SERVER6, 80) is there


async def test_flow_logs_have_it(world: Rig) -> None:
    one = six(5)
    log = FlowLogSpec(id="fl-1", account="1", ports=(one.id,), traffic="ALL", interval_seconds=600)
    https = RuleSpec(protocol="tcp", from_port=443, to_port=443, cidr="::/0")
    await world.network.apply(cloud(one, rules=(OUT6, https), flow_logs=(log,)))
    inside = await guest(world, one)
    with serving(world, 80):
        assert await world.call(inside.reaches, SERVER6, 80)
    assert not await world.call(from_outside, world, one.ipv6[0], 81)
    counted = world.network._vpcs[1].take_flows().flows
    ways = {(flow.egress, flow.accepted) for flow in counted if flow.target_port == 80}
    assert ways == {(True, True)}
    ways = {(flow.egress, flow.accepted) for flow in counted if flow.target_port == 81}
    assert ways == {(False, False)}
