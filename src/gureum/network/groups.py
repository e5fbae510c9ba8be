"""Security group rules as nftables rules.

Rules of a group overlap freely (22 from 10.0.0.0/8 beside all ports from 10.1.0.0/16); elements of an
nftables set must not. So the rules are cut into disjoint pieces first: per protocol the port ranges, per
range the networks. All of a group's rules of one family then take one set lookup per kind of key, however
many they are, and however many networks a prefix list has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import collapse_addresses, ip_network
from itertools import pairwise
from typing import Any, NamedTuple

from msgspec.structs import replace

from gureum.errors import NetworkError
from gureum.hostspec import GroupSpec, RuleSpec
from gureum.network import checks

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
WITH_PORTS, WITH_TYPES = (TCP, UDP), (ICMP, ICMP6)
PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "icmpv6": ICMP6}

Span = tuple[int, int, str]
"""First key, last key, and the network that may use them."""
Piece = tuple[int, int, tuple[str, ...]]


class Family(NamedTuple):
    """``field`` begins the match on an address; ``everywhere`` is the network of all."""

    field: str
    members: str
    match: str
    everywhere: str


FOUR = Family("ip", "m", "meta nfproto ipv4", "0.0.0.0/0")
SIX = Family("ip6", "m6", "meta nfproto ipv6", "::/0")


class Keys(NamedTuple):
    """``protocol`` None: first and last are protocol numbers. Else they are ports, or type x 256 + code."""

    protocol: int | None
    first: int
    last: int


def expanded(group: GroupSpec, prefixes: Mapping[str, Sequence[str]]) -> GroupSpec:
    """The group with a rule for each network of a prefix list, in place of the one that names the list."""
    if not any(rule.prefix_list for rule in group.rules):
        return group
    rules: list[RuleSpec] = []
    for rule in group.rules:
        if rule.prefix_list:
            networks = prefixes.get(rule.prefix_list, ())
            rules += (replace(rule, cidr=network, prefix_list="") for network in networks)
        else:
            rules.append(rule)
    return replace(group, rules=tuple(rules))


def member_set(group: str, family: Family = FOUR) -> str:
    """The name of the set that holds the addresses of a group's members."""
    return f"{family.members}_{group}"


def compile_group(group: GroupSpec, egress: bool) -> tuple[str, ...]:
    """The rules of a chain that accepts what the group allows in one direction, and else returns."""
    rules = [rule for rule in group.rules if rule.egress == egress]
    peers = sorted({rule.group for rule in rules if rule.group})
    lines: list[str] = []
    for family in (FOUR, SIX):
        side = f"{family.field} {'daddr' if egress else 'saddr'}"
        own = [(rule, rule.cidr) for rule in rules if rule.cidr and (":" in rule.cidr) == (family is SIX)]
        found = _compile(family, side, own)
        if f"{family.match} accept" not in found:
            for id in peers:
                members = f"{side} @{member_set(id, family)}"
                found += _compile(family, members, [(rule, "") for rule in rules if rule.group == id])
        lines += found
    if lines == [f"{FOUR.match} accept", f"{SIX.match} accept"]:
        return ("accept",)
    return tuple(lines)


def _compile(family: Family, peer: str, rules: list[tuple[RuleSpec, str]]) -> list[str]:
    """``peer`` is an address field if the rules have networks, or a complete match if they have none."""
    by_protocol: list[Span] = []
    by_ports: dict[int, list[Span]] = {}
    for rule, network in rules:
        protocol, first, last = keys(rule.protocol, rule.from_port, rule.to_port)
        if protocol is None:
            by_protocol.append((first, last, network))
        else:
            by_ports.setdefault(protocol, []).append((first, last, network))
    protocols = cut(by_protocol)
    everything = [networks for first, last, networks in protocols if (first, last) == (0, 255)]
    if (family.everywhere,) in everything:
        return [f"{family.match} accept"]
    if everything == [("",)]:
        return [f"{peer} accept"]
    lines = _line(peer, "meta l4proto", [(piece, "") for piece in protocols])
    # The first two bytes of an ICMP header are type and code; nftables calls that place "th sport".
    for numbers, key in ((WITH_PORTS, "th dport"), (WITH_TYPES, "th sport")):
        pieces = [(p, f"{number} . ") for number in numbers for p in cut(by_ports.get(number, ()))]
        lines += _line(peer, f"meta l4proto . {key}", pieces)
    return lines


def _line(peer: str, key: str, pieces: list[tuple[Piece, str]]) -> list[str]:
    elements: list[str] = []
    with_network = False
    for (first, last, networks), protocol in pieces:
        value = f"{protocol}{first}" if first == last else f"{protocol}{first}-{last}"
        for network in networks:
            elements.append(f"{network} . {value}" if network else value)
            with_network = with_network or network != ""
    if not elements:
        return []
    return [f"{peer} {'. ' if with_network else ''}{key} {{ {', '.join(elements)} }} accept"]


def keys(protocol: str, from_port: int, to_port: int) -> Keys:
    """What a rule of a group or an ACL matches. For ICMP the ports are type and code, -1 for all."""
    if protocol == "-1":
        return Keys(None, 0, 255)
    number = PROTOCOLS.get(protocol)
    if number is None:
        if not (protocol.isascii() and protocol.isdecimal()) or int(protocol) > 255:
            raise NetworkError(f"{protocol!r} is no protocol")
        number = int(protocol)
    if number in WITH_PORTS:
        first, last = (0, 65535) if from_port < 0 else (from_port, to_port)
    elif number in WITH_TYPES and from_port >= 0:
        first = from_port * 256 + max(to_port, 0)
        last = first if to_port >= 0 else first + 255
    else:
        return Keys(None, number, number)
    if not 0 <= first <= last <= 65535:
        raise NetworkError(f"{from_port} to {to_port} is no range of {protocol}")
    return Keys(number, first, last)


def cut(spans: Iterable[Span]) -> list[Piece]:
    """The same keys and networks in disjoint pieces: no key twice, and per key no network inside another."""
    spans = sorted([(first, last, checks.loose_network(network)) for first, last, network in spans])
    if all(one[1] < other[0] for one, other in pairwise(spans)):
        return _joined([(first, last, (network,)) for first, last, network in spans])
    return _joined(_sweep(spans))


def _sweep(spans: Sequence[Span]) -> Iterable[Piece]:
    """From bound to bound, with what covers it. ``spans`` are sorted."""
    bounds = sorted({first for first, _, _ in spans} | {last + 1 for _, last, _ in spans})
    active: list[Span] = []
    following = 0
    for first, after in pairwise(bounds):
        active = [span for span in active if span[1] >= first]
        while following < len(spans) and spans[following][0] <= first:
            active.append(spans[following])
            following += 1
        if active:
            yield first, after - 1, _collapse({network for _, _, network in active})


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours with the same networks are one."""
    found: list[Piece] = []
    for first, last, networks in pieces:
        if found and found[-1][1] == first - 1 and found[-1][2] == networks:
            found[-1] = (found[-1][0], last, networks)
        else:
            found.append((first, last, networks))
    return found


def _collapse(networks: set[str]) -> tuple[str, ...]:
    """Of one family."""
    if len(networks) < 2:
        return tuple(networks)
    parsed: list[Any] = [ip_network(each) for each in networks]
    return tuple(str(network) for network in collapse_addresses(parsed))
