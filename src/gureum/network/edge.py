"""The host's own part: its packet filter, and the ways of public addresses to the VPCs that have them.

A host with an uplink is one of several: there public addresses are on the uplink's network. The host that has
one answers ARP for it, and says so to all when it gets it; who has it else is found by ARP.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from gureum.env import Env
from gureum.errors import NetworkError
from gureum.hostspec import NetworkSpec
from gureum.network import dns, hostfilter, links, wireguard
from gureum.network.conntrack import forget_flows
from gureum.network.names import Names
from gureum.network.namespaces import command, command_batch, ip_batch, nft, write_sysctl
from gureum.network.plan import VpcPlan, plan_hosts
from gureum.network.ruleset import Table, change_table, replace_table
from gureum.network.vxlan import Underlay

log = logging.getLogger(__name__)

_ETHERNET_BROADCAST = b"\xff" * 6
_ARP = 0x0806


class Edge:
    """``uplink`` is the device to the other hosts, "" for the cloud's only host. Blocking, one call at a
    time, in the host's namespace.

    ``known`` False: nothing is assumed about what is there.
    """

    def __init__(self, env: Env, names: Names, cloud: str, uplink: str) -> None:
        self.known = False
        self._env = env
        self._names = names
        self._cloud = cloud
        self._uplink = uplink
        self._table: Table | None = None
        self._routes: set[tuple[str, str]] = set()
        self._proxies: set[str] = set()
        self._underlay = Underlay()
        self._asked: object = None
        # The device that encrypts, "" for none.
        self._carrier = ""
        self.storage: frozenset[str] = frozenset()
        """Where guests find nothing: addresses and networks of the storage cluster."""

    def underlay(self, spec: NetworkSpec, key_file: Path) -> Underlay:
        """What VXLAN packets of the hosts of this spec go through; made as far as it is made by us."""
        if not spec.number:
            return Underlay()
        asked = (spec.number, spec.encrypted, spec.hosts if spec.encrypted else ())
        if self._asked != asked:
            self._underlay, self._asked = self._find_underlay(spec, key_file), asked
        return self._underlay

    def _find_underlay(self, spec: NetworkSpec, key_file: Path) -> Underlay:
        if not self._uplink:
            raise NetworkError("this host is one of several, but has no uplink: start its agent with one")
        found = links.read_json("address", "show", "dev", self._uplink)
        addresses = [
            address["local"]
            for address in found[0]["addr_info"]
            if address["family"] == "inet" and address["scope"] == "global"
        ]
        if not addresses:
            raise NetworkError(f"the uplink {self._uplink} has no IPv4 address")
        mtu = int(found[0]["mtu"])
        if not spec.encrypted:
            return Underlay(addresses[0], mtu)
        return wireguard.ensure(self._names.wireguard, spec.number, plan_hosts(spec).values(), key_file, mtu)

    def prepare(self, spec: NetworkSpec) -> None:
        """The filter, and what is done once."""
        peers = [host.outer for host in plan_hosts(spec).values()]
        # Over WireGuard, VXLAN packets come from its device only.
        self._carrier = self._names.wireguard if spec.encrypted and self._uplink else ""
        table = hostfilter.host_table(
            self._names, self._cloud, dns.upstream()[1], self._uplink, peers, self._carrier, self.storage
        )
        if self.known and self._table is not None:
            nft(change_table(self._table, table))
            self._table = table
            return
        self.check_owner()
        self._asked = None
        write_sysctl("ipv4/ip_forward", "1")
        nft(replace_table(table))
        if self._uplink:
            write_sysctl(f"ipv4/conf/{self._uplink}/forwarding", "1")
            write_sysctl(f"ipv4/neigh/{self._uplink}/proxy_delay", "0")
            ip_batch([f"route replace {self._names.public} dev {self._uplink} scope link"])
            self._proxies = self._find_proxies()
        else:
            ip_batch([f"route replace unreachable {self._names.public}"])
        self._table = table
        self._env.crashpoint("network.host.prepared")
        self._routes = links.public_routes(self._names)
        self.known = True

    def filter_is_gone(self) -> bool:
        return (
            f"table inet {self._names.table}" not in command(["nft", "list", "tables", "inet"]).splitlines()
        )

    def carrier_is_gone(self) -> bool:
        """Whether what encrypted was made and is not there any more: a process can be killed."""
        carrier = self._carrier
        return bool(carrier) and bool(self._underlay.address) and carrier not in links.devices(carrier)

    def check_owner(self) -> None:
        """The index must not be in use by another cloud: everything of that one would be removed."""
        for line in command(["nft", "list", "table", "inet", self._names.table], fails=True).splitlines():
            if line.strip().startswith("comment ") and line.strip() != f'comment "{self._cloud}"':
                index = self._names.index
                raise NetworkError(
                    f"network index {index} belongs to another cloud ({line.strip()}); "
                    f"if that one is gone: nft delete table inet {self._names.table}"
                )

    def forget(self, device: str) -> None:
        """The device is gone, and its routes with it."""
        self._routes = {route for route in self._routes if route[1] != device}

    def route(self, plans: Iterable[VpcPlan], gateways: dict[str, str], there: set[str]) -> None:
        """Public addresses to their VPCs. ``gateways``: by the host's end of a link, the address of the
        other; ``there``: all ends that may be led to.
        """
        was = self._routes
        wanted = {
            route for route in links.wanted_routes(self._names, plans) if route in was or route[1] in there
        }
        commands = links.route_commands(was, wanted, gateways)
        addresses = {address for address, _ in wanted}
        come: set[str] = set()
        if self._uplink:
            come = addresses - self._proxies
            commands += [f"neighbour replace proxy {address} dev {self._uplink}" for address in sorted(come)]
        if commands or self._proxies - addresses:
            self.known = False
            if self._uplink:
                # Before its route goes: the address may have another host by now.
                gone = [
                    f"neighbour delete proxy {address} dev {self._uplink}"
                    for address in sorted(self._proxies - addresses)
                ]
                command_batch("ip", gone, gone=True)
                self._proxies = addresses
            ip_batch(commands)
            self.known = True
        self._env.crashpoint("network.public.routed")
        forget_flows({address for address, _ in was} - addresses)
        self._routes = wanted
        announce(self._uplink, sorted(come))

    def _find_proxies(self) -> set[str]:
        found = links.read_json("neighbour", "show", "proxy", "dev", self._uplink)
        return {entry["dst"] for entry in found if IPv4Address(entry["dst"]) in self._names.public}

    def clear(self) -> None:
        """Remove it all."""
        public = str(self._names.public)
        if self._uplink:
            proxies = [
                f"neighbour delete proxy {address} dev {self._uplink}" for address in self._find_proxies()
            ]
            command_batch("ip", proxies, gone=True)
            command(["ip", "route", "delete", public, "dev", self._uplink], fails=True)
        else:
            command(["ip", "route", "delete", "unreachable", public], fails=True)
        wireguard.remove(self._names.wireguard)
        command(["nft", "delete", "table", "inet", self._names.table], fails=True)
        self.known = False


def announce(device: str, addresses: Sequence[str]) -> None:
    """Tell all on the device's network that this host has these addresses (gratuitous ARP, RFC 5944 4.6).

    It only makes others quicker to know: that it cannot be sent is no failure.
    """
    if not addresses:
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock,
    ):
        sock.setblocking(False)
        sock.bind((device, 0))
        own: bytes = sock.getsockname()[4]
        for address in addresses:
            packed = IPv4Address(address).packed
            head = _ETHERNET_BROADCAST + own + _ARP.to_bytes(2, "big")
            for operation in (1, 2):
                body = b"\x00\x01\x08\x00\x06\x04" + operation.to_bytes(2, "big")
                sock.send(head + body + own + packed + _ETHERNET_BROADCAST + packed)
