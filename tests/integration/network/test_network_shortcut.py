"""The short way of established flows: taken by their packets only, never past what the filter says."""

from __future__ import annotations

import asyncio
import errno
import platform
import re
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from gureum.env import Env
from gureum.hostspec import AclEntrySpec, AclSpec, FlowLogSpec, NetworkSpec, PortSpec, SubnetSpec
from gureum.network import bpf, conntrack
from gureum.network.kernel import KernelNetwork
from gureum.network.names import VXLAN, tap_name
from gureum.network.namespaces import visit, write_sysctl

from .conftest import CLOSED, INDEX, OPEN, Guest, Rig, port, run, spec, vpc
from .hosts import Site, connect
from .packets import IP, IP6, UDP, ethernet, ipv4, ipv6, udp, udp6
from .test_network_ipv6 import clouds, six
from .test_network_ipv6 import guest as six_guest

pytestmark = pytest.mark.root

VPC = f"gm{INDEX}-1"
PROBE = """
table inet probe {
    counter long { }
    chain long { type filter hook prerouting priority -400; policy accept; counter name long; }
}
"""
"""Counts what comes to a VPC's filter."""
MANY = 200
DATA = b"of twelve bytes, or more"
SOURCE, TARGET = 4000, 5000


def watch(namespace: str = VPC) -> None:
    visit(namespace, lambda: run("nft", PROBE.strip()))


def went_long(namespace: str = VPC) -> int:
    return count(namespace, "inet probe long")


def count(namespace: str, counter: str) -> int:
    text = visit(namespace, lambda: run("nft", "list", "counter", *counter.split()).stdout)
    return int(re.findall(r"packets (\d+)", text)[0])


def ask_often(one: socket.socket, other: socket.socket, times: int = MANY) -> None:
    """Each waits for the other, so there are as many packets as messages, at least."""
    for sock in (one, other):
        sock.settimeout(5)
    for _ in range(times):
        one.sendall(DATA)
        assert other.recv(99) == DATA
        other.sendall(DATA)
        assert one.recv(99) == DATA


def datagrams(one: Guest, other: Guest) -> tuple[socket.socket, socket.socket]:
    """Sockets that are each other's peers, with a flow between them that is noted."""

    def bind(guest: Guest, number: int, peer: Guest, peer_number: int) -> socket.socket:
        def work() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("", number))
            sock.connect((peer.ip, peer_number))
            return sock

        return visit(guest.namespace, work)

    pair = bind(one, SOURCE, other, TARGET), bind(other, TARGET, one, SOURCE)
    ask_often(*pair, times=3)
    return pair


def frame(one: Guest, other: Guest, data: bytes = DATA, mac: str = "", life: int = 64) -> bytes:
    """A packet of the flow of ``datagrams``, made by hand."""
    packet = bytearray(ipv4(one.ip, other.ip, UDP, udp(SOURCE, TARGET, data)))
    packet[8] = life
    # One's complement: what the byte lost the checksum has more.
    total = int.from_bytes(packet[10:12], "big") + ((64 - life) << 8)
    packet[10:12] = ((total & 0xFFFF) + (total >> 16)).to_bytes(2, "big")
    return ethernet(mac or one.port.mac, IP, bytes(packet))


def found(sniffer: socket.socket, data: bytes) -> bytes | None:
    """The first frame with this in it, within half a second."""
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        try:
            got = sniffer.recv(4096)
        except TimeoutError:
            return None
        if data in got:
            return got
    return None


async def pair(rig: Rig, current: NetworkSpec | None = None) -> tuple[Guest, Guest]:
    await rig.network.apply(current or spec(port(5), port(6)))
    watch()
    return await rig.guest(port(5)), await rig.guest(port(6))


async def settled() -> None:
    """Notes of before a change are void, and what passes a moment later, too."""
    await asyncio.sleep(0.1)


async def test_established_flows_go_past_the_filter(rig: Rig) -> None:
    a, b = await pair(rig)
    await settled()
    connection, accepted = await rig.call(connect, a, b, 80)
    with connection, accepted:
        before = went_long()
        await rig.call(ask_often, connection, accepted)
        assert went_long() - before < MANY / 2
        # A change that has nothing to do with it: for a moment all go the long way, and none is lost.
        await rig.network.apply(spec(port(5), port(6), port(7)))
        await rig.call(ask_often, connection, accepted)
        await settled()
        before = went_long()
        await rig.call(ask_often, connection, accepted)
        assert went_long() - before < MANY / 2


async def test_an_idle_connection_is_not_forgotten(rig: Rig) -> None:
    """Connection tracking sees what the server sends first, and not that it is acknowledged: that goes the
    way of the handshake's last packet.
    """
    a, b = await pair(rig)
    await settled()
    connection, accepted = await rig.call(connect, a, b, 80)
    with connection, accepted:
        accepted.sendall(DATA)
        assert await rig.call(connection.recv, 99) == DATA
        await asyncio.sleep(0.2)
        tracked = visit(VPC, lambda: list(conntrack.flows_of([a.ip])))
        seconds = [int.from_bytes(flow[7], "big") for _, flow in tracked]
        assert len(seconds) == 1
        assert seconds[0] > 24 * 3600


async def test_connections_that_end_are_forgotten(rig: Rig) -> None:
    def lives() -> list[int]:
        tracked = visit(VPC, lambda: list(conntrack.flows_of([a.ip])))
        return [int.from_bytes(flow[7], "big") for _, flow in tracked]

    a, b = await pair(rig)
    await settled()
    connection, accepted = await rig.call(connect, a, b, 80)
    with connection, accepted:
        await rig.call(ask_often, connection, accepted)
    await asyncio.sleep(0.2)
    assert max(lives()) < 600
    # By a reset, too.
    visit(VPC, lambda: conntrack.forget_flows([a.ip]))
    connection, accepted = await rig.call(connect, a, b, 81)
    with connection, accepted:
        await rig.call(ask_often, connection, accepted)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        with pytest.raises(ConnectionResetError):
            await rig.call(accepted.recv, 99)
        assert max(lives()) < 600


async def test_an_agent_that_begins_anew(rig: Rig) -> None:
    current = spec(port(5), port(6))
    a, b = await pair(rig, current)
    connection, accepted = await rig.call(connect, a, b, 80)
    with connection, accepted:
        await rig.call(ask_often, connection, accepted)
        await rig.network.close()
        await rig.call(ask_often, connection, accepted)
        rig.network = rig.make_network()
        await rig.network.apply(current)
        watch()
        await settled()
        await rig.call(ask_often, connection, accepted, 3)
        before = went_long()
        await rig.call(ask_often, connection, accepted)
        assert went_long() - before < MANY / 2


async def test_between_hosts(site: Site) -> None:
    one, other = site.place(port(5), 1), site.place(port(6), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(other)
    spaces = [host.vpc_namespace(1) for host in site.hosts[:2]]
    for namespace in spaces:
        watch(namespace)
    await settled()
    connection, accepted = await asyncio.to_thread(connect, a, b, 80)
    with connection, accepted:
        await asyncio.to_thread(ask_often, connection, accepted, 3)
        before = [went_long(namespace) for namespace in spaces]
        await asyncio.to_thread(ask_often, connection, accepted)
        after = [went_long(namespace) for namespace in spaces]
        assert all(late - early < MANY / 2 for early, late in zip(before, after, strict=True))
        # Where the guest is now, its flow is noted anew; where it was, nothing is left of it.
        await site.move(b, 3)
        await asyncio.to_thread(ask_often, connection, accepted)


async def cable(rig: Rig, port: PortSpec) -> Guest:
    """A guest at the end of a veth, which stands in the place of the port's tap, as a NAT gateway's does."""
    guest, tap = await rig.guest(port, configure=False), tap_name(port.id)
    guest.unplug()
    guest.run("ip", "link", "delete", "eth0")

    def plug() -> None:
        run("ip", "link", "delete", tap)
        run("ip", "link", "add", tap, "type", "veth", "peer", "name", "eth0", "netns", guest.namespace)
        write_sysctl(f"ipv4/conf/{tap}/proxy_arp", "1")
        write_sysctl(f"ipv4/neigh/{tap}/proxy_delay", "0")

    visit(VPC, plug)
    guest.run("ip", "link", "set", "eth0", "address", port.mac, "up")
    return guest


def sent(device: str) -> int:
    """Packets."""
    lines = visit(VPC, lambda: Path("/proc/thread-self/net/dev").read_text().splitlines())
    return next(int(line.split()[10]) for line in lines if line.strip().startswith(f"{device}:"))


async def test_through_a_cable_to_its_other_end(rig: Rig) -> None:
    current = spec(port(5), port(6), port(7))
    await rig.network.apply(current)
    a, b, c = await cable(rig, port(5)), await cable(rig, port(6)), await rig.guest(port(7))
    await rig.network.close()
    rig.network = rig.make_network()
    await rig.network.apply(current)
    for guest in (a, b):
        await rig.call(guest.configure, "172.31.0.1")
    watch()
    await settled()
    connection, accepted = await rig.call(connect, a, b, 80)
    with connection, accepted:
        await rig.call(ask_often, connection, accepted, 3)
        before = went_long(), sent(tap_name(b.port.id))
        await rig.call(ask_often, connection, accepted)
        assert went_long() - before[0] < MANY / 2
        assert sent(tap_name(b.port.id)) - before[1] < MANY / 2
        await rig.network.apply(spec(port(5), port(6), port(7), port(8)))
        await rig.call(ask_often, connection, accepted)
    await settled()
    # To a tap there is no such way, from one there is.
    for one, other in ((b, c), (c, a)):
        connection, accepted = await rig.call(connect, one, other, 81)
        with connection, accepted:
            await rig.call(ask_often, connection, accepted, 3)
            began = went_long()
            await rig.call(ask_often, connection, accepted)
            assert went_long() - began < MANY / 2
    one, other = await rig.call(datagrams, a, b)
    with one, other, b.sniff() as sniffer:
        await rig.call(a.send_raw, frame(a, b, b"honest, and long enough"))
        got = await rig.call(found, sniffer, b"honest")
        assert got is not None
        assert (got[:6].hex(":"), got[6:12].hex(":")) == (b.port.mac, "02:67:75:72:75:6d")
        await rig.call(a.send_raw, frame(a, b, b"another Ethernet address", mac="06:00:00:00:01:77"))
        assert await rig.call(found, sniffer, b"another") is None


@pytest.mark.skipif(
    tuple(map(int, platform.release().split(".")[:2])) < (6, 6), reason="the kernel has no such places"
)
async def test_places_at_the_carrier(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new agent's programs are in the place of the old one's, whatever kind of place either knows."""
    attach = bpf.attach

    def before_linux_6_6(device: int, way: int, programs: Sequence[int]) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    def places() -> tuple[list[int], bool]:
        """How many programs are there, of one kind, and whether there are some of the other."""
        index = socket.if_nametoindex(VXLAN)
        kinds = [len(bpf._attached(index, kind)) for kind in bpf._ATTACH_TYPES.values()]
        return kinds, "clsact" in run("tc", "qdisc", "show", "dev", VXLAN).stdout

    one, other = site.place(port(5), 1), site.place(port(6), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(other)
    spaces = [host.vpc_namespace(1) for host in site.hosts[:2]]
    for namespace in spaces:
        watch(namespace)
    connection, accepted = await asyncio.to_thread(connect, a, b, 80)
    with connection, accepted:
        for namespace in spaces:
            assert visit(namespace, places) == ([1, 1], False)
            visit(namespace, unattach)
        for there, wanted in (
            (before_linux_6_6, ([0, 0], True)),
            (attach, ([1, 1], False)),
            (attach, ([1, 1], False)),
        ):
            monkeypatch.setattr(bpf, "attach", there)
            await site.restart()
            await settled()
            assert [visit(namespace, places) for namespace in spaces] == [wanted, wanted]
            await asyncio.to_thread(ask_often, connection, accepted, 3)
            before = [went_long(namespace) for namespace in spaces]
            await asyncio.to_thread(ask_often, connection, accepted)
            after = [went_long(namespace) for namespace in spaces]
            assert all(late - early < MANY / 2 for early, late in zip(before, after, strict=True))


def unattach() -> None:
    for way in bpf._ATTACH_TYPES:
        bpf.attach(socket.if_nametoindex(VXLAN), way, [])


async def test_only_the_sender_itself(rig: Rig) -> None:
    a, b = await pair(rig)
    await settled()
    one, other = await rig.call(datagrams, a, b)
    with one, other, b.sniff() as sniffer:
        before = went_long(), count(VPC, "netdev gureum spoofed")
        await rig.call(a.send_raw, frame(a, b, b"honest, and long enough"))
        assert await rig.call(found, sniffer, b"honest")
        assert went_long() == before[0]
        await rig.call(a.send_raw, frame(a, b, b"another Ethernet address", mac="06:00:00:00:01:77"))
        assert await rig.call(found, sniffer, b"another") is None
        assert count(VPC, "netdev gureum spoofed") > before[1]


async def test_a_neighbour_with_the_same_addresses(rig: Rig) -> None:
    await rig.network.apply(spec(port(5), port(6), port(7)))
    a, b, c = await rig.guest(port(5)), await rig.guest(port(6)), await rig.guest(port(7))
    await settled()
    one, other = await rig.call(datagrams, a, b)
    with one, other, b.sniff() as sniffer:
        await rig.call(c.send_raw, frame(a, b, b"not from there, really", mac=c.port.mac))
        await rig.call(c.send_raw, frame(a, b, b"not from there, really"))
        assert await rig.call(found, sniffer, b"not from there") is None


async def test_what_the_router_does_is_done(rig: Rig) -> None:
    a, b = await pair(rig)
    await settled()
    one, other = await rig.call(datagrams, a, b)
    with one, other, b.sniff() as sniffer, a.sniff() as answers:
        before = went_long()
        await rig.call(a.send_raw, frame(a, b, b"five routers left to pass", life=5))
        got = await rig.call(found, sniffer, b"five routers")
        assert got is not None
        assert went_long() == before
        assert (got[:6].hex(":"), got[6:12].hex(":")) == (b.port.mac, "02:67:75:72:75:6d")
        assert got[14:34] == frame(a, b, b"five routers left to pass", life=4)[14:34]
        # Its life ends here, and the router says so.
        await rig.call(a.send_raw, frame(a, b, b"this is the last router", life=1))
        assert await rig.call(found, sniffer, b"this is the last") is None
        assert await rig.call(found, answers, b"\x0b\x00")
        # It does not fit through the other device: the router cuts it.
        a.run("ip", "link", "set", "eth0", "mtu", "3000")
        await rig.call(a.send_raw, frame(a, b, b"too long" * 250))
        got = await rig.call(found, sniffer, b"too long")
        assert got is not None
        assert len(got) <= 1514
        assert got[20] & 0x20


async def test_an_acl_that_changes_ends_what_was_noted(rig: Rig) -> None:
    def guarded(*refused: AclEntrySpec) -> NetworkSpec:
        entries = (*refused, *(AclEntrySpec(number=9, cidr="0.0.0.0/0", egress=way) for way in (False, True)))
        subnets = tuple(
            SubnetSpec(id=f"subnet-{n}", cidr=f"172.31.{16 * n - 16}.0/20", route_table="rtb-1", acl="acl-1")
            for n in (1, 2)
        )
        far = msgspec.structs.replace(port(6), subnet="subnet-2", private_ip="172.31.16.6")
        return spec(
            port(5), far, vpcs=(vpc(1, subnets=subnets, acls=(AclSpec(id="acl-1", entries=entries),)),)
        )

    await rig.network.apply(guarded())
    a = await rig.guest(port(5))
    b = await rig.guest(guarded().ports[1], configure=False)
    await rig.call(b.configure, "172.31.16.1")
    await settled()
    one, other = await rig.call(datagrams, a, b)
    with one, other:
        await rig.call(ask_often, one, other)
        await rig.network.apply(
            guarded(
                AclEntrySpec(
                    number=1, cidr=f"{a.ip}/32", protocol="17", from_port=1, to_port=65535, allow=False
                )
            )
        )
        other.settimeout(0.5)
        one.sendall(DATA)
        with pytest.raises(TimeoutError):
            await rig.call(other.recv, 99)
        await rig.network.apply(guarded())
        await rig.call(ask_often, one, other)


async def test_logged_flows_are_counted_packet_by_packet(rig: Rig, tmp_path: Path) -> None:
    rig.network = KernelNetwork(
        Env(), f"cloud-{INDEX}", INDEX, rig.run_dir, metadata=lambda id: None, flow_logs=tmp_path
    )
    log = FlowLogSpec(id="fl-1", account="1", ports=("eni-15",), traffic="ALL", interval_seconds=3600)
    current = spec(port(5), port(6))
    a, b = await pair(rig, current)
    await settled()
    one, other = await rig.call(datagrams, a, b)
    with one, other:
        await rig.call(ask_often, one, other)
        await rig.network.apply(msgspec.structs.replace(current, flow_logs=(log,)))
        await rig.call(ask_often, one, other)
        assert rig.network._flow_logs is not None
        await rig.network._flow_logs.write(1)
        lines = [line.split() for line in (tmp_path / "fl-1.log").read_text().splitlines()]
        assert sorted((line[3], line[8]) for line in lines if line[3] in (a.ip, b.ip)) == [
            (a.ip, str(MANY)),
            (b.ip, str(MANY)),
        ]


async def test_without_a_rule_that_let_it_in_it_goes_on_and_nobody_new_comes(rig: Rig) -> None:
    a, b = await pair(rig)
    connection, accepted = await rig.call(connect, a, b, 80)
    with connection, accepted:
        await rig.call(ask_often, connection, accepted)
        closed = msgspec.structs.replace(port(6), groups=("sg-2",))
        await rig.network.apply(spec(port(5), closed, groups=(OPEN, CLOSED)))
        await rig.call(ask_often, connection, accepted)
        with b.listen(81):
            assert not await rig.call(a.reaches, b.ip, 81)


async def test_ipv6(rig: Rig) -> None:
    one, other = six(5), six(106)
    await rig.network.apply(clouds(one, other))
    watch()
    a, b = await six_guest(rig, one), await six_guest(rig, other)
    await settled()

    def bind(guest: Guest, number: int) -> socket.socket:
        def work() -> socket.socket:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            sock.bind(("::", number))
            return sock

        return visit(guest.namespace, work)

    def connect6() -> socket.socket:
        sock = socket.create_connection((other.ipv6[0], 80), 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    with visit(b.namespace, lambda: socket.create_server(("::", 80), family=socket.AF_INET6)) as server:
        connection = await rig.call(visit, a.namespace, connect6)
        accepted, _ = server.accept()
    with connection, accepted:
        await rig.call(ask_often, connection, accepted, 3)
        before = went_long()
        await rig.call(ask_often, connection, accepted)
        assert went_long() - before < MANY / 2
        await rig.network.apply(clouds(one, other, acl=(AclEntrySpec(number=1, cidr="0.0.0.0/0"),)))
        accepted.settimeout(0.5)
        connection.sendall(DATA)
        with pytest.raises(TimeoutError):
            await rig.call(accepted.recv, 99)
    with bind(a, SOURCE) as left, bind(b, TARGET) as right, b.sniff() as sniffer:
        await rig.network.apply(clouds(one, other))
        await settled()
        left.connect((other.ipv6[0], TARGET))
        right.connect((one.ipv6[0], SOURCE))
        await rig.call(ask_often, left, right, 3)
        before = went_long()
        body = udp6(one.ipv6[0], other.ipv6[0], SOURCE, TARGET, b"three routers more to pass")
        packets = [ethernet(one.mac, IP6, ipv6(one.ipv6[0], other.ipv6[0], UDP, body, n)) for n in (3, 1)]
        await rig.call(a.send_raw, packets[0])
        got = await rig.call(found, sniffer, b"three routers")
        assert got is not None
        assert went_long() == before
        assert got[14:] == ipv6(one.ipv6[0], other.ipv6[0], UDP, body, 2)
        await rig.call(a.send_raw, packets[1])
        assert await rig.call(found, sniffer, b"three routers") is None
        spoofed = ethernet("06:00:00:00:01:77", IP6, ipv6(one.ipv6[0], other.ipv6[0], UDP, body, 3))
        await rig.call(a.send_raw, spoofed)
        assert await rig.call(found, sniffer, b"three routers") is None


async def test_a_kernel_that_cannot_do_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(program: bytes) -> int:
        raise OSError(1, "not here")

    monkeypatch.setattr(bpf, "load", load)
    a, b = await pair(rig)
    connection, accepted = await rig.call(connect, a, b, 80)
    with connection, accepted:
        before = went_long()
        await rig.call(ask_often, connection, accepted)
        assert went_long() - before >= 2 * MANY
        await rig.network.apply(spec(port(5), port(6), port(7)))
    assert [record.message for record in caplog.records if "the long way" in record.message] == [
        "VPC vpc-1: established flows go the long way through the filter: [Errno 1] not here"
    ]
