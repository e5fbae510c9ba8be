"""IPv6 with real packets: what groups allow, and what must not pass a tap."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv6Address
from pathlib import Path

import msgspec
import pytest

from gureum.hostspec import AclEntrySpec, AclSpec, GroupSpec, NetworkSpec, PortSpec, RuleSpec, SubnetSpec
from gureum.network.namespaces import command, visit

from .conftest import INDEX, Guest, Rig, port, spec, vpc
from .test_network_security import ethernet, frames

pytestmark = pytest.mark.root

ROUTER, ROUTER_MAC = "fe80::1", "02:67:75:72:75:6d"
OUT6 = RuleSpec(egress=True, cidr="::/0")
IN6 = RuleSpec(cidr="::/0")


def six(number: int, **fields: object) -> PortSpec:
    subnet = 1 + number // 100
    return msgspec.structs.replace(
        port(number),
        **{
            "ipv6": (f"fd00:1:0:{subnet}::{number:x}",),
            "subnet": f"subnet-{subnet}",
            "private_ip": f"172.31.{16 * (subnet - 1)}.{number}",
            **fields,
        },
    )


def clouds(*ports: PortSpec, rules: tuple[RuleSpec, ...] = (OUT6, IN6), **fields: object) -> NetworkSpec:
    entries: tuple[AclEntrySpec, ...] = fields.pop("acl", ())  # type: ignore[assignment]
    subnets = tuple(
        SubnetSpec(
            id=f"subnet-{number}",
            cidr=f"172.31.{16 * (number - 1)}.0/20",
            cidr6=f"fd00:1:0:{number}::/64",
            route_table="rtb-1",
            acl="acl-1" if entries and number == 1 else "",
        )
        for number in (1, 2)
    )
    acls = (AclSpec(id="acl-1", entries=entries),)
    groups = (GroupSpec(id="sg-1", rules=rules), GroupSpec(id="sg-2", rules=(OUT6,)))
    network = vpc(1, subnets=subnets, cidrs=("fd00:1::/56",), acls=acls)
    return spec(*ports, vpcs=(network,), groups=groups, **fields)


async def guest(rig: Rig, port: PortSpec) -> Guest:
    found = await rig.guest(port, configure=False)

    def configure() -> None:
        for name, value in (("accept_dad", "0"), ("accept_ra", "0"), ("disable_ipv6", "0")):
            Path(f"/proc/sys/net/ipv6/conf/eth0/{name}").write_text(value)
        for address in port.ipv6:
            command(["ip", "-6", "address", "add", f"{address}/128", "dev", "eth0", "nodad"])
        command(["ip", "-6", "route", "add", "default", "via", ROUTER, "dev", "eth0", "onlink"])
        command(["ip", "link", "set", "eth0", "down"])
        command(["ip", "link", "set", "eth0", "up"])
        for address in port.ipv6:
            command(["ip", "-6", "address", "replace", f"{address}/128", "dev", "eth0", "nodad"])
        command(["ip", "-6", "route", "replace", "default", "via", ROUTER, "dev", "eth0", "onlink"])

    await rig.call(visit, found.namespace, configure)
    return found


def listen(guest: Guest, number: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    def work() -> socket.socket:
        sock = socket.socket(socket.AF_INET6, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::", number))
        if kind == socket.SOCK_STREAM:
            sock.listen(8)
        sock.settimeout(0.5)
        return sock

    return visit(guest.namespace, work)


def pings(guest: Guest, address: str) -> bool:
    done = guest.run("busybox", "ping", "-6", "-c1", "-W1", address, check=False)
    return done.returncode == 0


def packet(source: str, target: str, protocol: int, body: bytes, hops: int = 255) -> bytes:
    """An IPv6 packet; of ICMP and UDP with the checksum right."""
    ends = IPv6Address(source).packed + IPv6Address(target).packed
    text = ends + struct.pack("!II", len(body), protocol) + body
    total = sum(struct.unpack(f"!{(len(text) + 1) // 2}H", text + bytes(len(text) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    at = {17: 6, 58: 2}[protocol]
    body = body[:at] + struct.pack("!H", ~total & 0xFFFF) + body[at + 2 :]
    return struct.pack("!IHBB", 0x60000000, len(body), protocol, hops) + ends + body


def datagram(source: str, target: str, number: int, data: bytes) -> bytes:
    return packet(source, target, 17, struct.pack("!HHHH", 4000, number, 8 + len(data), 0) + data, 64)


def counter(name: str) -> int:
    text = visit(f"gm{INDEX}-1", lambda: command(["nft", "list", "counter", "netdev", "gureum", name]))
    return int(text.split("packets")[1].split()[0])


async def test_groups_decide(rig: Rig) -> None:
    web = RuleSpec(protocol="tcp", from_port=80, to_port=80, cidr="fd00:1:0:1::6/127")
    ping = RuleSpec(protocol="icmpv6", from_port=128, to_port=-1, cidr="::/0")
    one, near, far = six(5), six(6, groups=("sg-2",)), six(105, groups=("sg-2",))
    await rig.network.apply(clouds(one, near, far, rules=(web, ping)))
    a, b, c = [await guest(rig, each) for each in (one, near, far)]
    address = one.ipv6[0]
    with listen(a, 80), listen(a, 81), listen(b, 80):
        assert await rig.call(b.reaches, address, 80)
        assert not await rig.call(b.reaches, address, 81)
        assert not await rig.call(c.reaches, address, 80)
        assert not await rig.call(a.reaches, near.ipv6[0], 80)
    assert await rig.call(pings, c, address)
    assert not await rig.call(pings, a, far.ipv6[0])


async def test_members_have_addresses_of_both_families(rig: Rig) -> None:
    from_group = RuleSpec(protocol="tcp", from_port=80, to_port=80, group="sg-2")
    one, two = six(5), six(6, groups=("sg-2",))
    await rig.network.apply(clouds(one, two, rules=(from_group,)))
    a, b = await guest(rig, one), await guest(rig, two)
    with listen(a, 80):
        assert not await rig.call(b.reaches, one.ipv6[0], 80)
        members = {"sg-2": (two.private_ip, *two.ipv6)}
        await rig.network.apply(clouds(one, two, rules=(from_group,), members=members))
        assert await rig.call(b.reaches, one.ipv6[0], 80)


async def test_acls_decide(rig: Rig) -> None:
    def entry(number: int, **fields: object) -> AclEntrySpec:
        return AclEntrySpec(**{"number": number, "cidr": "::/0", **fields})  # type: ignore[arg-type]

    one, near, far = six(5), six(6), six(105)
    deny = entry(10, protocol="6", from_port=80, to_port=80, allow=False)
    both = (entry(20), entry(20, egress=True))
    await rig.network.apply(clouds(one, near, far, acl=(deny, *both)))
    a, b, c = [await guest(rig, each) for each in (one, near, far)]
    with listen(a, 80), listen(a, 81):
        assert [await rig.call(c.reaches, one.ipv6[0], p) for p in (80, 81)] == [False, True]
        assert await rig.call(b.reaches, one.ipv6[0], 80)
        await rig.network.apply(clouds(one, near, far, acl=both[:1]))
        assert not await rig.call(c.reaches, one.ipv6[0], 81)


async def test_spoofed_packets_end_at_the_tap(rig: Rig) -> None:
    one, two = six(5), six(6)
    await rig.network.apply(clouds(one, two))
    a, b = await guest(rig, one), await guest(rig, two)
    own, other = one.ipv6[0], two.ipv6[0]
    assert await rig.call(pings, a, other)
    cases = {
        b"own": (one.mac, own),
        b"neighbour": (one.mac, "fd00:1:0:1::7"),
        b"victim": (one.mac, other),
        b"mac": (two.mac, own),
        b"mapped": (one.mac, "::ffff:172.31.0.5"),
        b"link": (one.mac, "fe80::5"),
        b"none": (one.mac, "::"),
    }
    with listen(b, 4000, socket.SOCK_DGRAM) as server:
        for name, (mac, source) in cases.items():
            a.send_raw(ethernet(mac, 0x86DD, datagram(source, other, 4000, name), ROUTER_MAC))
        assert list(frames(server)) == [b"own"]


async def test_port_without_source_check_forwards_for_others(rig: Rig) -> None:
    free, two = six(5, source_dest_check=False), six(6)
    await rig.network.apply(clouds(free, two))
    a, b = await guest(rig, free), await guest(rig, two)
    with listen(b, 4000, socket.SOCK_DGRAM) as server:
        for source in ("2001:db8::9", "ff02::9", "fe80::9", "::1", "::ffff:10.0.0.1"):
            frame = datagram(source, two.ipv6[0], 4000, source.encode())
            a.send_raw(ethernet(free.mac, 0x86DD, frame, ROUTER_MAC))
        assert list(frames(server)) == [b"2001:db8::9"]


async def test_a_guest_is_no_router_and_nobody_elses_neighbour(rig: Rig) -> None:
    one, two = six(5), six(6)
    await rig.network.apply(clouds(one, two))
    a, b = await guest(rig, one), await guest(rig, two)
    assert await rig.call(pings, a, two.ipv6[0])
    mac = bytes.fromhex(one.mac.replace(":", ""))
    advert = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"\x01\x01" + mac
    redirect = struct.pack("!BBHI", 137, 0, 0, 0) + IPv6Address(ROUTER).packed * 2

    def neighbour(target: str) -> bytes:
        return struct.pack("!BBHI", 136, 0, 0, 0x60000000) + IPv6Address(target).packed + b"\x02\x01" + mac

    refused = [
        ("fe80::5", "ff02::1", advert),
        (one.ipv6[0], two.ipv6[0], advert),
        ("fe80::5", two.ipv6[0], redirect),
        (one.ipv6[0], "ff02::1", neighbour(two.ipv6[0])),
        ("fe80::5", ROUTER, neighbour(two.ipv6[0])),
        (two.ipv6[0], "ff02::1", neighbour(two.ipv6[0])),
        (ROUTER, "ff02::1", neighbour(ROUTER)),
    ]
    was = counter("spoofed")
    with b.sniff() as wire:
        for source, target, body in refused:
            a.send_raw(ethernet(one.mac, 0x86DD, packet(source, target, 58, body), ROUTER_MAC))
        a.send_raw(ethernet(one.mac, 0x86DD, packet("fe80::5", ROUTER, 58, neighbour("fe80::5")), ROUTER_MAC))
        types = {frame[54] for frame in frames(wire) if frame[12:14] == b"\x86\xdd" and frame[20] == 58}
    assert counter("spoofed") - was == len(refused)
    assert not types & {134, 136, 137}
    assert await rig.call(pings, b, one.ipv6[0])


async def test_link_local_packets_are_few(rig: Rig) -> None:
    """The kernel has one table of neighbours for all guests."""
    one, two = six(5), six(6)
    await rig.network.apply(clouds(one, two))
    a, b = await guest(rig, one), await guest(rig, two)
    solicit = struct.pack("!BBHI", 135, 0, 0, 0) + IPv6Address(ROUTER).packed
    mac = b"\x01\x01" + bytes.fromhex(one.mac.replace(":", ""))
    found = [
        ethernet(one.mac, 0x86DD, packet(f"fe80::5:{number:x}", ROUTER, 58, solicit + mac), ROUTER_MAC)
        for number in range(600)
    ]

    def flood() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.bind(("eth0", 0))
            for frame in found:
                sock.send(frame)

    for _ in range(20):
        await rig.call(visit, a.namespace, flood)
        if counter("spoofed"):
            break
    assert counter("spoofed")
    assert await rig.call(pings, b, one.ipv6[0])


async def test_nothing_without_an_address_of_ipv6(rig: Rig) -> None:
    one, two = port(5), six(6)
    await rig.network.apply(clouds(one, two))
    a, b = await guest(rig, one), await guest(rig, two)
    with listen(b, 4000, socket.SOCK_DGRAM) as server:
        frame = datagram("fd00:1:0:1::5", two.ipv6[0], 4000, b"x")
        a.send_raw(ethernet(one.mac, 0x86DD, frame, ROUTER_MAC))
        assert list(frames(server)) == []
    assert not await rig.call(pings, b, ROUTER + "%eth0")
