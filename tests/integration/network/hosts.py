"""Several hosts: namespaces on one LAN, each with a network of its own; guests that move between them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gureum.env import Env
from gureum.hostspec import (
    AddressSpec,
    GroupSpec,
    NetworkSpec,
    PeerHostSpec,
    PeeringSpec,
    PortSpec,
    RemoteSpec,
    VpcSpec,
)
from gureum.network.kernel import KernelNetwork
from gureum.network.namespaces import visit

from .conftest import CLOSED, INDEX, OPEN, PREFIX, SERVER, Guest, Wire, run, vpc

T = TypeVar("T")

LAN = f"{PREFIX}-lan"
PUBLIC = f"198.18.{4 * INDEX}.0/22"


class Host:
    """Number ``number`` of the site's hosts; what a ``Guest`` takes for its rig."""

    def __init__(self, number: int, run_dir: Path, wire: Wire) -> None:
        self.number = number
        self.id = f"host-{number}"
        self.namespace = f"{PREFIX}-h{number}"
        self.address = f"192.0.2.{10 + number}"
        self.wire = wire
        self._run_dir = run_dir / self.id
        self._run_dir.mkdir()
        run("ip", "netns", "add", self.namespace)
        run(
            "ip",
            "link",
            "add",
            "uplink",
            "netns",
            self.namespace,
            "type",
            "veth",
            "peer",
            f"v{number}",
            "netns",
            LAN,
        )
        run("ip", "-n", LAN, "link", "set", f"v{number}", "mtu", "9000", "master", "lan", "up")
        for command in (
            "link set lo up",
            "link set uplink mtu 9000 up",
            f"address add {self.address}/24 dev uplink",
            "route add default via 192.0.2.254",
        ):
            run("ip", "-n", self.namespace, *command.split())
        self.start()

    def start(self, env: Env | None = None) -> None:
        """A new agent's network."""
        self.network = KernelNetwork(
            env or Env(),
            f"cloud-{INDEX}",
            INDEX,
            self._run_dir,
            lambda id: None,
            host=self.number,
            uplink="uplink",
        )
        # Its one thread is to live in the host's namespace, as an agent's process does.
        visit(self.namespace, lambda: self.network._executor.submit(lambda: None).result())

    def here(self, work: Callable[[], T]) -> T:
        return visit(self.namespace, work)

    def vpc_namespace(self, network_id: int) -> str:
        return f"gm{INDEX}.{self.number}-{network_id}"

    async def close(self) -> None:
        await self.network.teardown()
        await self.network.close()


class Site:
    """All hosts of a cloud, and what the manager would tell them."""

    def __init__(self, run_dir: Path, count: int) -> None:
        self.run_dir = run_dir
        run("ip", "netns", "add", LAN)
        for command in (
            "link set lo up",
            "link add lan type bridge",
            "link set lan mtu 9000 up",
            "address add 192.0.2.254/24 dev lan",
            f"address add {SERVER}/32 dev lo",
            f"route add {PUBLIC} dev lan",
        ):
            run("ip", "-n", LAN, *command.split())
        self.wire = Wire()
        self.hosts = [Host(number, run_dir, self.wire) for number in range(1, count + 1)]
        self.guests: list[Guest] = []
        self.vpcs: tuple[VpcSpec, ...] = (vpc(1),)
        self.groups: tuple[GroupSpec, ...] = (OPEN, CLOSED)
        self.members: dict[str, tuple[str, ...]] = {}
        self.peerings: tuple[PeeringSpec, ...] = ()
        self.ports: dict[str, tuple[PortSpec, int]] = {}
        self.standby: dict[str, int] = {}
        """By port, the host that it may go to."""

    def place(self, port: PortSpec, host: int) -> PortSpec:
        self.ports[port.id] = (port, host)
        return port

    def spec(self, host: int) -> NetworkSpec:
        standby = tuple(self.ports[id][0] for id, number in self.standby.items() if number == host)
        here = {port.vpc for port, number in self.ports.values() if number == host}
        here.update(port.vpc for port in standby)
        peerings = [each for each in self.peerings if here & set(each.vpcs)]
        wanted = here.union(*(each.vpcs for each in peerings))
        return NetworkSpec(
            number=host,
            hosts=tuple(
                PeerHostSpec(id=each.id, number=each.number, address=each.address) for each in self.hosts
            ),
            vpcs=tuple(each for each in self.vpcs if each.id in wanted),
            ports=tuple(port for port, number in self.ports.values() if number == host),
            standby=standby,
            remotes=tuple(
                remote(port, number)
                for port, number in self.ports.values()
                if number != host and port.vpc in wanted
            ),
            peerings=tuple(peerings),
            groups=self.groups,
            members=self.members,
        )

    async def apply(self, *numbers: int) -> None:
        for number in numbers or [host.number for host in self.hosts]:
            await self.hosts[number - 1].network.apply(self.spec(number))

    async def guest(self, port: PortSpec, gateway: str = "172.31.0.1", prefix: int = 20) -> Guest:
        host = self.hosts[self.ports[port.id][1] - 1]
        guest = Guest(host, port, f"{PREFIX}-g{len(self.guests)}")  # type: ignore[arg-type]
        self.guests.append(guest)
        await guest.plug()
        guest.configure(gateway, prefix)
        return guest

    async def move(self, guest: Guest, target: int, restart: bool = False, fd: int = -1) -> None:
        """As a live migration does it: the guest stops, its flows and its port go over, it goes on.

        ``fd``: of the port that stood by at the target.
        """
        port, source = self.ports[guest.port.id]
        guest.unplug()
        self.standby.pop(port.id, None)
        flows = await self.hosts[source - 1].network.export_flows(port.id)
        self.ports[port.id] = (port, target)
        await self.apply(target)
        if restart:
            await self.restart()
        await self.hosts[target - 1].network.import_flows(port.id, flows)
        await self.apply()
        guest._rig = self.hosts[target - 1]  # type: ignore[assignment]
        await guest.plug(fd)

    async def restart(self) -> None:
        """Every agent ends, and begins anew knowing nothing."""
        for host in self.hosts:
            await host.network.close()
            host.start()
        await self.apply()

    def lan(self, work: Callable[[], T]) -> T:
        return visit(LAN, work)

    async def close(self) -> None:
        for guest in self.guests:
            guest.close()
        self.wire.close()
        for host in self.hosts:
            await host.close()


def remote(port: PortSpec, host: int) -> RemoteSpec:
    first = AddressSpec(private_ip=port.private_ip, public_ip=port.public_ip)
    return RemoteSpec(
        id=port.id, vpc=port.vpc, host=f"host-{host}", addresses=(first, *port.secondary), ipv6=port.ipv6
    )


def connect(client: Guest, server: Guest, number: int) -> tuple[socket.socket, socket.socket]:
    with server.listen(number) as listener:
        connection = client.connect(server.ip, number, 3)
        assert connection is not None
        accepted, _ = listener.accept()
    return connection, accepted


def pings6(guest: Guest, address: str) -> bool:
    """Whether one of three gets there: an address that was added a moment ago is not in use at once."""
    done = guest.run("ping", "-q", "-c3", "-i0.3", "-W1", address, check=False)
    return " 0 received" not in done.stdout


def configure6(guest: Guest) -> None:
    def enable() -> None:
        Path("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").write_text("0")
        Path("/proc/sys/net/ipv6/conf/eth0/accept_dad").write_text("0")
        run("ip", "link", "set", "eth0", "down")
        run("ip", "link", "set", "eth0", "up")

    visit(guest.namespace, enable)
    for address in guest.port.ipv6:
        guest.run("ip", "address", "add", f"{address}/128", "dev", "eth0")
    guest.run("ip", "route", "replace", "::/0", "via", "fe80::1", "dev", "eth0")
