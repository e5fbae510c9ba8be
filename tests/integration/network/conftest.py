"""A host, an Internet and guests, each a network namespace: the kernel's own TCP on all sides.

A guest's Ethernet is a tap in its namespace, joined frame by frame to the port's tap as a hypervisor would.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import selectors
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from gureum.env import Env
from gureum.hostspec import (
    GroupSpec,
    Metadata,
    MetadataInterface,
    NetworkSpec,
    PortSpec,
    RouteKind,
    RouteSpec,
    RouteTableSpec,
    RuleSpec,
    SubnetSpec,
    VpcSpec,
)
from gureum.network import dns, namespaces
from gureum.network.kernel import KernelNetwork
from gureum.network.namespaces import visit

if TYPE_CHECKING:
    from .hosts import Site

T = TypeVar("T")

INDEX = int(os.environ.get("GUREUM_TEST_INDEX", "62"))
"""Several runs on one machine need one each."""
PREFIX = f"gmtest{INDEX}"
HOST, INTERNET = f"{PREFIX}-host", f"{PREFIX}-inet"
SERVER = "203.0.113.9"
HOST_ADDRESS = "192.0.2.1"
_libc = ctypes.CDLL(None, use_errno=True)


def run(*argv: str, check: bool = True, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    assert not check or done.returncode == 0, f"{argv}: {done.stderr or done.stdout}"
    return done


def enter(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    assert _libc.setns(fd, 0x40000000) == 0
    os.close(fd)


class Wire:
    """Copies frames between pairs of tap descriptors, in a thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._wake, self._waker = os.pipe()
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def join(self, one: int, other: int) -> None:
        with self._lock:
            self._selector.register(one, selectors.EVENT_READ, other)
            self._selector.register(other, selectors.EVENT_READ, one)

    def part(self, one: int, other: int) -> None:
        """``one`` is closed."""
        with self._lock:
            self._selector.unregister(one)
            self._selector.unregister(other)
            os.close(one)

    def close(self) -> None:
        os.write(self._waker, b"x")
        self._thread.join(5)
        self._selector.close()
        os.close(self._wake)
        os.close(self._waker)

    def _pump(self) -> None:
        while True:
            ready = self._selector.select(0.2)
            with self._lock:
                for key, _ in ready:
                    if key.data is None:
                        return
                    with contextlib.suppress(OSError):
                        for _ in range(64):
                            os.write(key.data, os.read(key.fd, 70000))


class Guest:
    """A machine on a port. All calls but ``tcp`` block: use ``rig.call`` while servers must run."""

    def __init__(self, rig: Rig, port: PortSpec, name: str) -> None:
        self.port = port
        self.ip = port.private_ip
        self.namespace = name
        self._rig = rig
        run("ip", "netns", "add", name)
        self._tap = visit(name, lambda: _guest_tap(port.mac))
        self._port_fd = -1

    async def plug(self, fd: int = -1) -> Guest:
        """``fd``: the port, if it is open already."""
        self._port_fd = fd if fd >= 0 else await self._rig.network.open_port(self.port.id)
        self._rig.wire.join(self._port_fd, self._tap)
        return self

    def unplug(self) -> None:
        if self._port_fd >= 0:
            self._rig.wire.part(self._port_fd, self._tap)
            self._port_fd = -1

    def configure(self, gateway: str, prefix: int = 20, ip: str = "") -> None:
        self.run("ip", "address", "add", f"{ip or self.ip}/{prefix}", "dev", "eth0")
        self.run("ip", "route", "add", "default", "via", gateway)
        # A link that came up a moment ago may still lose frames: wait for the router's answer.
        self.run("busybox", "arping", "-q", "-f", "-w", "5", "-I", "eth0", gateway)

    def run(self, *argv: str, check: bool = True, timeout: float = 20) -> subprocess.CompletedProcess[str]:
        return visit(self.namespace, lambda: run(*argv, check=check, timeout=timeout))

    def pings(self, address: str, *options: str) -> bool:
        return self.run("busybox", "ping", "-c1", "-W1", *options, address, check=False).returncode == 0

    def listen(self, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        return visit(self.namespace, lambda: _listen(port, kind))

    def connect(self, address: str, port: int, seconds: float = 0.8) -> socket.socket | None:
        """A connection, None if there was no answer."""
        return visit(self.namespace, lambda: _connect(address, port, seconds))

    def reaches(self, address: str, port: int) -> bool:
        return visit(self.namespace, lambda: _reaches(address, port))

    def send_raw(self, frame: bytes) -> None:
        """An Ethernet frame, as it is."""

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
                sock.bind(("eth0", 0))
                sock.send(frame)

        visit(self.namespace, send)

    def sniff(self) -> socket.socket:
        """A packet socket on its interface."""

        def open_socket() -> socket.socket:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
            sock.bind(("eth0", 0))
            sock.settimeout(0.5)
            return sock

        return visit(self.namespace, open_socket)

    def close(self) -> None:
        self.unplug()
        os.close(self._tap)
        run("ip", "netns", "delete", self.namespace)


def _guest_tap(mac: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"eth0", 0x2 | 0x1000 | 0x4000))
    fcntl.ioctl(fd, 0x400454D0, 0xF)
    run("ip", "link", "set", "lo", "up")
    Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").write_text("1")
    run("ip", "link", "set", "eth0", "address", mac, "up")
    return fd


def _listen(port: int, kind: int = socket.SOCK_STREAM, address: str = "0.0.0.0") -> socket.socket:
    sock = socket.socket(_family(address), kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    if kind == socket.SOCK_STREAM:
        sock.listen(64)
    sock.settimeout(3)
    return sock


def _connect(address: str, port: int, seconds: float = 0.8) -> socket.socket | None:
    sock = socket.socket(_family(address))
    sock.settimeout(seconds)
    try:
        sock.connect((address, port))
    except OSError:
        sock.close()
        return None
    return sock


def _reaches(address: str, port: int) -> bool:
    found = _connect(address, port)
    if found is not None:
        found.close()
    return found is not None


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def until(look: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while not look():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Rig:
    """The network under test and everything around it."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.wire = Wire()
        self.guests: list[Guest] = []
        self.metadata: dict[str, Metadata] = {}
        self.network = self.make_network()

    def make_network(self, index: int = INDEX, env: Env | None = None, cloud: str = "") -> KernelNetwork:
        return KernelNetwork(
            env or Env(),
            cloud or f"cloud-{index}",
            index,
            self.run_dir,
            metadata=lambda id: self.metadata.get(id),
        )

    async def call(self, work: Callable[..., T], *args: object) -> T:
        """Run something that blocks, while the event loop serves."""
        return await asyncio.to_thread(work, *args)

    async def guest(self, port: PortSpec, configure: bool = True) -> Guest:
        guest = Guest(self, port, f"{PREFIX}-g{len(self.guests)}")
        self.guests.append(guest)
        await guest.plug()
        if configure:
            await self.call(guest.configure, "172.31.0.1")
        return guest

    async def close(self) -> None:
        for guest in self.guests:
            guest.close()
        self.wire.close()
        await self.network.teardown()
        await self.network.close()

    def internet(self, work: Callable[[], T]) -> T:
        return visit(INTERNET, work)


def port(
    number: int, public: bool = False, groups: tuple[str, ...] = ("sg-1",), vpc: str = "vpc-1"
) -> PortSpec:
    return PortSpec(
        id=f"eni-{vpc[-1]}{number}",
        instance=f"i-{vpc[-1]}{number}",
        vpc=vpc,
        subnet=f"subnet-{vpc[-1]}",
        mac=f"06:00:00:00:{int(vpc[-1]):02x}:{number:02x}",
        private_ip=f"172.31.0.{number}",
        public_ip=f"198.18.{4 * INDEX}.{number + 100 * (int(vpc[-1]) - 1)}" if public else "",
        groups=groups,
    )


def vpc(number: int = 1, **fields: object) -> VpcSpec:
    return VpcSpec(
        id=f"vpc-{number}",
        network_id=number,
        cidr="172.31.0.0/16",
        **{  # type: ignore[arg-type]
            "subnets": (SubnetSpec(id=f"subnet-{number}", cidr="172.31.0.0/20", route_table="rtb-1"),),
            "route_tables": (RouteTableSpec(id="rtb-1", number=1, routes=(TO_INTERNET,)),),
            **fields,
        },
    )


TO_INTERNET = RouteSpec(destination="0.0.0.0/0", kind=RouteKind.internet)
ALL_OUT = RuleSpec(egress=True, cidr="0.0.0.0/0")
ALL_IN = RuleSpec(cidr="0.0.0.0/0")
OPEN = GroupSpec(id="sg-1", rules=(ALL_OUT, ALL_IN))
CLOSED = GroupSpec(id="sg-2", rules=(ALL_OUT,))


def spec(*ports: PortSpec, groups: tuple[GroupSpec, ...] = (OPEN, CLOSED), **fields: object) -> NetworkSpec:
    vpcs = tuple(vpc(int(id[-1])) for id in sorted({port.vpc for port in ports}))
    return NetworkSpec(**{"vpcs": vpcs, "ports": ports, "groups": groups, **fields})  # type: ignore[arg-type]


def metadata(port: PortSpec, **fields: object) -> Metadata:
    name = f"ip-{port.private_ip.replace('.', '-')}.ec2.internal"
    interface = MetadataInterface(
        id=port.id,
        mac=port.mac,
        private_ip=port.private_ip,
        private_dns=name,
        public_ip=port.public_ip,
        subnet=port.subnet,
        subnet_cidr="172.31.0.0/20",
        vpc=port.vpc,
        vpc_cidr="172.31.0.0/16",
        group_ids=port.groups,
        group_names=("default",),
        owner="123456789012",
    )
    values: dict[str, object] = {
        "instance": port.instance,
        "image": "ami-1",
        "type": "t3.nano",
        "account": "123456789012",
        "region": "us-east-1",
        "zone": "us-east-1a",
        "reservation": "r-1",
        "interfaces": (interface,),
        **fields,
    }
    return Metadata(**values)  # type: ignore[arg-type]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes a namespace this thread's host: eth0 leads to an Internet whose server is SERVER."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    public = Path(tempfile.mkdtemp(prefix=PREFIX))
    public.chmod(0o755)
    resolv = public / "resolv.conf"
    resolv.write_text(f"nameserver {SERVER}\n")
    monkeypatch.setattr(dns, "_RESOLV_FILES", (str(resolv),))
    home = Path(f"/proc/self/task/{threading.get_native_id()}/ns/net")
    fd = os.open(home, os.O_RDONLY)
    clean()
    try:
        run("ip", "netns", "add", INTERNET)
        run("ip", "netns", "add", HOST)
        enter(namespaces.DIRECTORY / HOST)
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", INTERNET)
        run("ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", "eth0")
        run("ip", "link", "set", "eth0", "up")
        run("ip", "route", "add", "default", "via", "192.0.2.254")
        for command in (
            "link set lo up",
            "address add 192.0.2.254/24 dev eth0",
            f"address add {SERVER}/32 dev lo",
            "link set eth0 up",
        ):
            run("ip", "-n", INTERNET, *command.split())
        yield
    finally:
        assert _libc.setns(fd, 0x40000000) == 0
        os.close(fd)
        clean()
        shutil.rmtree(public)


OURS = (PREFIX, *(f"g{kind}{index}{mark}" for kind in "mn" for index in (INDEX, INDEX + 1) for mark in "-."))


def clean() -> None:
    """Remove what this or an earlier run left."""
    for name in namespaces.names():
        if name.startswith(OURS):
            for pid in run("ip", "netns", "pids", name, check=False).stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            run("ip", "netns", "delete", name, check=False)


@pytest.fixture
async def rig(host: None, tmp_path: Path) -> AsyncIterator[Rig]:
    found = Rig(tmp_path)
    try:
        yield found
    finally:
        await found.close()


@pytest.fixture
async def site(host: None, tmp_path: Path) -> AsyncIterator[Site]:
    """Three hosts of one cloud."""
    from .hosts import Site

    found = Site(tmp_path, 3)
    try:
        yield found
    finally:
        await found.close()
