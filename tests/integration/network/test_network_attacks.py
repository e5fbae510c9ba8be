"""What root in a guest can send: raw packets, by which nothing may get where it must not."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
import pytest

from gureum.network.namespaces import visit

from . import packets
from .conftest import INDEX, SERVER, Guest, Rig, port, run, spec, vpc
from .hosts import LAN, Site
from .packets import ARP, ICMP, ICMP6, IP, IP6, TCP, UDP, VLAN, ethernet, icmp, ipv4
from .test_network_ipv6 import clouds, six
from .test_network_ipv6 import guest as guest6
from .test_network_ipv6 import listen as listen6

pytestmark = pytest.mark.root

UNREACHABLE, REDIRECT, ECHO, ROUTER, TIME_EXCEEDED, PROBLEM = 3, 5, 8, 9, 11, 12
ERRORS = (
    (UNREACHABLE, 1),
    (UNREACHABLE, 3),
    (UNREACHABLE, 4),
    (REDIRECT, 1),
    (TIME_EXCEEDED, 0),
    (PROBLEM, 0),
)
QUIET_SECONDS = 0.4
TOKEN = b"gureum attack"
CLOSED = ("sg-2",)
SERVICES = (53, 67, 111, 2049, 3260, 3300, 4566, 4789, 6789, 6800, 51820)
"""Of hosts, the manager and storage."""
STORAGE = "10.77.0.2"
"""A second address of host 2, as that of a network for storage."""
PROTOCOLS = (2, 4, 41, 47, 50, 51, 89, 112, 132)


@pytest.fixture
async def site(host: None, tmp_path: Path) -> AsyncIterator[Site]:
    found = Site(tmp_path, 2)
    try:
        yield found
    finally:
        await found.close()


def captured(sockets: list[socket.socket]) -> list[bytes]:
    """All that they get until nothing comes any more."""
    found: list[bytes] = []
    while ready := select.select(sockets, [], [], QUIET_SECONDS)[0]:
        found += [each.recv(70000) for each in ready]
    return found


def send(guest: Guest, *sent: bytes) -> None:
    """IPv4 packets, in frames for the router."""
    send_frames(guest, [ethernet(guest.port.mac, IP, packet) for packet in sent])


def send_frames(guest: Guest, frames: list[bytes]) -> None:
    """Not faster than the guest's Ethernet takes them: what its queue has no room for would be lost."""

    def work() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.bind(("eth0", 0))
            for number, frame in enumerate(frames):
                sock.send(frame)
                if number % 64 == 63:
                    time.sleep(0.005)

    visit(guest.namespace, work)


# ---- errors


def begin(sender: Guest, target: str, number: int = 5000) -> tuple[socket.socket, bytes]:
    """A flow of datagrams, and its first packet as an error about it quotes it."""

    def work() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((sender.ip, 4000))
        sock.connect((target, number))
        sock.settimeout(2)
        sock.send(TOKEN)
        return sock

    return visit(sender.namespace, work), ipv4(sender.ip, target, UDP, packets.udp(4000, number, TOKEN))


def forge(attacker: Guest, victim: str, quoted: bytes) -> None:
    """Every error there is about a packet, at once and in pieces."""
    for kind, code in ERRORS:
        error = icmp(kind, code, quoted, rest=IPv4Address(attacker.ip).packed)
        send(attacker, ipv4(attacker.ip, victim, ICMP, error))
        send(attacker, *packets.fragments(attacker.ip, victim, ICMP, error))


async def test_errors_about_flows_of_others_are_refused(rig: Rig) -> None:
    ports = port(5), port(6, groups=CLOSED), port(7)
    await rig.network.apply(spec(*ports))
    attacker, victim, server = [await rig.guest(each) for each in ports]
    with server.listen(5000, socket.SOCK_DGRAM) as listener, victim.sniff() as wire:
        sock, quoted = begin(victim, server.ip)
        with sock:
            assert listener.recv(100) == TOKEN
            captured([wire])
            forge(attacker, victim.ip, quoted)
            assert not [frame for frame in captured([wire]) if TOKEN in frame]
            # Whose flow it is may tell.
            send(server, ipv4(server.ip, victim.ip, ICMP, icmp(UNREACHABLE, 3, quoted)))
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)
            send(server, ipv4(server.ip, victim.ip, ICMP, icmp(REDIRECT, 1, quoted, rest=bytes(4))))
            assert not [frame for frame in captured([wire]) if frame[34:35] == bytes([REDIRECT])]


async def test_errors_about_flows_of_others_on_another_host_are_refused(site: Site) -> None:
    """The server's host knows the flow, and the attacker is there."""
    ports = site.place(port(5), 1), site.place(port(6, groups=CLOSED), 2), site.place(port(7), 1)
    await site.apply()
    attacker, victim, server = [await site.guest(each) for each in ports]
    with server.listen(5000, socket.SOCK_DGRAM) as listener, victim.sniff() as wire:
        sock, quoted = begin(victim, server.ip)
        with sock:
            assert listener.recv(100) == TOKEN
            captured([wire])
            forge(attacker, victim.ip, quoted)
            assert not [frame for frame in captured([wire]) if TOKEN in frame]
            send(server, ipv4(server.ip, victim.ip, ICMP, icmp(UNREACHABLE, 3, quoted)))
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)


async def test_who_forwards_for_others_may_tell_of_their_flows(rig: Rig) -> None:
    router = msgspec.structs.replace(port(5), source_dest_check=False)
    await rig.network.apply(spec(router, port(6, groups=CLOSED), port(7)))
    middlebox, sender, server = [await rig.guest(each) for each in (router, port(6, groups=CLOSED), port(7))]
    with server.listen(5000, socket.SOCK_DGRAM) as listener:
        sock, quoted = begin(sender, server.ip)
        with sock:
            assert listener.recv(100) == TOKEN
            send(middlebox, ipv4(middlebox.ip, sender.ip, ICMP, icmp(UNREACHABLE, 3, quoted)))
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)


async def test_errors_of_one_guest_do_not_disturb_the_router(rig: Rig) -> None:
    """Its resolver has flows with other guests, and with name servers."""
    await rig.network.apply(spec(port(5), port(6)))
    attacker, victim = await rig.guest(port(5)), await rig.guest(port(6))
    sock, _ = begin(victim, "172.31.0.2", 53)
    with sock:
        answered = ipv4("172.31.0.2", victim.ip, UDP, packets.udp(53, 4000, TOKEN))
        before = forged(1)
        forge(attacker, "172.31.0.2", answered)
        assert forged(1) == before + 2 * len(ERRORS)


def forged(network_id: int) -> int:
    show = ["nft", "list", "counter", "inet", "gureum", "forged"]
    return int(visit(f"gm{INDEX}-{network_id}", lambda: run(*show)).stdout.split("packets")[1].split()[0])


async def test_answers_of_dhcp_are_the_routers(rig: Rig) -> None:
    await rig.network.apply(spec(port(5), port(6)))
    attacker, victim = await rig.guest(port(5)), await rig.guest(port(6))
    with victim.sniff() as wire:
        send(attacker, ipv4(attacker.ip, victim.ip, UDP, packets.udp(67, 69, TOKEN)))
        assert [frame for frame in captured([wire]) if TOKEN in frame]
        for target in (victim.ip, "255.255.255.255", "172.31.15.255"):
            send(attacker, ipv4(attacker.ip, target, UDP, packets.udp(67, 68, TOKEN)))
        assert not [frame for frame in captured([wire]) if TOKEN in frame]


async def test_the_first_hop_of_a_trace_is_a_router(rig: Rig) -> None:
    await rig.network.apply(spec(port(5), port(6)))
    a, b = await rig.guest(port(5)), await rig.guest(port(6))
    with a.sniff() as wire:
        sent = ipv4(a.ip, b.ip, UDP, packets.udp(4000, 33434, TOKEN), ttl=1)
        send(a, sent)
        errors = [frame for frame in captured([wire]) if frame[34:35] == bytes([TIME_EXCEEDED])]
    assert [str(IPv4Address(frame[26:30])) for frame in errors] == ["172.31.0.1"]


async def test_the_same_by_ipv6(rig: Rig) -> None:
    ports = six(5), six(6, groups=CLOSED), six(7)
    await rig.network.apply(clouds(*ports))
    attacker, victim, server = [await guest6(rig, each) for each in ports]
    near, far, other = (each.ipv6[0] for each in (ports[0], ports[1], ports[2]))

    def begin() -> socket.socket:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.bind((far, 4000))
        sock.connect((other, 5000))
        sock.settimeout(2)
        sock.send(TOKEN)
        return sock

    def error(source: str, kind: int) -> bytes:
        """Of a kind; the datagram is quoted as it was."""
        quoted = packets.ipv6(far, other, UDP, packets.udp6(far, other, 4000, 5000, TOKEN), hops=64)
        rest = (1280).to_bytes(4, "big")
        return packets.ipv6(source, far, ICMP6, packets.icmp6(source, far, kind, 4, quoted, rest), hops=64)

    with (
        listen6(server, 5000, socket.SOCK_DGRAM) as listener,
        victim.sniff() as wire,
        visit(victim.namespace, begin) as sock,
    ):
        assert listener.recv(100) == TOKEN
        captured([wire])
        for kind in (1, 2, 3, 4):
            attacker.send_raw(ethernet(attacker.port.mac, IP6, error(near, kind)))
        answer = packets.udp6(near, other, 547, 546, TOKEN)
        attacker.send_raw(ethernet(attacker.port.mac, IP6, packets.ipv6(near, other, UDP, answer)))
        assert not [frame for frame in captured([wire]) if TOKEN in frame]
        assert forged(1) == 5
        server.send_raw(ethernet(server.port.mac, IP6, error(other, 1)))
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


# ---- everywhere else


def ears(namespace: str) -> list[socket.socket]:
    """What the machine's own programs could hear there: all protocols, and those ports of UDP and TCP that
    are free.
    """

    def listen() -> Iterator[socket.socket]:
        for protocol in (ICMP, *PROTOCOLS):
            yield socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
        for number in SERVICES:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                sock = socket.socket(socket.AF_INET, kind)
                try:
                    sock.bind(("0.0.0.0", number))
                    if kind == socket.SOCK_STREAM:
                        sock.listen()
                except OSError:
                    sock.close()
                else:
                    yield sock

    return visit(namespace, lambda: list(listen()))


def heard(sockets: list[socket.socket]) -> list[str]:
    """Those that heard something of an attack, or got a connection."""
    found: list[str] = []
    while ready := select.select(sockets, [], [], QUIET_SECONDS)[0]:
        for sock in ready:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                sock.accept()[0].close()
                found.append(f"{sock.getsockname()}: connected")
            elif TOKEN in (data := sock.recv(70000)):
                found.append(f"{sock.getsockname()}: {data[:200]!r}")
    return found


def datagrams(source: str, target: str) -> Iterator[bytes]:
    """To services, from ports that careless filters trust; other protocols; pieces; options."""
    for number in SERVICES:
        for source_port in (53, 67, 4000):
            yield ipv4(source, target, UDP, packets.udp(source_port, number, TOKEN))
        yield ipv4(source, target, TCP, packets.tcp(source, target, 20, number, flags=0x02))
    for protocol in PROTOCOLS:
        yield ipv4(source, target, protocol, bytes(8) + TOKEN)
    for kind in (0, UNREACHABLE, REDIRECT, ECHO, ROUTER, 10, 13, 15, 17):
        yield ipv4(source, target, ICMP, icmp(kind, 0, bytes(28) + TOKEN))
    yield from packets.fragments(source, target, UDP, packets.udp(53, 4566, TOKEN))


def source_routed(source: str, target: str) -> Iterator[bytes]:
    """By way of those who could pass it on, loosely and strictly."""
    for kind in (131, 137):
        option = bytes([kind, 7, 4]) + IPv4Address(target).packed + b"\0"
        for hop in ("172.31.0.1", SERVER):
            yield ipv4(source, hop, UDP, packets.udp(53, 4566, TOKEN), option)


def tunnelled(source: str, target: str, inner: bytes) -> Iterator[bytes]:
    for network in (1, 2):
        for mark in (0, 1):
            for source_port in (4000, 4789):
                data = packets.udp(source_port, 4789, packets.vxlan(network, inner, mark))
                yield ipv4(source, target, UDP, data)


async def test_nothing_gets_to_hosts_or_to_other_vpcs(site: Site) -> None:
    """By whom a check of its source does not hold, too, and with addresses that are others'."""
    site.vpcs = (vpc(1), vpc(2))
    honest, router = port(5, public=True), port(9, public=True)
    one = site.place(honest, 1), site.place(msgspec.structs.replace(router, source_dest_check=False), 1)
    near, far = site.place(port(6, groups=CLOSED), 1), site.place(port(7, groups=CLOSED), 2)
    stranger, twin = site.place(port(7, vpc="vpc-2"), 2), site.place(port(6, vpc="vpc-2"), 1)
    give_storage(site)
    await site.apply()
    attackers = [await site.guest(each) for each in one]
    witnesses = [await site.guest(each) for each in (near, far, stranger, twin)]
    hosts = [each.address for each in site.hosts]
    services = ("172.31.0.1", "172.31.0.2", "169.254.169.254", "169.254.169.253")
    links = [str(IPv4Address(f"198.19.{INDEX}.0") + n) for n in range(6)]
    nowhere = ("0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1", "239.1.1.1", "192.0.2.255")
    link_local = ("169.254.1.1", "169.254.64.1", "169.254.64.2", "169.254.169.250")
    victims = [each.ip for each in witnesses]
    targets = [*hosts, STORAGE, *links, *nowhere, *link_local, *dict.fromkeys(victims), "172.31.255.255"]
    secret = ipv4("172.31.0.5", near.private_ip, UDP, packets.udp(1, 2, TOKEN))
    inner = ethernet("02:67:76:00:00:01", IP, secret, "02:67:76:00:00:02")
    listening = [sock for each in site.hosts for sock in ears(each.namespace)]
    wires = [each.sniff() for each in witnesses]
    try:
        for attacker in attackers:
            for target in targets:
                send(attacker, *datagrams(attacker.ip, target), *source_routed(attacker.ip, target))
                for source in (attacker.ip, hosts[0], link_local[1]):
                    send(attacker, *tunnelled(source, target, inner))
            # What the owner of a port without a check lets it send from is left out for that one.
            for source in ("172.31.0.8", *services, *hosts, *links[2:4], *nowhere[:4], SERVER):
                if attacker is attackers[0] or source not in ("172.31.0.8", SERVER, *hosts):
                    pose(attacker, source, [*targets, *services])
        assert heard([*listening, *wires]) == []
        # All of them hear what they may.
        for witness in witnesses[:2]:
            send(witness, ipv4(witness.ip, attackers[0].ip, UDP, packets.udp(1, 2, TOKEN)))
            send(attackers[0], ipv4(attackers[0].ip, witness.ip, UDP, packets.udp(2, 1, TOKEN)))
        site.lan(lambda: shout(hosts))
        assert len(heard([*listening, *wires])) >= 2 + 2 * len(hosts)
    finally:
        for sock in (*listening, *wires):
            sock.close()


def give_storage(site: Site) -> None:
    """Host 2 has one more network, to which the others have a route."""
    one, two = (each.namespace for each in site.hosts)
    run("ip", "-n", two, "link", "add", "storage", "type", "bridge")
    run("ip", "-n", two, "address", "add", f"{STORAGE}/24", "dev", "storage")
    run("ip", "-n", two, "link", "set", "storage", "up")
    for namespace in (one, LAN):
        run("ip", "-n", namespace, "route", "add", "10.77.0.0/24", "via", site.hosts[1].address)


def pose(attacker: Guest, source: str, targets: list[str]) -> None:
    """As another, plainly and with tags of VLANs: 0 among them, which stands for none."""
    frames = []
    for target in targets:
        for packet in (
            ipv4(source, target, UDP, packets.udp(53, 4566, TOKEN)),
            ipv4(source, target, UDP, packets.udp(4000, 53, TOKEN)),
            ipv4(source, target, ICMP, icmp(ECHO, 0, TOKEN)),
        ):
            frames.append(ethernet(attacker.port.mac, IP, packet))
            for number in (0, 1):
                tagged = packets.vlan(number, IP, packet)
                twice = packets.vlan(number, VLAN, tagged)
                frames += [
                    ethernet(attacker.port.mac, VLAN, tagged),
                    ethernet(attacker.port.mac, 0x88A8, twice),
                ]
    send_frames(attacker, frames)


def shout(hosts: list[str]) -> None:
    """To the services of hosts, from their own network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for address in hosts:
            for number in (4566, 6789):
                sock.sendto(TOKEN, (address, number))


async def test_hosts_reach_each_other_on_all_addresses(site: Site) -> None:
    """What is dropped is what guests send, and not what hosts do."""
    site.place(port(5, public=True), 1)
    give_storage(site)
    await site.apply()
    one, two = site.hosts
    with two.here(lambda: socket.create_server((STORAGE, 6789))):
        one.here(lambda: socket.create_connection((STORAGE, 6789), 3)).close()


async def test_a_sweep_by_arp_finds_the_router_only(rig: Rig) -> None:
    """For those who are there, nobody else's address is told; for others, none is, as on EC2."""
    await rig.network.apply(spec(port(5), port(6)))
    a = await rig.guest(port(5))
    await rig.guest(port(6))
    with a.sniff() as wire:
        send_frames(a, [who_has(a, f"172.31.0.{last}") for last in range(1, 255)])
        answers = [frame for frame in captured([wire]) if frame[12:14] == b"\x08\x06" and frame[21] == 2]
    assert {frame[22:28].hex(":") for frame in answers} == {packets.ROUTER_MAC}
    assert {str(IPv4Address(frame[28:32])) for frame in answers} == {"172.31.0.1", "172.31.0.2", "172.31.0.6"}


def who_has(guest: Guest, address: str) -> bytes:
    body = bytes.fromhex(f"0001080006040001{guest.port.mac.replace(':', '')}") + IPv4Address(guest.ip).packed
    body += bytes(6) + IPv4Address(address).packed
    return ethernet(guest.port.mac, ARP, body, "ff:ff:ff:ff:ff:ff")
