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
    """``field`` begins the match on an address; ``everywhere`` is the network of all, ``single`` the prefix
    of one.
    """

    number: int
    type: str
    field: str
    members: str
    match: str
    everywhere: str
    single: str


FOUR = Family(4, "ipv4_addr", "ip", "m", "meta nfproto ipv4", "0.0.0.0/0", "/32")
SIX = Family(6, "ipv6_addr", "ip6", "m6", "meta nfproto ipv6", "::/0", "/128")


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


class Lookup(NamedTuple):
    """A rule that accepts what ``match`` finds in a set of its own, which has this ``type``. ``kind`` is of
    no other lookup of the same chain. ``interval``: an element may be a network, or a range.
    """

    match: str
    type: str
    kind: str
    interval: bool
    elements: tuple[str, ...]


def compile_group(group: GroupSpec, egress: bool) -> tuple[str | Lookup, ...]:
    """The rules of a chain that accepts what the group allows in one direction, and else returns."""
    rules = [rule for rule in group.rules if rule.egress == egress]
    peers = sorted({rule.group for rule in rules if rule.group})
    lines: list[str | Lookup] = []
    for family in (FOUR, SIX):
        side = f"{family.field} {'daddr' if egress else 'saddr'}"
        own = [(rule, rule.cidr) for rule in rules if rule.cidr and (":" in rule.cidr) == (family is SIX)]
        found = _compile(family, side, family.type, own)
        if f"{family.match} accept" not in found:
            for id in peers:
                members = f"{side} @{member_set(id, family)}"
                found += _compile(family, members, id, [(rule, "") for rule in rules if rule.group == id])
        lines += found
    if lines == [f"{FOUR.match} accept", f"{SIX.match} accept"]:
        return ("accept",)
    return tuple(lines)


def _compile(family: Family, peer: str, whose: str, rules: list[tuple[RuleSpec, str]]) -> list[str | Lookup]:
    """``peer`` is an address field if the rules have networks, or a complete match if they have none;
    ``whose`` is then the field's type, or the group that is matched.
    """
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
    lines = _line(family, peer, whose, ("meta l4proto", "inet_proto", "a"), [(p, "") for p in protocols])
    # The first two bytes of an ICMP header are type and code; nftables calls that place "th sport".
    for numbers, place, kind in ((WITH_PORTS, "th dport", "p"), (WITH_TYPES, "th sport", "t")):
        pieces = [(p, f"{number} . ") for number in numbers for p in cut(by_ports.get(number, ()))]
        key = (f"meta l4proto . {place}", "inet_proto . inet_service", kind)
        lines += _line(family, peer, whose, key, pieces)
    return lines


def _line(
    family: Family, peer: str, whose: str, key: tuple[str, str, str], pieces: list[tuple[Piece, str]]
) -> list[str | Lookup]:
    """``key``: the expression, its type, and a letter for it."""
    elements: list[str] = []
    interval = with_network = False
    for (first, last, networks), protocol in pieces:
        value = f"{protocol}{first}" if first == last else f"{protocol}{first}-{last}"
        interval = interval or first != last
        for network in networks:
            if network:
                single = network.removesuffix(family.single)
                interval = interval or "/" in single
                with_network = True
                elements.append(f"{single} . {value}")
            else:
                elements.append(value)
    if not elements:
        return []
    match, type, letter = key
    if with_network:
        match, type = f"{peer} . {match}", f"{whose} . {type}"
    elif " . " not in match:
        return [f"{peer} {match} {{ {', '.join(elements)} }} accept"]
    else:
        match, letter = f"{peer} {match}", f"{letter}_{whose}"
    kind = f"{family.number}{letter}{'r' if interval else ''}"
    return [Lookup(match, type, kind, interval, tuple(elements))]


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
