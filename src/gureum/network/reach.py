"""A reference model of the packet filter: may one port talk to another, as the rules are written?

It shares nothing with the compiler of the rules, so that the two can be held against each other.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from gureum.hostspec import NetworkSpec, PortSpec, RuleSpec

NUMBERS = {"icmp": "1", "tcp": "6", "udp": "17"}


def allows(spec: NetworkSpec, source: str, target: str, protocol: str, port: int = -1) -> bool:
    """Whether the first packet of a flow passes between the private addresses of two ports of the spec.

    ``protocol`` is tcp, udp, icmp or a number; ``port`` for icmp is the type.
    """
    ports = {each.id: each for each in spec.ports}
    one, other = ports[source], ports[target]
    if one.vpc != other.vpc:
        return False
    return permits(spec, one, other.private_ip, protocol, port, egress=True) and permits(
        spec, other, one.private_ip, protocol, port, egress=False
    )


def permits(spec: NetworkSpec, own: PortSpec, peer: str, protocol: str, port: int, egress: bool) -> bool:
    """Whether a rule of the port's groups lets a flow with this peer begin."""
    return any(
        _matches(spec, rule, peer, protocol, port)
        for group in spec.groups
        if group.id in own.groups
        for rule in group.rules
        if rule.egress == egress
    )


def _matches(spec: NetworkSpec, rule: RuleSpec, peer: str, protocol: str, port: int) -> bool:
    if rule.group:
        if peer not in spec.members.get(rule.group, ()):
            return False
    elif ":" in rule.cidr or IPv4Address(peer) not in IPv4Network(rule.cidr, strict=False):
        return False
    if rule.protocol == "-1":
        return True
    number = NUMBERS.get(protocol, protocol)
    if NUMBERS.get(rule.protocol, rule.protocol) != number:
        return False
    if number not in ("6", "17", "1") or rule.from_port == -1:
        return True
    if number == "1":
        return port == rule.from_port and rule.to_port in (-1, 0)
    return rule.from_port <= port <= rule.to_port
