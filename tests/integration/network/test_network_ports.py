"""Ports, DHCP, metadata, and the way to the Internet, with the kernel's own TCP as guests."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gureum.errors import NetworkError
from gureum.hostspec import DhcpSpec

from .conftest import HOST_ADDRESS, SERVER, Rig, _listen, metadata, port, spec, vpc

pytestmark = pytest.mark.root

UDHCPC = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add $ip/$mask dev $interface
ip route add default via $router
env > $OUT
"""


async def test_two_guests_talk(rig: Rig) -> None:
    await rig.network.apply(spec(port(5), port(6)))
    a, b = await rig.guest(port(5)), await rig.guest(port(6))
    assert await rig.call(a.pings, b.ip)
    with b.listen(80):
        assert await rig.call(a.reaches, b.ip, 80)


async def test_dhcp(rig: Rig, tmp_path: Path) -> None:
    await rig.network.apply(spec(port(5), vpcs=(vpc(dhcp=DhcpSpec(domain="ec2.internal")),)))
    guest = await rig.guest(port(5), configure=False)
    script = tmp_path / "script"
    script.write_text(UDHCPC.replace("$OUT", str(tmp_path / "lease")))
    script.chmod(0o755)
    await rig.call(
        guest.run,
        "busybox",
        "udhcpc",
        "-i",
        "eth0",
        "-n",
        "-q",
        "-t",
        "3",
        "-T",
        "1",
        "-s",
        str(script),
        "-O",
        "mtu",
        "-O",
        "staticroutes",
    )
    lease = dict(line.split("=", 1) for line in (tmp_path / "lease").read_text().splitlines())
    assert lease["ip"] == "172.31.0.5"
    assert (lease["mask"], lease["router"], lease["dns"]) == ("20", "172.31.0.1", "172.31.0.2")
    assert (lease["domain"], lease["hostname"], lease["mtu"]) == ("ec2.internal", "ip-172-31-0-5", "1500")
    assert lease["lease"] == "3600"


async def test_metadata_is_the_callers_own(rig: Rig) -> None:
    ports = port(5), port(6)
    for each in ports:
        rig.metadata[each.instance] = metadata(each)
    await rig.network.apply(spec(*ports))
    for each in ports:
        guest = await rig.guest(each)
        base = "http://169.254.169.254/latest"
        ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60"
        token = (
            await rig.call(guest.run, "curl", "-sfm5", "-X", "PUT", "-H", ttl, f"{base}/api/token")
        ).stdout
        header = f"X-aws-ec2-metadata-token: {token}"
        found = await rig.call(guest.run, "curl", "-sfm5", "-H", header, f"{base}/meta-data/instance-id")
        assert found.stdout == each.instance


async def test_public_address(rig: Rig) -> None:
    await rig.network.apply(spec(port(5, public=True), port(6, public=True), port(7)))
    a, b, c = [await rig.guest(each) for each in (port(5, public=True), port(6, public=True), port(7))]
    with a.listen(22), rig.internet(lambda: _listen(80, socket.SOCK_STREAM)) as server:
        with socket.create_connection((a.port.public_ip, 22), 2):
            pass
        assert await rig.call(a.reaches, SERVER, 80)
        connection, peer = server.accept()
        connection.close()
        assert peer[0] == HOST_ADDRESS
        assert await rig.call(b.reaches, a.port.public_ip, 22)
        assert not await rig.call(c.reaches, SERVER, 80)
        assert not await rig.call(c.reaches, a.port.public_ip, 22)


async def test_a_port_is_opened_by_one(rig: Rig) -> None:
    await rig.network.apply(spec(port(5)))
    guest = await rig.guest(port(5))
    with pytest.raises(NetworkError, match="guest is attached"):
        await rig.network.open_port(port(5).id)
    guest.unplug()
    os.close(await rig.network.open_port(port(5).id))


async def test_a_lease_is_renewed_by_unicast(rig: Rig) -> None:
    await rig.network.apply(spec(port(5)))
    guest = await rig.guest(port(5))
    head = bytes([1, 1, 6, 0]) + bytes(8) + socket.inet_aton(guest.ip) + bytes(12)
    hardware = bytes.fromhex(guest.port.mac.replace(":", "")).ljust(16, b"\0")
    request = head + hardware + bytes(192) + b"\x63\x82\x53\x63\x35\x01\x03\xff"
    with guest.listen(68, socket.SOCK_DGRAM) as sock:
        sock.sendto(request, ("172.31.0.1", 67))
        answer, sender = await rig.call(sock.recvfrom, 2000)
    assert sender == ("172.31.0.1", 67)
    assert answer[240:243] == b"\x35\x01\x05"
