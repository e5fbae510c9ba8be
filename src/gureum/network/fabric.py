"""Several hosts on one machine: each a network namespace, with a bridge for the network between them.

To a host this is a LAN with a router: its device ``uplink`` has an address there and a default route. The
machine is the router: it reaches the cloud's public addresses on that LAN, and hides the LAN from the outside
behind its own address. Nothing that runs in a host knows that it is in a namespace.

Everything is found again by its name, made where it is missing, and repeated harmlessly.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from gureum.errors import NetworkError
from gureum.network import namespaces, outside6, wireguard
from gureum.network.links import read_json
from gureum.network.names import INDEX_MAX, Names, storage_ports
from gureum.network.namespaces import command, command_batch, has_ipv6, ip_batch, nft, visit, write_sysctl
from gureum.network.ruleset import Chain, Table, replace_table

UPLINK = "uplink"
"""A host's device towards the other hosts and the world."""
HOSTS_MAX = 64
MTU = 9000
_FIRST = 10
"""The number of host 0's address in the fabric's network."""


class Fabric:
    """The fabric of the cloud with this index (0 to 63), whose public addresses are ``public_cidr``.

    ``networks6``: what its VPCs' IPv6 networks are parts of; ``ipv6_prefix``: which of these is led to the
    machine, "" for none.
    ``lock_file`` keeps its users from building at the same time. Methods block, need root, and raise
    NetworkError.
    """

    def __init__(
        self,
        index: int,
        public_cidr: str,
        lock_file: Path,
        networks6: tuple[str, ...] = (),
        ipv6_prefix: str = "",
    ) -> None:
        if not 0 <= index <= INDEX_MAX:
            raise NetworkError(f"the index of a cloud is 0 to {INDEX_MAX}, not {index}")
        self.index = index
        self.bridge = f"gb{index}"
        self.table = f"gureum_fabric_{index}"
        self.network = IPv4Network(f"198.19.{64 + index}.0/24")
        self.network6 = IPv6Network(f"fd67:75:2:{index:x}::/64")
        self.public = IPv4Network(public_cidr)
        self._networks6 = networks6 if has_ipv6() else ()
        self._ipv6_prefix = ipv6_prefix
        self._lock_file = lock_file

    def namespace(self, host: int) -> str:
        return f"gh{self.index}-{host}"

    def address(self, host: int) -> str:
        return str(self.network.network_address + _FIRST + host)

    @property
    def gateway(self) -> str:
        return str(self.network.network_address + 1)

    @property
    def gateway6(self) -> str:
        return str(self.network6.network_address + 1)

    def port(self, host: int) -> str:
        """The machine's end of a host's cable."""
        return f"gv{self.index}-{host}"

    def ensure(self, host: int) -> str:
        """Have the network, and this host on it; returns the name of the host's namespace."""
        if not 0 <= host < HOSTS_MAX:
            raise NetworkError(f"a machine has hosts 0 to {HOSTS_MAX - 1}, not {host}")
        with self._locked():
            self._ensure_network()
            self._ensure_host(host)
        return self.namespace(host)

    def ensure_network(self) -> str:
        """Have the network, with or without hosts on it; returns the machine's address there."""
        with self._locked():
            self._ensure_network()
        return self.gateway

    def _ensure_network(self) -> None:
        write_sysctl("ipv4/ip_forward", "1")
        if self.bridge not in _devices():
            # No protocol, no waiting: a port forwards as soon as it is up.
            ip_batch([f"link add {self.bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"])
        ip_batch(
            [
                f"link set dev {self.bridge} address 02:67:62:00:00:{self.index:02x} mtu {MTU} up",
                f"address replace {self.gateway}/{self.network.prefixlen} dev {self.bridge}",
                f"route replace {self.public} dev {self.bridge} scope link",
            ]
        )
        for name, value in {"send_redirects": "0", "accept_redirects": "0", "rp_filter": "1"}.items():
            write_sysctl(f"ipv4/conf/{self.bridge}/{name}", value)
        nft(replace_table(self._table()))
        if self._networks6:
            self._ensure_network6()

    def _ensure_network6(self) -> None:
        outside6.forward()
        _enable_ipv6(self.bridge)
        ip_batch(
            [
                f"address replace {self.gateway6}/{self.network6.prefixlen} dev {self.bridge} nodad",
                *(f"route replace {network} dev {self.bridge}" for network in self._networks6),
            ]
        )
        wanted = {*self._networks6, str(self.network6)}
        for route in read_json("-6", "route", "show", "dev", self.bridge):
            # Of a prefix that the cloud had.
            if "/" in route["dst"] and route["dst"] not in wanted and not route["dst"].startswith("fe80:"):
                command(["ip", "-6", "route", "delete", route["dst"], "dev", self.bridge], fails=True)

    def _table(self) -> Table:
        """What a router does, and no more: guests reach the world through it, but not the machine itself."""
        ours = f"{{ {self.network}, {self.public} }}"
        inside6 = {str(self.network6), *self._networks6}
        ours6 = ", ".join(sorted(inside6))
        hidden6 = f"{{ {', '.join(sorted(inside6 - {self._ipv6_prefix}))} }}"
        outwards = f'oifname != "{self.bridge}" oifname != "lo"'
        storage = storage_ports(self.index)
        return Table(
            name=f"inet {self.table}",
            chains={
                "spoofed": Chain(
                    (
                        f'iifname "{self.bridge}" ip saddr != {ours} drop',
                        f'iifname "{self.bridge}" ip6 saddr != {{ {ours6}, fe80::/10, ::/128 }} drop',
                    ),
                    "type filter hook prerouting priority -150; policy accept;",
                ),
                "machine": Chain(
                    (
                        f'iifname != "{self.bridge}" accept',
                        "ct state { established, related } accept",
                        f"ip saddr {self.network} icmp type echo-request limit rate 100/second accept",
                        f"ip6 saddr {self.network6} icmpv6 type echo-request limit rate 100/second accept",
                        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
                        f"ip saddr {self.network} meta l4proto {{ tcp, udp }} th dport 53 accept",
                        f"ip saddr {self.network} tcp dport {storage[0]}-{storage[-1]} accept",
                        "drop",
                    ),
                    "type filter hook input priority -10; policy accept;",
                ),
                "hide": Chain(
                    (
                        f"ip saddr {ours} {outwards} masquerade",
                        f"ip6 saddr {hidden6} ip6 daddr != {{ {ours6} }} {outwards} masquerade",
                    ),
                    "type nat hook postrouting priority srcnat; policy accept;",
                ),
            },
        )

    def _ensure_host(self, host: int) -> None:
        namespace, port = self.namespace(host), self.port(host)
        if not namespaces.exists(namespace):
            # A cable leads to the one that was before, which the kernel may still be taking down.
            command_batch("ip", [f"link delete {port}"], gone=True)
            namespaces.add(namespace)
        # The two ends of a cable live and die together.
        if port not in _devices():
            ip_batch([f"link add {port} type veth peer name {UPLINK} netns {namespace}"])
        write_sysctl(f"ipv6/conf/{port}/disable_ipv6", "1")
        ip_batch([f"link set dev {port} mtu {MTU} master {self.bridge} up"])

        address6 = self.network6.network_address + _FIRST + host

        def configure() -> None:
            if self._networks6:
                _enable_ipv6(UPLINK)
            ip_batch(
                [
                    "link set lo up",
                    f"link set dev {UPLINK} address 02:67:68:00:{self.index:02x}:{host:02x} mtu {MTU} up",
                    f"address replace {self.address(host)}/{self.network.prefixlen} dev {UPLINK}",
                    f"route replace default via {self.gateway} dev {UPLINK}",
                    *(
                        (
                            f"address replace {address6}/{self.network6.prefixlen} dev {UPLINK} nodad",
                            f"route replace ::/0 via {self.gateway6} dev {UPLINK}",
                        )
                        if self._networks6
                        else ()
                    ),
                ]
            )

        visit(namespace, configure)

    def remove(self) -> None:
        """Remove all of it, also what is left of hosts that this cloud no longer has."""
        with self._locked():
            prefix = f"gv{self.index}-"
            ports = [device for device in _devices() if device.startswith(prefix)]
            ip_batch([f"link delete {port}" for port in ports])
            for namespace in self.namespaces():
                # What encrypts may be a process, which would keep the namespace.
                own = Names(self.index, host=int(namespace.rpartition("-")[2])).wireguard
                visit(namespace, partial(wireguard.remove, own))
                namespaces.remove(namespace)
            if self.bridge in _devices():
                ip_batch([f"link delete {self.bridge}"])
            command(["nft", "delete", "table", "inet", self.table], fails=True)

    def namespaces(self) -> list[str]:
        """Those of all its hosts that are there."""
        prefix = f"gh{self.index}-"
        return [
            name
            for name in namespaces.names()
            if name.startswith(prefix) and name.removeprefix(prefix).isdecimal()
        ]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _enable_ipv6(device: str) -> None:
    """With the addresses that we give it only, which can be used at once."""
    for name, value in {"disable_ipv6": "0", "accept_ra": "0", "accept_dad": "0"}.items():
        write_sysctl(f"ipv6/conf/{device}/{name}", value)


def _devices() -> set[str]:
    """Names of the devices in the calling thread's namespace: from /proc, as /sys shows its mounter's."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines}
