"""The packet filter of a VPC's namespace, for what is routed.

A new flow has to pass the egress rules of the sender's groups, then the ingress rules of the receiver's.
Every packet that crosses a subnet's border has to pass its network ACL before. Source addresses can be
trusted: see ``guard``.

Ports are elements of sets and maps; ports with the same groups share a chain. A packet of an established flow
costs the same with ten ports and with ten thousand.
"""

from __future__ import annotations

from gureum.hostspec import PortKind
from gureum.network import flowsets, forged
from gureum.network.acls import IN, OUT, acl_chains, acl_maps, refusal
from gureum.network.bundles import Compiler, address_set, bundle
from gureum.network.groups import FOUR, SIX, member_set
from gureum.network.names import PEERINGS, UPLINK, VXLAN, Names
from gureum.network.plan import VpcPlan, interfaces
from gureum.network.ruleset import Chain, Set, Table
from gureum.network.shortcut import note_rules

METADATA_ADDRESS = "169.254.169.254"
RESOLVER_ADDRESS, RESOLVER_ADDRESS6 = "169.254.169.253", "fd00:ec2::253"
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
IPV6_SERVICES = "{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert }"
DOORS = ("ingress", "egress")
"""The maps that lead a port's packets to its rules: of a port that is not in them nothing passes."""
LINK_COUNTERS = ("denied_in", "denied_out", "denied_acl")


def filter_table(
    vpc: VpcPlan, names: Names, link_address: str, generation: int = 0, compiler: Compiler | None = None
) -> Table:
    """Routing filter and address translation. ``link_address`` is the VPC's end of its link to the host;
    ``generation``: which of two collections of flows the flow logs add to.
    """
    ingress: dict[str, str] = {}
    egress: dict[str, str] = {}
    chains: dict[str, Chain] = {}
    group_sets: dict[str, Set] = {}
    public: dict[str, str] = {}
    groups = (compiler or Compiler()).compile(vpc.groups)
    bundles: dict[tuple[str, ...], tuple[str, str]] = {}
    # For ports that stand by there is what they will be led to, and nothing that leads there.
    here = (*vpc.ports.values(), *vpc.standby.values())
    for each in sorted({port.groups for port in here if port.kind is not PortKind.nat}):
        found = [bundle(groups, direction, each) for direction in (IN, OUT)]
        bundles[each] = found[0].verdict, found[1].verdict
        for part in found:
            chains |= part.chains
            group_sets |= part.sets
    for port in vpc.ports.values():
        tap = f'"{port.tap}"'
        if port.kind is PortKind.nat:
            ingress[tap] = egress[tap] = "accept"
            continue
        ingress[tap], egress[tap] = bundles[port.groups]
        if port.public_ip or port.secondary:
            public |= {each.public_ip: each.private_ip for each in port.addresses if each.public_ip}
    acl_out, acl_in = acl_maps(vpc)
    sets = {
        **forged.sets(vpc),
        "tables": Set("ifname : mark", {f'"{p.tap}"': str(p.table) for p in vpc.ports.values() if p.table}),
        "peered": Set("ifname . ipv4_addr", _peered(vpc, ":"), flags="interval"),
        "peered6": Set("ifname . ipv6_addr", _peered(vpc, "."), flags="interval"),
        "ingress": Set("ifname : verdict", ingress),
        "egress": Set("ifname : verdict", egress),
        "acl_in": Set("ifname : verdict", acl_in),
        "acl_out": Set("ifname : verdict", acl_out),
        "inbound6": Set("mark . ipv6_addr", _inbound6(vpc), flags="interval"),
        "public": Set("ipv4_addr : ipv4_addr", public),
        "private": Set("ipv4_addr : ipv4_addr", {private: outer for outer, private in public.items()}),
        "asking": Set("ifname", flags="dynamic,timeout", timeout="60s", size=PORTS_MAX),
        **flow_sets("ifname"),
        **flowsets.sets(vpc),
        **group_sets,
    }
    for id, addresses in vpc.members.items():
        sets[member_set(id)] = address_set(FOUR, addresses)
        sets[member_set(id, SIX)] = address_set(SIX, vpc.members6[id])
    return Table(
        name="inet gureum",
        counters=(
            *LINK_COUNTERS,
            "untranslated",
            "denied_local",
            "asked_too_much",
            "too_many_flows",
            "denied_peering",
            forged.COUNTER,
        ),
        sets=sets,
        chains={
            **_base_chains(vpc, names, link_address),
            "errors": forged.ERRORS,
            **_refusals(vpc),
            **flowsets.chains(vpc, generation),
            **acl_chains(vpc),
            **chains,
        },
    )


def _refusals(vpc: VpcPlan) -> dict[str, Chain]:
    return {
        refusal(direction, by): Chain(
            (*flowsets.note_refused(vpc, direction), f"counter name {counter} drop")
        )
        for direction in (IN, OUT)
        for by, counter in (("group", f"denied_{direction}"), ("acl", "denied_acl"))
    }


def _peered(vpc: VpcPlan, other: str) -> dict[str, str]:
    """What may come out of each peering: its VPC's networks, without those that have ``other`` in them."""
    return {
        f'"{peering.device}" . {network}': ""
        for peering in vpc.peerings.values()
        for network in peering.networks
        if other not in network
    }


def _inbound6(vpc: VpcPlan) -> dict[str, str]:
    return {f"{number} . {network}": "" for number, found in vpc.inbound6.items() for network in found}


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


def _base_chains(vpc: VpcPlan, names: Names, link_address: str) -> dict[str, Chain]:
    own6 = f", {', '.join(vpc.cidrs6)}" if vpc.cidrs6 else ""
    established = "ct state vmap { established : accept, related : accept, invalid : drop }"
    leave = [f'oifname "{UPLINK}" {"accept" if vpc.internet else "drop"}']
    if vpc.outside6:
        leave.insert(0, f'oifname "{UPLINK}" meta nfproto ipv6 accept')
    strangers6 = f'oifname "{UPLINK}" ip6 saddr != {{ {", ".join((*vpc.cidrs6, str(names.links6)))} }}'
    outwards6 = (f"{strangers6} counter name untranslated drop",) if vpc.outside6 else ()
    resolvers = f"{{ {vpc.dns}, {RESOLVER_ADDRESS} }}"
    often = f"iifname limit rate over {ASKING_PACKETS_MAX}/second burst {ASKING_PACKETS_MAX} packets"
    bounded = bound_flows(f'iifname != "{UPLINK}"', "iifname", ("ip", "ip6"))
    inside6 = f"{{ {', '.join(vpc.cidrs6)} }}"
    services = (
        f"ip daddr {METADATA_ADDRESS} tcp dport 80 accept",
        f"ip daddr {resolvers} meta l4proto {{ tcp, udp }} th dport 53 accept",
        "udp dport 67 accept",
        "ip6 saddr fe80::/64 udp dport 547 accept",
        f"ip6 daddr {RESOLVER_ADDRESS6} meta l4proto {{ tcp, udp }} th dport 53 accept",
    )
    return {
        # "accept" ends one chain only: what egress accepts goes on to ingress.
        **_carrier_chains(vpc),
        "forward_egress": Chain(
            (
                # Before established flows, which are not bound to a device: no neighbour is out there.
                f'iifname "{UPLINK}" ip saddr {{ {", ".join(vpc.cidrs)} }} drop',
                *((f'iifname "{UPLINK}" ip6 saddr {inside6} drop',) if vpc.cidrs6 else ()),
                # Out into the Internet is the sender's own host's.
                f'iifname {CARRIERS} oifname "{UPLINK}" drop',
                f"iifname {CARRIERS} oifname {CARRIERS} accept",
                "iifname vmap @acl_out",
                forged.VERDICTS,
                "ip daddr 169.254.0.0/16 drop",
                f"iifname {CARRIERS} accept",
                forged.DHCP_ANSWERS,
                *bounded,
                *((f'iifname "{UPLINK}" ct status dnat accept',) if vpc.internet else ()),
                *((f'iifname "{UPLINK}" ip6 daddr {inside6} goto outside6',) if vpc.outside6 else ()),
                "iifname vmap @egress",
                "drop",
            ),
            "type filter hook forward priority -10; policy drop;",
        ),
        # IPv6 addresses are public ones: groups decide, if the port's table has the answer go the same way.
        "outside6": Chain(
            ("meta mark set oifname map @tables", "meta mark . ip6 saddr @inbound6 accept", "drop")
        ),
        "forward_ingress": Chain(
            (
                *note_rules(vpc),
                f"oifname {CARRIERS} accept",
                "oifname vmap @acl_in",
                established,
                *leave,
                "oifname vmap @ingress",
            ),
            "type filter hook forward priority 0; policy drop;",
        ),
        "local": Chain(
            (
                'iifname "lo" accept',
                f"iifname {CARRIERS} drop",
                f'iifname != "{UPLINK}" update @asking {{ {often} }} counter name asked_too_much drop',
                # Neighbours are nothing that connection tracking knows.
                f'iifname != "{UPLINK}" ip6 saddr {{ ::/128, fe80::/64{own6} }} '
                f"icmpv6 type {IPV6_SERVICES} accept",
                forged.VERDICTS,
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
                *outwards6,
            ),
            "type filter hook postrouting priority 300; policy accept;",
        ),
    }


def flow_sets(key: str, suffix: str = "") -> dict[str, Set]:
    """What ``bound_flows`` needs for a key of this type. Elements come with packets, and go again."""
    return {
        f"rushing{suffix}": Set(key, flags="dynamic,timeout", timeout="60s", size=PORTS_MAX),
        f"flows{suffix}": Set(f"{key} . mark", flags="dynamic", size=PORTS_MAX * FLOW_BUCKETS),
    }


def bound_flows(
    which: str, key: str, families: tuple[str, ...] = ("ip",), suffix: str = ""
) -> tuple[str, ...]:
    """Rules that drop new flows of a sender (``key``) that begins or keeps too many. For packets of no flow.
    ``families``: ip, ip6. ``suffix``: of the names of the sets.

    A bucket's number has the type of a mark, as there is no key of type integer.
    """
    often = f"{key} limit rate over {NEW_FLOWS_MAX}/second burst {NEW_FLOWS_MAX} packets"
    bucket = f"mod {FLOW_BUCKETS} ct count over {FLOWS_IN_BUCKET_MAX}"
    drop = "counter name too_many_flows drop"
    rules = [f"{which} update @rushing{suffix} {{ {often} }} {drop}"]
    for family in families:
        ends = f"{family} saddr . {family} daddr"
        rules += (
            f"{which} meta l4proto {{ tcp, udp }} "
            f"add @flows{suffix} {{ {key} . jhash {ends} . th sport . th dport {bucket} }} {drop}",
            f"{which} meta l4proto != {{ tcp, udp }} "
            f"add @flows{suffix} {{ {key} . jhash {ends} {bucket} }} {drop}",
        )
    return tuple(rules)


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
