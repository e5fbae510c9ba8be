"""What goes from host to host, as somebody on the network between them sees it: encrypted, or not at all."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gureum.hostspec import NetworkSpec
from gureum.network import kernel, wireguard

from .conftest import INDEX, Guest, port, run, until
from .hosts import Host, Site, connect

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not wireguard.carrier(), reason="neither kernel nor wireguard-go encrypts here"),
]

SECRET = b"nobody between the hosts reads this"
UPLINK_MTU = 1500
GUEST_MTU = UPLINK_MTU - 80 - 70
"""WireGuard over IPv4 or IPv6, then VXLAN over IPv6."""
UDP = socket.IPPROTO_UDP


class EncryptedSite(Site):
    def spec(self, host: int) -> NetworkSpec:
        spec = super().spec(host)
        keys = [wireguard.public_key(key_file(each)) for each in self.hosts]
        assert all(wireguard.is_key(key) for key in keys)
        hosts = tuple(
            msgspec.structs.replace(each, key=key) for each, key in zip(spec.hosts, keys, strict=True)
        )
        return msgspec.structs.replace(spec, hosts=hosts, encrypted=True, mtu=GUEST_MTU)


def key_file(host: Host) -> Path:
    return host._run_dir / wireguard.KEY_FILE


@pytest.fixture
async def site(host: None, tmp_path: Path) -> AsyncIterator[EncryptedSite]:
    found = EncryptedSite(tmp_path, 2)
    try:
        for each in found.hosts:
            run("ip", "-n", each.namespace, "link", "set", "uplink", "mtu", str(UPLINK_MTU))
        yield found
    finally:
        await found.close()
    # A program ends a moment after its device.
    assert until(lambda: not any(processes(each) for each in found.hosts))


def processes(host: Host) -> list[int]:
    """Of the program that encrypts, where it is not the kernel."""
    pids = run("ip", "netns", "pids", host.namespace).stdout.split()
    return [int(pid) for pid in pids if wireguard.PROGRAM in name_of(pid)]


def name_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""  # it has just ended


class Tap:
    """Whatever passes by on the network between hosts."""

    def __init__(self, site: Site) -> None:
        self.frames: list[bytes] = []
        self._sockets = site.lan(lambda: [listen(f"v{each.number}") for each in site.hosts])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._over.is_set():
            for sock in select.select(self._sockets, [], [], 0.1)[0]:
                self.frames.append(sock.recv(70000))

    def stop(self) -> list[bytes]:
        self._over.set()
        self._thread.join(5)
        for sock in self._sockets:
            sock.close()
        return self.frames


def listen(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    sock.bind((device, 0))
    return sock


def carried(frames: list[bytes]) -> set[tuple[int, int]]:
    """(protocol, destination port) of all IPv4 packets, all of which must be whole; the kernel's own about
    groups aside.
    """
    found = set()
    for frame in frames:
        if frame[12:14] == b"\x08\x00" and frame[23] != socket.IPPROTO_IGMP:
            assert not struct.unpack("!H", frame[20:22])[0] & 0x3FFF, "a fragment"
            head = 14 + 4 * (frame[14] & 15)
            found.add((frame[23], struct.unpack("!H", frame[head + 2 : head + 4])[0]))
    return found


def exchange(one: socket.socket, other: socket.socket, times: int = 200) -> None:
    """So much in both directions, and all of it gets there."""
    for sender, receiver in ((one, other), (other, one)):
        data = SECRET * 100
        for _ in range(times):
            sender.sendall(data)
            got = b""
            while len(got) < len(data):
                got += receiver.recv(65536)
            assert got == data


async def pair(site: EncryptedSite) -> tuple[Guest, Guest]:
    ports = site.place(port(5), 1), site.place(port(6), 2)
    await site.apply()
    one, other = [await site.guest(each) for each in ports]
    for guest in (one, other):
        guest.run("ip", "link", "set", "eth0", "mtu", str(GUEST_MTU))
    return one, other


async def test_nothing_between_hosts_is_in_clear(site: EncryptedSite) -> None:
    tap = Tap(site)
    a, b = await pair(site)
    here, there = connect(a, b, 80)
    with here, there:
        exchange(here, there)
    # The largest packet of a guest, which may not be cut in pieces, is the largest of a host: IPv4's header
    # is 20 bytes less than IPv6's, for which there is room.
    size = str(GUEST_MTU - 28)
    for sender, receiver in ((a, b), (b, a)):
        assert " 0% packet loss" in sender.run("ping", "-q", "-c2", "-Mdo", "-s", size, receiver.ip).stdout
    assert sender.run("ping", "-c1", "-Mdo", "-s", str(GUEST_MTU - 27), receiver.ip, check=False).returncode
    frames = tap.stop()
    assert carried(frames) == {(UDP, wireguard.PORT)}
    assert not [frame for frame in frames if SECRET[:8] in frame or b"abcdefgh" in frame]
    assert max(map(len, frames)) == 14 + UPLINK_MTU - 20
    both = {frame[26:34] for frame in frames if frame[12:14] == b"\x08\x00" and frame[23] == UDP}
    assert both == {socket.inet_aton(x) + socket.inet_aton(y) for x, y in permuted(site)}


def permuted(site: Site) -> tuple[tuple[str, str], tuple[str, str]]:
    one, two = (each.address for each in site.hosts)
    return (one, two), (two, one)


async def test_agents_come_and_go(site: EncryptedSite) -> None:
    a, b = await pair(site)
    here, there = connect(a, b, 80)
    before = [processes(each) for each in site.hosts]
    with here, there:
        exchange(here, there, 1)
        for each in site.hosts:
            await each.network.close()
        exchange(here, there, 1)
        for each in site.hosts:
            each.start()
        await site.apply()
        exchange(here, there, 1)
    assert [processes(each) for each in site.hosts] == before


async def test_without_the_device_nothing_is_sent_and_it_is_made_again(
    site: EncryptedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await pair(site)
    assert a.pings(b.ip)
    cut(site.hosts[0])
    tap = Tap(site)
    assert not a.pings(b.ip)
    assert carried(tap.stop()) <= {(UDP, wireguard.PORT)}
    monkeypatch.setattr(kernel, "HOST_CHECK_SECONDS", 0.0)
    site.hosts[0].network._check_at = 0.0
    await site.apply()
    assert a.pings(b.ip) or a.pings(b.ip)


def cut(host: Host) -> None:
    """Kill what encrypts, or remove it."""
    pids = processes(host)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    name = f"gw{INDEX}.{host.number}"
    if not pids:
        host.here(lambda: run("ip", "link", "delete", name))
    assert until(lambda: host.here(lambda: run("ip", "link", "show", name, check=False)).returncode != 0)


async def test_a_stranger_has_no_way_in(site: EncryptedSite) -> None:
    """What comes as plain VXLAN is not taken, though it is from the address of a host."""
    a, b = await pair(site)
    one, two = site.hosts
    inner = bytes.fromhex("0267760000020267760000010800")
    vxlan = struct.pack("!BBHI", 0x08, 0, 0, 1 << 8) + inner + SECRET

    def shout() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(vxlan, (two.address, 4789))

    def refused() -> int:
        text = run("nft", "list", "counter", "inet", f"gureum_{INDEX}", "denied_host").stdout
        return int(text.split("packets")[1].split()[0])

    before = two.here(refused)
    # From the stranger's, as its own host would not send it.
    site.lan(lambda: run("ip", "address", "add", f"{one.address}/32", "dev", "lo"))
    pose_as(site, one.address, two.address, vxlan)
    assert two.here(refused) == before + 1
    with pytest.raises(PermissionError):
        one.here(shout)
    assert two.here(refused) == before + 1
    assert a.pings(b.ip)


def pose_as(site: Site, source: str, target: str, data: bytes) -> None:
    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((source, 4000))
            sock.sendto(data, (target, 4789))

    site.lan(send)
