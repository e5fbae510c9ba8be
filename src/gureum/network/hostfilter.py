"""The packet filter of the host around its VPCs' namespaces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

import msgspec

from gureum.network.filters import bound_flows, flow_sets
from gureum.network.names import BENCHMARK_RANGE, HOST_NUMBER_MAX, OWN_RANGE6, VXLAN_PORT, Names
from gureum.network.ruleset import Chain, Set, Table


class Outside6(msgspec.Struct, frozen=True, kw_only=True):
    """IPv6 between VPCs and the outside. All are networks, but ``gateways``.

    ``networks``: those that the cloud's are parts of; ``hidden``: those of them that nobody leads here, which
    go out with the host's address. ``guests``: of the VPCs of this host that have a way out. ``gateways``:
    the routers on the uplink's network, but for link-local ones.
    """

    networks: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    guests: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()


NOWHERE6 = Outside6()


def host_table(
    names: Names,
    cloud: str,
    resolvers: Iterable[str],
    uplink: str = "",
    peers: Iterable[str] = (),
    carrier: str = "",
    storage: Iterable[str] = (),
    six: Outside6 = NOWHERE6,
) -> Table:
    """The host's side: guests reach the Internet and other guests' public addresses, not the host itself.

    ``resolvers`` are the host's name servers: a VPC's own resolver may ask those that run on the host.
    ``uplink``: the device on which other hosts are, ``peers`` their addresses: VXLAN comes from them only.
    Public addresses are real there, so the host does not hide them. ``carrier``: VXLAN comes from that device
    only, and goes there only. ``storage``: addresses and networks of the storage cluster, of both families:
    hosts reach them, guests do not, whatever the host would forward.
    """
    # Flows between hosts are not tracked: what is inside them is.
    stranger = f'iifname != "{carrier}"' if carrier else "ip saddr != @peers"
    # By its index, which is compared much faster than a name. Were the device made anew, its packets would
    # be tracked, and come in by the rules for all others.
    inwards = f'iifname "{carrier}"' if carrier else f'iif "{uplink}"'
    source = "" if carrier else " ip saddr @peers"
    target = f'oifname "{carrier}"' if carrier else "ip daddr @peers"
    guests = f'"{names.uplink_prefix}*"'
    servers = ", ".join(sorted(resolvers))
    ask = f"iifname {guests} ip saddr {names.links} ip daddr {{ {servers} }} meta l4proto {{ tcp, udp }}"
    established = "ct state { established, related } accept"
    own6 = f"{{ {', '.join((*six.guests, str(names.links6)))} }}"
    outwards = f'oifname != {guests} oifname != "lo"'
    hidden6 = f"ip6 saddr {{ {', '.join((*six.hidden, str(names.links6)))} }}"
    cloud6 = f"{{ {', '.join(six.networks)} }}" if six.networks else ""
    return Table(
        name=f"inet {names.table}",
        comment=cloud,
        counters=("denied_host", "denied_range", "denied_storage", "too_many_flows"),
        sets={
            **flow_sets("ipv4_addr"),
            **flow_sets("ipv6_addr", "6"),
            # Of a size that is known it is a table that never grows, which is the fastest to look up.
            "peers": Set("ipv4_addr", dict.fromkeys(sorted(peers), ""), size=HOST_NUMBER_MAX + 1),
        },
        chains={
            "arriving": Chain(
                (
                    # All traffic between hosts passes here: nothing is asked before.
                    *((f"{inwards} udp dport {VXLAN_PORT}{source} notrack accept",) if uplink else ()),
                    f"iifname {guests} ip saddr != {{ {names.public}, {names.links} }} drop",
                    f"iifname {guests} ip6 saddr != {own6} drop",
                ),
                "type filter hook prerouting priority -300; policy accept;",
            ),
            "host": Chain(
                (
                    *((f"ct state untracked {inwards} accept",) if uplink else ()),
                    *(
                        (f"udp dport {VXLAN_PORT} {stranger} counter name denied_host drop",)
                        if uplink
                        else ()
                    ),
                    # What guests of other hosts send comes by the uplink, with public addresses.
                    f"iifname != {guests} ip saddr != {names.public} accept",
                    f"iifname != {guests} ip6 saddr != {cloud6} accept"
                    if cloud6
                    else f"iifname != {guests} meta nfproto ipv6 accept",
                    established,
                    *((f"{ask} th dport 53 accept",) if servers else ()),
                    "counter name denied_host drop",
                ),
                "type filter hook input priority -10; policy accept;",
            ),
            "leaving": Chain(
                (
                    *((f"udp dport {VXLAN_PORT} {target} notrack accept",) if uplink else ()),
                    *((f'udp dport {VXLAN_PORT} oifname != "{carrier}" drop',) if carrier else ()),
                    f"oifname {guests} icmp type redirect drop",
                ),
                "type filter hook output priority -300; policy accept;",
            ),
            "forward": Chain(
                (
                    # The machine on whose address the storage is may ask guests, and they answer.
                    f"iifname {guests} ct direction reply {established}",
                    *_no_storage(guests, storage),
                    established,
                    f"iifname {guests} ip daddr {BENCHMARK_RANGE} ip daddr != {names.public} "
                    "counter name denied_range drop",
                    f"iifname {guests} ip6 daddr {OWN_RANGE6} counter name denied_range drop",
                    f"iifname {guests} ip daddr @peers counter name denied_host drop",
                    *_no_neighbours(guests, uplink, six, names.links6),
                    f'oifname {guests} iifname "gu*" iifname != {guests} counter name denied_range drop',
                    *bound_flows(f"iifname {guests} ct state new", "ip saddr"),
                    *bound_flows(f"iifname {guests} ct state new", "ip6 saddr", ("ip6",), "6"),
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
                    f"{outwards} masquerade",
                    *((f"{hidden6} ip6 daddr != {cloud6} {outwards} masquerade",) if cloud6 else ()),
                ),
                "type nat hook postrouting priority srcnat; policy accept;",
            ),
        },
    )


def _no_neighbours(guests: str, uplink: str, six: Outside6, links: IPv6Network) -> Iterator[str]:
    """Behind their host's address guests could not be told from it by the other hosts, which are on the
    uplink's network: they get past its routers only. So do the links' own addresses, which are hidden too.
    """
    if uplink and six.hidden and six.guests:
        routers = ", ".join(("fe80::/10", *six.gateways))
        yield (
            f'iifname {guests} oifname "{uplink}" ip6 saddr {{ {", ".join((*six.hidden, str(links)))} }} '
            f"ip6 daddr != {{ {', '.join(six.networks)} }} rt ip6 nexthop != {{ {routers} }} "
            "counter name denied_host drop"
        )


def _no_storage(guests: str, storage: Iterable[str]) -> Iterator[str]:
    """Before all that accepts: a flow that was there when the cluster got the address ends, too."""
    networks = [ip_network(each) for each in storage]
    four = collapse_addresses(each for each in networks if isinstance(each, IPv4Network))
    six = collapse_addresses(each for each in networks if isinstance(each, IPv6Network))
    for word, found in (("ip", [*map(str, four)]), ("ip6", [*map(str, six)])):
        if found:
            yield f"iifname {guests} {word} daddr {{ {', '.join(found)} }} counter name denied_storage drop"
