"""The host's own part: its packet filter, and the ways of public addresses to the VPCs that have them.

A host with an uplink is one of several: there public addresses are on the uplink's network. The host that has
one answers ARP for it, and says so to all when it gets it; who has it else is found by ARP.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from ipaddress import IPv6Network, ip_address
from pathlib import Path

from gureum.env import Env
from gureum.errors import NetworkError
from gureum.hostspec import NetworkSpec
from gureum.network import dns, hostfilter, links, outside6, wireguard
from gureum.network.announcements import announce
from gureum.network.conntrack import forget_flows
from gureum.network.names import Names
from gureum.network.namespaces import command, command_batch, ip_batch, nft, write_sysctl
from gureum.network.plan import VpcPlan, plan_hosts
from gureum.network.ruleset import Table, change_table, replace_table
from gureum.network.silence import Silence
from gureum.network.vxlan import Underlay

log = logging.getLogger(__name__)


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
        self._silence = Silence(names.place(uplink))
        self._table: Table | None = None
        # None: as found when they are asked for, as devices that go take theirs along.
        self._routes: set[tuple[str, str]] | None = None
        self._proxies: set[str] = set()
        self.unsaid: set[str] = set()
        """Addresses that came, and were not announced yet."""
        # What of IPv6 is led here; None: not known.
        self._networks6: tuple[str, ...] | None = None
        self._warned6 = False
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
        six = outside6.wanted(spec, self._uplink)
        # Over WireGuard, VXLAN packets come from its device only.
        self._carrier = self._names.wireguard if spec.encrypted and self._uplink else ""
        table = hostfilter.host_table(
            self._names, self._cloud, dns.upstream()[1], self._uplink, peers, self._carrier, self.storage, six
        )
        if self.known and self._table is not None:
            nft(change_table(self._table, table))
            self._table = table
            self._lead_out6(six)
            return
        self.check_owner()
        self._asked = None
        write_sysctl("ipv4/ip_forward", "1")
        nft(replace_table(table))
        if self._uplink:
            write_sysctl(f"ipv4/conf/{self._uplink}/forwarding", "1")
            write_sysctl(f"ipv4/neigh/{self._uplink}/proxy_delay", "0")
            ip_batch([f"route replace {self._names.public} dev {self._uplink} scope link"])
        else:
            ip_batch([f"route replace unreachable {self._names.public}"])
        self._table = table
        self._networks6 = None
        self._lead_out6(six)
        self._proxies = self._find_proxies() if self._uplink else set()
        self._env.crashpoint("network.host.prepared")
        self._routes = None
        self.known = True

    def _lead_out6(self, six: hostfilter.Outside6) -> None:
        """What IPv6 to the outside needs of the host, once the filter is there."""
        wanted = six.networks if six.guests else ()
        if wanted == self._networks6:
            return
        self._networks6 = wanted
        if not wanted:
            outside6.clear(self._names)
            return
        outside6.prepare(self._names, six.networks, self._uplink)
        if not self._warned6 and not outside6.has_way():
            self._warned6 = True
            log.warning(
                "this host has no default route of IPv6: what guests send to the IPv6 Internet is answered "
                '"unreachable"'
            )

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
        if self._routes is not None:
            self._routes = {route for route in self._routes if route[1] != device}

    def route(self, plans: Iterable[VpcPlan], gateways: dict[str, str], there: set[str]) -> None:
        """Public addresses to their VPCs. ``gateways``: by the host's end of a link, the address of the
        other; ``there``: all ends that may be led to.
        """
        was = links.public_routes(self._names) if self._routes is None else self._routes
        wanted = {
            route for route in links.wanted_routes(self._names, plans) if route in was or route[1] in there
        }
        gone = links.gone_route_commands(was, wanted)
        commands = links.route_commands(was, wanted, gateways)
        addresses = {address for address, _ in wanted}
        come: set[str] = set()
        if self._uplink:
            come = addresses - self._proxies
            self.unsaid = (self.unsaid | come) & addresses
            commands += [f"neighbour replace proxy {address} dev {self._uplink}" for address in sorted(come)]
        if gone or commands or self._proxies - addresses:
            self.known = False
            if self._uplink:
                # Before its route goes: the address may have another host by now.
                gone = [
                    *(
                        f"neighbour delete proxy {address} dev {self._uplink}"
                        for address in sorted(self._proxies - addresses)
                    ),
                    *gone,
                ]
                self._proxies = addresses
            command_batch("ip", gone, gone=True)
            ip_batch(commands)
            self.known = True
        self._env.crashpoint("network.public.routed")
        forget_flows({address for address, _ in was} - addresses)
        self._routes = wanted
        self.announce()

    def announce(self) -> None:
        """Say which addresses came here; while the host is silent, nothing."""
        if self.unsaid and not self._is_silent():
            announce(self._uplink, sorted(self.unsaid))
            self.unsaid = set()

    def _is_silent(self) -> bool:
        """Whether this host must not say that it has addresses: what it says passes no filter of ARP."""
        try:
            return self._silence.kept()
        except OSError as error:
            raise NetworkError(str(error)) from error

    def _find_proxies(self) -> set[str]:
        """Of this cloud: of its public addresses, and of its IPv6 networks that are led to this uplink."""
        found = [entry["dst"] for entry in links.read_json("neighbour", "show", "proxy", "dev", self._uplink)]
        led = [IPv6Network(each) for each in outside6.led(self._names)]
        return {
            address
            for address in found
            if (number := ip_address(address)) in self._names.public or any(number in each for each in led)
        }

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
        try:
            self._silence.end()
        except OSError as error:
            raise NetworkError(str(error)) from error
        outside6.clear(self._names)
        wireguard.remove(self._names.wireguard)
        command(["nft", "delete", "table", "inet", self._names.table], fails=True)
        self.known = False
