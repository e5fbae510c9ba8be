"""Security group rules as nftables rules.

Rules of a group overlap freely (22 from 10.0.0.0/8 beside all ports from 10.1.0.0/16); elements of an
nftables set must not. So the rules are cut into disjoint pieces first: per protocol the port ranges, per
range the networks. All of a group's rules then take one set lookup per kind of key, however many they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, collapse_addresses
from itertools import pairwise

from gureum.errors import NetworkError
from gureum.hostspec import GroupSpec, RuleSpec

TCP, UDP, ICMP = 6, 17, 1
PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP}
ANYWHERE = "0.0.0.0/0"

Span = tuple[int, int, str]
"""First key, last key, and the network that may use them."""
Piece = tuple[int, int, tuple[str, ...]]


def member_set(group: str) -> str:
    """The name of the set that holds the addresses of a group's members."""
    return f"m_{group}"


@lru_cache(maxsize=4096)
def compile_group(group: GroupSpec, egress: bool) -> tuple[str, ...]:
    """The rules of a chain that accepts what the group allows in one direction, and else returns."""
    peer = "ip daddr" if egress else "ip saddr"
    rules = [rule for rule in group.rules if rule.egress == egress and not _is_ipv6(rule)]
    lines = _compile(peer, [(rule, rule.cidr) for rule in rules if rule.cidr])
    for id in sorted({rule.group for rule in rules if rule.group}):
        members = f"{peer} @{member_set(id)}"
        lines += _compile(members, [(rule, "") for rule in rules if rule.group == id])
    if "accept" in lines:
        return ("accept",)
    return tuple(lines)


def _is_ipv6(rule: RuleSpec) -> bool:
    return rule.protocol == "icmpv6" or rule.protocol == "58" or ":" in rule.cidr


def _compile(peer: str, rules: list[tuple[RuleSpec, str]]) -> list[str]:
    """``peer`` is an address field if the rules have networks, or a complete match if they have none."""
    by_protocol: list[Span] = []
    by_ports: dict[int, list[Span]] = {}
    for rule, network in rules:
        protocol, first, last = _keys(rule)
        if protocol is None:
            by_protocol.append((first, last, network))
        else:
            by_ports.setdefault(protocol, []).append((first, last, network))
    lines: list[str] = []
    everything = [networks for first, last, networks in cut(by_protocol) if (first, last) == (0, 255)]
    if (ANYWHERE,) in everything:
        return ["accept"]
    if everything == [("",)]:
        return [f"{peer} accept"]
    lines += _line(peer, "meta l4proto", [(piece, "") for piece in cut(by_protocol)])
    with_ports = [(piece, f"{number} . ") for number in (TCP, UDP) for piece in cut(by_ports.get(number, []))]
    lines += _line(peer, "meta l4proto . th dport", with_ports)
    # The first two bytes of an ICMP header are type and code; nftables calls that place "th sport".
    lines += _line(
        peer, "meta l4proto . th sport", [(piece, f"{ICMP} . ") for piece in cut(by_ports.get(ICMP, []))]
    )
    return lines


def _line(peer: str, key: str, pieces: list[tuple[Piece, str]]) -> list[str]:
    elements: list[str] = []
    with_network = False
    for (first, last, networks), protocol in pieces:
        value = f"{protocol}{first}" if first == last else f"{protocol}{first}-{last}"
        for network in networks:
            elements.append(f"{network} . {value}" if network else value)
            with_network = with_network or bool(network)
    if not elements:
        return []
    return [f"{peer} {'. ' if with_network else ''}{key} {{ {', '.join(elements)} }} accept"]


def _keys(rule: RuleSpec) -> tuple[int | None, int, int]:
    """(protocol, first, last): ports, or type * 256 + code; (None, first, last): protocol numbers."""
    if rule.protocol == "-1":
        return None, 0, 255
    number = PROTOCOLS.get(rule.protocol)
    if number is None:
        if not rule.protocol.isdecimal() or int(rule.protocol) > 255:
            raise NetworkError(f"{rule.protocol!r} is no protocol")
        number = int(rule.protocol)
    if number in (TCP, UDP):
        first, last = (0, 65535) if rule.from_port < 0 else (rule.from_port, rule.to_port)
    elif number == ICMP and rule.from_port >= 0:
        first = rule.from_port * 256 + max(rule.to_port, 0)
        last = first if rule.to_port >= 0 else first + 255
    else:
        return None, number, number
    if not 0 <= first <= last <= 65535:
        raise NetworkError(f"{rule.from_port} to {rule.to_port} is no range of {rule.protocol}")
    return number, first, last


def cut(spans: Iterable[Span]) -> list[Piece]:
    """The same keys and networks in disjoint pieces: no key twice, and per key no network inside another."""
    spans = list(spans)
    bounds = sorted({first for first, _, _ in spans} | {last + 1 for _, last, _ in spans})
    pieces: list[Piece] = []
    for first, after in pairwise(bounds):
        networks = _collapse(network for low, high, network in spans if low <= first and after - 1 <= high)
        if not networks:
            continue
        if pieces and pieces[-1][1] == first - 1 and pieces[-1][2] == networks:
            pieces[-1] = (pieces[-1][0], after - 1, networks)
        else:
            pieces.append((first, after - 1, networks))
    return pieces


def _collapse(networks: Iterable[str]) -> tuple[str, ...]:
    distinct = set(networks)
    if len(distinct) < 2:
        return tuple(_normal(network) for network in distinct)
    return tuple(str(n) for n in collapse_addresses(IPv4Network(n, strict=False) for n in distinct))


@lru_cache(maxsize=4096)
def _normal(network: str) -> str:
    try:
        return str(IPv4Network(network, strict=False)) if network else ""
    except ValueError as error:
        raise NetworkError(str(error)) from None
