"""Groups and ACLs between ports on two hosts."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gureum.hostspec import AclEntrySpec, AclSpec, GroupSpec, RuleSpec, SubnetSpec

from .conftest import ALL_OUT, INDEX, port, run, vpc
from .hosts import Site
from .test_network_security import ethernet, frames, udp

pytestmark = pytest.mark.root


@pytest.fixture
async def site(host: None, tmp_path: Path) -> AsyncIterator[Site]:
    found = Site(tmp_path, 2)
    try:
        yield found
    finally:
        await found.close()


async def test_members_on_other_hosts(site: Site) -> None:
    web = RuleSpec(protocol="tcp", from_port=80, to_port=80, group="sg-2")
    site.groups = (GroupSpec(id="sg-1", rules=(ALL_OUT, web)), GroupSpec(id="sg-2", rules=(ALL_OUT,)))
    one, two = site.place(port(5), 1), site.place(port(6, groups=("sg-2",)), 2)
    three = site.place(port(7), 2)
    site.members = {"sg-2": (two.private_ip,)}
    await site.apply()
    a, b, c = [await site.guest(each) for each in (one, two, three)]
    with a.listen(80), b.listen(80):
        assert b.reaches(a.ip, 80)
        assert not c.reaches(a.ip, 80)
        assert not a.reaches(b.ip, 80)
        # Its address alone makes nobody a member.
        c.send_raw(ethernet(c.port.mac, 0x0800, udp(b.ip, a.ip, 80, b"x"), "02:67:75:72:75:6d"))
        site.members = {"sg-2": ()}
        await site.apply()
        assert not b.reaches(a.ip, 80)
        site.members = {"sg-2": (three.private_ip,)}
        await site.apply()
        assert c.reaches(a.ip, 80)
        assert not b.reaches(a.ip, 80)


async def test_acls_of_both_ends(site: Site) -> None:
    """Each is asked on its port's host; what only passes through a host is not asked again."""
    subnets = tuple(
        SubnetSpec(id=f"subnet-{n}", cidr=f"172.31.{16 * n - 16}.0/20", acl=f"acl-{n}", route_table="rtb-1")
        for n in (1, 2)
    )

    def acls(out_of_one: bool = True, into_two: bool = True, back: bool = True) -> None:
        every = {"cidr": "172.31.0.0/16", "number": 1}
        entries = (
            [AclEntrySpec(egress=True, **every)] * out_of_one + [AclEntrySpec(**every)] * back,
            [AclEntrySpec(**every)] * into_two + [AclEntrySpec(egress=True, **every)],
        )
        found = tuple(AclSpec(id=f"acl-{n}", entries=tuple(e)) for n, e in enumerate(entries, 1))
        site.vpcs = (vpc(1, subnets=subnets, acls=found),)

    far = msgspec.structs.replace(port(6), subnet="subnet-2", private_ip="172.31.16.6")
    one, two = site.place(port(5), 1), site.place(far, 2)
    acls()
    await site.apply()
    a, b = await site.guest(one), await site.guest(two, "172.31.16.1")
    with b.listen(80):
        assert a.reaches(b.ip, 80)
        for denied in ({"out_of_one": False}, {"into_two": False}, {"back": False}):
            acls(**denied)
            await site.apply()
            assert not a.reaches(b.ip, 80), denied
        acls()
        await site.apply()
        assert a.reaches(b.ip, 80)


async def test_another_vpc_and_the_hosts_network_are_out_of_reach(site: Site) -> None:
    site.vpcs = (vpc(1), vpc(2))
    one, two = site.place(port(5, public=True), 1), site.place(port(6, vpc="vpc-2"), 2)
    neighbour = site.place(port(7), 2)
    await site.apply()
    a, b = await site.guest(one), await site.guest(two)
    await site.guest(neighbour)
    with b.listen(80), b.listen(4000, socket.SOCK_DGRAM) as server:
        assert not a.reaches(b.ip, 80)
        server.settimeout(0.4)
        # Of its own making, what looks like a packet between hosts.
        inner = ethernet("02:67:76:00:00:01", 0x0800, udp(a.ip, b.ip, 4000, b"x"), "02:67:76:00:00:02")
        header = b"\x08\0\0\0" + (2).to_bytes(3, "big") + b"\0"
        for source in (a.ip, site.hosts[0].address):
            frame = udp(source, site.hosts[1].address, 4789, header + inner)
            a.send_raw(ethernet(a.port.mac, 0x0800, frame, "02:67:75:72:75:6d"))
        assert list(frames(server)) == []
    for other in site.hosts:
        assert not a.pings(other.address)
    assert run("ip", "netns", "pids", f"gm{INDEX}.1-1", check=False).returncode == 0
