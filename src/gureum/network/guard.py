"""The filter at each tap, before anything else sees a packet.

What does not come from the port's own addresses ends here, so all that follows may trust source addresses.
It stands before ARP, neighbour discovery, fragments and routing.
"""

from __future__ import annotations

from ipaddress import IPv6Address

from gureum.hostspec import PortKind
from gureum.network.names import BENCHMARK_RANGE, OWN_RANGE6
from gureum.network.plan import VpcPlan
from gureum.network.portplan import PortPlan
from gureum.network.ruleset import Chain, Set, Table

BROADCAST = "255.255.255.255"
NEVER_SOURCES = f"{{ 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, {BENCHMARK_RANGE}, 224.0.0.0/3 }}"
"""What a port that may forward for others (no source check) must not send from either."""
NEVER_SOURCES6 = f"{{ ::/127, ::ffff:0:0/96, fe80::/10, {OWN_RANGE6}, ff00::/8 }}"
LINK_PACKETS_MAX = 64
"""How many packets a second a port may send from link-local addresses, which it chooses itself: the kernel's
table of neighbours is one for all guests of the host.
"""
_SPOOFED = "counter name spoofed drop"


def guard_table(vpc: VpcPlan) -> Table:
    """Anti-spoofing at the taps: source addresses in Ethernet, ARP, IP and neighbour discovery."""
    sources: dict[str, str] = {}
    sources6: dict[str, str] = {}
    targets6: dict[str, str] = {}
    stations: dict[str, str] = {}
    routers: dict[str, str] = {}
    chains = {"guest": Chain(_GUEST), "guest6": Chain(_GUEST6)}
    # One that stands by has all but its addresses: what gives it these is quick, and no more is needed.
    for port in vpc.standby.values():
        chains[f"in_{port.tap}"] = Chain(("goto guest",), _hook(port))
    for port in vpc.ports.values():
        hook = _hook(port)
        if port.kind is PortKind.nat:
            # Our own namespace is behind it, which filters what it sends on.
            chains[f"in_{port.tap}"] = Chain(("ether type ip accept",), hook)
            continue
        station = f'"{port.tap}" . {port.mac}'
        for address in port.addresses:
            sources[f"{station} . {address.private_ip}"] = ""
        for text in port.ipv6:
            sources6[f"{station} . {text}"] = ""
            targets6[f'"{port.tap}" . {int(IPv6Address(text)):#x}'] = ""
        stations[station] = ""
        if not port.source_check:
            routers[station] = ""
        chains[f"in_{port.tap}"] = Chain(("goto guest",), hook)
    return Table(
        name="netdev gureum",
        counters=("ipv6", "spoofed"),
        sets={
            "sources": Set("ifname . ether_addr . ipv4_addr", sources),
            "sources6": Set("ifname . ether_addr . ipv6_addr", sources6),
            # There is no type for an address inside a message.
            "targets6": Set("iifname . @th,64,128", targets6, of="typeof"),
            "stations": Set("ifname . ether_addr", stations),
            "routers": Set("ifname . ether_addr", routers),
            "linked": Set("ifname", flags="dynamic,timeout", timeout="60s", size=1024),
        },
        chains=chains,
    )


def _hook(port: PortPlan) -> str:
    return f'type filter hook ingress device "{port.tap}" priority 0; policy drop;'


_GUEST = (
    "ether type ip iifname . ether saddr . ip saddr @sources accept",
    "ether type ip6 goto guest6",
    # The sender in an ARP packet is in its body once more; an address probe has no sender address yet.
    "ether type arp iifname . ether saddr @stations iifname . arp saddr ether . arp saddr ip @sources accept",
    "ether type arp iifname . ether saddr @stations arp saddr ip 0.0.0.0 "
    "iifname . arp saddr ether @stations accept",
    f"ip saddr 0.0.0.0 ip daddr {BROADCAST} udp sport 68 udp dport 67 iifname . ether saddr @stations accept",
    f"ether type ip iifname . ether saddr @routers ip saddr != {NEVER_SOURCES} accept",
    _SPOOFED,
)
_GUEST6 = (
    f"iifname . ether saddr != @stations {_SPOOFED}",
    # Only the router is one: no advertisements as a router, no redirects.
    f"icmpv6 type {{ nd-router-advert, nd-redirect, router-renumbering }} {_SPOOFED}",
    f"icmpv6 type nd-neighbor-advert @th,64,64 != 0xfe80000000000000 iifname . @th,64,128 != @targets6 "
    f"{_SPOOFED}",
    "iifname . ether saddr . ip6 saddr @sources6 accept",
    f"ip6 saddr {{ ::/128, fe80::/64 }} update @linked "
    f"{{ iifname limit rate over {LINK_PACKETS_MAX}/second burst {LINK_PACKETS_MAX} packets }} {_SPOOFED}",
    # The router's own address on each tap is not to be taken.
    f"ip6 saddr fe80::1 {_SPOOFED}",
    "ip6 saddr fe80::/64 icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept",
    "ip6 saddr fe80::/64 udp sport 546 udp dport 547 accept",
    # Before it has an address: it asks for routers, and whether somebody has its address.
    "ip6 saddr :: icmpv6 type { nd-router-solicit, nd-neighbor-solicit } accept",
    f"iifname . ether saddr @routers ip6 saddr != {NEVER_SOURCES6} accept",
    "ip6 saddr { ::/128, fe80::/64 } counter name ipv6 drop",
    _SPOOFED,
)
