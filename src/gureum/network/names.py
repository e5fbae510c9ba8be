"""What things of one cloud are called on a host, and which addresses its links have.

Several clouds run side by side on one machine; each has an index. Everything that a cloud leaves in the
kernel carries the index in its name, so that it can be found again and removed without any record of it.
"""

from __future__ import annotations

import hashlib
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from gureum.errors import NetworkError
from gureum.network.silence import Place

BENCHMARK_RANGE = IPv4Network("198.18.0.0/15")
"""RFC 2544 addresses, never routed in the Internet: 198.18 for public addresses, 198.19 for our links."""
OWN_RANGE6 = IPv6Network("fd67:75::/32")
"""Our own devices': links to VPCs, and what is between hosts. Of no VPC: those begin with fd80::/9."""
LINK_SLOTS = 128
"""How many VPCs a host can have: each takes a /31 of its cloud's /24."""
ROUTER_MAC = "02:67:75:72:75:6d"
"""The router's address on every tap of every host, so that guests which move keep their ARP entries."""
LINK_MACS = "02:67:75:00:00:01", "02:67:75:00:00:02"
"""Of the host's end of a link, and of the other."""
UPLINK = "up"
"""The name of the VPC's end of its link to the host."""
VXLAN_PORT = 4789
VXLAN = "vx"
"""The VPC's device towards the other hosts."""
PEERINGS = "pr"
"""What the names of a VPC's devices towards its peers begin with."""
NEIGHBOUR, NEIGHBOUR6 = "169.254.1.1", "fe80::1"
"""Who is at the other end of a device that leads to one place only; its Ethernet address is programmed."""
LINK_NEIGHBOUR6 = "fe80::2"
"""The same of the host's end of a link."""
GUEST_MTU = 1500
HOST_NUMBER_MAX = 16383
INDEX_MAX = 63
"""A cloud has a /22 of 198.18.0.0/16 for its public addresses: there are 64."""
NETWORK_ID_MAX = (1 << 24) - 1
METRIC6 = 26000
STORAGE_PORT_FIRST = 20000
STORAGE_PORTS = 100
"""Of each cloud, for the daemons of its own storage cluster: below those that the kernel hands out."""


class Names:
    """Names and addresses of the cloud with this index (0 to 63) on this host.

    ``public_cidr`` are its public addresses; "" for 198.18.(4 x INDEX).0/22. ``host``: which of several hosts
    on one machine, which have the names of network namespaces in common.
    """

    def __init__(self, index: int, public_cidr: str = "", host: int = 0) -> None:
        if not 0 <= index <= INDEX_MAX:
            raise NetworkError(f"the index of a cloud is 0 to {INDEX_MAX}, not {index}")
        self.index = index
        self.public = IPv4Network(public_cidr or f"198.18.{4 * index}.0/22")
        self.links = IPv4Network(f"198.19.{index}.0/24")
        self.links6 = IPv6Network(f"fd67:75:1:{index:x}::/64")
        self.metric6 = METRIC6 + index
        """Of our routes to whole IPv6 networks, so that they are found again."""
        self.table = f"gureum_{index}"
        owner = f"{index}.{host}" if host else f"{index}"
        self.namespace_prefix = f"gm{owner}-"
        self.nat_prefix = f"gn{owner}-"
        self.uplink_prefix = f"gu{index}-"
        # A program that makes the device has a socket of this name, which is the machine's. Others have wg0.
        self.wireguard = f"gw{owner}"

    def place(self, uplink: str) -> Place:
        """Where a host with this uplink is kept silent."""
        return Place(f"{self.table}_silence", self.uplink_prefix, uplink, str(self.public), self.metric6)

    def namespace(self, network_id: int) -> str:
        return f"{self.namespace_prefix}{network_id}"

    def uplink(self, network_id: int) -> str:
        """The host's end of a VPC's link."""
        return f"{self.uplink_prefix}{network_id}"

    def nat_namespace(self, tap: str) -> str:
        """The namespace of the NAT gateway whose port is this device."""
        return f"{self.nat_prefix}{tap}"

    def nat_uplink(self, tap: str) -> str:
        """The host's end of a NAT gateway's link; no ``network_id`` has this name."""
        return f"{self.uplink_prefix}n{hashlib.sha256(tap.encode()).hexdigest()[:8]}"

    def network_id(self, name: str) -> int | None:
        """The network id in the name of a namespace or uplink of this cloud, None for anything else."""
        for prefix in (self.namespace_prefix, self.uplink_prefix):
            if name.startswith(prefix) and name[len(prefix) :].isdecimal():
                return int(name[len(prefix) :])
        return None

    def link(self, slot: int) -> tuple[str, str]:
        """The addresses (host's end, VPC's end) of the link in a slot."""
        base = self.links.network_address + 2 * slot
        return str(base), str(base + 1)

    def link6(self, slot: int) -> tuple[str, str]:
        """The same of IPv6: whom errors come from. Between the two, packets go by link-local addresses."""
        base = self.links6.network_address + (slot << 16)
        return str(base + 1), str(base + 2)

    def slot(self, address: str) -> int | None:
        """The slot that an address of the host's end belongs to."""
        number = IPv4Address(address)
        return (int(number) - int(self.links.network_address)) // 2 if number in self.links else None


def local6(cloud: str, account: str, region: str) -> IPv6Network:
    """The unique local prefix of a cloud, for the IPv6 networks of its VPCs.

    As RFC 4193 wants, it (fd80::/9 and 23 bits) is as good as random: it is derived from what names the
    cloud.
    """
    digest = bytearray(hashlib.sha256(f"{cloud}/{account}/{region}".encode()).digest()[:3])
    digest[0] |= 0x80  # away from fd00:ec2::, where EC2 has its own services
    return IPv6Network((b"\xfd" + bytes(digest) + bytes(12), 32))


def storage_ports(index: int) -> range:
    """The TCP ports on which the storage daemons of the cloud with this index are, on its own machine."""
    first = STORAGE_PORT_FIRST + STORAGE_PORTS * index
    return range(first, first + STORAGE_PORTS)


def choose_slot(network_id: int, used: set[int]) -> int:
    """A free link slot for a VPC: the one its number suggests, or the next.

    Raises NetworkError when the host has no more.
    """
    for step in range(LINK_SLOTS):
        slot = (network_id + step) % LINK_SLOTS
        if slot not in used:
            return slot
    raise NetworkError(f"a host has room for {LINK_SLOTS} VPCs of one cloud")


def single(address: str) -> str:
    """The network of one address."""
    return f"{address}/{128 if ':' in address else 32}"


def next_hop(number: int) -> tuple[str, str]:
    """The addresses (IPv4, IPv6) on VXLAN devices of the host with this number."""
    return f"169.254.{64 + number // 256}.{number % 256}", f"fe80::{number:x}"


def vxlan_mac(number: int) -> str:
    """The Ethernet address of that host's VXLAN devices."""
    return f"02:67:76:00:{number // 256:02x}:{number % 256:02x}"


def wireguard_address(number: int) -> str:
    """That host's address on the network between hosts that WireGuard makes."""
    return f"fd67:75::{number:x}"


def peering_device(number: int) -> str:
    return f"{PEERINGS}{number}"


def is_port(device: str) -> bool:
    """Whether a device of a VPC's namespace is a port."""
    return re.fullmatch(r"[tx][0-9a-f]{14}", device) is not None


def tap_name(interface: str) -> str:
    """The name of an interface's tap: at most 15 characters, the last 14 digits of an id as EC2 makes
    them.
    """
    tail = interface.removeprefix("eni-")
    if re.fullmatch(r"[0-9a-f]{17}", tail):
        return f"t{tail[-14:]}"
    return f"x{hashlib.sha256(interface.encode()).hexdigest()[:14]}"
