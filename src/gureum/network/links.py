"""Devices and addresses of a VPC's namespace, its link to the host, and the host's routes to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gureum.hostspec import PortKind
from gureum.network import namespaces
from gureum.network.filters import METADATA_ADDRESS, RESOLVER_ADDRESS, RESOLVER_ADDRESS6
from gureum.network.names import (
    LINK_MACS,
    LINK_NEIGHBOUR6,
    NEIGHBOUR6,
    ROUTER_MAC,
    UPLINK,
    Names,
    is_port,
    single,
)
from gureum.network.namespaces import command, has_ipv6, ip_batch, visit, write_sysctl
from gureum.network.plan import VpcPlan
from gureum.network.portplan import PortPlan
from gureum.network.taps import create_tap

_NAMESPACE_SYSCTLS = {
    # Guests' sources are checked at the taps; routes back may differ from routes in.
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv4/conf/default/accept_redirects": "0",
    "ipv4/conf/all/accept_source_route": "0",
    "ipv4/conf/default/accept_source_route": "0",
    "ipv4/conf/default/proxy_arp": "0",
    "ipv4/ip_forward": "1",
    # Every address and neighbour is programmed: nothing is made up, asked for or believed.
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/default/disable_ipv6": "0",
    "ipv6/conf/default/addr_gen_mode": "1",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/all/accept_ra": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/all/accept_redirects": "0",
    "ipv6/conf/default/accept_redirects": "0",
    "ipv6/conf/all/forwarding": "1",
    # Of an established flow connection tracking sees some packets only (``shortcut``): it cannot know which
    # sequence number is next, nor what was acknowledged.
    "netfilter/nf_conntrack_tcp_be_liberal": "1",
    "netfilter/nf_conntrack_tcp_timeout_unacknowledged": str(5 * 24 * 3600),
}
_GONE_GROUP = 99
"""The device group of taps that are about to be deleted."""


def read_json(*arguments: str) -> list[dict[str, Any]]:
    """What ``ip -j ARGUMENTS`` prints, in the calling thread's namespace."""
    text = command(["ip", "-j", *arguments]).strip()
    found: list[dict[str, Any]] = json.loads(text) if text else []
    return [entry for entry in found if entry]


def devices(prefix: str) -> set[str]:
    """Those of the calling thread's namespace whose names begin so. From /proc: /sys shows its mounter's."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    return {name for line in lines if (name := line.partition(":")[0].strip()).startswith(prefix)}


def uplinks(names: Names) -> dict[int, str]:
    """The host's ends of all this cloud's links: network id to address, "" if it has none yet."""
    found: dict[int, str] = {}
    for link in read_json("address", "show"):
        network_id = names.network_id(link["ifname"])
        if network_id is not None and link["ifname"].startswith(names.uplink_prefix):
            addresses = [address["local"] for address in link["addr_info"] if address["family"] == "inet"]
            found[network_id] = addresses[0] if addresses else ""
    return found


def build_vpc(names: Names, vpc: VpcPlan, slot: int, linked: bool) -> bool:
    """The namespace with its router, and the link to the host; whether the namespace is new. Repeats
    harmlessly; runs in the host's namespace.

    ``linked``: the host's end of the link exists. The two ends live and die together.
    """
    namespace, uplink = names.namespace(vpc.network_id), names.uplink(vpc.network_id)
    host_end, vpc_end = names.link(slot)
    new = not namespaces.exists(namespace)
    if new:
        namespaces.add(namespace)
        if linked and command(["ip", "link", "show", "dev", uplink, "type", "veth"], fails=True):
            # Left of a namespace that was removed behind our back: it leads nowhere, and goes at some time.
            command(["ip", "link", "delete", uplink], fails=True)
        linked = False
    if not linked:
        outer, inner = LINK_MACS
        ip_batch(
            [
                f"link add {uplink} address {outer} type veth "
                f"peer name {UPLINK} netns {namespace} address {inner}"
            ]
        )
    sysctls = {"rp_filter": "1", "forwarding": "1", "accept_redirects": "0", "send_redirects": "0"}
    for name, value in sysctls.items():
        write_sysctl(f"ipv4/conf/{uplink}/{name}", value)
    for name, value in {"accept_ra": "0", "accept_dad": "0", "accept_redirects": "0"}.items():
        write_sysctl(f"ipv6/conf/{uplink}/{name}", value)
    write_sysctl(f"ipv6/conf/{uplink}/disable_ipv6", "0" if vpc.outside6 else "1")
    commands = [
        f"address replace {host_end}/31 dev {uplink}",
        f"link set dev {uplink} addrgenmode none up",
    ]
    ends = [f"{vpc_end}/31"]
    if vpc.outside6:
        host_end6, vpc_end6 = names.link6(slot)
        commands += [
            f"address replace {host_end6}/128 dev {uplink} nodad",
            f"neighbour replace {LINK_NEIGHBOUR6} lladdr {LINK_MACS[1]} dev {uplink} nud permanent",
        ]
        ends.append(f"{vpc_end6}/128")
    ip_batch(commands)
    visit(namespace, lambda: _configure_router(vpc, ends))
    return new


def _prepare_namespace() -> None:
    for name, value in _NAMESPACE_SYSCTLS.items():
        write_sysctl(name, value)
    # For the same reason: a reset may look old. A kernel before 5.15 does not have it.
    if Path("/proc/sys/net/netfilter/nf_conntrack_tcp_ignore_invalid_rst").exists():
        write_sysctl("netfilter/nf_conntrack_tcp_ignore_invalid_rst", "1")


def _configure_router(vpc: VpcPlan, ends: list[str]) -> None:
    """``ends``: its addresses on the link."""
    _prepare_namespace()
    wanted = router_addresses(vpc)
    present = {
        address["local"]
        for address in read_json("address", "show", "dev", "lo")[0]["addr_info"]
        if address["local"] not in ("127.0.0.1", "::1")
    }
    ip_batch(
        [
            "link set lo up",
            f"link set dev {UPLINK} addrgenmode none up",
            *(f"address replace {end} dev {UPLINK}" for end in ends),
            # The first of them is whom the kernel's own errors come from: a router, and not a service.
            *(f"address replace {address} dev lo" for address in sorted(wanted, key=_routers_first(vpc))),
            *(f"address delete {address} dev lo" for address in sorted(present - wanted)),
        ]
    )


def _routers_first(vpc: VpcPlan) -> Callable[[str], tuple[bool, str]]:
    return lambda address: (address not in vpc.gateways, address)


def router_addresses(vpc: VpcPlan) -> set[str]:
    """Each is a network of one address."""
    six = {RESOLVER_ADDRESS6} if vpc.cidrs6 else set()
    return {*vpc.gateways, vpc.dns, METADATA_ADDRESS, RESOLVER_ADDRESS, *six}


def change_router(old: VpcPlan, new: VpcPlan) -> list[str]:
    """``ip`` commands for subnets that came or went."""
    was, wanted = router_addresses(old), router_addresses(new)
    return [
        *(f"address replace {address} dev lo" for address in sorted(wanted - was)),
        *(f"address delete {address} dev lo" for address in sorted(was - wanted)),
    ]


def taps(attached: bool = False) -> set[str]:
    """The taps of the calling thread's namespace: all, or those that a guest has open."""
    return {
        link["ifname"]
        for link in read_json("link", "show")
        if is_port(link["ifname"]) and (not attached or "LOWER_UP" in link["flags"])
    }


def removal_commands(taps: Iterable[str]) -> list[str]:
    """``ip`` commands that delete taps together: the kernel waits for a grace period per deletion, not per
    tap.
    """
    commands = [f"link set dev {tap} group {_GONE_GROUP}" for tap in sorted(taps)]
    return [*commands, f"link delete group {_GONE_GROUP}"] if commands else []


def create_taps(ports: Iterable[PortPlan]) -> None:
    """Taps for these ports, each answering ARP for the whole world. In the calling thread's namespace."""
    for port in ports:
        if port.kind is PortKind.nat:
            continue
        create_tap(port.tap)
        write_sysctl(f"ipv4/conf/{port.tap}/proxy_arp", "1")
        write_sysctl(f"ipv4/neigh/{port.tap}/proxy_delay", "0")


def create_new_taps(ports: Iterable[PortPlan]) -> None:
    """The same where none of them is there: a process of its own does it, while this one has other work."""
    taps = [port.tap for port in ports if port.kind is PortKind.machine]
    write_sysctl("ipv4/conf/default/proxy_arp", "1")
    try:
        ip_batch(
            [
                *(f"tuntap add dev {tap} mode tap vnet_hdr" for tap in taps),
                *(f"ntable change name arp_cache dev {tap} proxy_delay 0" for tap in taps),
            ]
        )
    finally:
        write_sysctl("ipv4/conf/default/proxy_arp", "0")


def ready_taps(mtu: int) -> set[str]:
    """Those of the calling thread's namespace that ``port_commands`` has nothing to do for."""
    return {
        link["ifname"]
        for link in read_json("address", "show")
        if is_port(link["ifname"])
        and (link["address"], link["mtu"]) == (ROUTER_MAC, mtu)
        and "UP" in link["flags"]
        and (not has_ipv6() or any(address["local"] == NEIGHBOUR6 for address in link["addr_info"]))
    }


def port_commands(port: PortPlan, mtu: int) -> list[str]:
    """``ip`` commands that bring a port's device up. It is the router to its guest, by either protocol.

    To set an Ethernet address, though it be the same, makes the kernel forget the device's neighbours.
    """
    commands = [f"link set dev {port.tap} address {ROUTER_MAC} mtu {mtu} up"]
    if has_ipv6():
        commands.append(f"address replace {NEIGHBOUR6}/64 dev {port.tap} nodad")
    return commands


def public_routes(names: Names) -> set[tuple[str, str]]:
    """(address, device) of all routes of the host to addresses of this cloud: public ones, and of IPv6."""
    return {
        (route["dst"], route["dev"])
        for family in (("-4", "-6") if has_ipv6() else ("-4",))
        for route in read_json(family, "route", "show")
        if str(route.get("dev", "")).startswith(names.uplink_prefix)
        and "/" not in route["dst"]
        and route.get("protocol") != "kernel"
    }


def wanted_routes(names: Names, plans: Iterable[VpcPlan]) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for vpc in plans:
        for port in vpc.ports.values():
            nat = port.kind is PortKind.nat
            device = names.nat_uplink(port.tap) if nat else names.uplink(vpc.network_id)
            found |= {(address.public_ip, device) for address in port.addresses if address.public_ip}
            if vpc.outside6 and not nat:
                found |= {(address, device) for address in port.ipv6}
    return found


def route_commands(
    was: set[tuple[str, str]], wanted: set[tuple[str, str]], gateways: dict[str, str]
) -> list[str]:
    """``ip`` commands for those that come; ``gateways``: device to the VPC's end of the link. A NAT gateway
    has the public address itself.
    """
    via = {device: f"via {gateway} " for device, gateway in gateways.items()}
    return [
        f"route replace {single(address)} via {LINK_NEIGHBOUR6} dev {device}"
        if ":" in address
        else f"route replace {single(address)} {via.get(device, '')}dev {device}"
        for address, device in sorted(wanted - was)
    ]


def gone_route_commands(was: set[tuple[str, str]], wanted: set[tuple[str, str]]) -> list[str]:
    """The same for those that go. Some may be gone already: of IPv6, with that of the device."""
    kept = {address for address, _ in wanted}
    return [
        f"route delete {single(address)} dev {device}"
        for address, device in sorted(was)
        if address not in kept
    ]
