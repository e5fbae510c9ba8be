"""The packet filter of a VPC's namespace, and of the host around it.

A VPC has two tables. ``netdev gureum`` stands at each tap, before anything else sees a packet: what does
not come from the port's own addresses ends there, so all that follows may trust source addresses. ``inet
gureum`` filters what is routed: egress rules of the sender's groups, then ingress rules of the receiver's,
statefully.

Ports are elements of sets and maps; ports with the same groups share a chain. A packet of an established flow
costs the same with ten ports and with ten thousand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from gureum.hostspec import PortKind
from gureum.network.groups import compile_group, member_set
from gureum.network.names import BENCHMARK_RANGE, PEERINGS, UPLINK, VXLAN, VXLAN_PORT, Names
from gureum.network.plan import VpcPlan, interfaces
from gureum.network.ruleset import Chain, Set, Table

METADATA_ADDRESS = "169.254.169.254"
RESOLVER_ADDRESS = "169.254.169.253"
BROADCAST = "255.255.255.255"
ASKING_PACKETS_MAX = 1024
"""How many packets a second a port may send to DNS, DHCP and metadata, as on EC2: those who answer serve all
guests.
"""
NEW_FLOWS_MAX = 4096
"""How many flows a second a port may begin."""
FLOW_BUCKETS = 64
FLOWS_IN_BUCKET_MAX = 320
"""A port keeps at most 64 x 320 = 20,480 flows; else one guest could fill the connection tracking of all.

The kernel goes through the flows that it has counted at each new one: 2 ms of processor time for 20,000 in
one list, 30 us in 64 lists. So, with NEW_FLOWS_MAX, a guest can cost an eighth of a processor.
"""
PORTS_MAX = 1024
"""For how many ports at once a VPC, and a host, keep all these bounds; beyond, the last ones have none."""
CARRIERS = f'{{ "{VXLAN}", "{PEERINGS}*" }}'
"""Devices to other hosts and to peers."""
NEVER_SOURCES = f"{{ 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, {BENCHMARK_RANGE}, 224.0.0.0/3 }}"
"""What a port that may forward for others (no source check) must not send from either."""


def guard_table(vpc: VpcPlan) -> Table:
    """Anti-spoofing at the taps: Ethernet, ARP and IP source addresses."""
    sources: dict[str, str] = {}
    stations: dict[str, str] = {}
    routers: dict[str, str] = {}
    chains = {"guest": Chain(_GUARD_RULES)}
    for port in vpc.ports.values():
        hook = f'type filter hook ingress device "{port.tap}" priority 0; policy drop;'
        if port.kind is PortKind.nat:
            # Our own namespace is behind it, which filters what it sends on.
            chains[f"in_{port.tap}"] = Chain(("ether type ip accept",), hook)
            continue
        for address in port.addresses:
            sources[f'"{port.tap}" . {port.mac} . {address.private_ip}'] = ""
        stations[f'"{port.tap}" . {port.mac}'] = ""
        if not port.source_check:
            routers[f'"{port.tap}" . {port.mac}'] = ""
        chains[f"in_{port.tap}"] = Chain(("goto guest",), hook)
    return Table(
        name="netdev gureum",
        counters=("ipv6", "spoofed"),
        sets={
            "sources": Set("ifname . ether_addr . ipv4_addr", sources),
            "stations": Set("ifname . ether_addr", stations),
            "routers": Set("ifname . ether_addr", routers),
        },
        chains=chains,
    )


_GUARD_RULES = (
    "ether type ip iifname . ether saddr . ip saddr @sources accept",
    # The sender in an ARP packet is in its body once more; an address probe has no sender address yet.
    "ether type arp iifname . ether saddr @stations iifname . arp saddr ether . arp saddr ip @sources accept",
    "ether type arp iifname . ether saddr @stations arp saddr ip 0.0.0.0 "
    "iifname . arp saddr ether @stations accept",
    f"ip saddr 0.0.0.0 ip daddr {BROADCAST} udp sport 68 udp dport 67 iifname . ether saddr @stations accept",
    f"ether type ip iifname . ether saddr @routers ip saddr != {NEVER_SOURCES} accept",
    "ether type ip6 counter name ipv6 drop",
    "counter name spoofed drop",
)


def filter_table(vpc: VpcPlan, names: Names, link_address: str) -> Table:
    """Routing filter and address translation. ``link_address`` is the VPC's end of its link to the host."""
    ingress: dict[str, str] = {}
    egress: dict[str, str] = {}
    chains: dict[str, Chain] = {}
    for port in vpc.ports.values():
        if port.kind is PortKind.nat:
            ingress[f'"{port.tap}"'] = egress[f'"{port.tap}"'] = "accept"
            continue
        bundle = _bundle(port.groups)
        ingress[f'"{port.tap}"'] = f"goto in_{bundle}"
        egress[f'"{port.tap}"'] = f"goto out_{bundle}"
        if f"in_{bundle}" not in chains:
            chains[f"in_{bundle}"] = _bundle_chain("in", port.groups)
            chains[f"out_{bundle}"] = _bundle_chain("out", port.groups)
    for group in vpc.groups.values():
        chains[f"in_{group.id}"] = Chain(compile_group(group, egress=False))
        chains[f"out_{group.id}"] = Chain(compile_group(group, egress=True))
    public = {
        address.public_ip: address.private_ip
        for port in vpc.ports.values()
        for address in port.addresses
        if address.public_ip and port.kind is PortKind.machine
    }
    sets = {
        "tables": Set("ifname : mark", {f'"{p.tap}"': str(p.table) for p in vpc.ports.values() if p.table}),
        "peered": Set("ifname . ipv4_addr", _peered(vpc, ":"), flags="interval"),
        "peered6": Set("ifname . ipv6_addr", _peered(vpc, "."), flags="interval"),
        "ingress": Set("ifname : verdict", ingress),
        "egress": Set("ifname : verdict", egress),
        "public": Set("ipv4_addr : ipv4_addr", public),
        "private": Set("ipv4_addr : ipv4_addr", {private: outer for outer, private in public.items()}),
        "asking": Set("ifname", flags="dynamic,timeout", timeout="60s", size=PORTS_MAX),
        **flow_sets("ifname"),
    }
    for id, addresses in vpc.members.items():
        sets[member_set(id)] = Set("ipv4_addr", dict.fromkeys(addresses, ""))
    return Table(
        name="inet gureum",
        counters=(
            "denied_in",
            "denied_out",
            "untranslated",
            "denied_local",
            "asked_too_much",
            "too_many_flows",
            "denied_peering",
        ),
        sets=sets,
        chains={**_base_chains(vpc, names, link_address), **chains},
    )


def _peered(vpc: VpcPlan, other: str) -> dict[str, str]:
    """What may come out of each peering: its VPC's networks, without those that have ``other`` in them."""
    return {
        f'"{peering.device}" . {network}': ""
        for peering in vpc.peerings.values()
        for network in peering.networks
        if other not in network
    }


def _carrier_chains(vpc: VpcPlan) -> dict[str, Chain]:
    """For packets from and to other hosts and peers. What is decided is decided at ports: by the sender's
    host as egress, by the receiver's as ingress. Between the two, packets only pass through: the answers may
    take another way, so their flows are not tracked.
    """
    own = f"ip daddr != {{ {', '.join(vpc.cidrs)} }}"
    own6 = f"ip6 daddr != {{ {', '.join(vpc.cidrs6)} }}" if vpc.cidrs6 else "meta nfproto ipv6"
    denied = "counter name denied_peering drop"
    return {
        "passing": Chain(
            (
                "iifname . ip saddr @peered return",
                "iifname . ip6 saddr @peered6 return",
                denied,
            )
        ),
        "transit": Chain(
            (
                f'iifname "{PEERINGS}*" jump passing',
                *(f'iifname "{PEERINGS}*" {other} {denied}' for other in (own, own6)),
                f"iifname {CARRIERS} fib daddr . mark oifname {CARRIERS} notrack",
                "meta mark set iifname map @tables",
            ),
            "type filter hook prerouting priority -300; policy accept;",
        ),
    }


def _bundle(groups: Iterable[str]) -> str:
    """A name for a combination of groups."""
    return f"bundle_{hashlib.sha256(' '.join(groups).encode()).hexdigest()[:16]}"


def _bundle_chain(direction: str, groups: tuple[str, ...]) -> Chain:
    jumps = (f"jump {direction}_{group}" for group in groups)
    return Chain((*jumps, f"counter name denied_{direction} drop"))


def _base_chains(vpc: VpcPlan, names: Names, link_address: str) -> dict[str, Chain]:
    established = "ct state vmap { established : accept, related : accept, invalid : drop }"
    leave = f'oifname "{UPLINK}" accept' if vpc.internet else f'oifname "{UPLINK}" drop'
    resolvers = f"{{ {vpc.dns}, {RESOLVER_ADDRESS} }}"
    often = f"iifname limit rate over {ASKING_PACKETS_MAX}/second burst {ASKING_PACKETS_MAX} packets"
    bounded = bound_flows(f'iifname != "{UPLINK}"', "iifname")
    services = (
        f"ip daddr {METADATA_ADDRESS} tcp dport 80 accept",
        f"ip daddr {resolvers} meta l4proto {{ tcp, udp }} th dport 53 accept",
        "udp dport 67 accept",
    )
    return {
        # "accept" ends one chain only: what egress accepts goes on to ingress.
        **_carrier_chains(vpc),
        "forward_egress": Chain(
            (
                # Before established flows, which are not bound to a device: no neighbour is out there.
                f'iifname "{UPLINK}" ip saddr {{ {", ".join(vpc.cidrs)} }} drop',
                # Out into the Internet is the sender's own host's.
                f'iifname {CARRIERS} oifname "{UPLINK}" drop',
                f"iifname {CARRIERS} oifname {CARRIERS} accept",
                established,
                "ip daddr 169.254.0.0/16 drop",
                f"iifname {CARRIERS} accept",
                *bounded,
                f'iifname "{UPLINK}" ct status dnat accept',
                "iifname vmap @egress",
                "drop",
            ),
            "type filter hook forward priority -1; policy drop;",
        ),
        "forward_ingress": Chain(
            (f"oifname {CARRIERS} accept", established, leave, "oifname vmap @ingress"),
            "type filter hook forward priority 0; policy drop;",
        ),
        "local": Chain(
            (
                'iifname "lo" accept',
                f"iifname {CARRIERS} drop",
                f'iifname != "{UPLINK}" update @asking {{ {often} }} counter name asked_too_much drop',
                established,
                f'iifname "{UPLINK}" drop',
                *bounded,
                *services,
                "counter name denied_local drop",
            ),
            "type filter hook input priority 0; policy drop;",
        ),
        "translate_in": Chain(
            (f'iifname "{UPLINK}" dnat ip to ip daddr map @public',),
            "type nat hook prerouting priority dstnat; policy accept;",
        ),
        "translate_out": Chain(
            (f'oifname "{UPLINK}" snat ip to ip saddr map @private',),
            "type nat hook postrouting priority srcnat; policy accept;",
        ),
        # A port without a public address has no translation: nothing leaves with a private source.
        "leave": Chain(
            (
                f'oifname "{UPLINK}" ip saddr != {{ {names.public}, {link_address} }} '
                "counter name untranslated drop",
            ),
            "type filter hook postrouting priority 300; policy accept;",
        ),
    }


def flow_sets(key: str) -> dict[str, Set]:
    """What ``bound_flows`` needs for a key of this type. Elements come with packets, and go again."""
    return {
        "rushing": Set(key, flags="dynamic,timeout", timeout="60s", size=PORTS_MAX),
        "flows": Set(f"{key} . mark", flags="dynamic", size=PORTS_MAX * FLOW_BUCKETS),
    }


def bound_flows(which: str, key: str) -> tuple[str, ...]:
    """Rules that drop new flows of a sender (``key``) that begins or keeps too many. For packets of no flow.

    A bucket's number has the type of a mark, as there is no key of type integer.
    """
    often = f"{key} limit rate over {NEW_FLOWS_MAX}/second burst {NEW_FLOWS_MAX} packets"
    bucket = f"mod {FLOW_BUCKETS} ct count over {FLOWS_IN_BUCKET_MAX}"
    drop = "counter name too_many_flows drop"
    ends = "ip saddr . ip daddr"
    return (
        f"{which} update @rushing {{ {often} }} {drop}",
        f"{which} meta l4proto {{ tcp, udp }} "
        f"add @flows {{ {key} . jhash {ends} . th sport . th dport {bucket} }} {drop}",
        f"{which} meta l4proto != {{ tcp, udp }} add @flows {{ {key} . jhash {ends} {bucket} }} {drop}",
    )


def host_table(
    names: Names,
    cloud: str,
    resolvers: Iterable[str],
    uplink: str = "",
    peers: Iterable[str] = (),
    carrier: str = "",
) -> Table:
    """The host's side: guests reach the Internet and other guests' public addresses, not the host itself.

    ``resolvers`` are the host's name servers: a VPC's own resolver may ask those that run on the host.
    ``uplink``: the device on which other hosts are, ``peers`` their addresses: VXLAN comes from them only, or
    from the device ``carrier`` only. Public addresses are real there, so the host does not hide them.
    """
    stranger = f'iifname != "{carrier}"' if carrier else "ip saddr != @peers"
    guests = f'"{names.uplink_prefix}*"'
    servers = ", ".join(sorted(resolvers))
    ask = f"iifname {guests} ip saddr {names.links} ip daddr {{ {servers} }} meta l4proto {{ tcp, udp }}"
    established = "ct state { established, related } accept"
    return Table(
        name=f"inet {names.table}",
        comment=cloud,
        counters=("denied_host", "denied_range", "too_many_flows"),
        sets={
            **flow_sets("ipv4_addr"),
            "peers": Set("ipv4_addr", dict.fromkeys(sorted(peers), "")),
        },
        chains={
            "carrier_in": Chain(
                (f"udp dport {VXLAN_PORT} notrack",),
                "type filter hook prerouting priority -300; policy accept;",
            ),
            "carrier_out": Chain(
                (f"udp dport {VXLAN_PORT} notrack",), "type filter hook output priority -300; policy accept;"
            ),
            "from_guests": Chain(
                (f"iifname {guests} ip saddr != {{ {names.public}, {names.links} }} drop",),
                "type filter hook prerouting priority -150; policy accept;",
            ),
            "host": Chain(
                (
                    *(
                        (f"udp dport {VXLAN_PORT} {stranger} counter name denied_host drop",)
                        if uplink
                        else ()
                    ),
                    f"iifname != {guests} accept",
                    established,
                    *((f"{ask} th dport 53 accept",) if servers else ()),
                    "counter name denied_host drop",
                ),
                "type filter hook input priority -10; policy accept;",
            ),
            "from_host": Chain(
                (f"oifname {guests} icmp type redirect drop",),
                "type filter hook output priority 0; policy accept;",
            ),
            "forward": Chain(
                (
                    established,
                    f"iifname {guests} ip daddr {BENCHMARK_RANGE} ip daddr != {names.public} "
                    "counter name denied_range drop",
                    f"iifname {guests} ip daddr @peers counter name denied_host drop",
                    f'oifname {guests} iifname "gu*" iifname != {guests} counter name denied_range drop',
                    *bound_flows(f"iifname {guests} ct state new", "ip saddr"),
                ),
                "type filter hook forward priority -10; policy accept;",
            ),
            "clamp": Chain(
                (f"iifname {guests} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu",),
                "type filter hook forward priority -150; policy accept;",
            ),
            "hide": Chain(
                (
                    f"ip saddr {names.links if uplink else f'{{ {names.public}, {names.links} }}'} "
                    f'oifname != {guests} oifname != "lo" masquerade',
                ),
                "type nat hook postrouting priority srcnat; policy accept;",
            ),
        },
    )


def changed_addresses(old: VpcPlan | None, new: VpcPlan | None) -> set[str]:
    """Addresses whose flows must be forgotten: those that an interface had and has no more, on any host.

    A move changes nothing of this: see ``moved_addresses``.
    """
    was, now = (_owners(plan) if plan else {} for plan in (old, new))
    return {address for address, owner in was.items() if now.get(address) != owner}


def moved_addresses(old: VpcPlan | None, new: VpcPlan) -> set[str]:
    """Addresses that went to another host with their interface: of their flows only those of ports that are
    still here go on here.
    """
    gone = [new.remotes[id] for id in (old.ports.keys() & new.remotes.keys() if old else ())]
    publics = {address.public_ip for remote in gone for address in remote.addresses}
    return {address for remote in gone for address in remote.private} | publics - {""}


def _owners(plan: VpcPlan) -> dict[str, str]:
    publics = {
        address.public_ip: f"{each.id} {address.private_ip}"
        for each in interfaces(plan)
        for address in each.addresses
        if address.public_ip
    }
    return {**plan.owners, **publics}
