"""NAT gateways: each a namespace between its port in the VPC and a link of its own to the host.

To the VPC it is a port without source/destination check, on whatever host it is. What comes from the VPC's
own addresses goes on with the gateway's public address, or without one, back into the VPC with its private
address. Only answers come back. All of it is in the kernel: agents come and go.
"""

from __future__ import annotations

from collections.abc import Collection

from gureum.hostspec import PortKind
from gureum.network import namespaces
from gureum.network.filters import bound_flows, flow_sets
from gureum.network.links import devices
from gureum.network.names import LINK_MACS, NEIGHBOUR, ROUTER_MAC, UPLINK, Names
from gureum.network.namespaces import command, ip_batch, nft, visit, write_sysctl
from gureum.network.plan import VpcPlan
from gureum.network.portplan import PortPlan
from gureum.network.ruleset import Chain, Table, replace_table

INSIDE = "inner"
"""The gateway's end of its port."""
_SYSCTLS = {
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv4/conf/default/accept_redirects": "0",
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
}


def ports(vpc: VpcPlan | None) -> dict[str, PortPlan]:
    """The gateways of a VPC on this host, by the devices that they are in it."""
    found = vpc.ports.values() if vpc else ()
    return {port.tap: port for port in found if port.kind is PortKind.nat}


def ensure(names: Names, old: VpcPlan | None, vpc: VpcPlan) -> int:
    """Have the VPC's gateways, as far as they differ from ``old``; how many. In the host's namespace."""
    was, networks = ports(old), old.cidrs if old else ()
    changed = [port for tap, port in ports(vpc).items() if was.get(tap) != port or networks != vpc.cidrs]
    for port in changed:
        _build(names, vpc, port)
    return len(changed)


def _build(names: Names, vpc: VpcPlan, port: PortPlan) -> None:
    namespace, uplink = names.nat_namespace(port.tap), names.nat_uplink(port.tap)
    if not namespaces.exists(namespace):
        namespaces.add(namespace)
        # What is left of one that was removed behind our back.
        command(["ip", "link", "delete", uplink], fails=True)
        delete = ["ip", "link", "delete", port.tap]
        visit(names.namespace(vpc.network_id), lambda: command(delete, fails=True))
    present = visit(namespace, lambda: devices(""))
    # Two ends live and die together.
    if INSIDE not in present:
        port_end = f"name {port.tap} netns {names.namespace(vpc.network_id)} address {ROUTER_MAC}"
        ip_batch([f"link add {INSIDE} netns {namespace} address {port.mac} type veth peer {port_end}"])
    if UPLINK not in present:
        ip_batch(
            [
                f"link add {uplink} address {LINK_MACS[0]} type veth "
                f"peer name {UPLINK} netns {namespace} address {LINK_MACS[1]}"
            ]
        )
    for name, value in {
        "rp_filter": "0",
        "forwarding": "1",
        "accept_redirects": "0",
        "send_redirects": "0",
    }.items():
        write_sysctl(f"ipv4/conf/{uplink}/{name}", value)
    write_sysctl(f"ipv6/conf/{uplink}/disable_ipv6", "1")
    visit(namespace, lambda: _configure(vpc, port))
    lines = [f"link set dev {uplink} up"]
    if port.public_ip:
        lines.append(f"neighbour replace {port.public_ip} lladdr {LINK_MACS[1]} dev {uplink} nud permanent")
    ip_batch(lines)


def _configure(vpc: VpcPlan, port: PortPlan) -> None:
    for name, value in _SYSCTLS.items():
        write_sysctl(name, value)
    # The filter is there before the way through is.
    nft(replace_table(table(vpc, port)))
    outside = UPLINK if port.public_ip else INSIDE
    ip_batch(
        [
            "link set lo up",
            f"link set dev {INSIDE} mtu {vpc.mtu} up",
            f"link set dev {UPLINK} up",
            f"address flush dev {UPLINK}",
            f"address replace {port.private_ip}/32 dev {INSIDE}",
            *([f"address replace {port.public_ip}/32 dev {UPLINK}"] if port.public_ip else []),
            f"neighbour replace {NEIGHBOUR} lladdr {ROUTER_MAC} dev {INSIDE} nud permanent",
            f"neighbour replace {NEIGHBOUR} lladdr {LINK_MACS[0]} dev {UPLINK} nud permanent",
            *(f"route replace {network} via {NEIGHBOUR} dev {INSIDE} onlink" for network in vpc.cidrs),
            f"route replace 0.0.0.0/0 via {NEIGHBOUR} dev {outside} onlink",
        ]
    )


def table(vpc: VpcPlan, port: PortPlan) -> Table:
    """The gateway's filter and translation."""
    outside, address = (UPLINK, port.public_ip) if port.public_ip else (INSIDE, port.private_ip)
    networks = f"{{ {', '.join(vpc.cidrs)} }}"
    return Table(
        name="inet gureum",
        counters=("too_many_flows", "denied"),
        sets=flow_sets("ipv4_addr"),
        chains={
            "forward": Chain(
                (
                    "ct state vmap { established : accept, related : accept, invalid : drop }",
                    *bound_flows(f'iifname "{INSIDE}"', "ip saddr"),
                    f'iifname "{INSIDE}" oifname "{outside}" ip saddr {networks} accept',
                    "counter name denied drop",
                ),
                "type filter hook forward priority 0; policy drop;",
            ),
            "local": Chain(
                ("ct state { established, related } accept",),
                "type filter hook input priority 0; policy drop;",
            ),
            "spoofed": Chain(
                (f'iifname "{UPLINK}" ip saddr {networks} counter name denied drop',),
                "type filter hook prerouting priority -300; policy accept;",
            ),
            "translate": Chain(
                (f'iifname "{INSIDE}" oifname "{outside}" snat ip to {address}',),
                "type nat hook postrouting priority srcnat; policy accept;",
            ),
        },
    )


def remove(names: Names, kept: Collection[str]) -> None:
    """Remove all gateways of this cloud on this host but those of these devices. In the host's namespace."""
    spaces = {names.nat_namespace(tap) for tap in kept}
    uplinks = {names.nat_uplink(tap) for tap in kept}
    prefix = f"{names.uplink_prefix}n"
    gone = [device for device in devices(prefix) if device not in uplinks]
    ip_batch([f"link delete {device}" for device in sorted(gone)])
    for name in namespaces.names():
        if name.startswith(names.nat_prefix) and name not in spaces:
            namespaces.remove(name)
